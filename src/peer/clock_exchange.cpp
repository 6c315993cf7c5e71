module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

module shoal.peer;

import :clock;
import shoal.base;
import shoal.clock;
import shoal.digest;
import shoal.manifest;
import shoal.report;
import shoal.wire;
import shoal.world;

using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kConnectPatience = 5s;
constexpr Nanoseconds kPatience = 10s;      // for each step of the other side
constexpr Nanoseconds kListPatience = 15s;  // for the list, where the tracker is away
constexpr Nanoseconds kFirstBackoff = 300ms;
constexpr Nanoseconds kLookEvery = 2s;  // who is still there
constexpr int kAttempts = 5;
constexpr int kProbes = 3;
constexpr int kSendsAtOnce = 4;      // of one peer
constexpr std::size_t kPart = kMiB;  // is hashed and written at a time
constexpr std::uint64_t kMostTable = 16 * kGiB;

// ---- the list -----------------------------------------------------------------------------------------

void ask_for_list(ClockPeerState& peer) {
  peer.incoming.clear();
  say(peer, ClockList{++peer.query});
}

/// Someone that a table has to go to, and one to come from.
void oblige(ClockPeerState& peer, const ClockPeer& listed) {
  if (listed.id == peer.id || peer.others.contains(listed.id)) return;
  OtherPeer& other = peer.others[listed.id];
  other.has_come = peer.came_from.contains(listed.id);
}

void update(OtherPeer& other, const ClockPeer& listed) {
  other.at = {listed.host, listed.port};
  other.is_lost = !listed.is_here;
  other.has_left = false;
}

}  // namespace

void on_clock_list(ClockPeerState& peer, const ClockPeers& part) {
  if (part.query != peer.query) return;
  for (const ClockPeer& each : part.peers) {
    ClockPeer& listed = peer.incoming[each.id] = each;
    if (peer.link) add_zone(listed.host, *peer.link);
  }
  if (!part.is_last) return;
  peer.listed = std::exchange(peer.incoming, {});
  if (peer.is_exchanging) {
    for (const auto& [id, listed] : peer.listed)
      if (!peer.has_list || peer.came_from.contains(id)) oblige(peer, listed);
    peer.has_list = true;
    for (auto& [id, other] : peer.others) {
      const auto listed = peer.listed.find(id);
      if (listed != peer.listed.end())
        update(other, listed->second);
      else
        other.has_left = true;
    }
  }
  peer.changed.notify();
}

namespace {

// ---- a table goes out ---------------------------------------------------------------------------------

Task<std::shared_ptr<Link>> meet(ClockPeerState& peer, const std::string& id, const Endpoint& at) {
  const std::shared_ptr<Link> link = co_await step(peer.run.world.connect(at, peer.strand, kConnectPatience));
  Hello hello;
  hello.role = Role::peer_to_peer;
  hello.id = peer.id;
  hello.instance = instance_for_peers(peer.instance);
  co_await step(send(*link, std::move(hello)));
  const Welcome welcome = co_await step(receive<Welcome>(*link, kPatience));
  if (welcome.id != id) throw StepFailed(Error{make_error_code(Errc::refused), fmt::format("another peer is at {}", to_string(at)), {}});
  link->established();
  co_return link;
}

Task<> deliver(ClockPeerState& peer, const std::string& id, const Endpoint& at) {
  const auto source = peer.source;
  const std::shared_ptr<Link> link = co_await meet(peer, id, at);
  co_await step(send(*link, Table{source->size(), peer.md5}));
  std::uint32_t chunk = 0;
  for (std::uint64_t offset = 0; offset < source->size(); offset += kChunkSize, ++chunk) {
    ChunkHeader header{0, chunk, 0};
    header.length = static_cast<std::uint32_t>(std::min<std::uint64_t>(kChunkSize, source->size() - offset));
    co_await step(link->send_chunk(header, source, offset));
  }
  const auto received = co_await step(receive<TableReceived>(*link, kPatience));
  link->close();
  if (!received.is_good) throw StepFailed(Error{make_error_code(Errc::refused), received.why, {}});
}

void on_delivery_failed(ClockPeerState& peer, const std::string& id, const Error& why) {
  OtherPeer& other = peer.others.at(id);
  other.sent = OtherPeer::Sent::no;
  other.next_attempt = peer.run.world.now() + kFirstBackoff * (1 << other.attempts);
  ask_for_list(peer);  // it may have left
  if (++other.attempts < kAttempts || other.has_left) return;
  other.sent = OtherPeer::Sent::failed;
  other.is_given_up = true;
  ++peer.failed;
  peer.run.report.warn(fmt::format("peer {}: cannot send its table to peer {}: {}; given up", peer.id, id, why.message()));
}

Task<> send_to(ClockPeerState& peer, std::string id) {
  {
    const Budget::Share share = co_await peer.run.connections.take(1);
    std::optional<Error> why;
    try {
      co_await deliver(peer, id, peer.others.at(id).at);
    } catch (const StepFailed& failed) {
      why = failed.error();
    }
    if (why) {
      on_delivery_failed(peer, id, *why);
    } else {
      peer.others.at(id).sent = OtherPeer::Sent::yes;
      ++peer.tables_sent;
      peer.run.report.detail("table_sent", {{"from", peer.id}, {"to", id}, {"bytes", peer.source->size()}});
    }
  }
  --peer.sending;
  peer.last_progress = peer.run.world.now();
  peer.changed.notify();
}

/// Begins with those whose names follow ours, so that not all begin with the same.
void start_sending(ClockPeerState& peer) {
  const Instant now = peer.run.world.now();
  const auto start = [&](auto from, auto to) {
    for (; from != to && peer.sending < kSendsAtOnce; ++from) {
      auto& [id, other] = *from;
      if (other.sent != OtherPeer::Sent::no || other.has_left || other.next_attempt > now) continue;
      other.sent = OtherPeer::Sent::sending;
      ++peer.sending;
      peer.run.tasks.spawn(peer.strand, "table to " + id, send_to(peer, id));
    }
  };
  const auto own_place = peer.others.upper_bound(peer.id);
  start(own_place, peer.others.end());
  start(peer.others.begin(), own_place);
}

// ---- a table comes in ---------------------------------------------------------------------------------

/// A table on its way to its file. On workers, one call at a time.
struct IncomingTable {
  RecordFolder& records;
  std::string temporary;
  std::string name;
  Table told;
  std::unique_ptr<RecordFile> file;
  Md5Stream md5;

  Result<> take(std::span<const std::byte> part, bool is_last) {
    if (!file) {
      auto made = records.create(temporary);
      if (!made) return Failure(std::move(made).error());
      file = std::move(*made);
    }
    md5.update(part);
    if (auto appended = file->append(part); !appended) return appended;
    if (!is_last) return {};
    file.reset();
    if (md5.finish() != told.md5) return fail(Errc::wrong_digest, "the table that came");
    return records.rename(temporary, name);
  }
};

/// Whether the tracker knows that peer; asks it where it is unheard of.
Task<bool> is_one_of_us(ClockPeerState& peer, const std::string& id) {
  for (int i = 0; i < 20 && !peer.listed.contains(id); ++i) {
    if (i % 10 == 0) ask_for_list(peer);
    co_await peer.run.world.sleep(100ms);
  }
  co_return peer.listed.contains(id);
}

Task<Hello> greet_sender(ClockPeerState& peer, Link& link) {
  const Hello hello = co_await step(receive<Hello>(link, kPatience));
  const bool is_named = hello.id.size() <= 64 && hello.id.find('/') == std::string::npos && check_name(hello.id);
  if (hello.magic != kMagic || hello.role != Role::peer_to_peer || !is_named)
    throw StepFailed(Error{make_error_code(Errc::malformed), "not a clock peer", {}});
  Welcome welcome;
  welcome.id = peer.id;
  welcome.instance = instance_for_peers(peer.instance);
  co_await step(send(link, std::move(welcome)));
  link.established();
  co_return hello;
}

/// Reads the table, part by part. A disk that fails is told when all has been read.
Task<Result<>> save_table(ClockPeerState& peer, Link& link, const std::string& from, const Table& told) {
  ClockRun& run = peer.run;
  const std::string name = TimeTable::received_file(peer.id, from);
  IncomingTable table{run.records, fmt::format("{}.{}", name, ++run.temporary), name, told, nullptr, {}};
  std::vector<std::byte> part(static_cast<std::size_t>(std::min<std::uint64_t>(told.size, kPart)));
  const Budget::Share share = co_await run.buffers.take(part.size());
  Result<> saved;
  std::size_t filled = 0;
  for (std::uint64_t done = 0; done < told.size;) {
    const Incoming incoming = co_await step(link.receive(kPatience));
    const auto* header = std::get_if<ChunkHeader>(&incoming);
    if (!header || header->length > told.size - done || header->length > part.size() - filled)
      throw StepFailed(Error{make_error_code(Errc::out_of_order), "the bytes of a table", {}});
    co_await step(link.receive_payload(std::span(part).subspan(filled, header->length)));
    filled += header->length;
    done += header->length;
    if (done < told.size && part.size() - filled >= kChunkSize) continue;
    const auto bytes = std::span<const std::byte>(part).first(std::exchange(filled, 0));
    if (saved) saved = co_await offload(run.world, [&] { return table.take(bytes, done == told.size); });
  }
  if (!saved) run.records.remove(table.temporary);
  co_return saved;
}

void on_table_come(ClockPeerState& peer, const std::string& from, std::uint64_t bytes) {
  peer.came_from.insert(from);
  peer.last_progress = peer.run.world.now();
  if (const auto known = peer.others.find(from); known != peer.others.end())
    known->second.has_come = true;
  else if (peer.has_list)
    ask_for_list(peer);  // it began after us; it gets our table, too
  peer.run.report.detail("table_received", {{"peer", peer.id}, {"from", from}, {"bytes", bytes}});
  peer.changed.notify();
}

Task<> take_table(ClockPeerState& peer, std::shared_ptr<Link> link) {
  const Hello hello = co_await greet_sender(peer, *link);
  const Table told = co_await step(receive<Table>(*link, kPatience));  // a probe closes here
  if (told.size == 0 || told.size > kMostTable) throw StepFailed(Error{make_error_code(Errc::too_large), "a table", {}});
  if (!peer.listed.contains(hello.id) && !co_await is_one_of_us(peer, hello.id)) {
    co_await step(send(*link, TableReceived{false, "the tracker does not know you"}));
    co_return;
  }
  const Result<> saved = co_await save_table(peer, *link, hello.id, told);
  if (!saved) peer.run.report.warn(fmt::format("peer {}: the table of peer {}: {}", peer.id, hello.id, saved.error().message()));
  if (saved) on_table_come(peer, hello.id, told.size);
  co_await step(send(*link, TableReceived{saved.has_value(), saved ? std::string() : saved.error().message()}));
  static_cast<void>(co_await link->receive(kPatience));  // the sender closes
  link->close();
}

// ---- who is still there -------------------------------------------------------------------------------

Task<> probe(ClockPeerState& peer, std::string id) {
  bool is_alive = false;
  {
    const Budget::Share share = co_await peer.run.connections.take(1);
    try {
      const auto link = co_await meet(peer, id, peer.others.at(id).at);
      link->close();
      is_alive = true;
    } catch (const StepFailed&) {
    }
  }
  OtherPeer& other = peer.others.at(id);
  other.is_being_probed = false;
  other.failed_probes = is_alive ? 0 : other.failed_probes + 1;
  if (other.failed_probes < kProbes || other.has_come || other.is_given_up || other.has_left) co_return;
  other.is_given_up = true;
  ++peer.failed;
  peer.run.report.warn(fmt::format("peer {}: peer {} is gone, and its table did not come", peer.id, id));
  peer.changed.notify();
}

}  // namespace

Task<> accept_tables(ClockPeerState& peer) {
  for (;;) {
    std::shared_ptr<Link> link = co_await step(peer.listener->accept(peer.strand));
    peer.run.tasks.spawn(peer.strand, "a table for " + peer.id, take_table(peer, std::move(link)));
  }
}

void look_after_exchange(ClockPeerState& peer) {
  const Instant now = peer.run.world.now();
  const bool is_due = std::ranges::any_of(peer.others, [now](const auto& other) {
    return other.second.sent == OtherPeer::Sent::no && other.second.attempts > 0 && other.second.next_attempt <= now;
  });
  if (is_due) peer.changed.notify();
  if (now - std::max(peer.last_progress, peer.last_look) < kLookEvery) return;
  peer.last_look = now;
  ask_for_list(peer);
  for (auto& [id, other] : peer.others) {
    const bool is_in_doubt = !peer.link || other.is_lost;
    if (other.has_come || other.is_given_up || other.has_left || other.is_being_probed || !is_in_doubt) continue;
    other.is_being_probed = true;
    peer.run.tasks.spawn(peer.strand, "probe of " + id, probe(peer, id));
  }
}

Task<> exchange_tables(ClockPeerState& peer) {
  ClockRun& run = peer.run;
  peer.last_progress = peer.last_look = run.world.now();
  peer.is_exchanging = true;
  const auto prepared = co_await offload(run.world, [&]() -> Result<Md5Digest> {
    auto source = peer.file->source();
    if (!source) return Failure(std::move(source).error());
    peer.source = std::move(*source);
    Md5Stream md5;
    std::vector<std::byte> part(kPart);
    for (std::uint64_t at = 0; at < peer.source->size(); at += part.size()) {
      part.resize(static_cast<std::size_t>(std::min<std::uint64_t>(kPart, peer.source->size() - at)));
      if (auto read = peer.source->read(at, part); !read) return Failure(std::move(read).error());
      md5.update(part);
    }
    return md5.finish();
  });
  peer.md5 = unwrap(prepared);
  const Instant deadline = run.world.now() + kListPatience;
  while (!peer.has_list) {
    if (run.world.now() >= deadline) {
      ++peer.failed;
      run.report.warn(fmt::format("peer {}: no list of peers from the tracker; its table stays here", peer.id));
      break;
    }
    ask_for_list(peer);
    for (int i = 0; i < 20 && !peer.has_list; ++i) co_await run.world.sleep(10ms);
  }
  while (!std::ranges::all_of(peer.others, [](const auto& other) { return other.second.is_settled(); })) {
    start_sending(peer);
    co_await peer.changed.wait();
  }
  peer.is_exchanging = false;
}

}  // namespace shoal
