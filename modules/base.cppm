/// The ground floor: errors as values, strong indices, units of bytes and time, exit codes.
/// Everything here is a plain value; nothing does IO and everything may be used from any thread.
module;

#include <tl/expected.hpp>

#include <chrono>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>

export module shoal.base;

export namespace shoal {

/// What went wrong, where no `std::errc` says it. One enumerator, one reason.
enum class Errc {
  usage = 1,            ///< A command line, configuration or argument that cannot be meant.
  not_found,            ///< Nothing here or in the swarm has that name or digest.
  malformed,            ///< Bytes that are no message, record or file of ours.
  too_large,            ///< A message, name or count over its documented limit.
  out_of_order,         ///< A message that is valid, but not at this step of the protocol.
  unsupported_version,  ///< The other side speaks no protocol version that we speak.
  refused,              ///< The other side said no, and why.
  unsafe_name,          ///< A file name from outside that would not stay inside the folder.
  wrong_digest,         ///< Bytes whose hash is not the one that was promised.
  changed,              ///< A file that is no longer what was hashed.
  closed,               ///< The connection was closed, in good order or not.
  timed_out,            ///< Nothing came within the time that was allowed.
  interrupted,          ///< The user asked to stop.
  nobody,               ///< Nobody is known who could be asked.
  partial,              ///< Some of the work is done, and some cannot be.
  unsupported,          ///< This system cannot do that.
};

/// The category of `Errc`, named "shoal".
const std::error_category& shoal_category() noexcept;
std::error_code make_error_code(Errc code) noexcept;

/// A failure: what was tried and on what, why it failed, and what the user can do.
struct Error {
  std::error_code code;
  std::string what;    ///< What was tried, on what: `cannot open /data/x`. No trailing punctuation.
  std::string advice;  ///< What to do about it; may be empty.

  /// One line: `what: why; advice`. Control characters in it are escaped, so that no name can forge a line.
  std::string message() const;
};

template <class T = void>
using Result = tl::expected<T, Error>;

using Failure = tl::unexpected<Error>;

/// `return fail(Errc::malformed, "frame from peer 3");`
Failure fail(std::error_code code, std::string what, std::string advice = {});
Failure fail(Errc code, std::string what, std::string advice = {});
/// A failure of the last system call, from `errno`.
Failure fail_errno(std::string what, std::string advice = {});

/// An `Error` on its way to the single catch of a session; see `step` in shoal.world.
class StepFailed : public std::runtime_error {
 public:
  explicit StepFailed(Error error);
  const Error& error() const noexcept { return error_; }

 private:
  Error error_;
};

/// The exit codes of both commands (docs/cli.md).
enum class ExitCode : int {
  done = 0,
  unknown = 1,
  usage = 2,
  not_found = 3,
  network = 6,
  interrupted = 7,
  disk_full = 9,
  partial = 23,
  checksum = 32,
};

ExitCode exit_code_of(const Error& error) noexcept;

/// An index into one kind of list, that cannot be mistaken for an index into another.
template <class Tag>
struct Index {
  std::uint32_t value = 0;

  constexpr Index() = default;
  constexpr explicit Index(std::uint32_t v) : value(v) {}
  friend constexpr auto operator<=>(Index, Index) = default;
};

using ChunkIndex = Index<struct ChunkTag>;  ///< A chunk within its file.
using FileIndex = Index<struct FileTag>;    ///< A file within one node's table.
using PeerId = Index<struct PeerTag>;       ///< A peer, as its tracker numbers it.

// ---- maps by text -------------------------------------------------------------------------------------

/// Lets a map of std::string be searched for a std::string_view.
struct TextHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const noexcept { return std::hash<std::string_view>()(text); }
};
template <class Value>
using TextMap = std::unordered_map<std::string, Value, TextHash, std::equal_to<>>;

// ---- bytes --------------------------------------------------------------------------------------------

inline constexpr std::uint64_t kKiB = 1024;
inline constexpr std::uint64_t kMiB = 1024 * kKiB;
inline constexpr std::uint64_t kGiB = 1024 * kMiB;
inline constexpr std::uint32_t kLeafSize = 16 * 1024;    ///< Bytes under one leaf of a Merkle tree (BEP 52).
inline constexpr std::uint32_t kChunkSize = 256 * 1024;  ///< Bytes of a chunk: what is requested, verified and counted.

/// `128M`, `1.5G`, `64K`, `1000`: bytes; K, M, G, T are powers of 1024, and may be followed by `iB` or `B`.
Result<std::uint64_t> parse_bytes(std::string_view text);
/// `1.50 GiB`, `12.0 MiB`, `512 B`: three significant digits or all of them.
std::string format_bytes(std::uint64_t bytes);

// ---- places ------------------------------------------------------------------------------------------

/// An address and a port: `127.0.0.1:5555`, `[::1]:5555`, `rack7.example:5555`.
struct Endpoint {
  std::string host;  ///< An IPv4 or IPv6 address without brackets, or a name.
  std::uint16_t port = 0;

  friend auto operator<=>(const Endpoint&, const Endpoint&) = default;
};

/// `HOST:PORT` with an IPv6 address in brackets. Where `default_port` is not 0 the port may be left out.
Result<Endpoint> parse_endpoint(std::string_view text, std::uint16_t default_port = 0);
std::string to_string(const Endpoint& endpoint);
/// Whether `host` is `localhost` or an address of this machine alone (127.0.0.0/8, ::1).
bool is_loopback(std::string_view host);
/// Whether `host` stands for all addresses of a machine: 0.0.0.0, ::, or nothing, which is both.
bool is_any_address(std::string_view host);
/// A link-local IPv6 address without its zone (`%eth0`), which is a name of one machine only; any other host as it is.
std::string without_zone(std::string_view host);
/// A link-local IPv6 address that has no zone gets that of `neighbour`, where that has one; any other host as it is.
std::string with_zone_of(std::string_view host, std::string_view neighbour);

// ---- time ---------------------------------------------------------------------------------------------

using Nanoseconds = std::chrono::nanoseconds;
using Milliseconds = std::chrono::milliseconds;
using Seconds = std::chrono::duration<double>;

/// The clock that a `World` keeps: it only moves forward, and its zero means nothing. It has no `now()` on
/// purpose: only a World knows the time.
struct WorldClock {
  using duration = Nanoseconds;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<WorldClock, duration>;
  static constexpr bool is_steady = true;
};
using Instant = WorldClock::time_point;

/// `10ms`, `5m`, `1.5s`, `2h`, `250us`; a bare number is seconds.
Result<Nanoseconds> parse_duration(std::string_view text);
/// `350 ms`, `12.3 s`, `4 min 05 s`.
std::string format_duration(Nanoseconds duration);

}  // namespace shoal

template <>
struct std::is_error_code_enum<shoal::Errc> : std::true_type {};

template <class Tag>
struct std::hash<shoal::Index<Tag>> {
  std::size_t operator()(shoal::Index<Tag> index) const noexcept { return index.value; }
};
