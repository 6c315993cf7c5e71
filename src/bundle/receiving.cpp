module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <variant>

module shoal.bundle;

import :internal;
import :order;
import shoal.base;
import shoal.wire;
import shoal.world;

namespace shoal {

Result<> Flows::on_received(const SubflowPtr& flow, Message message) {
  if (const auto* placed = std::get_if<Placed>(&message)) {
    flow->next_in = placed->number;
    return {};
  }
  if (!flow->is_first()) return fail(Errc::out_of_order, fmt::format("got {} on a further connection", name_of(type_of(message))));
  if (const auto* arrived = std::get_if<Arrived>(&message)) {
    on_arrived(*arrived);
    return {};
  }
  if (const auto* after = std::get_if<After>(&message)) {
    if (after->number > arrivals_.lowest_missing() + Arrivals::kMostAhead)
      return fail(Errc::malformed, fmt::format("messages after the chunk frame {}", after->number));
    barrier_ = std::max(barrier_, after->number);
    return {};
  }
  return deliver(flow, std::move(message));
}

/// Messages come in their order, and those that were said to come after chunks do so, with all behind them.
Result<> Flows::deliver(const SubflowPtr& flow, Message message) {
  const std::uint64_t size = size_in_memory(encoded_size(message));
  Ready ready{flow, std::move(message), size};
  if (held_.empty() && arrivals_.has_all_below(barrier_)) {
    push_ready(std::move(ready));
    return {};
  }
  held_bytes_ += size;
  if (held_bytes_ > Bundle::kMostHeld) return fail(Errc::too_large, "messages that wait for chunks");
  held_.push_back({std::move(ready), barrier_});
  return {};
}

Result<> Flows::on_received(const SubflowPtr& flow, IncomingFrame frame) {
  const std::uint64_t length = frame.header.length;
  bytes_moved_ += length;
  count_moved(*flow, length);
  if (flow->next_in) {
    if (!arrivals_.take(*flow->next_in)) return fail(Errc::malformed, fmt::format("a chunk frame with the number {}", *flow->next_in));
    ++*flow->next_in;
    ++flow->arrived;
    tell_arrived(*flow);
  } else if (!flow->is_first()) {
    return fail(Errc::out_of_order, "a chunk frame without a number");
  }
  push_ready({flow, std::move(frame), size_in_memory(length)});
  release_held();
  return {};
}

/// Each as soon as what it was said to come after is here, whatever those behind it wait for.
void Flows::release_held() {
  while (!held_.empty() && arrivals_.has_all_below(held_.front().barrier)) {
    held_bytes_ -= held_.front().ready.size;
    push_ready(std::move(held_.front().ready));
    held_.pop_front();
  }
}

void Flows::push_ready(Ready ready) {
  ready.flow->undelivered += ready.size;
  ready_.push_back(std::move(ready));
  receiver_.notify();
}

std::optional<Ready> Flows::take_ready() {
  if (ready_.empty()) return std::nullopt;
  Ready ready = std::move(ready_.front());
  ready_.pop_front();
  return ready;
}

Incoming Flows::open(Ready frame) {
  opened_ = std::move(frame);
  read_ = 0;
  return std::get<IncomingFrame>(opened_->what).header;
}

Result<> Flows::read_opened(std::span<std::byte> out) {
  const auto* const frame = opened_ ? std::get_if<IncomingFrame>(&opened_->what) : nullptr;
  if (!frame || out.size() > frame->header.length - read_) return fail(Errc::out_of_order, "more bytes than the chunk has");
  std::copy_n(frame->bytes.get() + read_, out.size(), out.begin());
  read_ += out.size();
  if (read_ < frame->header.length) return {};
  release(*opened_->flow, opened_->size);
  opened_.reset();
  return {};
}

bool Flows::is_full(const Subflow& flow) const { return flow.undelivered > Bundle::kMostUndelivered; }

void Flows::release(Subflow& flow, std::uint64_t bytes) {
  flow.undelivered -= bytes;
  if (!is_full(flow)) flow.room.notify();
}

void Flows::tell_arrived(const Subflow& flow) { tell({flow.number, flow.arrived, !flow.has_reader}); }

}  // namespace shoal
