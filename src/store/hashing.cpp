module;

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <tl/expected.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

module shoal.store;

import :internal;
import shoal.base;
import shoal.digest;
import shoal.world;

namespace shoal {
namespace {

constexpr int kAttempts = 3;
constexpr std::int64_t kMillisecond = 1'000'000;
/// Two changes closer than this may carry the same change time: systems stamp files by a clock of up to 10 ms a tick.
constexpr std::int64_t kTick = 20 * kMillisecond;
/// The same for file systems that keep whole seconds, or even ones (FAT).
constexpr std::int64_t kCoarseTick = 2000 * kMillisecond;

/// Whether a change from now on gets another change time than `ctime_ns`: what git calls not racily clean.
bool is_settled(std::int64_t ctime_ns) {
  const bool is_coarse = ctime_ns % (1000 * kMillisecond) == 0;
  return ctime_ns + (is_coarse ? kCoarseTick : kTick) < wall_clock_ns();
}

/// A file that was written a moment ago is worth a moment's wait, because only then can its digests be cached.
void wait_until_settled(std::int64_t ctime_ns) {
  const std::int64_t wait = ctime_ns + kTick + kMillisecond - wall_clock_ns();
  if (wait > 0 && wait <= kTick + kMillisecond) std::this_thread::sleep_for(std::chrono::nanoseconds(wait));
}

Failure stopped(const std::string& path) { return fail(Errc::interrupted, fmt::format("digesting of '{}'", path)); }

Hashed to_hashed(const struct stat& status, bool settled, FileDigest digest) {
  Hashed hashed;
  hashed.stamp = stamp_of(status);
  hashed.executable = (status.st_mode & S_IXUSR) != 0;
  hashed.is_settled = settled;
  hashed.md5 = digest.md5;
  hashed.root = digest.root;
  hashed.chunks = shared_chunks(std::move(digest.chunks));
  return hashed;
}

/// Fails with `changed` when the file changed meanwhile.
Result<Hashed> hash_once(const Root& root, const std::string& name, std::span<std::byte> buffer, const OnBytes& on_bytes) {
  // Without O_NONBLOCK the open would wait for ever on a FIFO that took the file's place.
  const Fd fd(open_beneath(root.fd.get(), name, O_RDONLY | O_NONBLOCK));
  struct stat before{};
  if (!fd || ::fstat(fd.get(), &before) != 0) return io_failure("read", root.path_of(name));
  if (!S_ISREG(before.st_mode)) return fail(Errc::changed, fmt::format("cannot read '{}'", root.path_of(name)));
  const FileStamp stamp = stamp_of(before);
  wait_until_settled(stamp.ctime_ns);
  const bool settled = is_settled(stamp.ctime_ns);
  auto digest = hash_descriptor(fd.get(), stamp.size, buffer, on_bytes);
  if (!digest && !digest.error().what.empty()) return Failure(std::move(digest).error());
  if (!digest) return Failure(Error{digest.error().code, fmt::format("cannot read '{}'", root.path_of(name)), {}});
  struct stat after{};
  if (::fstat(fd.get(), &after) != 0) return io_failure("read", root.path_of(name));
  if (stamp_of(after) != stamp) return fail(Errc::changed, fmt::format("cannot read '{}'", root.path_of(name)));
  return to_hashed(after, settled, *std::move(digest));
}

}  // namespace

ChunkHashes shared_chunks(std::vector<Sha256Digest> chunks) {
  if (chunks.size() < 2) return nullptr;
  return std::make_shared<const std::vector<Sha256Digest>>(std::move(chunks));
}

const FileDigest& empty_file_digest() {
  static const FileDigest digest = FileHasher(0).finish().value();
  return digest;
}

Result<FileDigest> hash_descriptor(int fd, std::uint64_t size, std::span<std::byte> buffer, const OnBytes& on_bytes) {
  FileHasher hasher(size);
  for (std::uint64_t offset = 0; offset < size;) {
    const auto piece = buffer.first(static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), size - offset)));
    const std::int64_t n = read_fully(fd, offset, piece);
    if (n < 0) return fail_errno("");
    if (static_cast<std::size_t>(n) < piece.size()) return fail(Errc::changed, "");
    if (auto hashed = hasher.update(piece); !hashed) return Failure(std::move(hashed).error());
    offset += piece.size();
    if (on_bytes && !on_bytes(piece.size())) return fail(Errc::interrupted, "");
  }
  return hasher.finish();
}

Result<Hashed> hash_file(const Root& root, const std::string& name, std::span<std::byte> buffer, const OnBytes& on_bytes) {
  for (int attempt = 1;; ++attempt) {
    auto hashed = hash_once(root, name, buffer, on_bytes);
    if (hashed || hashed.error().code != Errc::changed) return hashed;
    if (attempt < kAttempts) continue;
    hashed.error().advice = "something keeps writing to it; it can be shared when that is done";
    return hashed;
  }
}

// ---- many files -----------------------------------------------------------------------------------------

namespace {

/// Large files first and the largest before all others, so that no thread begins one when the others are nearly done;
/// small ones in the order of their names, as they are likely to lie on the disk.
void order_jobs(std::vector<HashJob>& jobs) {
  constexpr std::uint64_t kLarge = 4 * kMiB;
  const auto rank = [](const HashJob& job) { return job.size >= kLarge ? job.size : 0; };
  std::ranges::sort(jobs, [&](const HashJob& a, const HashJob& b) { return rank(a) != rank(b) ? rank(a) > rank(b) : a.index < b.index; });
}

}  // namespace

Result<> hash_all(const Root& root, const Listing& listing, std::vector<HashJob> jobs, unsigned threads, ProgressMeter& meter,
                  const std::function<void(std::size_t index, Result<Hashed>)>& done) {
  order_jobs(jobs);
  std::atomic<std::size_t> next = 0;
  std::atomic<bool> is_stopped = false;
  const auto work = [&] {
    const auto buffer = std::make_unique_for_overwrite<std::byte[]>(kHashBuffer);
    const OnBytes on_bytes = [&](std::uint64_t bytes) { return meter.add(0, bytes) && !is_stopped; };
    for (std::size_t i = next++; i < jobs.size() && !is_stopped; i = next++) {
      auto hashed = hash_file(root, listing.found[jobs[i].index].name, {buffer.get(), kHashBuffer}, on_bytes);
      const bool was_stopped = !hashed && hashed.error().code == Errc::interrupted;
      if (!was_stopped) done(jobs[i].index, std::move(hashed));
      if (was_stopped || !meter.add(1, 0)) is_stopped = true;
    }
  };
  const std::size_t wanted = threads > 0 ? threads : std::max(1U, std::thread::hardware_concurrency());
  {
    std::vector<std::jthread> helpers;
    for (std::size_t i = 1; i < std::min(wanted, jobs.size()); ++i) helpers.emplace_back(work);
    work();
  }
  if (is_stopped) return stopped(root.path);
  return {};
}

}  // namespace shoal
