/// Several connections with one peer as one Link: what a session says goes by the first, and chunks by whichever has room. So one flow's
/// window, or its loss, is not the limit. docs/protocol.md says what travels, docs/decisions/0030 why.
module;

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

export module shoal.bundle;

export import :order;
import shoal.base;
import shoal.wire;
import shoal.world;

namespace shoal {
class Flows;
}

export namespace shoal {

inline constexpr std::size_t kMostConnections = 8;  ///< Of a bundle, with the first.

/// Places for the further connections of many bundles. Any thread.
class Places {
 public:
  explicit Places(std::size_t most);
  /// One more for `whose`, free again when it dies; it may outlive this. Null where whoever it is has as many as are left: so that a few
  /// do not have all.
  std::shared_ptr<void> take(const void* whose);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

/// A link that can become several. Until it is begun it is the first, and nothing else. All calls come from the first one's strand.
///
/// Once begun, each connection has a reader and a writer of its own, on its own strand: one that stalls holds up what it carries and no
/// other, until kMostUndelivered bytes of each wait for the session. Frames of one chunk stay on one connection, so they come in order.
/// Of a further connection that is lost, what did not come whole is sent again by those that are left; with the first, all end.
class Bundle final : public Link {
 public:
  static constexpr std::uint64_t kMostUndelivered = 2 * std::uint64_t{kChunkSize};  ///< Bytes a connection, in memory, and one frame.
  static constexpr std::size_t kMostHeld = 4 * 1024 * 1024;                         ///< Bytes of messages that wait for chunks.

  static constexpr Nanoseconds kRemembered = std::chrono::minutes(5);  ///< That a connection was closed.

  explicit Bundle(std::shared_ptr<Link> first);
  ~Bundle() override;

  const std::shared_ptr<Link>& first() const;
  /// From here on there may be further connections. Nobody may be in a receive; `idle` is how long the first may be silent. The bundle's
  /// coroutines run in `tasks`, and end when it is closed.
  void begin(World& world, TaskGroup& tasks, Nanoseconds idle);
  bool is_begun() const;
  /// One more connection, which was greeted. Its number is one that there was not, and not far below the highest. `place` is kept for as
  /// long as it is.
  Result<> add(std::uint32_t number, std::shared_ptr<Link> link, std::shared_ptr<void> place);
  /// Whether it could be added now.
  bool can_add(std::uint32_t number) const;
  /// Closes the newest but the first, if there is one.
  void remove_one();
  /// Those in use.
  std::size_t connections() const;
  /// Those, and as many as were closed in the last kRemembered: what they had begun to bring may still come by others. At most
  /// kMostConnections.
  std::size_t carriers() const;
  /// Bytes of chunks that were written and received since it was begun.
  std::uint64_t bytes_moved() const;

  Task<Result<Incoming>> receive(Nanoseconds idle) override;
  Task<Result<>> receive_all(std::vector<Incoming>& out, Nanoseconds idle) override;
  Task<Result<>> receive_payload(std::span<std::byte> out) override;
  Task<Result<>> send(std::vector<Message> messages) override;
  Result<bool> send_now(std::span<const Message> messages) override;
  /// Once begun, the bytes may still wait to be written when it returns: it does when any connection can take more.
  Task<Result<>> send_chunk(ChunkHeader header, std::shared_ptr<const ChunkSource> source, std::uint64_t file_offset) override;
  Task<Result<std::size_t>> send_chunks(std::vector<OutgoingChunk> chunks) override;
  void established() override;
  void close() override;
  Endpoint remote() const override;
  Endpoint local() const override;
  Executor executor() const override;
  std::optional<Nanoseconds> round_trip() const override;

 private:
  Task<Result<Incoming>> next_ready();
  Task<Result<>> read_opened(std::span<std::byte> out);

  const std::shared_ptr<Link> first_;
  const std::shared_ptr<Flows> flows_;
  bool is_begun_ = false;
};

}  // namespace shoal
