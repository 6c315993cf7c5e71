#include <catch2/catch_test_macros.hpp>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/system/system_error.hpp>
#include <tl/expected.hpp>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

import shoal.base;
import shoal.wire;
import shoal.world;

using namespace shoal;
using namespace std::chrono_literals;
namespace asio = boost::asio;

namespace {

using Strand = asio::strand<asio::io_context::executor_type>;

/// A coroutine that was started, and what became of it.
struct Begun {
  asio::cancellation_signal signal;
  bool is_over = false;
  bool was_cancelled = false;
};

/// Coroutines on one thread, moved on by hand: what happens is the same each time. What still waits in the end is cancelled.
class Steps {
 public:
  Steps() = default;
  ~Steps() {
    for (const auto& begun : begun_) cancel(*begun);
  }
  Steps(const Steps&) = delete;
  Steps& operator=(const Steps&) = delete;

  Begun& start(Task<> task) {
    begun_.push_back(std::make_unique<Begun>());
    Begun& begun = *begun_.back();
    asio::co_spawn(executor(), std::move(task), asio::bind_cancellation_slot(begun.signal.slot(), [&begun](std::exception_ptr thrown) {
                     begun.is_over = true;
                     begun.was_cancelled = thrown && is_cancellation(thrown);
                   }));
    advance();
    return begun;
  }
  /// Runs until nothing can go on.
  void advance() {
    io_.restart();
    io_.poll();
  }
  void cancel(Begun& begun) {
    begun.signal.emit(asio::cancellation_type::terminal);
    advance();
  }
  Executor executor() { return io_.get_executor(); }

 private:
  static bool is_cancellation(std::exception_ptr thrown) {
    try {
      std::rethrow_exception(thrown);
    } catch (const boost::system::system_error& error) {
      return error.code() == asio::error::operation_aborted;
    } catch (...) {
      return false;
    }
  }

  std::vector<std::unique_ptr<Begun>> begun_;
  asio::io_context io_;
};

/// The machine without a network: threads, and workers apart from them.
class ThreadedWorld final : public World {
 public:
  Executor executor() override { return io_.get_executor(); }
  Executor workers() override { return workers_.get_executor(); }
  Instant now() const override { return Instant(std::chrono::steady_clock::now().time_since_epoch()); }
  std::int64_t wall_clock_ns() const override { return 0; }
  std::uint64_t random() override { return 4; }
  Task<> sleep(Nanoseconds duration) override {
    asio::steady_timer timer(co_await asio::this_coro::executor, duration);
    co_await timer.async_wait(asio::use_awaitable_t<Executor>{});
  }
  Task<Result<std::unique_ptr<Link>>> connect(Endpoint, Executor, Nanoseconds) override {
    co_return fail(Errc::unsupported, "no network here");
  }
  Result<std::unique_ptr<Listener>> listen(const Endpoint&) override { return fail(Errc::unsupported, "no network here"); }

  /// Runs `main` on a strand, with four threads. Whether it ended within a time that is far more than it needs.
  bool run(Task<> main) {
    bool is_over = false;
    std::exception_ptr failure;
    asio::co_spawn(make_strand(*this), std::move(main), [&](std::exception_ptr thrown) {
      failure = thrown;
      is_over = true;
      io_.stop();
    });
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i) threads.emplace_back([this] { io_.run_for(60s); });
    io_.run_for(60s);
    for (auto& thread : threads) thread.join();
    workers_.join();
    if (failure) std::rethrow_exception(failure);
    return is_over;
  }

 private:
  asio::io_context io_{4};
  asio::thread_pool workers_{2};
};

TaskGroup::OnFailure ignore_failures() {
  return [](const std::string&, const Error&) {};
}

}  // namespace

// ---- Signal -------------------------------------------------------------------------------------------

namespace {

Task<> count_wakes(Signal& signal, int& wakes, int most) {
  for (; wakes < most; ++wakes) co_await signal.wait();
}

}  // namespace

TEST_CASE("A signal wakes who waits") {
  Steps steps;
  Signal signal;
  int wakes = 0;
  steps.start(count_wakes(signal, wakes, 1));
  REQUIRE(wakes == 0);
  signal.notify();
  steps.advance();
  CHECK(wakes == 1);
}

TEST_CASE("A signal that was notified while nobody waited is remembered, once") {
  Steps steps;
  Signal signal;
  signal.notify();
  signal.notify();
  int wakes = 0;
  steps.start(count_wakes(signal, wakes, 5));
  CHECK(wakes == 1);
}

TEST_CASE("Waiting for a signal can be cancelled") {
  Steps steps;
  Signal signal;
  int wakes = 0;
  Begun& waiting = steps.start(count_wakes(signal, wakes, 1));
  steps.cancel(waiting);
  CHECK(waiting.was_cancelled);
  CHECK(wakes == 0);
}

TEST_CASE("A signal whose waiter was cancelled still wakes the next") {
  Steps steps;
  Signal signal;
  int wakes = 0;
  steps.cancel(steps.start(count_wakes(signal, wakes, 1)));
  signal.notify();
  steps.start(count_wakes(signal, wakes, 1));
  CHECK(wakes == 1);
}

namespace {

Task<> consume(Signal& signal, std::atomic<int>& made, int all) {
  while (made.load() < all) co_await signal.wait();
}

}  // namespace

TEST_CASE("No notification from other threads is missed") {
  constexpr int kThreads = 3;
  constexpr int kEach = 5000;
  ThreadedWorld world;
  Signal signal;
  std::atomic<int> made = 0;
  std::vector<std::thread> makers;
  for (int i = 0; i < kThreads; ++i)
    makers.emplace_back([&] {
      for (int j = 0; j < kEach; ++j) {
        ++made;
        signal.notify();
      }
    });
  CHECK(world.run(consume(signal, made, kThreads * kEach)));
  for (auto& maker : makers) maker.join();
}

// ---- Budget -------------------------------------------------------------------------------------------

namespace {

using Shares = std::vector<Budget::Share>;

/// Takes, and keeps what it got in `shares`; `order` gets its name when it did.
Task<> take_and_keep(Budget& budget, std::uint64_t bytes, std::string name, Shares& shares, std::string& order) {
  Budget::Share share = co_await budget.take(bytes);
  order += name;
  shares.push_back(std::move(share));
}

/// A budget of 10 bytes, with who has taken of it, in order.
struct Taking {
  Steps steps;
  Budget budget{10};
  Shares shares;
  std::string order;

  Begun& take(std::uint64_t bytes, const std::string& name) { return steps.start(take_and_keep(budget, bytes, name, shares, order)); }
  void give_back_first() {
    shares.erase(shares.begin());
    steps.advance();
  }
};

}  // namespace

TEST_CASE("What is free is given at once") {
  Taking taking;
  taking.take(6, "a");
  taking.take(4, "b");
  CHECK(taking.order == "ab");
  CHECK(taking.budget.in_use() == 10);
}

TEST_CASE("Who asks for more than is free waits until it is given back") {
  Taking taking;
  taking.take(6, "a");
  taking.take(5, "b");
  REQUIRE(taking.order == "a");
  taking.give_back_first();
  CHECK(taking.order == "ab");
  CHECK(taking.budget.in_use() == 5);
}

TEST_CASE("Who came first is served first, even if less would be free for another") {
  Taking taking;
  taking.take(6, "a");
  taking.take(5, "b");
  taking.take(1, "c");
  REQUIRE(taking.order == "a");
  taking.give_back_first();
  CHECK(taking.order == "abc");
}

TEST_CASE("Who asks for more than there is gets all of it") {
  Taking taking;
  taking.take(11, "a");
  CHECK(taking.budget.in_use() == 10);
}

TEST_CASE("A waiter that is cancelled takes nothing") {
  Taking taking;
  taking.take(6, "a");
  Begun& waiting = taking.take(5, "b");
  taking.steps.cancel(waiting);
  CHECK(waiting.was_cancelled);
  taking.give_back_first();
  CHECK(taking.budget.in_use() == 0);
}

TEST_CASE("When a waiter is cancelled, those behind it that fit are served") {
  Taking taking;
  taking.take(6, "a");
  Begun& first = taking.take(5, "b");
  taking.take(1, "c");
  taking.steps.cancel(first);
  CHECK(taking.order == "ac");
}

TEST_CASE("A share that is replaced is given back") {
  Taking taking;
  taking.take(6, "a");
  taking.take(3, "b");
  taking.shares[0] = std::move(taking.shares[1]);
  CHECK(taking.budget.in_use() == 3);
}

TEST_CASE("A share may outlive its budget") {
  Steps steps;
  Shares shares;
  std::string order;
  {
    Budget budget(10);
    steps.start(take_and_keep(budget, 5, "a", shares, order));
  }
  shares.clear();
  CHECK(order == "a");
}

namespace {

struct Usage {
  std::atomic<std::uint64_t> now = 0;
  std::atomic<std::uint64_t> most = 0;
};

Task<> take_often(Budget& budget, Usage& usage, std::uint64_t bytes) {
  for (int i = 0; i < 300; ++i) {
    const auto share = co_await budget.take(bytes);
    const auto used = usage.now += bytes;
    for (auto most = usage.most.load(); most < used && !usage.most.compare_exchange_weak(most, used);) {
    }
    usage.now -= bytes;
  }
}

Task<> share_a_budget(World& world, Budget& budget, Usage& usage) {
  TaskGroup group(ignore_failures());
  for (std::uint64_t bytes = 1; bytes <= 8; ++bytes) group.spawn(make_strand(world), "taker", take_often(budget, usage, bytes));
  co_await group.join();
}

}  // namespace

TEST_CASE("Threads that share a budget never use more than all of it, and give all of it back") {
  ThreadedWorld world;
  Budget budget(10);
  Usage usage;
  REQUIRE(world.run(share_a_budget(world, budget, usage)));
  CHECK(usage.most <= 10);
  CHECK(budget.in_use() == 0);
}

// ---- TaskGroup ----------------------------------------------------------------------------------------

namespace {

Task<> wait_for(Signal& signal) { co_await signal.wait(); }

Task<> fail_by(std::exception_ptr what) {
  std::rethrow_exception(what);
  co_return;
}

/// A group whose failures are kept.
struct Failures {
  std::vector<std::string> told;
  TaskGroup group{[this](const std::string& name, const Error& error) { told.push_back(name + ": " + error.what); }};
};

}  // namespace

TEST_CASE("A group of no tasks is joined at once") {
  Steps steps;
  TaskGroup group(ignore_failures());
  CHECK(steps.start(group.join()).is_over);
}

TEST_CASE("A group is joined when its last task has ended") {
  Steps steps;
  TaskGroup group(ignore_failures());
  Signal first;
  Signal second;
  group.spawn(steps.executor(), "first", wait_for(first));
  group.spawn(steps.executor(), "second", wait_for(second));
  const Begun& joined = steps.start(group.join());
  CHECK(group.running() == 2);
  second.notify();
  steps.advance();
  CHECK_FALSE(joined.is_over);
  first.notify();
  steps.advance();
  CHECK(joined.is_over);
  CHECK(group.running() == 0);
}

namespace {

/// Ends a step after it was cancelled, as one does that has something to finish.
Task<> end_late(Executor executor, Signal& signal, int& ended) {
  bool was_cancelled = false;
  try {
    co_await signal.wait();
  } catch (const boost::system::system_error&) {
    was_cancelled = true;
  }
  co_await asio::this_coro::throw_if_cancelled(false);
  for (int step = 0; step < 3; ++step) co_await run_on(executor, [] {});
  ended += was_cancelled ? 1 : 100;
}

/// Has tasks that refer to its frame; says how many had ended when that was left.
Task<> hold_for_tasks(Executor executor, Signal& never, int& ended_when_left) {
  struct Frame {
    explicit Frame(int& ended) : ended_when_left(ended) {}
    ~Frame() { ended_when_left = ended; }
    int ended = 0;
    int& ended_when_left;
  };
  Frame frame(ended_when_left);
  TaskGroup group(ignore_failures());
  Signal others[2];
  for (Signal& signal : others) group.spawn(executor, "one", end_late(executor, signal, frame.ended));
  group.spawn(executor, "another", end_late(executor, never, frame.ended));
  co_await group.join();
}

}  // namespace

TEST_CASE("Whoever is cancelled while its tasks run is left after they are cancelled and have ended") {
  Steps steps;
  Signal never;
  int ended_when_left = -1;
  Begun& holder = steps.start(hold_for_tasks(steps.executor(), never, ended_when_left));
  REQUIRE_FALSE(holder.is_over);
  steps.cancel(holder);
  CHECK(holder.is_over);
  CHECK(holder.was_cancelled);
  CHECK(ended_when_left == 3);
}

TEST_CASE("Whoever joins its tasks after it was cancelled cancels them, too") {
  Steps steps;
  Signal never;
  int ended = 0;
  TaskGroup group(ignore_failures());
  group.spawn(steps.executor(), "late", end_late(steps.executor(), never, ended));
  const auto join_late = [&]() -> Task<> {
    Signal first;
    try {
      co_await first.wait();
    } catch (const boost::system::system_error&) {
    }
    co_await asio::this_coro::throw_if_cancelled(false);
    co_await group.join();
  };
  Begun& joined = steps.start(join_late());
  steps.cancel(joined);
  CHECK(joined.is_over);
  CHECK(joined.was_cancelled);
  CHECK(ended == 1);
}

TEST_CASE("Tasks that are cancelled end, and that is no failure") {
  Steps steps;
  Failures failures;
  Signal never;
  Signal never_either;
  failures.group.spawn(steps.executor(), "first", wait_for(never));
  failures.group.spawn(steps.executor(), "second", wait_for(never_either));
  const Begun& joined = steps.start(failures.group.join());
  failures.group.cancel();
  steps.advance();
  CHECK(joined.is_over);
  CHECK(failures.told.empty());
}

TEST_CASE("A task that is spawned after the group was cancelled is stopped as it begins") {
  Steps steps;
  Failures failures;
  Signal never;
  failures.group.cancel();
  failures.group.spawn(steps.executor(), "late", wait_for(never));
  CHECK(steps.start(failures.group.join()).is_over);
  CHECK(failures.told.empty());
}

TEST_CASE("A step that fails is told once, with the name of its task") {
  Steps steps;
  Failures failures;
  const Error error{make_error_code(Errc::closed), "cannot receive", {}};
  failures.group.spawn(steps.executor(), "reader", fail_by(std::make_exception_ptr(StepFailed(error))));
  steps.start(failures.group.join());
  CHECK(failures.told == std::vector<std::string>{"reader: cannot receive"});
}

TEST_CASE("Any other exception of a task is told by what it says") {
  Steps steps;
  Failures failures;
  failures.group.spawn(steps.executor(), "reader", fail_by(std::make_exception_ptr(std::runtime_error("no memory for it"))));
  steps.start(failures.group.join());
  CHECK(failures.told == std::vector<std::string>{"reader: no memory for it"});
}

TEST_CASE("A task that fails does not end the others") {
  Steps steps;
  Failures failures;
  Signal signal;
  failures.group.spawn(steps.executor(), "first", fail_by(std::make_exception_ptr(std::runtime_error("so"))));
  failures.group.spawn(steps.executor(), "second", wait_for(signal));
  steps.advance();
  CHECK(failures.group.running() == 1);
  signal.notify();
  steps.advance();
}

namespace {

Task<> count_down(World& world, std::atomic<int>& left) {
  for (int i = 0; i < 10; ++i) co_await run_on(world.executor(), [] {});
  --left;
}

Task<> spawn_many(World& world, std::atomic<int>& left, int tasks, int& left_at_join) {
  TaskGroup group(ignore_failures());
  for (int i = 0; i < tasks; ++i) group.spawn(make_strand(world), "one of many", count_down(world, left));
  co_await group.join();
  left_at_join = left;
}

Task<> cancel_many(World& world, int tasks) {
  TaskGroup group(ignore_failures());
  std::vector<std::unique_ptr<Signal>> never;
  for (int i = 0; i < tasks; ++i) {
    never.push_back(std::make_unique<Signal>());
    group.spawn(make_strand(world), "one of many", wait_for(*never.back()));
    if (i == tasks / 2) group.cancel();
  }
  co_await group.join();
}

}  // namespace

TEST_CASE("A group on many strands is joined when all of it is done") {
  ThreadedWorld world;
  std::atomic<int> left = 200;
  int left_at_join = -1;
  REQUIRE(world.run(spawn_many(world, left, 200, left_at_join)));
  CHECK(left_at_join == 0);
}

TEST_CASE("A group on many strands can be cancelled while it still grows") {
  ThreadedWorld world;
  CHECK(world.run(cancel_many(world, 200)));
}

// ---- Outbox -------------------------------------------------------------------------------------------

namespace {

Message find_message(std::uint32_t query, std::size_t bytes) { return Find{query, std::string(bytes, 'x')}; }

std::vector<std::uint32_t> queries(const std::vector<Message>& messages) {
  std::vector<std::uint32_t> numbers;
  for (const auto& message : messages) numbers.push_back(std::get<Find>(message).query);
  return numbers;
}

using Queries = std::vector<std::uint32_t>;

Task<> take_into(Outbox& outbox, std::size_t max_bytes, std::vector<Message>& taken) { taken = co_await outbox.take(max_bytes); }

}  // namespace

TEST_CASE("Messages leave an outbox in the order in which they came") {
  Outbox outbox;
  for (std::uint32_t i = 0; i < 3; ++i) outbox.push(find_message(i, 10));
  CHECK(queries(outbox.take_now(1000)) == Queries{0, 1, 2});
  CHECK(outbox.is_empty());
}

TEST_CASE("About as much is taken as was asked for, and the rest later") {
  Outbox outbox;
  for (std::uint32_t i = 0; i < 4; ++i) outbox.push(find_message(i, 100));
  CHECK(queries(outbox.take_now(150)) == Queries{0, 1});
  CHECK(queries(outbox.take_now(1000)) == Queries{2, 3});
}

TEST_CASE("A message that is longer than was asked for is taken by itself") {
  Outbox outbox;
  outbox.push(find_message(0, 1000));
  outbox.push(find_message(1, 1000));
  CHECK(queries(outbox.take_now(1)) == Queries{0});
}

TEST_CASE("Who takes from an empty outbox waits for a message, also when it is just woken") {
  Steps steps;
  Outbox outbox;
  std::vector<Message> taken;
  const Begun& ending = steps.start(take_into(outbox, 1000, taken));
  outbox.wake();
  steps.advance();
  REQUIRE_FALSE(ending.is_over);
  outbox.push(find_message(7, 10));
  steps.advance();
  CHECK(queries(taken) == Queries{7});
}

TEST_CASE("A writer that waits for work is woken without a message") {
  Steps steps;
  Outbox outbox;
  const Begun& ending = steps.start(outbox.wait_for_work());
  REQUIRE_FALSE(ending.is_over);
  outbox.wake();
  steps.advance();
  CHECK(ending.is_over);
}

TEST_CASE("There is room in an outbox until it is full, and again when it was drained") {
  Steps steps;
  Outbox outbox;
  REQUIRE(steps.start(outbox.wait_for_room()).is_over);
  for (std::uint32_t i = 0; i < 32; ++i) outbox.push(find_message(i, Outbox::kFull / 32));
  const Begun& ending = steps.start(outbox.wait_for_room());
  REQUIRE_FALSE(ending.is_over);
  outbox.take_now(64 * 1024);
  steps.advance();
  CHECK(ending.is_over);
}

TEST_CASE("An outbox without a writer keeps nothing, and nobody waits for room in it") {
  Steps steps;
  Outbox outbox;
  for (std::uint32_t i = 0; i < 33; ++i) outbox.push(find_message(i, Outbox::kFull / 32));
  const Begun& ending = steps.start(outbox.wait_for_room());
  REQUIRE_FALSE(ending.is_over);
  outbox.close();
  steps.advance();
  CHECK(ending.is_over);
  outbox.push(find_message(1, 10));
  CHECK(outbox.is_empty());
}

// ---- other executors ----------------------------------------------------------------------------------

namespace {

struct Visit {
  bool was_elsewhere = false;
  bool is_back = false;
  int result = 0;
};

Task<> visit(Strand home, Strand other, Visit& visit) {
  visit.result = co_await call_on(other, [&] {
    visit.was_elsewhere = other.running_in_this_thread() && !home.running_in_this_thread();
    return 42;
  });
  visit.is_back = home.running_in_this_thread() && !other.running_in_this_thread();
}

Task<> visit_often(Strand home, Strand other, int& on_other, bool& was_always_home) {
  for (int i = 0; i < 1000; ++i) {
    co_await run_on(other, [&] { ++on_other; });
    was_always_home = was_always_home && home.running_in_this_thread();
  }
}

Task<> visit_from_all_sides(asio::io_context::executor_type io, int& on_other, bool (&was_home)[4]) {
  TaskGroup group(ignore_failures());
  const Strand other(io);
  for (bool& home : was_home) {
    const Strand strand(io);
    group.spawn(strand, "visitor", visit_often(strand, other, on_other, home));
  }
  co_await group.join();
}

Task<> throw_elsewhere(Executor other, std::string& caught) {
  try {
    co_await run_on(other, [] { throw std::runtime_error("over there"); });
  } catch (const std::runtime_error& error) {
    caught = error.what();
  }
}

Task<> work_hard(World& world, bool& is_on_worker, bool& is_back) {
  const auto home = std::this_thread::get_id();
  is_on_worker = co_await offload(world, [home] { return std::this_thread::get_id() != home; });
  is_back = std::this_thread::get_id() == home;
}

}  // namespace

TEST_CASE("Work on another strand runs there, and its caller goes on at home with the result") {
  asio::io_context io;
  const Strand home(io.get_executor());
  const Strand other(io.get_executor());
  Visit seen;
  asio::co_spawn(home, visit(home, other, seen), [](std::exception_ptr) {});
  io.run_for(10s);
  CHECK(seen.was_elsewhere);
  CHECK(seen.is_back);
  CHECK(seen.result == 42);
}

TEST_CASE("What work on another executor throws reaches its caller") {
  Steps steps;
  std::string caught;
  steps.start(throw_elsewhere(steps.executor(), caught));
  CHECK(caught == "over there");
}

TEST_CASE("Visitors from several threads take turns on one strand") {
  asio::io_context io{4};
  int on_other = 0;
  bool was_home[4] = {true, true, true, true};
  asio::co_spawn(Strand(io.get_executor()), visit_from_all_sides(io.get_executor(), on_other, was_home), [](std::exception_ptr) {});
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back([&io] { io.run_for(60s); });
  io.run_for(60s);
  for (auto& thread : threads) thread.join();
  CHECK(on_other == 4000);
  CHECK((was_home[0] && was_home[1] && was_home[2] && was_home[3]));
}

TEST_CASE("Heavy work runs on a worker, and its caller goes on where it was") {
  asio::io_context io;
  ThreadedWorld world;
  bool is_on_worker = false;
  bool is_back = false;
  bool is_over = false;
  const Executor here = io.get_executor();
  asio::co_spawn(here, work_hard(world, is_on_worker, is_back), [&](std::exception_ptr) { is_over = true; });
  const auto guard = asio::make_work_guard(io);
  while (!is_over && io.run_one_for(10s) > 0) {
  }
  CHECK(is_on_worker);
  CHECK(is_back);
}

// ---- steps --------------------------------------------------------------------------------------------

TEST_CASE("A refusal in place of a message is told with its text") {
  const Incoming refusal = Message(Refusal{RefusalReason::id_in_use, "a peer named 'a' is here already"});
  const Error error = unexpected_message(refusal, MessageType::welcome);
  CHECK(error.code == make_error_code(Errc::refused));
  CHECK(error.what == "a peer named 'a' is here already");
}

TEST_CASE("A refusal of what will not be taken later either is told apart") {
  const auto code_of = [](RefusalReason reason) { return unexpected_message(Message(Refusal{reason, "no"}), MessageType::welcome).code; };
  CHECK(code_of(RefusalReason::bad_register) == make_error_code(Errc::usage));
  CHECK(code_of(RefusalReason::version) == make_error_code(Errc::unsupported_version));
  for (const auto reason : {RefusalReason::other, RefusalReason::swarm_full, RefusalReason::swarm_over, RefusalReason::wrong_role})
    CHECK(code_of(reason) == make_error_code(Errc::refused));
}

TEST_CASE("Another message than was due is out of order, and named") {
  const Error error = unexpected_message(Message(Ping{}), MessageType::welcome);
  CHECK(error.code == make_error_code(Errc::out_of_order));
  CHECK(error.what.find("ping") != std::string::npos);
  CHECK(error.what.find("welcome") != std::string::npos);
  CHECK(unexpected_message(ChunkHeader{}, MessageType::welcome).code == make_error_code(Errc::out_of_order));
}

TEST_CASE("A result that is unwrapped is its value, or throws its error") {
  CHECK(unwrap(Result<int>(3)) == 3);
  CHECK_NOTHROW(unwrap(Result<>{}));
  CHECK_THROWS_AS(unwrap(Result<int>(fail(Errc::closed, "so"))), StepFailed);
}
