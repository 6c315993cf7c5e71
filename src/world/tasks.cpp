module;

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/cancellation_type.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/system/system_error.hpp>
#include <tl/expected.hpp>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

module shoal.world;

namespace asio = boost::asio;

namespace shoal {

struct TaskGroup::State {
  struct Running {
    Executor executor;
    std::string name;
    std::uint64_t number = 0;
    asio::cancellation_signal signal;
  };

  OnFailure on_failure;
  mutable std::mutex mutex;
  std::map<std::uint64_t, std::shared_ptr<Running>> running;  ///< By number, so that they are stopped in the same order every time.
  std::uint64_t next_number = 0;
  bool is_cancelled = false;
  Signal changed;

  bool has_been_cancelled() const {
    const std::lock_guard lock(mutex);
    return is_cancelled;
  }

  void cancel() {
    const std::lock_guard lock(mutex);
    is_cancelled = true;
    for (const auto& [number, task] : running) stop(task);
  }

  std::size_t count() const {
    const std::lock_guard lock(mutex);
    return running.size();
  }

  /// Emits on the task's own executor, where its cancellation state may be touched.
  static void stop(const std::shared_ptr<Running>& task) {
    asio::post(task->executor, [task] { task->signal.emit(asio::cancellation_type::terminal); });
  }
};

namespace {

/// What a task ended by, or nothing when it was cancelled.
std::optional<Error> reason_of(std::exception_ptr exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const StepFailed& failed) {
    return failed.error();
  } catch (const boost::system::system_error& failed) {
    if (failed.code() == asio::error::operation_aborted) return std::nullopt;
    return Error{failed.code(), "a step failed", {}};
  } catch (const std::exception& failed) {
    return Error{{}, failed.what(), {}};
  }
}

}  // namespace

TaskGroup::TaskGroup(OnFailure on_failure) : state_(std::make_shared<State>()) { state_->on_failure = std::move(on_failure); }

TaskGroup::~TaskGroup() = default;

void TaskGroup::spawn(Executor executor, std::string name, Task<> task) {
  auto running = std::make_shared<State::Running>();
  running->executor = executor;
  running->name = std::move(name);
  {
    const std::lock_guard lock(state_->mutex);
    running->number = state_->next_number++;
    state_->running.emplace(running->number, running);
  }
  auto on_end = [state = state_, running](std::exception_ptr exception) {
    if (exception)
      if (const auto error = reason_of(exception)) state->on_failure(running->name, *error);
    {
      const std::lock_guard lock(state->mutex);
      state->running.erase(running->number);
    }
    state->changed.notify();
  };
  // It starts on its own executor, where a cancellation cannot fall between the look and the start.
  asio::post(executor, [state = state_, running, task = std::move(task), on_end = std::move(on_end)]() mutable {
    if (state->has_been_cancelled()) return on_end(nullptr);
    asio::co_spawn(running->executor, std::move(task), asio::bind_cancellation_slot(running->signal.slot(), std::move(on_end)));
  });
}

void TaskGroup::cancel() { state_->cancel(); }

std::size_t TaskGroup::running() const { return state_->count(); }

namespace {

/// Whether the wait was cut off by a cancellation.
Task<bool> was_cut_off(Signal& signal) {
  try {
    co_await signal.wait();
    co_return false;
  } catch (const boost::system::system_error& failed) {
    if (failed.code() != asio::error::operation_aborted) throw;
    co_return true;
  }
}

}  // namespace

Task<> TaskGroup::join() {
  const auto state = state_;
  const bool throws = co_await asio::this_coro::throw_if_cancelled();
  co_await asio::this_coro::throw_if_cancelled(false);
  const auto is_cancelled = [](asio::cancellation_state caller) { return caller.cancelled() != asio::cancellation_type::none; };
  bool is_cut_off = is_cancelled(co_await asio::this_coro::cancellation_state);
  if (is_cut_off) state->cancel();
  while (state->count() > 0) {
    if (!co_await was_cut_off(state->changed)) continue;
    is_cut_off = true;
    state->cancel();
  }
  co_await asio::this_coro::throw_if_cancelled(throws);
  if (is_cut_off) throw boost::system::system_error(asio::error::operation_aborted);
}

}  // namespace shoal
