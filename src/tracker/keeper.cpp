module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

module shoal.tracker;

import shoal.base;
import shoal.report;
import shoal.world;

using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kGather = 20ms;  // what is learned within it is kept together
constexpr Nanoseconds kLook = 5ms;
constexpr std::size_t kMostWaiting = 200'000;

}  // namespace

Task<Result<>> StateKeeper::load() {
  if (!state_) co_return Result<>();
  auto peers = co_await offload(world_, [this] { return state_->load(); });
  if (!peers) co_return Failure(std::move(peers).error());
  std::uint64_t files = 0;
  for (const RememberedPeer& peer : *peers) files += peer.offers.size();
  if (!peers->empty())
    report_.note(fmt::format("{} peers with {} files are known from an earlier run; they are to be confirmed", peers->size(), files));
  registry_.restore(std::move(*peers), world_.now());
  co_return Result<>();
}

void StateKeeper::wake() {
  if (!state_ || registry_.changes() == 0) return;
  is_behind_ = registry_.changes() > kMostWaiting;
  changed_.notify();
}

Task<> StateKeeper::write_batch() {
  auto changes = registry_.take_changes();
  in_hand_ = changes.size();
  is_behind_ = false;
  const auto written = co_await offload(world_, [&, state = state_] { return state->write(changes); });
  done_ += std::exchange(in_hand_, 0);
  if (written) co_return;
  report_.warn(fmt::format("{}; what is learned from here on will be forgotten", written.error().message()));
  state_.reset();
}

Task<> StateKeeper::keep_up() {
  while (state_) {
    if (registry_.changes() == 0) {
      co_await changed_.wait();
      co_await world_.sleep(kGather);
    }
    if (registry_.changes() > 0) co_await write_batch();
  }
}

Task<> StateKeeper::settle() {
  const std::uint64_t goal = done_ + in_hand_ + registry_.changes();
  while (state_ && done_ < goal) co_await world_.sleep(kLook);
}

Task<> StateKeeper::finish() {
  if (state_ && registry_.changes() > 0) co_await write_batch();
}

}  // namespace shoal
