module;

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <ranges>
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

using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr std::size_t kControlAtOnce = 16 * 1024;
constexpr std::size_t kMostNews = kMostConnections + 32;  // what is not written yet: of our connections, and of some that are not ours
constexpr Nanoseconds kStalledAfter = 30s;
constexpr Nanoseconds kIdleAfter = 60s;
constexpr std::uint64_t kLeastMoved = 64 * 1024;  // bytes in that time

/// A file that was looked at when its bytes were placed: from then on they go out whatever becomes of it, because the other side counts the
/// frames. Where it has changed meanwhile, the hash over there refuses them.
class Committed final : public ChunkSource {
 public:
  explicit Committed(std::shared_ptr<const ChunkSource> source) : source_(std::move(source)) {}
  std::uint64_t size() const override { return source_->size(); }
  Result<> read(std::uint64_t offset, std::span<std::byte> out) const override {
    if (!source_->read(offset, out)) std::ranges::fill(out, std::byte{0});
    return {};
  }
  Result<> check() const override { return {}; }
  int descriptor() const override { return source_->descriptor(); }

 private:
  std::shared_ptr<const ChunkSource> source_;
};

std::uint64_t bytes_of(const OutgoingFrames& frames) {
  std::uint64_t bytes = 0;
  for (const OutgoingFrame& frame : frames) bytes += frame.chunk.header.length;
  return bytes;
}

/// Frames of one chunk that follow each other.
bool belong_together(const OutgoingFrame& a, const OutgoingFrame& b) { return ref_of(a) == ref_of(b) && b.number == a.number + 1; }

void add_to(std::vector<OutgoingFrames>& groups, OutgoingFrame frame) {
  if (groups.empty() || !belong_together(groups.back().back(), frame)) groups.emplace_back();
  groups.back().push_back(std::move(frame));
}

/// All that is not known to have come, in the order in which it was placed.
std::vector<OutgoingFrames> take_unconfirmed(Subflow& flow) {
  std::vector<OutgoingFrames> groups;
  for (OutgoingFrame& frame : flow.unconfirmed) add_to(groups, std::move(frame));
  for (OutgoingFrames& waiting : flow.waiting)
    for (OutgoingFrame& frame : waiting) add_to(groups, std::move(frame));
  flow.unconfirmed.clear();
  flow.waiting.clear();
  flow.load = 0;
  return groups;
}

}  // namespace

void Flows::end_direct() {
  --direct_;
  if (is_begun()) flows_.front()->work.notify();
}

std::uint64_t Flows::push_control(Message message) {
  Subflow& first = *flows_.front();
  if (departures_.must_wait(message)) {
    first.control.push_back(After{departures_.next()});
    ++control_pushed_;
  }
  first.control.push_back(std::move(message));
  first.work.notify();
  return ++control_pushed_;
}

bool Flows::is_free(const Subflow& flow) const {
  return !flow.is_over && !flow.is_writing && flow.waiting.empty() && !has_control(flow) && !(flow.is_first() && direct_ > 0);
}

bool Flows::has_control(const Subflow& flow) const { return !flow.control.empty() || (flow.is_first() && !news_.empty()); }

/// In turn, so that each carries its part; the first, which messages go by, only where no other is free.
SubflowPtr Flows::next_free() const {
  if (departures_.is_full()) return nullptr;
  const std::size_t others = flows_.size() - 1;
  for (std::size_t i = 0; i < others; ++i) {
    const SubflowPtr& flow = flows_[1 + (turn_ + i) % others];
    if (is_free(*flow)) return flow;
  }
  return is_free(*flows_.front()) ? flows_.front() : nullptr;
}

/// The connection that carries the chunk already, or any that can take more. Null: none can. What nothing of was placed here went out by
/// the first, before there were others.
SubflowPtr Flows::flow_for(const ChunkHeader& header) const {
  if (!begun_ && header.offset > 0) return flows_.front();
  const bool goes_on = begun_ && begun_->ref == ChunkRef{header.handle, header.chunk} && begun_->end == header.offset;
  return goes_on && begun_->flow ? begun_->flow : next_free();
}

void Flows::place(const SubflowPtr& flow, std::vector<OutgoingChunk> chunks) {
  OutgoingFrames frames;
  for (OutgoingChunk& chunk : chunks) {
    const ChunkHeader& header = chunk.header;
    begun_ = Begun{{header.handle, header.chunk}, header.offset + header.length, flow};
    chunk.source = std::make_shared<Committed>(std::move(chunk.source));
    frames.push_back({departures_.place({header.handle, header.chunk}), std::move(chunk)});
  }
  if (frames.empty()) return;
  ++turn_;
  queue_up(*flow, std::move(frames));
}

void Flows::queue_up(Subflow& flow, OutgoingFrames frames) {
  flow.load += bytes_of(frames);
  flow.waiting.push_back(std::move(frames));
  flow.work.notify();
}

Task<Result<>> Flows::place_when_free(std::vector<OutgoingChunk> chunks) {
  for (;;) {
    if (is_over()) co_return failure();
    if (const SubflowPtr flow = flow_for(chunks.front().header)) {
      place(flow, std::move(chunks));
      break;
    }
    co_await sender_.wait();
  }
  while (!is_over() && !next_free()) co_await sender_.wait();
  if (is_over()) co_return failure();
  co_return Result<>{};
}

NextWork Flows::next_work(Subflow& flow) {
  if (is_over() || flow.is_over) return NoMoreWork{};
  if (flow.is_first() && direct_ > 0) return NoWork{};
  if (!has_control(flow) && flow.waiting.empty()) return NoWork{};
  flow.is_writing = true;
  return has_control(flow) ? take_control(flow) : take_frames(flow);
}

Work Flows::take_control(Subflow& flow) {
  Work work;
  work.messages = take_news();
  for (std::size_t bytes = 0; !flow.control.empty() && bytes < kControlAtOnce; ++control_taken_) {
    bytes += encoded_size(flow.control.front());
    work.messages.push_back(std::move(flow.control.front()));
    flow.control.pop_front();
  }
  return work;
}

Work Flows::take_frames(Subflow& flow) {
  Work work;
  work.frames = std::move(flow.waiting.front());
  flow.waiting.pop_front();
  const std::uint64_t number = work.frames.front().number;
  if (number != flow.next_out || number == 0) work.messages.push_back(Placed{number});
  flow.next_out = work.frames.back().number + 1;
  count_moved(flow, bytes_of(work.frames));
  if (flow.unconfirmed.empty()) flow.last_confirmed = world_->now();
  std::ranges::copy(work.frames, std::back_inserter(flow.unconfirmed));
  return work;
}

void Flows::on_written(const SubflowPtr& flow, std::uint64_t bytes, const Result<>& result) {
  flow->is_writing = false;
  bytes_moved_ += bytes;
  if (flow->is_first()) control_written_ = control_taken_;
  if (!result && flow->is_first()) return fail_all(result.error());
  if (!result) close(*flow);
  settle(flow);
  sender_.notify();
}

// ---- what came, and what did not ----------------------------------------------------------------------

void Flows::confirm(Subflow& flow, std::uint64_t frames) {
  while (flow.confirmed < frames && !flow.unconfirmed.empty()) {
    departures_.confirm(flow.unconfirmed.front().number);
    flow.load -= flow.unconfirmed.front().chunk.header.length;
    flow.unconfirmed.pop_front();
    ++flow.confirmed;
    flow.last_confirmed = world_->now();
  }
}

/// What was not written yet says the same of an earlier moment.
void Flows::tell(const Arrived& arrived) {
  const auto earlier = std::ranges::find(news_, arrived.connection, &Arrived::connection);
  if (earlier != news_.end())
    *earlier = arrived;
  else if (news_.size() < kMostNews)
    news_.push_back(arrived);
  else
    return fail_all(Error{make_error_code(Errc::malformed), "ends of connections that there are not", {}});
  flows_.front()->work.notify();
}

std::vector<Message> Flows::take_news() {
  std::vector<Message> messages(news_.begin(), news_.end());
  news_.clear();
  return messages;
}

void Flows::on_arrived(const Arrived& arrived) {
  const SubflowPtr flow = find(arrived.connection);
  if (!flow) return arrived.is_over ? give_back_unknown(arrived.connection) : void();
  confirm(*flow, arrived.frames);
  if (arrived.is_over && !flow->is_first() && !flow->is_given_back) {
    close(*flow);
    flow->is_given_back = true;
    place_again(*flow);
    settle(flow);
  }
  sender_.notify();
}

/// One that only the other side has: what was placed on it did not come, and must not from now on.
void Flows::give_back_unknown(std::uint32_t number) {
  used_.insert(number);
  tell({number, 0, true});
}

/// What did not come by this one goes by the others, all frames of a chunk by one of them.
void Flows::place_again(Subflow& flow) {
  if (begun_ && begun_->flow.get() == &flow) begun_->flow = nullptr;
  std::map<ChunkRef, SubflowPtr> targets;
  for (OutgoingFrames& together : take_unconfirmed(flow)) {
    const ChunkRef ref = ref_of(together.front());
    SubflowPtr& to = targets[ref];
    if (!to) to = least_loaded();
    if (begun_ && begun_->ref == ref) begun_->flow = to;
    queue_up(*to, std::move(together));
  }
}

SubflowPtr Flows::least_loaded() const {
  SubflowPtr least = flows_.front();
  for (const SubflowPtr& flow : flows_ | std::views::drop(1))
    if (!flow->is_over && flow->load < least->load) least = flow;
  return least;
}

/// What carries a frame now and then is as good as idle: it would keep a place from others.
void Flows::count_moved(Subflow& flow, std::uint64_t bytes) {
  flow.moved += bytes;
  if (flow.moved < kLeastMoved) return;
  flow.moved = 0;
  flow.last_moved = world_->now();
}

/// Whoever opened a connection closes it when it is idle; who does not keeps it no longer than this either.
void Flows::close_stalled() {
  const Instant now = world_->now();
  const auto is_stalled = [now](const Subflow& flow) { return !flow.unconfirmed.empty() && now - flow.last_confirmed > kStalledAfter; };
  const auto is_idle = [now](const Subflow& flow) { return now - flow.last_moved > kIdleAfter; };
  for (const SubflowPtr& flow : flows_)
    if (!flow->is_first() && (is_stalled(*flow) || is_idle(*flow))) close(*flow);
}

}  // namespace shoal
