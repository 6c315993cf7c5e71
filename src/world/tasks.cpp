module;

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
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

void TaskGroup::cancel() {
  const std::lock_guard lock(state_->mutex);
  state_->is_cancelled = true;
  for (const auto& [number, task] : state_->running) State::stop(task);
}

std::size_t TaskGroup::running() const {
  const std::lock_guard lock(state_->mutex);
  return state_->running.size();
}

Task<> TaskGroup::join() {
  const auto state = state_;
  while (running() > 0) co_await state->changed.wait();
}

}  // namespace shoal
