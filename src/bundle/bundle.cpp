module;

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <variant>
#include <vector>

module shoal.bundle;

import :internal;
import :order;
import shoal.base;
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;

namespace shoal {
namespace {

/// A send by the first connection alone, which may still go on when the bundle is begun.
class Direct {
 public:
  explicit Direct(Flows& flows) : flows_(flows) { flows_.begin_direct(); }
  ~Direct() { flows_.end_direct(); }
  Direct(const Direct&) = delete;
  Direct& operator=(const Direct&) = delete;

 private:
  Flows& flows_;
};

}  // namespace

Bundle::Bundle(std::shared_ptr<Link> first) : first_(std::move(first)), flows_(std::make_shared<Flows>(first_->executor())) {}

/// Wherever the last who held it was.
Bundle::~Bundle() {
  if (!is_begun_) return;
  asio::post(flows_->strand(), [flows = flows_] { flows->fail_all(Error{make_error_code(Errc::closed), "a connection", {}}); });
}

const std::shared_ptr<Link>& Bundle::first() const { return first_; }

void Bundle::begin(World& world, TaskGroup& tasks, Nanoseconds idle) {
  if (!std::exchange(is_begun_, true)) flows_->begin(world, tasks, first_, idle);
}

bool Bundle::is_begun() const { return is_begun_; }
bool Bundle::can_add(std::uint32_t number) const { return flows_->check_new(number).has_value(); }

Result<> Bundle::add(std::uint32_t number, std::shared_ptr<Link> link, std::shared_ptr<void> place) {
  return flows_->add(number, std::move(link), std::move(place));
}

void Bundle::remove_one() { flows_->remove_one(); }
std::size_t Bundle::connections() const { return is_begun() ? flows_->in_use() : 1; }
std::size_t Bundle::carriers() const { return is_begun() ? flows_->carriers() : 1; }
std::uint64_t Bundle::bytes_moved() const { return flows_->bytes_moved(); }

// ---- receiving ----------------------------------------------------------------------------------------

Task<Result<Incoming>> Bundle::receive(Nanoseconds idle) { return is_begun() ? next_ready() : first_->receive(idle); }

Task<Result<>> Bundle::receive_all(std::vector<Incoming>& out, Nanoseconds idle) {
  return is_begun() ? Link::receive_all(out, idle) : first_->receive_all(out, idle);
}

Task<Result<Incoming>> Bundle::next_ready() {
  for (;;) {
    auto ready = flows_->take_ready();
    if (!ready && flows_->is_over()) co_return flows_->failure();
    if (ready) {
      if (auto* message = std::get_if<Message>(&ready->what)) {
        flows_->release(*ready->flow, ready->size);
        co_return std::move(*message);
      }
      co_return flows_->open(std::move(*ready));
    }
    co_await flows_->receiver().wait();
  }
}

Task<Result<>> Bundle::receive_payload(std::span<std::byte> out) { return is_begun() ? read_opened(out) : first_->receive_payload(out); }

Task<Result<>> Bundle::read_opened(std::span<std::byte> out) { co_return flows_->read_opened(out); }

// ---- sending ------------------------------------------------------------------------------------------

Task<Result<>> Bundle::send(std::vector<Message> messages) {
  if (!is_begun()) {
    const Direct direct(*flows_);
    co_return co_await first_->send(std::move(messages));
  }
  std::uint64_t last = 0;
  if (flows_->is_over()) co_return flows_->failure();
  for (Message& message : messages) last = flows_->push_control(std::move(message));
  while (flows_->written() < last) {
    if (flows_->is_over()) co_return flows_->failure();
    co_await flows_->sender().wait();
  }
  co_return Result<>{};
}

Result<bool> Bundle::send_now(std::span<const Message> messages) {
  if (!is_begun()) return first_->send_now(messages);
  if (flows_->is_over()) return flows_->failure();
  if (!flows_->is_first_idle()) return false;
  for (const Message& message : messages) flows_->push_control(message);
  return true;
}

Task<Result<>> Bundle::send_chunk(ChunkHeader header, std::shared_ptr<const ChunkSource> source, std::uint64_t file_offset) {
  if (!is_begun()) {
    const Direct direct(*flows_);
    co_return co_await first_->send_chunk(header, std::move(source), file_offset);
  }
  if (auto unchanged = source->check(); !unchanged) co_return unchanged;
  std::vector<OutgoingChunk> chunks;
  chunks.push_back({header, std::move(source), file_offset});
  co_return co_await flows_->place_when_free(std::move(chunks));
}

Task<Result<std::size_t>> Bundle::send_chunks(std::vector<OutgoingChunk> chunks) {
  if (!is_begun()) {
    const Direct direct(*flows_);
    co_return co_await first_->send_chunks(std::move(chunks));
  }
  const auto changed = std::ranges::find_if(chunks, [](const OutgoingChunk& chunk) { return !chunk.source->check(); });
  chunks.erase(changed, chunks.end());
  const std::size_t count = chunks.size();
  if (chunks.empty()) co_return count;
  if (auto placed = co_await flows_->place_when_free(std::move(chunks)); !placed) co_return Failure(std::move(placed).error());
  co_return count;
}

// ---- the rest -----------------------------------------------------------------------------------------

void Bundle::established() { first_->established(); }

void Bundle::close() {
  if (is_begun()) return flows_->fail_all(Error{make_error_code(Errc::closed), "cannot receive", {}});
  first_->close();
}

Endpoint Bundle::remote() const { return first_->remote(); }
Endpoint Bundle::local() const { return first_->local(); }
Executor Bundle::executor() const { return first_->executor(); }
std::optional<Nanoseconds> Bundle::round_trip() const { return first_->round_trip(); }

}  // namespace shoal
