module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
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
using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kForever = std::chrono::hours(24 * 365);  // what nothing is sent by is closed by the side that opened it
constexpr Nanoseconds kLook = 5s;

/// The next of a connection, a chunk with all its bytes.
Task<Result<std::variant<Message, IncomingFrame>>> receive_whole(Link& link, Nanoseconds idle) {
  auto incoming = co_await link.receive(idle);
  if (!incoming) co_return Failure(std::move(incoming).error());
  if (auto* message = std::get_if<Message>(&*incoming)) co_return std::move(*message);
  IncomingFrame frame{std::get<ChunkHeader>(*incoming), {}};
  frame.bytes = std::make_unique_for_overwrite<std::byte[]>(frame.header.length);
  auto filled = co_await link.receive_payload({frame.bytes.get(), frame.header.length});
  if (!filled) co_return Failure(std::move(filled).error());
  co_return std::move(frame);
}

Task<Result<>> write_work(Link& link, Work work) {
  if (!work.messages.empty())
    if (auto sent = co_await link.send(std::move(work.messages)); !sent) co_return sent;
  if (work.frames.empty()) co_return Result<>{};
  if (work.frames.size() == 1) {
    OutgoingChunk& chunk = work.frames.front().chunk;
    auto sent = co_await link.send_chunk(chunk.header, std::move(chunk.source), chunk.file_offset);
    if (!sent && sent.error().code == make_error_code(Errc::changed)) co_return Result<>{};  // it went out, with other bytes
    co_return sent;
  }
  std::vector<OutgoingChunk> chunks;
  for (OutgoingFrame& frame : work.frames) chunks.push_back(std::move(frame.chunk));
  auto sent = co_await link.send_chunks(std::move(chunks));
  if (!sent) co_return Failure(std::move(sent).error());
  co_return Result<>{};
}

std::uint64_t bytes_of(const Work& work) {
  std::uint64_t bytes = 0;
  for (const OutgoingFrame& frame : work.frames) bytes += frame.chunk.header.length;
  return bytes;
}

}  // namespace

// ---- the coroutines -----------------------------------------------------------------------------------

Task<> read_subflow(FlowsPtr flows, SubflowPtr flow, Nanoseconds idle) {
  for (;;) {
    auto whole = co_await receive_whole(*flow->link, idle);
    Result<> taken;
    bool is_full = false;
    co_await run_on(flows->strand(), [&] {
      if (!whole)
        taken = Failure(whole.error());
      else
        taken = std::visit([&](auto&& what) { return flows->on_received(flow, std::move(what)); }, std::move(*whole));
      is_full = taken && flows->is_full(*flow);
      if (!taken) flows->on_read_end(flow, taken.error());
    });
    if (!taken) co_return;
    while (is_full) {
      co_await flow->room.wait();
      is_full = co_await call_on(flows->strand(), [&] { return !flows->is_over() && flows->is_full(*flow); });
    }
  }
}

Task<> write_subflow(FlowsPtr flows, SubflowPtr flow) {
  for (;;) {
    NextWork next = co_await call_on(flows->strand(), [&] { return flows->next_work(*flow); });
    if (std::holds_alternative<NoMoreWork>(next)) co_return;
    if (std::holds_alternative<NoWork>(next)) {
      co_await flow->work.wait();
      continue;
    }
    Work& work = std::get<Work>(next);
    const std::uint64_t bytes = bytes_of(work);
    const Result<> written = co_await write_work(*flow->link, std::move(work));
    co_await run_on(flows->strand(), [&] { flows->on_written(flow, bytes, written); });
  }
}

Task<> watch_subflows(World& world, FlowsPtr flows) {
  while (!flows->is_over()) {
    flows->close_stalled();
    co_await world.sleep(kLook);
  }
}

// ---- beginning and end --------------------------------------------------------------------------------

void Flows::begin(World& world, TaskGroup& tasks, std::shared_ptr<Link> first, Nanoseconds idle) {
  world_ = &world;
  tasks_ = &tasks;
  flows_.push_back(std::make_shared<Subflow>(0, std::move(first), nullptr));
  start(flows_.front(), idle);
  tasks.spawn(strand_, "watching connections", watch_subflows(world, shared_from_this()));
}

void Flows::start(const SubflowPtr& flow, Nanoseconds idle) {
  const std::string name = fmt::format("connection {} with {}", flow->number, to_string(flow->link->remote()));
  tasks_->spawn(flow->link->executor(), "reader of " + name, read_subflow(shared_from_this(), flow, idle));
  tasks_->spawn(flow->link->executor(), "writer of " + name, write_subflow(shared_from_this(), flow));
}

Result<> Flows::check_new(std::uint32_t number) const {
  if (!is_begun() || is_over()) return fail(Errc::closed, "a further connection");
  if (used_.contains(number)) return fail(Errc::out_of_order, fmt::format("a further connection with the number {}", number));
  if (flows_.size() >= kMostConnections) return fail(Errc::too_large, fmt::format("more than {} connections", kMostConnections));
  return {};
}

Result<> Flows::add(std::uint32_t number, std::shared_ptr<Link> link, std::shared_ptr<void> place) {
  if (auto checked = check_new(number); !checked) return checked;
  used_.insert(number);
  flows_.push_back(std::make_shared<Subflow>(number, std::move(link), std::move(place)));
  flows_.back()->last_moved = world_->now();
  start(flows_.back(), kForever);
  sender_.notify();
  return {};
}

void Flows::remove_one() {
  const auto newest = std::ranges::find_if(flows_.rbegin(), flows_.rend(), [](const auto& flow) { return !flow->is_over; });
  if (newest != flows_.rend() && !(*newest)->is_first()) close(**newest);
}

std::size_t Flows::in_use() const {
  return static_cast<std::size_t>(std::ranges::count_if(flows_, [](const auto& flow) { return !flow->is_over; }));
}

std::size_t Flows::carriers() const {
  const Instant now = world_->now();
  const auto closed = std::ranges::count_if(closed_, [now](Instant at) { return now - at <= Bundle::kRemembered; });
  return std::clamp<std::size_t>(in_use() + static_cast<std::size_t>(closed), 1, kMostConnections);
}

SubflowPtr Flows::find(std::uint32_t number) const {
  const auto found = std::ranges::find_if(flows_, [number](const auto& flow) { return flow->number == number; });
  return found == flows_.end() ? nullptr : *found;
}

/// The first one's strand is the bundle's, so it is closed at once.
void Flows::close(Subflow& flow) {
  if (std::exchange(flow.is_over, true)) return;
  flow.work.notify();
  flow.room.notify();
  if (flow.is_first()) return flow.link->close();
  closed_.push_back(world_->now());
  if (closed_.size() >= kMostConnections) closed_.pop_front();
  asio::post(flow.link->executor(), [link = flow.link] { link->close(); });
}

void Flows::on_read_end(const SubflowPtr& flow, const Error& why) {
  flow->has_reader = false;
  const bool is_ours_to_blame = why.code == make_error_code(Errc::malformed) || why.code == make_error_code(Errc::out_of_order) ||
                                why.code == make_error_code(Errc::too_large);
  if (flow->is_first() || is_ours_to_blame) return fail_all(why);
  close(*flow);
  if (!is_over()) tell_arrived(*flow);
  settle(flow);
}

/// Forgets one that nothing can come of any more, in either direction. Its place is free even where the other side never answers.
void Flows::settle(const SubflowPtr& flow) {
  if (flow->has_reader || flow->is_writing) return;
  flow->place.reset();
  if (!flow->is_given_back) return;
  std::erase(flows_, SubflowPtr(flow));
}

void Flows::fail_all(const Error& why) {
  if (!failure_) failure_ = why;
  for (const SubflowPtr& flow : flows_) close(*flow);
  sender_.notify();
  receiver_.notify();
}

}  // namespace shoal
