module;

#include <fcntl.h>
#include <sys/stat.h>
#include <tl/expected.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <mutex>
#include <numeric>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

module shoal.store;

import :internal;
import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.world;

namespace shoal {
namespace {

/// So many digests, or the digests of so many bytes, are recorded together.
constexpr std::size_t kBatchFiles = 1024;
constexpr std::uint64_t kBatchBytes = 4 * kGiB;

StoredFile to_stored(const Listed& found) {
  StoredFile stored;
  stored.entry.name = found.name;
  stored.entry.kind = found.kind;
  stored.entry.size = found.stamp.size;
  stored.entry.mtime_ns = found.stamp.mtime_ns;
  stored.entry.executable = found.executable;
  return stored;
}

class Scanner {
 public:
  Scanner(const Root& root, DigestCache& cache, unsigned threads, const ScanOptions& options)
      : root_(root), cache_(cache), threads_(threads), options_(options) {}

  Result<Scan> run() {
    auto listing = list_folder(root_, options_);
    if (!listing) return Failure(std::move(listing).error());
    listing_ = std::move(*listing);
    prepare();
    look_up();
    ProgressMeter meter(options_, bytes_total());
    meter.add(listing_.found.size() - jobs_.size(), bytes_total() - bytes_to_hash());
    auto hashed = hash_all(root_, listing_, std::move(jobs_), threads_, meter,
                           [&](std::size_t index, Result<Hashed> result) { take(index, std::move(result)); });
    cache_.record(batch_);
    if (!hashed) return Failure(std::move(hashed).error());
    meter.report_end();
    return finish();
  }

 private:
  /// Empty files and folders need no digesting; all others are to be digested until they are found in the cache.
  void prepare() {
    files_.reserve(listing_.found.size());
    for (const Listed& found : listing_.found) {
      StoredFile& stored = files_.emplace_back(to_stored(found));
      is_done_.push_back(found.kind == EntryKind::folder || found.stamp.size == 0);
      if (found.kind == EntryKind::file && found.stamp.size == 0) stored.entry.md5 = empty_file_digest().md5;
    }
  }

  /// The listing and the cache are in the same order, so that one pass over both finds all pairs.
  void look_up() {
    std::vector<std::string> gone;
    std::size_t at = 0;
    cache_.for_each(root_.path, [&](const CachedFile& cached) {
      while (at < files_.size() && files_[at].entry.name < cached.name) ++at;
      const bool is_listed = at < files_.size() && files_[at].entry.name == cached.name;
      if (is_listed && !is_done_[at]) is_done_[at] = use(at, cached);
      if (!is_listed && listing_.is_complete && is_gone(cached.name)) gone.push_back(root_.path_of(cached.name));
    });
    cache_.forget(gone);
    for (std::size_t i = 0; i < files_.size(); ++i)
      if (!is_done_[i]) jobs_.push_back({i, files_[i].entry.size});
  }

  bool use(std::size_t index, const CachedFile& cached) {
    StoredFile& stored = files_[index];
    if (cached.stamp != listing_.found[index].stamp || !cached.load_chunks(stored.chunks)) return false;
    stored.entry.md5 = cached.md5;
    stored.entry.root = cached.root;
    return true;
  }

  /// It may have been published and recorded after the folder was listed.
  bool is_gone(std::string_view name) const {
    struct stat status{};
    return ::fstatat(root_.fd.get(), std::string(name).c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT;
  }

  std::uint64_t bytes_total() const {
    return std::accumulate(files_.begin(), files_.end(), std::uint64_t{0},
                           [](std::uint64_t sum, const StoredFile& file) { return sum + file.entry.size; });
  }
  std::uint64_t bytes_to_hash() const {
    return std::accumulate(jobs_.begin(), jobs_.end(), std::uint64_t{0},
                           [](std::uint64_t sum, const HashJob& job) { return sum + job.size; });
  }

  /// Takes one result over, on the thread that digested it.
  void take(std::size_t index, Result<Hashed> result) {
    std::vector<CacheRecord> full;
    {
      const std::lock_guard lock(mutex_);
      if (result)
        take_digest(index, *std::move(result));
      else if (result.error().code != std::errc::no_such_file_or_directory)  // else it was removed meanwhile, which is no problem
        listing_.problems.push_back(std::move(result).error());
      if (batch_.size() >= kBatchFiles || batch_bytes_ >= kBatchBytes) {
        full.swap(batch_);
        batch_bytes_ = 0;
      }
    }
    cache_.record(full);
  }

  void take_digest(std::size_t index, Hashed hashed) {
    StoredFile& stored = files_[index];
    stored.entry.size = hashed.stamp.size;
    stored.entry.mtime_ns = hashed.stamp.mtime_ns;
    stored.entry.executable = hashed.executable;
    stored.entry.md5 = hashed.md5;
    stored.entry.root = hashed.root;
    stored.chunks = hashed.chunks;
    listing_.found[index].stamp = hashed.stamp;
    is_done_[index] = true;
    bytes_hashed_ += hashed.stamp.size;
    batch_bytes_ += hashed.stamp.size;
    if (hashed.is_settled)
      batch_.push_back({root_.path_of(stored.entry.name), hashed.stamp, hashed.md5, hashed.root, std::move(hashed.chunks)});
  }

  Scan finish() {
    Scan scan;
    scan.report.files.reserve(files_.size());
    scan.stamps.reserve(files_.size());
    if (listing_.is_complete) scan.partials = std::move(listing_.partials);
    for (std::size_t i = 0; i < files_.size(); ++i) {
      if (!is_done_[i]) continue;
      scan.report.files.push_back(std::move(files_[i]));
      scan.stamps.push_back(listing_.found[i].stamp);
    }
    scan.report.symlinks = std::move(listing_.symlinks);
    scan.report.problems = std::move(listing_.problems);
    std::ranges::sort(scan.report.problems, {}, &Error::what);
    scan.report.bytes_hashed = bytes_hashed_;
    return scan;
  }

  const Root& root_;
  DigestCache& cache_;
  unsigned threads_;
  const ScanOptions& options_;

  Listing listing_;
  std::vector<StoredFile> files_;  ///< One for each that was listed, in the same order.
  std::vector<bool> is_done_;      ///< Whether files_ has its digests.
  std::vector<HashJob> jobs_;

  std::mutex mutex_;  ///< Guards all of the above and below while threads digest.
  std::vector<CacheRecord> batch_;
  std::uint64_t batch_bytes_ = 0;
  std::uint64_t bytes_hashed_ = 0;
};

}  // namespace

Result<Scan> scan_folder(const Root& root, DigestCache& cache, unsigned threads, const ScanOptions& options) {
  return Scanner(root, cache, threads, options).run();
}

}  // namespace shoal
