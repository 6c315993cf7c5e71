module;

#include <boost/asio/any_completion_handler.hpp>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/system/error_code.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

module shoal.world;

namespace asio = boost::asio;

namespace shoal {
namespace {

/// A suspended coroutine, with the executor that it goes on on.
struct Parked {
  Executor executor;
  asio::any_completion_handler<void(boost::system::error_code)> handler;

  void resume(boost::system::error_code error) && {
    asio::post(executor, [handler = std::move(handler), error]() mutable { std::move(handler)(error); });
  }
};

template <class Handler>
Parked park(Handler handler) {
  Executor executor = asio::get_associated_executor(handler);
  return {std::move(executor), std::move(handler)};
}

/// Suspends until the handler that `initiate` is given is completed.
template <class Initiate>
Task<> suspend(Initiate initiate) {
  const asio::use_awaitable_t<Executor> token;
  co_await asio::async_initiate<const asio::use_awaitable_t<Executor>, void(boost::system::error_code)>(std::move(initiate), token);
}

}  // namespace

// ---- Signal -------------------------------------------------------------------------------------------

struct Signal::State {
  std::mutex mutex;
  bool is_set = false;
  std::optional<Parked> waiter;

  void finish(boost::system::error_code error) {
    std::optional<Parked> parked;
    {
      const std::lock_guard lock(mutex);
      parked.swap(waiter);
      if (!parked && !error) is_set = true;
    }
    if (parked) std::move(*parked).resume(error);
  }
};

Signal::Signal() : state_(std::make_shared<State>()) {}
Signal::~Signal() = default;

void Signal::notify() { state_->finish({}); }

Task<> Signal::wait() {
  co_await suspend([state = state_](auto handler) {
    Parked parked = park(std::move(handler));
    const std::lock_guard lock(state->mutex);
    if (std::exchange(state->is_set, false)) return std::move(parked).resume({});
    // The type-erased handler has a slot of its own, in front of the coroutine's.
    auto slot = asio::get_associated_cancellation_slot(parked.handler);
    if (slot.is_connected())
      slot.assign([weak = std::weak_ptr(state)](asio::cancellation_type) {
        if (const auto alive = weak.lock()) alive->finish(asio::error::operation_aborted);
      });
    state->waiter.emplace(std::move(parked));
  });
}

// ---- Outbox -------------------------------------------------------------------------------------------

void Outbox::push(Message message) {
  if (is_closed_) return;
  bytes_ += encoded_size(message);
  waiting_.push_back(std::move(message));
  filled_.notify();
}

std::vector<Message> Outbox::take_now(std::size_t max_bytes) {
  std::vector<Message> taken;
  std::size_t bytes = 0;
  while (!waiting_.empty() && bytes < max_bytes) {
    bytes += encoded_size(waiting_.front());
    taken.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
  bytes_ -= bytes;
  if (bytes_ <= kFull) drained_.notify();
  return taken;
}

Task<std::vector<Message>> Outbox::take(std::size_t max_bytes) {
  while (waiting_.empty()) co_await filled_.wait();
  co_return take_now(max_bytes);
}

Task<> Outbox::wait_for_room() {
  while (bytes_ > kFull) co_await drained_.wait();
}

void Outbox::close() {
  is_closed_ = true;
  waiting_.clear();
  bytes_ = 0;
  drained_.notify();
}

// ---- Budget -------------------------------------------------------------------------------------------

struct Budget::State {
  struct Waiter {
    std::uint64_t number;
    std::uint64_t bytes;
    Parked parked;
  };

  std::mutex mutex;
  std::uint64_t total = 0;
  std::uint64_t used = 0;
  std::uint64_t next_number = 0;
  std::list<Waiter> waiters;

  /// Takes them where they are free and nobody waits. Under the lock.
  bool has_taken(std::uint64_t bytes) {
    if (!waiters.empty() || used + bytes > total) return false;
    used += bytes;
    return true;
  }

  bool take_at_once(std::uint64_t bytes) {
    const std::lock_guard lock(mutex);
    return has_taken(bytes);
  }

  void give_back(std::uint64_t bytes) {
    const std::lock_guard lock(mutex);
    used -= bytes;
    hand_on();
  }

  /// Hands on what is free, in order of arrival. Under the lock.
  void hand_on() {
    while (!waiters.empty() && used + waiters.front().bytes <= total) {
      used += waiters.front().bytes;
      std::move(waiters.front().parked).resume({});
      waiters.pop_front();
    }
  }

  void abandon(std::uint64_t number) {
    const std::lock_guard lock(mutex);
    const auto waiter = std::ranges::find(waiters, number, &Waiter::number);
    if (waiter == waiters.end()) return;
    std::move(waiter->parked).resume(asio::error::operation_aborted);
    waiters.erase(waiter);
    hand_on();  // the next may ask for less
  }
};

Budget::Budget(std::uint64_t bytes) : state_(std::make_shared<State>()) { state_->total = bytes; }
Budget::~Budget() = default;

std::uint64_t Budget::in_use() const {
  const std::lock_guard lock(state_->mutex);
  return state_->used;
}

Task<Budget::Share> Budget::take(std::uint64_t bytes) {
  const auto state = state_;
  bytes = std::min(bytes, state->total);
  Share share;
  share.bytes_ = bytes;
  if (state->take_at_once(bytes)) {
    share.state_ = state;
    co_return share;
  }
  co_await suspend([state, bytes](auto handler) {
    Parked parked = park(std::move(handler));
    const std::lock_guard lock(state->mutex);
    if (state->has_taken(bytes)) return std::move(parked).resume({});
    auto slot = asio::get_associated_cancellation_slot(parked.handler);
    const std::uint64_t number = state->next_number++;
    if (slot.is_connected())
      slot.assign([weak = std::weak_ptr(state), number](asio::cancellation_type) {
        if (const auto alive = weak.lock()) alive->abandon(number);
      });
    state->waiters.push_back({number, bytes, std::move(parked)});
  });
  share.state_ = state;
  co_return share;
}

Budget::Share::Share(Share&& other) noexcept : state_(std::move(other.state_)), bytes_(std::exchange(other.bytes_, 0)) {}

Budget::Share& Budget::Share::operator=(Share&& other) noexcept {
  if (this != &other) {
    release();
    state_ = std::move(other.state_);
    bytes_ = std::exchange(other.bytes_, 0);
  }
  return *this;
}

Budget::Share::~Share() { release(); }

void Budget::Share::release() {
  if (state_ && bytes_ > 0) std::static_pointer_cast<State>(state_)->give_back(bytes_);
  state_.reset();
  bytes_ = 0;
}

}  // namespace shoal
