module;

#include <fmt/core.h>
#include <openssl/rand.h>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

module shoal.net;

import :tcp;
import :udp;
import shoal.base;
import shoal.world;

namespace asio = boost::asio;
using asio::ip::tcp;

namespace shoal {
namespace {

constexpr asio::as_tuple_t<asio::use_awaitable_t<Executor>> kAsTuple{};
constexpr Milliseconds kBackoff{100};

bool is_shortage(const boost::system::error_code& error) {
  return error == asio::error::no_descriptors || error == std::errc::too_many_files_open_in_system ||
         error == asio::error::no_buffer_space || error == asio::error::no_memory;
}

/// A descriptor that is given up when there are no others, to take a waiting connection and turn it away.
class SpareDescriptor {
 public:
  SpareDescriptor() { reserve(); }
  ~SpareDescriptor() { release(); }
  SpareDescriptor(const SpareDescriptor&) = delete;
  SpareDescriptor& operator=(const SpareDescriptor&) = delete;

  void reserve() {
    if (fd_ < 0) fd_ = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  }
  void release() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }

 private:
  int fd_ = -1;
};

class TcpListener final : public Listener {
 public:
  TcpListener(tcp::acceptor acceptor, TcpContext context) : acceptor_(std::move(acceptor)), context_(std::move(context)) {}

  Task<Result<std::unique_ptr<Link>>> accept(Executor strand) override {
    for (;;) {
      auto [error, socket] = co_await acceptor_.async_accept(strand, kAsTuple);
      if (!error) co_return make_tcp_link(std::move(socket), context_);
      if (plain_error(error) == make_error_code(Errc::closed)) co_return fail(Errc::closed, "cannot accept");
      if (is_shortage(error)) turn_one_away();
      co_await back_off();  // also for a connection that was reset before we took it
    }
  }

  Endpoint local() const override {
    boost::system::error_code ignored;
    const auto endpoint = acceptor_.local_endpoint(ignored);
    return {endpoint.address().to_string(), endpoint.port()};
  }

  void close() override {
    boost::system::error_code ignored;
    acceptor_.close(ignored);
  }

 private:
  void turn_one_away() {
    boost::system::error_code ignored;
    spare_.release();
    {
      tcp::socket turned_away(acceptor_.get_executor());
      acceptor_.non_blocking(true, ignored);
      acceptor_.accept(turned_away, ignored);
    }
    spare_.reserve();
  }

  Task<> back_off() {
    asio::steady_timer timer(acceptor_.get_executor(), kBackoff);
    co_await timer.async_wait(kAsTuple);
  }

  tcp::acceptor acceptor_;
  TcpContext context_;
  SpareDescriptor spare_;
};

/// Everything that a connection attempt waits for, so that one timer can end it.
struct Attempt {
  explicit Attempt(const Executor& strand) : resolver(strand), socket(strand), timer(strand) {}

  tcp::resolver resolver;
  tcp::socket socket;
  asio::steady_timer timer;
  bool has_expired = false;
  bool is_over = false;

  void expire() {
    if (is_over) return;
    has_expired = true;
    boost::system::error_code ignored;
    resolver.cancel();
    socket.close(ignored);
  }
};

/// SIGINT and SIGTERM, on a thread of their own: the others may wait for a disk, or for whoever reads what is printed.
class SignalThread {
 public:
  explicit SignalThread(std::function<void(int, int)> handler) : handler_(std::move(handler)), signals_(io_, SIGINT, SIGTERM) {
    wait_for(1);
    thread_ = std::thread([this] { io_.run(); });
  }
  ~SignalThread() {
    io_.stop();
    thread_.join();
  }
  SignalThread(const SignalThread&) = delete;
  SignalThread& operator=(const SignalThread&) = delete;

 private:
  void wait_for(int count) {
    signals_.async_wait([this, count](boost::system::error_code error, int signal) {
      if (error) return;
      handler_(count, signal);
      wait_for(count + 1);
    });
  }

  std::function<void(int, int)> handler_;
  asio::io_context io_{1};
  asio::signal_set signals_;
  std::thread thread_;
};

/// Random words, of one thread, none of which follows from any others: strangers are told some, and others are secrets.
class RandomWords {
 public:
  Result<> refill() {
    if (RAND_bytes(reinterpret_cast<unsigned char*>(words_.data()), sizeof words_) != 1)
      return fail(Errc::unsupported, "this system gives no random numbers", "see whether 'openssl rand -hex 8' does");
    left_ = words_.size();
    return {};
  }
  std::uint64_t next() {
    if (left_ == 0) unwrap(refill());
    return std::exchange(words_[--left_], 0);
  }

 private:
  std::array<std::uint64_t, 512> words_{};
  std::size_t left_ = 0;
};

class RealWorld final : public NetWorld {
 public:
  explicit RealWorld(const NetOptions& options)
      : io_threads_(options.io_threads > 0 ? options.io_threads : std::clamp(processors() / 2, 1U, 4U)),
        io_(static_cast<int>(io_threads_)),
        workers_(options.worker_threads > 0 ? options.worker_threads : processors()),
        ends_with_process_(options.ends_with_process),
        context_{std::make_shared<Pacer>(options.upload_limit), options.congestion} {
    std::signal(SIGPIPE, SIG_IGN);
  }

  Executor executor() override { return io_.get_executor(); }
  bool is_sequential() const override { return io_threads_ == 1; }
  bool ends_with_process() const override { return ends_with_process_; }
  Executor workers() override { return workers_.get_executor(); }
  Instant now() const override { return Instant(std::chrono::steady_clock::now().time_since_epoch()); }

  std::int64_t wall_clock_ns() const override {
    return std::chrono::duration_cast<Nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  }

  std::uint64_t random() override {
    thread_local RandomWords words;
    return words.next();
  }

  Task<> sleep(Nanoseconds duration) override {
    asio::steady_timer timer(co_await asio::this_coro::executor, duration);
    co_await timer.async_wait(asio::use_awaitable_t<Executor>{});
  }

  Task<Result<std::unique_ptr<Link>>> connect(Endpoint to, Executor strand, Nanoseconds timeout) override;
  Result<std::unique_ptr<Listener>> listen(const Endpoint& at) override;
  Result<std::unique_ptr<DatagramSocket>> open_datagrams(const Endpoint& at, Executor strand) override {
    return open_udp_socket(at, std::move(strand));
  }
  Result<std::unique_ptr<DatagramSocket>> connect_datagrams(const Endpoint& to, Executor strand) override {
    return connect_udp_socket(to, std::move(strand));
  }
  void run(Task<> main) override;
  void on_interrupt(std::function<void(int, int)> handler) override;

 private:
  boost::system::error_code open(tcp::acceptor& acceptor, const tcp::endpoint& endpoint);
  static unsigned processors() { return std::max(1U, std::thread::hardware_concurrency()); }

  unsigned io_threads_;
  asio::io_context io_;
  asio::thread_pool workers_;
  bool ends_with_process_;
  std::optional<SignalThread> signals_;
  TcpContext context_;
};

Task<Result<std::unique_ptr<Link>>> RealWorld::connect(Endpoint to, Executor strand, Nanoseconds timeout) {
  const std::string what = fmt::format("cannot connect to {}", to_string(to));
  auto attempt = std::make_shared<Attempt>(strand);
  attempt->timer.expires_after(timeout);
  attempt->timer.async_wait([weak = std::weak_ptr(attempt)](boost::system::error_code error) {
    if (const auto alive = weak.lock(); alive && !error) alive->expire();
  });
  auto [error, found] = co_await attempt->resolver.async_resolve(to.host, std::to_string(to.port), kAsTuple);
  if (!error && found.empty()) error = asio::error::host_not_found;
  for (auto place = found.begin(); place != found.end() && !attempt->has_expired; ++place) {
    boost::system::error_code ignored;
    attempt->socket.close(ignored);
    attempt->socket.open(place->endpoint().protocol(), error);
    if (error) continue;
    begin_congestion_control(attempt->socket.native_handle(), context_.congestion);
    std::tie(error) = co_await attempt->socket.async_connect(place->endpoint(), kAsTuple);
    if (!error) break;
  }
  attempt->is_over = true;
  attempt->timer.cancel();
  if (attempt->has_expired) co_return fail(Errc::timed_out, what);
  if (error) co_return fail(plain_error(error), what);
  co_return make_tcp_link(std::move(attempt->socket), context_);
}

boost::system::error_code RealWorld::open(tcp::acceptor& acceptor, const tcp::endpoint& endpoint) {
  boost::system::error_code error;
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  // All addresses are all, those of IPv4 as well.
  if (!error && endpoint.address() == asio::ip::address_v6::any()) acceptor.set_option(asio::ip::v6_only(false), error);
  if (!error) begin_congestion_control(acceptor.native_handle(), context_.congestion);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  return error;
}

Result<std::unique_ptr<Listener>> RealWorld::listen(const Endpoint& at) {
  const std::string what = fmt::format("cannot listen on {}", at.host.empty() ? fmt::format("port {}", at.port) : to_string(at));
  boost::system::error_code error;
  tcp::acceptor acceptor(io_.get_executor());
  if (at.host.empty()) {
    error = open(acceptor, {asio::ip::address_v6::any(), at.port});
    if (error && error != asio::error::address_in_use) {  // a system without IPv6
      acceptor = tcp::acceptor(io_.get_executor());
      error = open(acceptor, {asio::ip::address_v4::any(), at.port});
    }
  } else {
    tcp::resolver resolver(io_);
    const auto found = resolver.resolve(at.host, std::to_string(at.port), tcp::resolver::passive, error);
    if (error || found.empty()) return fail(plain_error(error), what, "give an address of this machine with --listen");
    error = open(acceptor, *found.begin());
  }
  if (error == asio::error::address_in_use) return fail(error, what, "stop what uses it, or choose another port with --listen");
  if (error) return fail(plain_error(error), what);
  return std::make_unique<TcpListener>(std::move(acceptor), context_);
}

void RealWorld::run(Task<> main) {
  std::exception_ptr failure;
  auto guard = asio::make_work_guard(io_);
  asio::co_spawn(asio::make_strand(io_), std::move(main), [&](std::exception_ptr thrown) {
    failure = thrown;
    guard.reset();
    io_.stop();
  });
  std::vector<std::thread> threads;
  for (unsigned i = 1; i < io_threads_; ++i) threads.emplace_back([this] { io_.run(); });
  io_.run();
  for (auto& thread : threads) thread.join();
  workers_.join();
  if (failure) std::rethrow_exception(failure);
}

void RealWorld::on_interrupt(std::function<void(int, int)> handler) { signals_.emplace(std::move(handler)); }

}  // namespace

std::unique_ptr<NetWorld> make_net_world(const NetOptions& options) { return std::make_unique<RealWorld>(options); }

Result<> check_randomness() { return RandomWords().refill(); }

}  // namespace shoal
