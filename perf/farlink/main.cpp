/// far_link: a lab of hosts that are far from each other, whose packets travel through this program. perf/netlab starts it.
#include <fmt/core.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <CLI/CLI.hpp>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "host.hpp"
#include "network.hpp"
#include "options.hpp"

using namespace farlink;

namespace {

/// What comes due within so long of each other is done at one wake-up: 500 Mbit have 8 packets in it.
constexpr Duration kTick = std::chrono::microseconds(200);
/// The host without a limit that stands where the switch of a near lab is: the tracker's.
constexpr std::uint32_t kSwitch = 254;
constexpr std::uint64_t kTimer = 1000, kSignals = 1001;  // in epoll's data, beside the index of a host

Instant now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

/// The end is near when somebody says so, or when whoever started us is gone.
Descriptor watch_for_the_end() {
  const pid_t parent = getppid();
  if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || getppid() != parent) throw Failed("whoever started this is gone");
  sigset_t signals;
  sigemptyset(&signals);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, number);
  sigprocmask(SIG_BLOCK, &signals, nullptr);
  return Descriptor(signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
}

class Lab {
 public:
  Lab(const Options& options, Keeper& keeper, Descriptor signals)
      : network_(settings_of(options)), count_(static_cast<std::size_t>(options.count)), signals_(std::move(signals)) {
    for (std::uint32_t host = 1; host <= count_; ++host)
      devices_.push_back(make_host(keeper, fmt::format("{}-{}", options.name, host), host));
    devices_.push_back(make_host(keeper, options.name + "-switch", kSwitch));
    for (std::size_t host = 0; host < devices_.size(); ++host) watch(devices_[host].get(), host);
    watch(timer_.get(), kTimer);
    watch(signals_.get(), kSignals);
  }

  /// Until a signal comes.
  void run() {
    while (!is_over_) {
      network_.advance(now());
      for (std::size_t host = 0; host < devices_.size(); ++host) deliver(host);
      set_timer();
      wait();
    }
  }

  const Counts& counts() const { return network_.counts(); }

 private:
  static Settings settings_of(const Options& options) {
    Settings settings{std::vector(static_cast<std::size_t>(options.count), options.rate), options.delay, options.loss, options.queue,
                      options.seed};
    settings.rates.push_back(kNoLimit);
    return settings;
  }

  void watch(int fd, std::uint64_t what) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = what;
    if (fd < 0 || epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0)
      throw Failed(std::string("cannot watch a descriptor: ") + std::strerror(errno));
  }

  void deliver(std::size_t host) {
    const Instant time = now();
    while (const auto packet = network_.received(time, host)) {
      // A host that does not take it any more (its device is down) is like one that is switched off.
      if (write(devices_[host].get(), packet->bytes.data(), packet->bytes.size()) < 0 && errno == EINTR) continue;
      network_.take(host);
    }
  }

  /// For the end of the tick in which the next thing is due: what comes due until then is done together.
  void set_timer() {
    const auto next = network_.next();
    const std::int64_t tick = next ? next->count() / kTick.count() + 1 : 0;
    if (tick == armed_tick_) return;
    const std::int64_t due = tick * kTick.count();
    itimerspec at{};
    at.it_value = {due / 1'000'000'000, due % 1'000'000'000};  // zero disarms it
    if (timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &at, nullptr) != 0) throw Failed("cannot set a timer");
    armed_tick_ = tick;
  }

  void wait() {
    std::array<epoll_event, 64> events;
    const int count = epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), -1);
    if (count < 0 && errno != EINTR) throw Failed(std::string("cannot wait: ") + std::strerror(errno));
    for (int each = 0; each < count; ++each) {
      const std::uint64_t what = events[static_cast<std::size_t>(each)].data.u64;
      if (what == kSignals) is_over_ = true;
      if (what < devices_.size()) read_from(what);
      if (what == kTimer) forget_timer();
    }
  }

  void forget_timer() {
    std::uint64_t expirations = 0;
    if (read(timer_.get(), &expirations, sizeof(expirations)) > 0) armed_tick_ = 0;
  }

  /// A batch of what a host sends; the others are not made to wait for more than that.
  void read_from(std::size_t host) {
    constexpr int kBatch = 64;
    const Instant time = now();
    for (int each = 0; each < kBatch; ++each) {
      const ssize_t length = read(devices_[host].get(), buffer_.data(), buffer_.size());
      if (length <= 0) return;
      const std::span<const std::byte> bytes(buffer_.data(), static_cast<std::size_t>(length));
      if (const auto to = receiver_of(bytes)) network_.send(time, host, *to, bytes);
    }
  }

  /// The host that an IPv4 packet is for; other packets are for nobody.
  std::optional<std::size_t> receiver_of(std::span<const std::byte> bytes) const {
    if (bytes.size() < 20 || std::to_integer<int>(bytes[0]) >> 4 != 4) return std::nullopt;
    std::uint32_t address = 0;
    std::memcpy(&address, &bytes[16], sizeof(address));
    const std::uint32_t number = ntohl(address) ^ kNetwork;
    if (number == kSwitch) return count_;
    if (number < 1 || number > count_) return std::nullopt;
    return number - 1;
  }

  Network network_;
  std::size_t count_;
  std::vector<Descriptor> devices_;
  Descriptor signals_;
  Descriptor epoll_{epoll_create1(EPOLL_CLOEXEC)};
  Descriptor timer_{timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)};
  std::int64_t armed_tick_ = 0;  ///< The tick at whose start it fires; 0: not at all.
  std::array<std::byte, kMtu> buffer_;
  bool is_over_ = false;
};

double processor_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

void run(const Options& options) {
  if (geteuid() != 0) throw Failed("it makes network namespaces, which needs root");
  Descriptor signals = watch_for_the_end();
  Keeper keeper;
  Lab lab(options, keeper, std::move(signals));
  fmt::print("ready\n");
  std::fflush(stdout);
  lab.run();
  const Counts& counts = lab.counts();
  fmt::print("{} packets ({} bytes) delivered, {} lost, {} dropped at full queues; {:.2f} s of a processor\n", counts.delivered,
             counts.bytes_delivered, counts.lost, counts.dropped, processor_seconds());
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Hosts NAME-1 to NAME-COUNT, far from each other, until a signal comes", "far_link");
  add_options(app, options);
  try {
    app.parse(argc, argv);
    run(options);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    fmt::print(stderr, "far_link: {}\n", error.what());
    return 1;
  }
  return 0;
}
