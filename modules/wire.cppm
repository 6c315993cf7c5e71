/// The messages, and how they stand in bytes. No IO: a Link reads and writes, this room only encodes and decodes.
/// docs/protocol.md says when each message is sent; here is what it holds.
///
/// A frame is a length (u32: bytes after it), a type (u16), and the fields in the order of the message's one field
/// list. Integers are little-endian; a text or list is its count (u32) and its elements; a digest is its bytes.
/// An unknown type is skipped. Bytes after the last known field are ignored, so that a later version can append fields;
/// fields that an older version does not send keep their defaults.
module;

#include <compare>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <variant>
#include <vector>

export module shoal.wire;

export import :codec;
export import :overlay;
export import :types;
import shoal.base;
import shoal.digest;
import shoal.manifest;

export namespace shoal {

inline constexpr std::uint32_t kMagic = 0x4C414853;   ///< "SHAL" on the wire.
inline constexpr std::uint16_t kProtocolVersion = 1;  ///< The newest version that we speak.
inline constexpr std::uint16_t kOldestVersion = 1;    ///< The oldest that we still speak.
inline constexpr std::size_t kFrameHeader = 6;        ///< Length and type.
// The limits are of whole frames, header and all: 4 + the length in the header.
inline constexpr std::size_t kGreetingLimit = 1024;                ///< Bytes of a frame before the hello is answered.
inline constexpr std::size_t kControlLimit = 64 * 1024;            ///< Bytes of any other frame without file data.
inline constexpr std::size_t kDataLimit = kChunkSize + 4096;       ///< Bytes of a frame with file data.
inline constexpr std::size_t kElementRoom = kControlLimit - 4096;  ///< Bytes of list elements in a frame, beside which all else fits.

/// Whoever has a question asks it on a connection of its own, and is no neighbour. A subflow is one more connection of two peers that have
/// one: only who was sent a Joinable connects as that. Nodes of the overlay connect as such.
enum class Role : std::uint8_t { peer_to_tracker = 0, peer_to_peer = 1, question = 2, subflow = 3, overlay = 4 };

/// Bits of `features`, in Hello and Welcome.
inline constexpr std::uint64_t kSeveralConnections = 1;  ///< Knows Joinable and what follows it.

// Each message lists its fields once, in `fields()`: that list drives encoding, decoding and the tests. The first
// `kRequired` of them have to be there (all, where it is not given).

// ---- both sides of any connection ---------------------------------------------------------------------

/// The first message of whoever connected.
struct Hello {
  static constexpr auto kType = MessageType::hello;
  std::uint32_t magic = kMagic;
  std::uint16_t version = kProtocolVersion;
  std::uint16_t oldest = kOldestVersion;
  std::uint64_t features = 0;  ///< Bits, such as kSeveralConnections. Both sides use what both have.
  Role role = Role::peer_to_tracker;
  std::string id;              ///< The name of the peer that connects.
  std::uint64_t instance = 0;  ///< Random at each start of a process: tells a reconnection from a namesake.
  static constexpr auto fields() {
    return std::tuple{&Hello::magic, &Hello::version, &Hello::oldest, &Hello::features, &Hello::role, &Hello::id, &Hello::instance};
  }
};

/// The answer to a Hello; `version` is the one to speak from here on.
struct Welcome {
  static constexpr auto kType = MessageType::welcome;
  std::uint16_t version = kProtocolVersion;
  std::uint64_t features = 0;
  std::string id;
  std::uint64_t instance = 0;
  static constexpr auto fields() { return std::tuple{&Welcome::version, &Welcome::features, &Welcome::id, &Welcome::instance}; }
};

enum class RefusalReason : std::uint16_t {
  other = 0,
  version = 1,
  id_in_use = 2,
  swarm_full = 3,
  bad_register = 4,
  swarm_over = 5,
  wrong_role = 6
};

/// The answer to a Hello or Register that is not accepted; the connection closes after it.
struct Refusal {
  static constexpr auto kType = MessageType::refusal;
  RefusalReason reason = RefusalReason::other;
  std::string text;
  static constexpr auto fields() { return std::tuple{&Refusal::reason, &Refusal::text}; }
};

/// Asks for the time; at least every 5 s on any connection, which also shows that it lives. The four times
/// of NTP (RFC 5905): t1 sent, t2 received, t3 answered, each in nanoseconds on the clock of who stamps it.
struct Ping {
  static constexpr auto kType = MessageType::ping;
  std::int64_t t1 = 0;
  static constexpr auto fields() { return std::tuple{&Ping::t1}; }
};

struct Pong {
  static constexpr auto kType = MessageType::pong;
  std::int64_t t1 = 0;
  std::int64_t t2 = 0;
  std::int64_t t3 = 0;
  static constexpr auto fields() { return std::tuple{&Pong::t1, &Pong::t2, &Pong::t3}; }
};

/// A clean goodbye: the sender will close, and is not to be waited for.
struct Leave {
  static constexpr auto kType = MessageType::leave;
  std::uint8_t exit = 0;  ///< The exit code that it ends with.
  static constexpr auto fields() { return std::tuple{&Leave::exit}; }
};

// ---- peer and tracker ---------------------------------------------------------------------------------

/// What a peer wants to fetch by itself.
enum class Appetite : std::uint8_t { nothing = 0, everything = 1 };

struct Register {
  static constexpr auto kType = MessageType::register_peer;
  std::string host;  ///< Where others reach it; empty: the address that the tracker sees.
  std::uint16_t port = 0;
  Appetite appetite = Appetite::nothing;
  std::uint32_t expect = 0;        ///< The size of the closed swarm that it expects; 0 when it does not say.
  std::uint64_t last_epoch = 0;    ///< Of the tracker that it knew before; 0 for none.
  std::int64_t last_clock_ns = 0;  ///< The swarm clock now, as it knows it: a restarted tracker goes on from there.
  static constexpr auto fields() {
    return std::tuple{&Register::host,   &Register::port,       &Register::appetite,
                      &Register::expect, &Register::last_epoch, &Register::last_clock_ns};
  }
};

struct Registered {
  static constexpr auto kType = MessageType::registered;
  PeerId peer;
  std::uint64_t epoch = 0;    ///< Random at each start of the tracker.
  std::int64_t clock_ns = 0;  ///< The swarm clock at the time of sending; it starts at 0 with the first registration.
  std::uint32_t expect = 0;   ///< The size of the closed swarm; 0 for an open one.
  std::string seen_host;      ///< The address that the tracker sees the peer at.
  static constexpr auto fields() {
    return std::tuple{&Registered::peer, &Registered::epoch, &Registered::clock_ns, &Registered::expect, &Registered::seen_host};
  }
};

/// Some of the files that the peer offers. An entry with a name that it offered before replaces that one.
struct Offer {
  static constexpr auto kType = MessageType::offer;
  std::vector<FileEntry> entries;
  static constexpr auto fields() { return std::tuple{&Offer::entries}; }
};

struct Withdraw {
  static constexpr auto kType = MessageType::withdraw;
  std::vector<std::string> names;
  static constexpr auto fields() { return std::tuple{&Withdraw::names}; }
};

/// The first listing is whole: `entries` were offered since the registration.
struct OfferEnd {
  static constexpr auto kType = MessageType::offer_end;
  std::uint64_t entries = 0;
  static constexpr auto fields() { return std::tuple{&OfferEnd::entries}; }
};

struct RosterEntry {
  PeerId peer;
  std::string id;
  std::string host;          ///< As the receiver reaches it.
  std::uint16_t port = 0;    ///< 0: the receiver cannot reach it, but is perhaps connected to.
  bool is_here = true;       ///< false: it left, or its connection to the tracker was lost.
  bool is_complete = false;  ///< It has all that it wants.
  static constexpr auto fields() {
    return std::tuple{&RosterEntry::peer, &RosterEntry::id,      &RosterEntry::host,
                      &RosterEntry::port, &RosterEntry::is_here, &RosterEntry::is_complete};
  }
  friend bool operator==(const RosterEntry&, const RosterEntry&) = default;
};

/// News of the receiver itself and of those peers that it was introduced to: all in a small swarm, some in a large one. Later entries
/// replace earlier ones for the same peer.
struct Roster {
  static constexpr auto kType = MessageType::roster;
  std::vector<RosterEntry> peers;
  static constexpr auto fields() { return std::tuple{&Roster::peers}; }
};

struct Offered {
  PeerId owner;
  FileEntry entry;
  static constexpr auto fields() { return std::tuple{&Offered::owner, &Offered::entry}; }
  friend bool operator==(const Offered&, const Offered&) = default;
};

struct PeerName {
  PeerId peer;
  std::string id;
  static constexpr auto fields() { return std::tuple{&PeerName::peer, &PeerName::id}; }
  friend bool operator==(const PeerName&, const PeerName&) = default;
};

/// Files that peers offer, in the order in which the tracker learned of them; the receiver's own are left out.
struct Catalogue {
  static constexpr auto kType = MessageType::catalogue;
  std::uint64_t revision = 0;  ///< Of the catalogue after these entries.
  std::vector<Offered> entries;
  std::vector<PeerName> owners;  ///< What the owners of these entries are called: they need not be in the roster.
  static constexpr auto fields() { return std::tuple{&Catalogue::revision, &Catalogue::entries, &Catalogue::owners}; }
};

/// Files that `owner` no longer offers. With `lost`, because the owner is gone for good.
struct Retracted {
  static constexpr auto kType = MessageType::retracted;
  std::uint64_t revision = 0;
  PeerId owner;
  bool lost = false;
  std::vector<std::string> names;
  static constexpr auto fields() { return std::tuple{&Retracted::revision, &Retracted::owner, &Retracted::lost, &Retracted::names}; }
};

/// The whole catalogue has been sent, up to `revision`. A closed swarm gets it when all are here.
struct Begin {
  static constexpr auto kType = MessageType::begin;
  std::uint64_t revision = 0;
  std::uint32_t peers = 0;
  static constexpr auto fields() { return std::tuple{&Begin::revision, &Begin::peers}; }
};

/// Asks to be introduced to more peers: to at least so many others that are here, or to all where there are no more.
struct Introduce {
  static constexpr auto kType = MessageType::introduce;
  std::uint32_t others = 0;
  static constexpr auto fields() { return std::tuple{&Introduce::others}; }
};

/// The answer, after the roster that it takes: what was asked for.
struct Introduced {
  static constexpr auto kType = MessageType::introduced;
  std::uint32_t others = 0;
  static constexpr auto fields() { return std::tuple{&Introduced::others}; }
};

struct HaveCount {
  Sha256Digest root;
  std::uint32_t chunks = 0;  ///< How many chunks of it the sender has.
  static constexpr auto fields() { return std::tuple{&HaveCount::root, &HaveCount::chunks}; }
  friend bool operator==(const HaveCount&, const HaveCount&) = default;
};

/// How far a peer is; sent about once a second while it changes.
struct Progress {
  static constexpr auto kType = MessageType::progress;
  std::uint64_t bytes_have = 0;
  std::uint64_t bytes_wanted = 0;  ///< Of all that it wants, had or not.
  std::uint32_t load = 0;          ///< Transfers that it is in now.
  std::vector<HaveCount> counts;   ///< Those that changed since the last.
  static constexpr auto fields() { return std::tuple{&Progress::bytes_have, &Progress::bytes_wanted, &Progress::load, &Progress::counts}; }
};

/// The peer has all that it wants of the catalogue up to `revision`, published and verified; `failed` entries it cannot get.
struct Complete {
  static constexpr auto kType = MessageType::complete;
  std::uint64_t revision = 0;
  std::uint64_t bytes_fetched = 0;
  std::uint32_t failed = 0;
  std::int64_t at_ns = 0;           ///< Swarm clock.
  std::uint64_t upload_rate = 0;    ///< Bytes a second that it may send: its limit, or the most that was seen over a second.
  std::uint64_t download_rate = 0;  ///< The same for what it received.
  static constexpr auto fields() {
    return std::tuple{&Complete::revision, &Complete::bytes_fetched, &Complete::failed,
                      &Complete::at_ns,    &Complete::upload_rate,   &Complete::download_rate};
  }
};

/// The closed swarm is over: all peers are complete, or all that are left are.
struct SwarmComplete {
  static constexpr auto kType = MessageType::swarm_complete;
  std::int64_t total_ns = 0;                ///< From the first registration to the last peer complete.
  std::uint64_t bytes = 0;                  ///< Fetched by all peers together.
  std::vector<std::string> failed;          ///< Ids of peers that did not finish.
  std::uint32_t percent_of_bound_x100 = 0;  ///< 100 times the percent of the lower bound; 0 when unknown.
  static constexpr auto fields() {
    return std::tuple{&SwarmComplete::total_ns, &SwarmComplete::bytes, &SwarmComplete::failed, &SwarmComplete::percent_of_bound_x100};
  }
};

/// Who has what: `pattern` is a name, a shell pattern, an MD5 or a root. Empty: everything.
struct Find {
  static constexpr auto kType = MessageType::find;
  std::uint32_t query = 0;
  std::string pattern;
  static constexpr auto fields() { return std::tuple{&Find::query, &Find::pattern}; }
};

struct FoundEntry {
  FileEntry entry;
  std::vector<PeerId> holders;  ///< Peers that are here and have all of it, its owners first. Look them up in the roster.
  static constexpr auto fields() { return std::tuple{&FoundEntry::entry, &FoundEntry::holders}; }
  friend bool operator==(const FoundEntry&, const FoundEntry&) = default;
};

struct Found {
  static constexpr auto kType = MessageType::found;
  std::uint32_t query = 0;
  bool is_last = true;  ///< No more answers to this query follow.
  std::vector<FoundEntry> entries;
  static constexpr auto fields() { return std::tuple{&Found::query, &Found::is_last, &Found::entries}; }
};

// ---- peer and peer ------------------------------------------------------------------------------------
//
// Contents are named by their Merkle root once, in an Inventory; from then on by a `handle`, which is the number that
// the side that *has* the content gave it. A Have, Chunk, Reject, HashReply and Gone speak of the sender's handles;
// a Request, Cancel and HashRequest of the receiver's.

/// Which contents the sender wants to hear of; everything until it says so.
struct Subscribe {
  static constexpr auto kType = MessageType::subscribe;
  bool everything = true;
  std::vector<Sha256Digest> roots;  ///< Added to those named before, where not everything.
  static constexpr auto fields() { return std::tuple{&Subscribe::everything, &Subscribe::roots}; }
};

struct Holding {
  std::uint32_t handle = 0;
  Sha256Digest root;
  std::uint64_t size = 0;
  bool is_complete = false;
  std::uint32_t first_chunk = 0;   ///< The chunk of the first bit; a multiple of 8.
  std::vector<std::uint8_t> bits;  ///< Chunk first_chunk + i is there when bit i % 8 of byte i / 8 is set. Empty when complete.
  static constexpr auto fields() {
    return std::tuple{&Holding::handle, &Holding::root, &Holding::size, &Holding::is_complete, &Holding::first_chunk, &Holding::bits};
  }
  friend bool operator==(const Holding&, const Holding&) = default;
};

/// What the sender has. Adds to what was said before: only Gone takes back.
struct Inventory {
  static constexpr auto kType = MessageType::inventory;
  std::vector<Holding> holdings;
  static constexpr auto fields() { return std::tuple{&Inventory::holdings}; }
};

struct ChunkRun {
  std::uint32_t handle = 0;
  std::uint32_t first = 0;
  std::uint32_t count = 1;
  static constexpr auto fields() { return std::tuple{&ChunkRun::handle, &ChunkRun::first, &ChunkRun::count}; }
  friend bool operator==(const ChunkRun&, const ChunkRun&) = default;
};

/// Chunks that the sender has since it last said so.
struct Have {
  static constexpr auto kType = MessageType::have;
  std::vector<ChunkRun> runs;
  static constexpr auto fields() { return std::tuple{&Have::runs}; }
};

struct ChunkRef {
  std::uint32_t handle = 0;
  std::uint32_t chunk = 0;
  static constexpr auto fields() { return std::tuple{&ChunkRef::handle, &ChunkRef::chunk}; }
  friend auto operator<=>(const ChunkRef&, const ChunkRef&) = default;
};

/// Each chunk that is asked for is answered: by all of its bytes, or by a Reject.
struct Request {
  static constexpr auto kType = MessageType::request;
  std::vector<ChunkRef> chunks;
  static constexpr auto fields() { return std::tuple{&Request::chunks}; }
};

/// No longer wanted. What was not yet begun is answered by a Reject; what was may come whole.
struct Cancel {
  static constexpr auto kType = MessageType::cancel;
  std::vector<ChunkRef> chunks;
  bool is_elsewhere = false;  ///< It is to be asked of another: what was begun is best brought to its end.
  static constexpr auto fields() { return std::tuple{&Cancel::chunks, &Cancel::is_elsewhere}; }
};

struct Reject {
  static constexpr auto kType = MessageType::reject;
  std::vector<ChunkRef> chunks;
  bool is_for_now = false;  ///< It has them, but another is getting them: they are better asked for there, or later.
  static constexpr auto fields() { return std::tuple{&Reject::chunks, &Reject::is_for_now}; }
};

/// The head of a frame with file data: `length` bytes of chunk `chunk`, from `offset` in the chunk on, follow in the
/// frame. A chunk comes in one piece or in several, in order; pieces of different chunks may alternate.
struct ChunkHeader {
  static constexpr auto kType = MessageType::chunk;
  std::uint32_t handle = 0;
  std::uint32_t chunk = 0;
  std::uint32_t offset = 0;
  static constexpr auto fields() { return std::tuple{&ChunkHeader::handle, &ChunkHeader::chunk, &ChunkHeader::offset}; }
  std::uint32_t length = 0;  ///< Not on the wire: what the frame's length leaves.
  friend bool operator==(const ChunkHeader&, const ChunkHeader&) = default;
};

/// Asks for one span of chunk hashes (see HashSpan in shoal.digest).
struct HashRequest {
  static constexpr auto kType = MessageType::hash_request;
  std::uint32_t handle = 0;
  std::uint32_t span = 0;
  static constexpr auto fields() { return std::tuple{&HashRequest::handle, &HashRequest::span}; }
};

/// Without hashes: the sender cannot serve them.
struct HashReply {
  static constexpr auto kType = MessageType::hash_reply;
  std::uint32_t handle = 0;
  std::uint32_t span = 0;
  std::vector<Sha256Digest> hashes;
  std::vector<Sha256Digest> proof;
  static constexpr auto fields() { return std::tuple{&HashReply::handle, &HashReply::span, &HashReply::hashes, &HashReply::proof}; }
};

/// The sender no longer has these contents: they changed or were removed.
struct Gone {
  static constexpr auto kType = MessageType::gone;
  std::vector<std::uint32_t> handles;
  static constexpr auto fields() { return std::tuple{&Gone::handles}; }
};

// ---- clock peers and tracker ----------------------------------------------------------------------------
//
// A connection that carries timestamps: its first message after the greeting is a ClockJoin in place of a Register. Ticks and
// their answers may go as datagrams, a frame each, beside it.

struct ClockJoin {
  static constexpr auto kType = MessageType::clock_join;
  std::string id;                ///< The name that it wants, or had before; empty: the lowest number that is free.
  std::string host;              ///< Where others bring their tables; empty: the address that the tracker sees.
  std::uint16_t port = 0;        ///< 0: it takes no tables.
  bool is_recorded = true;       ///< Its exchanges are to stand in the tracker's table.
  std::int64_t interval_ns = 0;  ///< Between two ticks.
  std::int64_t duration_ns = 0;  ///< That was asked for.
  std::uint64_t last_epoch = 0;  ///< As in Register.
  std::int64_t last_clock_ns = 0;
  static constexpr auto fields() {
    return std::tuple{&ClockJoin::id,          &ClockJoin::host,        &ClockJoin::port,       &ClockJoin::is_recorded,
                      &ClockJoin::interval_ns, &ClockJoin::duration_ns, &ClockJoin::last_epoch, &ClockJoin::last_clock_ns};
  }
};

struct ClockJoined {
  static constexpr auto kType = MessageType::clock_joined;
  std::string id;             ///< The name that it has.
  std::uint64_t epoch = 0;    ///< As in Registered.
  std::int64_t clock_ns = 0;  ///< The swarm clock at the time of sending.
  std::int64_t zero_date_ns =
      0;  ///< The date at which the swarm clock was 0, in nanoseconds since 1970, by the tracker's clock at its start.
  std::uint16_t datagram_port = 0;  ///< Where it answers ticks that come as datagrams; 0: nowhere.
  std::uint64_t token = 0;          ///< What these have to carry.
  static constexpr auto fields() {
    return std::tuple{&ClockJoined::id,           &ClockJoined::epoch,         &ClockJoined::clock_ns,
                      &ClockJoined::zero_date_ns, &ClockJoined::datagram_port, &ClockJoined::token};
  }
};

/// A peer's timestamp; dates are microseconds since 1970 on the sender's wall clock.
struct Tick {
  static constexpr auto kType = MessageType::tick;
  std::uint64_t number = 0;  ///< In the peer's schedule, from 0; a number that is left out was missed.
  std::int64_t t1 = 0;       ///< Sent, on the peer's own clock.
  std::int64_t date_us = 0;
  std::uint64_t token = 0;  ///< As ClockJoined said, where it goes as a datagram.
  static constexpr auto fields() { return std::tuple{&Tick::number, &Tick::t1, &Tick::date_us, &Tick::token}; }
};

/// The number of a Tick that asks only whether datagrams get through. It is answered, and stands in no table.
inline constexpr std::uint64_t kProbeTick = ~std::uint64_t{0};

/// The tracker's timestamp in answer, with the four times of NTP as in a Pong.
struct Tock {
  static constexpr auto kType = MessageType::tock;
  std::uint64_t number = 0;
  std::int64_t t1 = 0;
  std::int64_t t2 = 0;
  std::int64_t t3 = 0;
  std::int64_t date_us = 0;
  static constexpr auto fields() { return std::tuple{&Tock::number, &Tock::t1, &Tock::t2, &Tock::t3, &Tock::date_us}; }
};

/// Asks for all clock peers that take tables.
struct ClockList {
  static constexpr auto kType = MessageType::clock_list;
  std::uint32_t query = 0;
  static constexpr auto fields() { return std::tuple{&ClockList::query}; }
};

struct ClockPeer {
  std::string id;
  std::string host;
  std::uint16_t port = 0;
  bool is_here = true;  ///< false: its connection to the tracker was lost.
  static constexpr auto fields() { return std::tuple{&ClockPeer::id, &ClockPeer::host, &ClockPeer::port, &ClockPeer::is_here}; }
  friend bool operator==(const ClockPeer&, const ClockPeer&) = default;
};

struct ClockPeers {
  static constexpr auto kType = MessageType::clock_peers;
  std::uint32_t query = 0;
  bool is_last = true;  ///< No more of this list follows.
  std::vector<ClockPeer> peers;
  static constexpr auto fields() { return std::tuple{&ClockPeers::query, &ClockPeers::is_last, &ClockPeers::peers}; }
};

// ---- clock peer and clock peer --------------------------------------------------------------------------

/// The sender's table; its bytes follow as chunks, in order, with handle 0.
struct Table {
  static constexpr auto kType = MessageType::table;
  std::uint64_t size = 0;
  Md5Digest md5;
  static constexpr auto fields() { return std::tuple{&Table::size, &Table::md5}; }
};

/// The table is saved and verified, or not.
struct TableReceived {
  static constexpr auto kType = MessageType::table_received;
  bool is_good = false;
  std::string why;  ///< Where it is not.
  static constexpr auto fields() { return std::tuple{&TableReceived::is_good, &TableReceived::why}; }
};

// ---- the catalogue: peer and tracker ------------------------------------------------------------------

/// Asks whether everything that was offered and withdrawn before has been taken in.
struct Confirm {
  static constexpr auto kType = MessageType::confirm;
  std::uint32_t query = 0;
  static constexpr auto fields() { return std::tuple{&Confirm::query}; }
};

struct Confirmed {
  static constexpr auto kType = MessageType::confirmed;
  std::uint32_t query = 0;
  std::uint64_t entries = 0;   ///< That the tracker has of the peer now.
  std::uint64_t revision = 0;  ///< Of the catalogue.
  static constexpr auto fields() { return std::tuple{&Confirmed::query, &Confirmed::entries, &Confirmed::revision}; }
};

/// The same question as Find, but the tracker asks those who may have it before it answers.
struct Locate {
  static constexpr auto kType = MessageType::locate;
  std::uint32_t query = 0;
  std::string pattern;
  static constexpr auto fields() { return std::tuple{&Locate::query, &Locate::pattern}; }
};

/// A peer that has said just now that it has all of a file.
struct Holder {
  PeerId peer;
  std::string id;
  std::string host;
  std::uint16_t port = 0;
  std::uint32_t load = 0;  ///< Transfers that it is in.
  static constexpr auto fields() { return std::tuple{&Holder::peer, &Holder::id, &Holder::host, &Holder::port, &Holder::load}; }
  friend bool operator==(const Holder&, const Holder&) = default;
};

struct LocatedEntry {
  FileEntry entry;
  std::vector<Holder> holders;  ///< Those with the least load first.
  static constexpr auto fields() { return std::tuple{&LocatedEntry::entry, &LocatedEntry::holders}; }
  friend bool operator==(const LocatedEntry&, const LocatedEntry&) = default;
};

inline constexpr std::size_t kMaxMissing = 16;  ///< Peers without an answer that are named.

struct Located {
  static constexpr auto kType = MessageType::located;
  std::uint32_t query = 0;
  bool is_last = true;       ///< No more answers to this query follow.
  std::uint32_t asked = 0;   ///< Peers that were asked for these entries, ...
  std::uint32_t silent = 0;  ///< ... and of those, who did not answer.
  std::vector<LocatedEntry> entries;
  std::vector<Holder> missing;  ///< Some who did not answer, at most kMaxMissing: they offered these entries, and are not asked again.
  static constexpr auto fields() {
    return std::tuple{&Located::query, &Located::is_last, &Located::asked, &Located::silent, &Located::entries, &Located::missing};
  }
};

struct Wanted {
  std::string name;
  std::uint64_t size = 0;
  Sha256Digest root;
  static constexpr auto fields() { return std::tuple{&Wanted::name, &Wanted::size, &Wanted::root}; }
  friend bool operator==(const Wanted&, const Wanted&) = default;
};

/// Asks a peer whether it still has these, under that name or another.
struct Probe {
  static constexpr auto kType = MessageType::probe;
  std::uint32_t probe = 0;
  std::vector<Wanted> wanted;
  static constexpr auto fields() { return std::tuple{&Probe::probe, &Probe::wanted}; }
};

struct ProbeReply {
  static constexpr auto kType = MessageType::probe_reply;
  std::uint32_t probe = 0;
  std::uint32_t load = 0;          ///< Transfers that the sender is in now.
  std::vector<std::uint8_t> bits;  ///< It has the i-th when bit i % 8 of byte i / 8 is set.
  static constexpr auto fields() { return std::tuple{&ProbeReply::probe, &ProbeReply::load, &ProbeReply::bits}; }
};

// ---- where only one side can be reached ---------------------------------------------------------------

inline constexpr std::size_t kMaxConnectBack = 64;  ///< Peers that one such message may name.

/// The sender cannot connect to these peers: it asks that they connect to it.
struct ConnectBack {
  static constexpr auto kType = MessageType::connect_back;
  std::string host;  ///< As in Register.
  std::uint16_t port = 0;
  std::vector<PeerId> peers;  ///< At most kMaxConnectBack.
  static constexpr auto fields() { return std::tuple{&ConnectBack::host, &ConnectBack::port, &ConnectBack::peers}; }
};

/// Somebody wants to be connected with the receiver, and cannot do it.
struct ConnectTo {
  static constexpr auto kType = MessageType::connect_to;
  std::string id;
  std::string host;
  std::uint16_t port = 0;
  static constexpr auto fields() { return std::tuple{&ConnectTo::id, &ConnectTo::host, &ConnectTo::port}; }
};

// ---- the catalogue: a question to a peer --------------------------------------------------------------

struct LoadRequest {
  static constexpr auto kType = MessageType::load_request;
  std::uint32_t query = 0;
  static constexpr auto fields() { return std::tuple{&LoadRequest::query}; }
};

struct LoadReply {
  static constexpr auto kType = MessageType::load_reply;
  std::uint32_t query = 0;
  std::uint32_t load = 0;  ///< Transfers that the sender is in now.
  static constexpr auto fields() { return std::tuple{&LoadReply::query, &LoadReply::load}; }
};

// ---- several connections of two peers -----------------------------------------------------------------

/// Proves that a connection belongs to a session. Good for as long as that lasts.
struct Secret {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  static constexpr auto fields() { return std::tuple{&Secret::high, &Secret::low}; }
  friend auto operator<=>(const Secret&, const Secret&) = default;
};

/// Whoever accepted the first connection lets the other side open further ones.
struct Joinable {
  static constexpr auto kType = MessageType::joinable;
  Secret secret;
  std::uint32_t most = 0;  ///< Connections at once, with the first.
  static constexpr auto fields() { return std::tuple{&Joinable::secret, &Joinable::most}; }
};

/// Follows the hello of a subflow, and is answered by the welcome.
struct Join {
  static constexpr auto kType = MessageType::join;
  Secret secret;
  std::uint32_t connection = 0;  ///< From 1 on (0 is the first one), once in the session, in about their order.
  static constexpr auto fields() { return std::tuple{&Join::secret, &Join::connection}; }
};

/// The next chunk frame of this connection has this number among all that its sender has placed on any connection of the session; those
/// that follow it on this connection without a Placed have the next ones.
struct Placed {
  static constexpr auto kType = MessageType::placed;
  std::uint64_t number = 0;
  static constexpr auto fields() { return std::tuple{&Placed::number}; }
};

/// So many of the frames placed on that connection came, whole. `is_over`: no more will be taken from it, so that the others are
/// to be sent again on another.
struct Arrived {
  static constexpr auto kType = MessageType::arrived;
  std::uint32_t connection = 0;
  std::uint64_t frames = 0;
  bool is_over = false;
  static constexpr auto fields() { return std::tuple{&Arrived::connection, &Arrived::frames, &Arrived::is_over}; }
};

/// What follows on this connection, apart from chunks, Placed, Arrived and After, counts once all frames below `number` came.
struct After {
  static constexpr auto kType = MessageType::after;
  std::uint64_t number = 0;
  static constexpr auto fields() { return std::tuple{&After::number}; }
};

/// Every message but the chunk, whose bytes do not pass through here.
using MessageKinds = std::variant<Hello, Welcome, Refusal, Ping, Pong, Leave,                                            //
                                  Register, Registered, Offer, Withdraw, OfferEnd, Roster, Catalogue, Retracted, Begin,  //
                                  Progress, Complete, SwarmComplete, Find, Found, Introduce, Introduced,                 //
                                  Subscribe, Inventory, Have, Request, Cancel, Reject, HashRequest, HashReply, Gone,     //
                                  ClockJoin, ClockJoined, Tick, Tock, ClockList, ClockPeers, Table, TableReceived,       //
                                  Confirm, Confirmed, Locate, Located, Probe, ProbeReply, LoadRequest, LoadReply,        //
                                  ConnectBack, ConnectTo,                                                                //
                                  Joinable, Join, Placed, Arrived, After,                                                //
                                  OverlayJoin, OverlayPlace, OverlayLinks, OverlayAsk, OverlayList, OverlayNodes,        //
                                  Attach, Attached, Refer, Detach, Verify, Verified, Around, Search, SearchAnswer>;

/// The place of M among the kinds; their number where it is none of them.
template <class M, class... Kinds>
consteval std::size_t place_of_kind(std::type_identity<std::variant<Kinds...>>) {
  std::size_t place = 0;
  static_cast<void>(((std::same_as<M, Kinds> || (++place, false)) || ...));
  return place;
}
template <class M>
inline constexpr std::size_t kPlaceOfKind = place_of_kind<M>(std::type_identity<MessageKinds>{});

/// One of them. How so many kinds are made, copied, moved and destroyed is compiled once, and not in every unit that has one in hand: that
/// would be half of the time that those take.
class Message : public MessageKinds {
 public:
  Message();  ///< A Hello.
  template <class M>
    requires(kPlaceOfKind<M> < std::variant_size_v<MessageKinds>)
  Message(M message) : Message(kPlaceOfKind<M>, &message) {}
  Message(const Message& other);
  Message(Message&& other) noexcept;
  Message& operator=(const Message& other);
  Message& operator=(Message&& other) noexcept;
  ~Message();

 private:
  Message(std::size_t kind, void* message);
};

MessageType type_of(const Message& message);
/// `request`, `have`: for logs and failures.
std::string_view name_of(MessageType type);

/// Appends the whole frame. Fails with `too_large`, and appends nothing, when it would pass kControlLimit: whoever
/// builds lists splits them (see encoded_size).
Result<> encode(const Message& message, std::vector<std::byte>& out);
/// The bytes that `encode` would append.
std::size_t encoded_size(const Message& message);
/// The bytes of one list element, for filling messages up to the limit.
std::size_t encoded_size(const FileEntry& entry);
std::size_t encoded_size(const Offered& offered);
std::size_t encoded_size(const FoundEntry& found);
std::size_t encoded_size(const Holding& holding);
std::size_t encoded_size(const ClockPeer& peer);
std::size_t encoded_size(const LocatedEntry& located);
std::size_t encoded_size(const OverlayNode& node);
std::size_t encoded_size(const Hit& hit);
/// Copies of `blank` with the elements in their field `list`: as few as it takes for each to have at most `room` bytes of them, or one.
/// None where there are no elements.
template <class M, class T, class SizeOf>
std::vector<M> split(std::vector<T> elements, std::vector<T> M::* list, SizeOf size_of, const M& blank = {},
                     std::size_t room = kElementRoom) {
  std::vector<M> messages;
  std::size_t bytes = 0;
  for (T& element : elements) {
    const std::size_t size = size_of(element);
    if (messages.empty() || bytes + size > room) {
      messages.push_back(blank);
      bytes = 0;
    }
    bytes += size;
    (messages.back().*list).push_back(std::move(element));
  }
  return messages;
}
/// The same, as they are sent.
template <class M>
std::vector<Message> to_messages(std::vector<M> messages) {
  return std::vector<Message>(std::make_move_iterator(messages.begin()), std::make_move_iterator(messages.end()));
}

/// Appends the frame header and fields of a chunk; its `length` bytes of data have to follow.
void encode(const ChunkHeader& header, std::vector<std::byte>& out);

/// The message in `payload`, the bytes after the type; nothing for a type that we do not know. Fails with
/// `malformed`, naming the message and field. Names and entries are not judged here: see check_entry.
Result<std::optional<Message>> decode(MessageType type, std::span<const std::byte> payload);

/// The message of a datagram, which is one whole frame; nothing for a type that we do not know. Fails with `malformed`.
Result<std::optional<Message>> decode_datagram(std::span<const std::byte> datagram);

/// What comes out of a FrameReader.
using Incoming = std::variant<Message, ChunkHeader>;

/// Turns bytes, as they come, into messages. One frame at a time, in a buffer that never grows past the limit.
///
///   for (;;) {
///     next()  -> a message; a ChunkHeader; or nothing: read into prepare(), then commit(n), and try again
///   }
///
/// After a ChunkHeader its data has to be taken before next() is called again: take_payload() copies what was
/// already read; whatever is left is read straight from the connection, and told with payload_read().
class FrameReader {
 public:
  FrameReader();

  /// Where to put the next bytes; never empty after next() had nothing, or failed.
  std::span<std::byte> prepare();
  /// `n` bytes of the last prepare() are filled.
  void commit(std::size_t n);

  /// Fails with `too_large` or `malformed`, for good: the connection is to be closed. Unknown types are skipped.
  /// Before established() only hello, welcome, refusal come through, anything else is `out_of_order`.
  Result<std::optional<Incoming>> next();

  /// Moves up to out.size() bytes of the current chunk's data from the buffer; returns how many.
  std::size_t take_payload(std::span<std::byte> out);
  /// `n` bytes of the current chunk's data were read past this buffer.
  void payload_read(std::size_t n);
  std::uint32_t payload_left() const { return payload_left_; }

  /// The hello was answered: from here on the larger limits hold.
  void established() { is_established_ = true; }
  std::uint64_t skipped() const { return skipped_; }  ///< Frames of unknown types so far.

 private:
  Result<std::optional<Incoming>> next_frame();
  Result<std::optional<Incoming>> chunk_frame(std::uint32_t length);
  Result<std::optional<Incoming>> message_frame(MessageType type, std::uint32_t length);
  std::span<const std::byte> unread() const;
  bool skip_unknown();

  std::vector<std::byte> buffer_;
  std::size_t begin_ = 0;  ///< Of the unread bytes in buffer_.
  std::size_t end_ = 0;
  std::uint32_t payload_left_ = 0;
  std::uint32_t skip_left_ = 0;  ///< Bytes left of a frame that is being skipped.
  std::uint64_t skipped_ = 0;
  bool is_established_ = false;
  std::optional<Error> failure_;  ///< Once there is one, nothing else comes out.
};

}  // namespace shoal
