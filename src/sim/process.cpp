module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

module shoal.sim;

import :internal;
import shoal.base;
import shoal.world;

using namespace std::chrono_literals;

namespace shoal::sim {
namespace {

constexpr Nanoseconds kWallAtBeginning{1'750'000'000'000'000'000};  // some day in 2025

/// Resumes its waiter at a moment, or lets go of it.
class Alarm {
 public:
  Alarm(Loop& loop, Nanoseconds due) : loop_(loop), timer_(loop.at(due, [bell = bell_] { bell->ring(); })) {}
  ~Alarm() { loop_.cancel(timer_); }
  Alarm(const Alarm&) = delete;
  Alarm& operator=(const Alarm&) = delete;

  Task<> wait() {
    while (!bell_->has_rung) co_await bell_->rings.wait();
  }

 private:
  /// What is due cannot be cancelled any more, and may come after the Alarm is gone.
  struct Bell {
    bool has_rung = false;
    Signal rings;

    void ring() {
      has_rung = true;
      rings.notify();
    }
  };

  Loop& loop_;
  std::shared_ptr<Bell> bell_ = std::make_shared<Bell>();
  TimerId timer_;
};

class SimAcceptor final : public Listener {
 public:
  SimAcceptor(Network& network, std::shared_ptr<SimListener> state, Endpoint local)
      : network_(network), state_(std::move(state)), local_(std::move(local)) {}
  ~SimAcceptor() override { close(); }

  Task<Result<std::unique_ptr<Link>>> accept(Executor strand) override {
    const auto state = state_;
    while (!state->is_closed && state->waiting.empty()) co_await state->arrived.wait();
    if (state->is_closed) co_return fail(Errc::closed, "cannot accept");
    auto [connection, remote] = std::move(state->waiting.front());
    state->waiting.pop_front();
    co_return make_sim_link(std::move(connection), 1, {network_.port(state->host).address, state->port}, std::move(remote),
                            std::move(strand));
  }

  Endpoint local() const override { return local_; }

  void close() override {
    if (std::exchange(state_->is_closed, true)) return;
    auto& listeners = network_.port(state_->host).listeners;
    if (const auto known = listeners.find(state_->port); known != listeners.end() && known->second == state_) listeners.erase(known);
    for (const auto& [connection, remote] : state_->waiting) connection->close(1);
    state_->arrived.notify();
  }

 private:
  Network& network_;
  std::shared_ptr<SimListener> state_;
  Endpoint local_;
};

}  // namespace

Task<> sleep_until(Loop& loop, Nanoseconds due) {
  Alarm alarm(loop, due);
  co_await alarm.wait();
}

SimWorld::SimWorld(Network& network, const Library& library, std::shared_ptr<const Disk> disk, Gate& gate, HostId host, std::uint64_t seed)
    : network_(network),
      library_(library),
      disk_(std::move(disk)),
      gate_(gate),
      host_(host),
      random_(seed),
      clock_begin_(random_.below(1'000'000'000'000)) {}

Executor SimWorld::executor() { return LoopExecutor(gate_); }
Executor SimWorld::workers() {
  const Nanoseconds disk = std::max(disk_->busy_until - network_.loop().now(), Nanoseconds::zero());
  return LoopExecutor(gate_, options().work + disk);
}

Instant SimWorld::now() const {
  const Nanoseconds time = network_.loop().now();
  const Nanoseconds drift(static_cast<std::int64_t>(static_cast<double>(time.count()) * options().drift_ppm * 1e-6));
  return Instant(clock_begin_ + time + drift);
}

std::int64_t SimWorld::wall_clock_ns() const { return (kWallAtBeginning + network_.loop().now() + options().wall_offset).count(); }

Task<> SimWorld::sleep(Nanoseconds duration) {
  const Nanoseconds real(static_cast<std::int64_t>(static_cast<double>(duration.count()) / (1.0 + options().drift_ppm * 1e-6)));
  co_await sleep_until(network_.loop(), network_.loop().now() + real);
}

Task<Result<std::unique_ptr<Link>>> SimWorld::connect(Endpoint to, Executor strand, Nanoseconds timeout) {
  const std::string what = fmt::format("cannot connect to {}", to_string(to));
  Loop& loop = network_.loop();
  const Nanoseconds deadline = loop.now() + timeout;
  const auto there = network_.find(to.host);
  if (!there || is_fenced_ || !network_.is_reachable(host_, *there) || !network_.is_reachable(*there, host_)) {
    co_await sleep_until(loop, deadline);
    co_return fail(Errc::timed_out, what);
  }
  co_await sleep_until(loop, loop.now() + network_.latency(host_, *there));
  Port& other = network_.port(*there);
  const auto listening = other.listeners.find(to.port);
  if (is_fenced_ || listening == other.listeners.end()) {
    co_await sleep_until(loop, loop.now() + network_.latency(*there, host_));
    co_return fail(std::make_error_code(std::errc::connection_refused), what);
  }
  auto connection = std::make_shared<Connection>(network_, host_, *there);
  Port& ours = network_.port(host_);
  ours.connections.emplace(connection->number(), std::pair(connection, 0));
  other.connections.emplace(connection->number(), std::pair(connection, 1));
  const Endpoint local{ours.address, ours.next_port++};
  std::unique_ptr<Link> link = make_sim_link(connection, 0, local, to, strand);  // closes where this wait is cancelled
  listening->second->waiting.emplace_back(connection, local);
  listening->second->arrived.notify();
  co_await sleep_until(loop, loop.now() + network_.latency(*there, host_));
  co_return link;
}

Result<std::unique_ptr<Listener>> SimWorld::listen(const Endpoint& at) {
  const std::string what = fmt::format("cannot listen on {}", to_string(at));
  if (is_fenced_) return fail(Errc::interrupted, what);
  Port& port = network_.port(host_);
  auto state = std::make_shared<SimListener>();
  state->host = host_;
  state->port = at.port != 0 ? at.port : port.next_port++;
  if (!port.listeners.emplace(state->port, state).second) return fail(std::make_error_code(std::errc::address_in_use), what);
  Endpoint local{at.host, state->port};
  return std::make_unique<SimAcceptor>(network_, std::move(state), std::move(local));
}

}  // namespace shoal::sim
