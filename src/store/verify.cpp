module;

#include <tl/expected.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
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

/// What the cache knew of one file.
struct Recorded {
  FileStamp stamp;
  Md5Digest md5;
  Sha256Digest root;
};

std::vector<std::optional<Recorded>> recorded_of(const Root& root, const Listing& listing, DigestCache& cache) {
  std::vector<std::optional<Recorded>> recorded(listing.found.size());
  std::size_t at = 0;
  cache.for_each(root.path, [&](const CachedFile& cached) {
    while (at < listing.found.size() && listing.found[at].name < cached.name) ++at;
    if (at < listing.found.size() && listing.found[at].name == cached.name) recorded[at] = {cached.stamp, cached.md5, cached.root};
  });
  return recorded;
}

/// The change time is left out here: whoever wanted to hide a change could not have set it, and so it would tell nothing.
bool claims_to_be_same(const FileStamp& a, const FileStamp& b) {
  return a.size == b.size && a.mtime_ns == b.mtime_ns && a.inode == b.inode;
}

Verdict judge(const Hashed& now, const std::optional<Recorded>& recorded) {
  if (!recorded) return Verdict::unknown;
  if (now.md5 == recorded->md5 && now.root == recorded->root) return Verdict::ok;
  return claims_to_be_same(now.stamp, recorded->stamp) ? Verdict::corrupted : Verdict::changed;
}

VerifiedFile to_verified(const Listed& found, const Hashed& now, const std::optional<Recorded>& recorded) {
  VerifiedFile file{found.name, judge(now, recorded), now.stamp.size, now.md5, {}};
  if (recorded) file.recorded = recorded->md5;
  return file;
}

}  // namespace

Result<VerifyReport> verify(const StoreOptions& store, const ScanOptions& options) {
  const auto root = open_root(store.folder, store.create_folder);
  if (!root) return Failure(root.error());
  const auto listing = list_folder(*root, options);
  if (!listing) return Failure(listing.error());
  DigestCache cache(store.cache_file, store.warn);
  const auto recorded = recorded_of(*root, *listing, cache);

  std::vector<HashJob> jobs;
  std::uint64_t bytes_total = 0;
  for (std::size_t i = 0; i < listing->found.size(); ++i) {
    if (listing->found[i].kind == EntryKind::folder) continue;
    jobs.push_back({i, listing->found[i].stamp.size});
    bytes_total += listing->found[i].stamp.size;
  }

  VerifyReport report;
  report.problems = listing->problems;
  std::mutex mutex;
  ProgressMeter meter(options, bytes_total);
  const auto done = [&](std::size_t index, const Result<Hashed>& now) {
    const std::lock_guard lock(mutex);
    if (!now && now.error().code == std::errc::no_such_file_or_directory) return;
    if (!now) return report.problems.push_back(now.error());
    report.files.push_back(to_verified(listing->found[index], *now, recorded[index]));
    report.bytes_hashed += now->stamp.size;
  };
  auto hashed = hash_all(*root, *listing, std::move(jobs), store.threads, meter, done);
  if (!hashed) return Failure(std::move(hashed).error());
  meter.report_end();
  std::ranges::sort(report.files, {}, &VerifiedFile::name);
  std::ranges::sort(report.problems, {}, &Error::what);
  return report;
}

}  // namespace shoal
