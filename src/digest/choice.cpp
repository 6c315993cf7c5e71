// Which kernel digests how many streams: the plan that follows from the kernels' times, their measurement, and the choice that is in use.
module;

#include <fmt/core.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

module shoal.digest;

import shoal.base;

namespace shoal {

std::vector<double> standard_md5_times();                                     // md5.cpp
std::vector<double> standard_sha256_times();                                  // message.cpp
void run_md5_kernel(std::size_t kernel, std::span<const std::byte> data);     // md5.cpp
void run_sha256_kernel(std::size_t kernel, std::span<const std::byte> data);  // message.cpp
const KernelChoice& kernels_for(std::size_t bytes);

// ---- plans --------------------------------------------------------------------------------------------

namespace {

constexpr double kNearlyAll = 0.95;

}  // namespace

KernelPlan::KernelPlan(const std::vector<Kernel>& kernels, const std::vector<double>& times) {
  for (std::size_t streams = 1; streams <= kMostStreams; ++streams) {
    time_[streams] = std::numeric_limits<double>::max();
    for (std::size_t i = 0; i < kernels.size(); ++i) {
      const double time = times[i] + time_[streams - std::min(streams, kernels[i].lanes)];
      if (time >= time_[streams]) continue;
      time_[streams] = time;
      kernel_[streams] = static_cast<std::uint8_t>(i);
    }
  }
  lanes_ = fewest_at(kNearlyAll, kMostStreams);
  company_ = fewest_at(0.5, lanes_);
}

double KernelPlan::rate_of(std::size_t streams) const { return streams == 0 ? 0 : 1024.0 * static_cast<double>(streams) / time_[streams]; }

std::size_t KernelPlan::fewest_at(double share, std::size_t most) const {
  most = std::clamp<std::size_t>(most, 1, kMostStreams);
  double best = 0;
  for (std::size_t streams = 1; streams <= most; ++streams) best = std::max(best, rate_of(streams));
  std::size_t fewest = 1;
  while (fewest < most && rate_of(fewest) < share * best) ++fewest;
  return fewest;
}

Md5Pace::Md5Pace(const KernelPlan& plan) {
  constexpr double kEnough = 0.6;  // of the rate that all would have together
  together = std::max(together, plan.lanes());
  for (std::size_t i = 1; i < enough.size(); ++i) enough[i] = static_cast<std::uint8_t>(plan.fewest_at(kEnough, std::min(i, together)));
  chunk_time = Nanoseconds(static_cast<Nanoseconds::rep>(2 * plan.time_for(1) * (kChunkSize / 1024)));
}

KernelChoice::KernelChoice(KernelTimes of, bool measured)
    : times(std::move(of)),
      md5(md5_kernels(), times.md5),
      sha256(sha256_kernels(), times.sha256),
      pace(measured ? Md5Pace(md5) : Md5Pace()),
      is_measured(measured) {}

// ---- times --------------------------------------------------------------------------------------------

namespace {

constexpr double kShortest = 1;          // ns for a KiB: 1 TB/s
constexpr double kLongest = 10'000'000;  // 100 KB/s

bool can_be(const std::vector<double>& times, std::size_t kernels) {
  const auto can_it = [](double time) { return std::isfinite(time) && time >= kShortest && time <= kLongest; };
  return times.size() == kernels && std::ranges::all_of(times, can_it);
}

}  // namespace

bool are_sound(const KernelTimes& times) {
  return can_be(times.md5, md5_kernels().size()) && can_be(times.sha256, sha256_kernels().size());
}

KernelTimes standard_kernel_times() { return {standard_md5_times(), standard_sha256_times()}; }

KernelTimes measure_kernels(const KernelClock& now) {
  constexpr int kRounds = 12;
  constexpr std::size_t kOfEach = 8 * 1024;  // bytes for each of the most lanes: a slice takes some 10 to 20 us
  const std::vector<std::byte> data(KernelPlan::kMostStreams * kOfEach, std::byte{0x5a});
  constexpr double kNone = std::numeric_limits<double>::infinity();
  KernelTimes times{std::vector<double>(md5_kernels().size(), kNone), std::vector<double>(sha256_kernels().size(), kNone)};
  const auto time_all = [&](std::vector<double>& best, auto run) {
    for (std::size_t kernel = 0; kernel < best.size(); ++kernel) {
      const Nanoseconds begin = now();
      run(kernel, data);
      best[kernel] = std::min(best[kernel], static_cast<double>((now() - begin).count()) * 1024 / kOfEach);
    }
  };
  for (int round = 0; round < kRounds; ++round) {
    time_all(times.md5, run_md5_kernel);
    time_all(times.sha256, run_sha256_kernel);
  }
  return times;
}

// ---- the choice in use --------------------------------------------------------------------------------

namespace {

/// Choices are kept until the process ends: whoever has one may be digesting by it.
class InUse {
 public:
  const KernelChoice& now() const { return *now_.load(std::memory_order_acquire); }

  void find_by(std::function<KernelTimes()> find) {
    const std::lock_guard lock(mutex_);
    find_ = std::move(find);
    is_due_ = find_ != nullptr;
  }

  void choose_if_due() {
    if (!is_due_.load(std::memory_order_relaxed) || !is_due_.exchange(false)) return;
    std::function<KernelTimes()> find;
    {
      const std::lock_guard lock(mutex_);
      find = std::exchange(find_, nullptr);
    }
    if (KernelTimes times = find ? find() : KernelTimes(); are_sound(times)) use(KernelChoice(std::move(times), true));
  }

 private:
  void use(KernelChoice choice) {
    const std::lock_guard lock(mutex_);
    now_ = &kept_.emplace_back(std::move(choice));
  }

  std::mutex mutex_;
  std::function<KernelTimes()> find_;
  std::atomic<bool> is_due_{false};
  std::deque<KernelChoice> kept_{KernelChoice(standard_kernel_times())};
  std::atomic<const KernelChoice*> now_{&kept_.front()};
};

InUse& in_use() {
  static InUse use;
  return use;
}

}  // namespace

const KernelChoice& kernels_in_use() { return in_use().now(); }

void choose_kernels_by(std::function<KernelTimes()> find) { in_use().find_by(std::move(find)); }

/// What is to digest so many bytes now.
const KernelChoice& kernels_for(std::size_t bytes) {
  if (bytes >= kChunkSize) in_use().choose_if_due();
  return in_use().now();
}

// ---- for people ---------------------------------------------------------------------------------------

namespace {

std::string describe(const char* digest, const std::vector<Kernel>& kernels, const KernelPlan& plan) {
  std::string line = digest;
  for (const std::size_t streams : {1, 2, 4, 8, 16})
    line += fmt::format("{}{} by {} {:.2f} GB/s", streams == 1 ? ": " : ", ", streams, kernels[plan.kernel_for(streams)].name,
                        plan.rate_of(streams));
  return line;
}

}  // namespace

std::vector<std::string> describe(const KernelChoice& choice) {
  return {describe("MD5", md5_kernels(), choice.md5), describe("SHA-256", sha256_kernels(), choice.sha256)};
}

std::string processor_name() {
#if defined(__x86_64__)
  std::array<unsigned, 12> words{};
  unsigned a = 0, b = 0, c = 0, d = 0;
  for (unsigned i = 0; i < 3; ++i)
    if (__get_cpuid(0x80000002 + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2], &words[4 * i + 3]) == 0) return {};
  std::array<char, sizeof words + 1> text{};
  std::memcpy(text.data(), words.data(), sizeof words);
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return {};
  std::string name(text.data());
  std::ranges::replace_if(name, [](char each) { return each < ' ' || each > '~'; }, ' ');
  name.erase(0, std::min(name.find_first_not_of(' '), name.size()));
  name.erase(name.find_last_not_of(' ') + 1);
  return fmt::format("{}, {:x}", name, a);
#else
  return {};
#endif
}

}  // namespace shoal
