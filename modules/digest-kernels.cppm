/// In shoal.digest: which kernel (a piece of code for one processor's instructions) digests how many streams. Which one is fastest differs
/// between processors that have the same instructions, so they can be timed (docs/decisions/0033). The digests are the same whichever is
/// taken.
module;

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

export module shoal.digest:kernels;

import shoal.base;

export namespace shoal {

/// A kernel takes up to so many streams side by side, and the same time for any number of them.
struct Kernel {
  std::string_view name;
  std::size_t lanes = 1;

  friend bool operator==(const Kernel&, const Kernel&) = default;
};

/// Those that this processor can run, always in the same order.
std::vector<Kernel> md5_kernels();
std::vector<Kernel> sha256_kernels();

/// Nanoseconds for a KiB of each lane, by kernel, in the order of md5_kernels() and sha256_kernels().
struct KernelTimes {
  std::vector<double> md5;
  std::vector<double> sha256;

  friend bool operator==(const KernelTimes&, const KernelTimes&) = default;
};

/// Whether they are of this processor's kernels, and times that there can be.
bool are_sound(const KernelTimes& times);

/// What is taken where nothing was measured: the same for processors with the same instructions.
KernelTimes standard_kernel_times();

/// Time since any moment, that does not run backwards.
using KernelClock = std::function<Nanoseconds()>;
/// Times all kernels, which takes some milliseconds. Each gets several short slices, in turn with the others, of which its best counts: so
/// that work of others on the machine, which comes and goes, does not decide. Any thread.
KernelTimes measure_kernels(const KernelClock& now);

/// How streams that wait for one digest are divided among its kernels, so that all are advanced soonest.
class KernelPlan {
 public:
  static constexpr std::size_t kMostStreams = 16;

  /// A time for each kernel. There has to be one of a single lane.
  KernelPlan(const std::vector<Kernel>& kernels, const std::vector<double>& times);

  /// The index of the kernel that takes as many of 1 to kMostStreams streams as it has lanes; the others are another call's.
  std::size_t kernel_for(std::size_t streams) const { return kernel_[streams]; }
  /// Nanoseconds for a KiB of each of 0 to kMostStreams streams.
  double time_for(std::size_t streams) const { return time_[streams]; }
  /// GB/s of all of them together.
  double rate_of(std::size_t streams) const;
  /// The fewest of `most` streams that together reach `share` of the rate of any number up to that.
  std::size_t fewest_at(double share, std::size_t most) const;
  /// So many are advanced at a time: more gain next to nothing, and with fewer lanes they are emptied, and filled anew, sooner.
  std::size_t lanes() const { return lanes_; }
  /// The fewest that reach half of the rate of as many as there are lanes.
  std::size_t company() const { return company_; }

 private:
  std::array<std::uint8_t, kMostStreams + 1> kernel_{};
  std::array<double, kMostStreams + 1> time_{};
  std::size_t lanes_ = 1;
  std::size_t company_ = 1;
};

/// When the MD5s of several files go side by side (docs/decisions/0021).
struct Md5Pace {
  using Counts = std::array<std::uint8_t, KernelPlan::kMostStreams + 1>;
  std::size_t together = 8;                                          ///< More of them in one call gain nothing.
  Counts enough{0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4};  ///< Of [i] that may come, so many wait for no more.
  Nanoseconds chunk_time{1'000'000};                                 ///< To digest a chunk alone, where others need the processors, too.

  Md5Pace() = default;
  /// As the times have it.
  explicit Md5Pace(const KernelPlan& plan);
};

/// The plans of both digests.
struct KernelChoice {
  /// Of sound times.
  explicit KernelChoice(KernelTimes of, bool measured = false);

  KernelTimes times;
  KernelPlan md5;
  KernelPlan sha256;
  Md5Pace pace;  ///< The same everywhere while the times are not measured.
  bool is_measured = false;
};

/// What digests now. It stays until the process ends. Any thread.
const KernelChoice& kernels_in_use();

/// Has `find` say the times when first as much as a chunk is digested at a time, on the thread that does; others go on meanwhile as they
/// did. Unless they are sound, the choice stays. Where this is never called, as in simulations, the choice never depends on a clock.
void choose_kernels_by(std::function<KernelTimes()> find);

/// One line a digest, for people: which kernel is taken for how many streams, and how fast they are.
std::vector<std::string> describe(const KernelChoice& choice);

/// The processor's name as it says it, with family, model and stepping; empty where it says none.
std::string processor_name();

}  // namespace shoal
