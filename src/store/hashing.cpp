module;

#include <fcntl.h>
#include <fmt/core.h>
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

/// Without O_NONBLOCK the open would wait for ever on a FIFO that took the file's place.
Fd open_to_hash(const Root& root, const std::string& name) { return Fd(open_beneath(root.fd.get(), name, O_RDONLY | O_NONBLOCK)); }

/// Fails with `changed` when the file changed meanwhile.
Result<Hashed> hash_once(const Root& root, const std::string& name, std::span<std::byte> buffer, const OnBytes& on_bytes) {
  const Fd fd = open_to_hash(root, name);
  struct stat before{};
  if (!fd || ::fstat(fd.get(), &before) != 0) return io_failure("read", root.path_of(name));
  if (S_ISDIR(before.st_mode)) return io_failure(EISDIR, "digest", root.path_of(name));
  if (!S_ISREG(before.st_mode)) return not_regular(root.path_of(name));
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

/// Files are digested side by side: those of at most one chunk as a whole, so many or of so many bytes together; those of up to
/// kMostBeside bytes chunk by chunk, kMd5Lanes of them. Larger ones are worth a thread, and a disk, of their own.
constexpr std::uint64_t kMostBeside = 8 * kMiB;
constexpr std::size_t kTogether = 128;
constexpr std::size_t kLeastTogether = 16;  // where there would not be enough for all threads
constexpr std::uint64_t kBytesTogether = 7 * kChunkSize;
constexpr std::uint64_t kRoomTogether = std::max<std::uint64_t>(kBytesTogether + kChunkSize, kMd5Lanes* kChunkSize);

/// One of several files that are read and digested together.
struct FileAmongOthers {
  HashJob job;
  Fd fd;  ///< Of a file of several chunks.
  struct stat status{};
  bool is_settled = false;
  std::span<const std::byte> chunk;  ///< The one that was read last.
  Md5Stream md5;
  std::vector<Sha256Digest> chunks;
  bool is_good = false;  ///< It is what it was when it was listed, and was read so far.
};

/// It is what it was when it was opened.
bool is_unchanged(const FileAmongOthers& file, int fd) {
  struct stat after{};
  return ::fstat(fd, &after) == 0 && stamp_of(after) == stamp_of(file.status);
}

/// All of its chunks are digested; an empty one has none.
bool is_over(const FileAmongOthers& file) { return file.chunks.size() == chunk_count(file.job.size); }

/// Reads its next chunk to the front of `room`.
void read_chunk(FileAmongOthers& file, int fd, std::span<std::byte> room) {
  const auto index = static_cast<std::uint32_t>(file.chunks.size());
  const auto into = room.first(chunk_length(file.job.size, ChunkIndex(index)));
  file.is_good = read_fully(fd, std::uint64_t{index} * kChunkSize, into) == static_cast<std::int64_t>(into.size());
  if (index + 1 == chunk_count(file.job.size)) file.is_good = file.is_good && is_unchanged(file, fd);
  file.chunk = into;
}

/// Opens it and reads its first chunk to the front of `room`.
FileAmongOthers begin_file(const Root& root, const std::string& name, const HashJob& job, std::span<std::byte> room) {
  FileAmongOthers file{job, {}, {}, false, {}, {}, {}, false};
  Fd fd = open_to_hash(root, name);
  if (!fd || ::fstat(fd.get(), &file.status) != 0 || !S_ISREG(file.status.st_mode)) return file;
  const FileStamp stamp = stamp_of(file.status);
  if (stamp.size != job.size) return file;
  wait_until_settled(stamp.ctime_ns);
  file.is_settled = is_settled(stamp.ctime_ns);
  if (is_over(file))
    file.is_good = is_unchanged(file, fd.get());
  else
    read_chunk(file, fd.get(), room);
  if (job.size > kChunkSize) file.fd = std::move(fd);
  return file;
}

/// Digests the chunks that were read last.
void digest_together(std::span<FileAmongOthers* const> files) {
  std::vector<Md5Piece> pieces;
  for (FileAmongOthers* const file : files) pieces.push_back({&file->md5, file->chunk});
  // The largest first, so that none of them is left to be digested alone.
  std::ranges::sort(pieces, std::greater(), [](const Md5Piece& piece) { return piece.data.size(); });
  Md5Stream::update_together(pieces);
  std::vector<ChunkToHash> chunks;
  for (const FileAmongOthers* const file : files) chunks.push_back({file->chunk, file->job.size, {}});
  hash_chunks(chunks);
  for (std::size_t i = 0; i < files.size(); ++i) files[i]->chunks.push_back(chunks[i].hash);
}

Hashed to_hashed(FileAmongOthers& file) {
  FileDigest digest;
  digest.size = file.job.size;
  digest.md5 = file.md5.finish();
  digest.root = merkle_root(file.chunks);
  digest.chunks = std::move(file.chunks);
  return to_hashed(file.status, file.is_settled, std::move(digest));
}

/// The jobs in runs, each for one thread: those that are digested side by side, and large ones alone. In the order of order_jobs.
std::vector<std::span<const HashJob>> group(std::span<const HashJob> jobs, std::size_t threads) {
  const auto is_small = [](const HashJob& job) { return job.size <= kChunkSize; };
  const auto is_large = [](const HashJob& job) { return job.size > kMostBeside; };
  const auto small = static_cast<std::size_t>(std::ranges::count_if(jobs, is_small));
  const auto large = static_cast<std::size_t>(std::ranges::count_if(jobs, is_large));
  const std::size_t most_small = std::clamp(small / threads, kLeastTogether, kTogether);
  const std::size_t most_beside = std::clamp((jobs.size() - small - large + threads - 1) / threads, std::size_t{1}, kMd5Lanes);
  std::vector<std::span<const HashJob>> groups;
  while (!jobs.empty()) {
    std::size_t count = 0;
    std::uint64_t bytes = 0;
    if (is_small(jobs.front()))
      for (; count < std::min(jobs.size(), most_small) && bytes <= kBytesTogether; ++count) bytes += jobs[count].size;
    else if (!is_large(jobs.front()))
      while (count < std::min(jobs.size(), most_beside) && !is_small(jobs[count])) ++count;
    count = std::max(count, std::size_t{1});
    groups.push_back(jobs.first(count));
    jobs = jobs.subspan(count);
  }
  return groups;
}

/// Large files first and the largest before all others, so that no thread begins one when the others are nearly done;
/// small ones in the order of their names, as they are likely to lie on the disk.
void order_jobs(std::vector<HashJob>& jobs) {
  const auto rank = [](const HashJob& job) { return job.size > kChunkSize ? job.size : 0; };
  std::ranges::sort(jobs, [&](const HashJob& a, const HashJob& b) { return rank(a) != rank(b) ? rank(a) > rank(b) : a.index < b.index; });
}

}  // namespace

namespace {

/// Digests what is left of the jobs, on one of several threads.
class HashWorker {
 public:
  HashWorker(const Root& root, const Listing& listing, ProgressMeter& meter, const OnHashed& done, std::atomic<bool>& is_stopped)
      : root_(root), listing_(listing), meter_(meter), done_(done), is_stopped_(is_stopped) {}

  void work(std::span<const HashJob> jobs) {
    if (jobs.size() > 1) return work_together(jobs);
    for (const HashJob& job : jobs) work_alone(job);
  }

 private:
  void work_alone(const HashJob& job) {
    const OnBytes on_bytes = [&](std::uint64_t bytes) { return meter_.add(0, bytes) && !is_stopped_; };
    auto hashed = hash_file(root_, listing_.found[job.index].name, {buffer_.get(), kHashBuffer}, on_bytes);
    const bool was_stopped = !hashed && hashed.error().code == Errc::interrupted;
    if (!was_stopped) done_(job.index, std::move(hashed));
    if (was_stopped || !meter_.add(1, 0)) is_stopped_ = true;
  }

  /// What is not as it was listed is digested alone: there it is tried again, and said what is wrong with it.
  void work_together(std::span<const HashJob> jobs) {
    if (!together_) together_ = std::make_unique_for_overwrite<std::byte[]>(kRoomTogether);
    std::span<std::byte> room(together_.get(), kRoomTogether);
    std::vector<FileAmongOthers> files;
    for (const HashJob& job : jobs) {
      files.push_back(begin_file(root_, listing_.found[job.index].name, job, room));
      room = room.subspan(files.back().chunk.size());
    }
    digest_all(files);
    for (FileAmongOthers& file : files)
      if (!is_stopped_ && !file.is_good) work_alone(file.job);
  }

  /// Digests the chunks that are read, and goes on with the next ones where there are more.
  void digest_all(std::vector<FileAmongOthers>& files) {
    std::vector<FileAmongOthers*> open;
    for (FileAmongOthers& file : files)
      if (file.is_good) open.push_back(&file);
    hand_over_ended(open);
    while (!open.empty() && !is_stopped_) {
      digest_together(open);
      for (const FileAmongOthers* const file : open)
        if (!meter_.add(0, file->chunk.size())) is_stopped_ = true;
      hand_over_ended(open);
      for (std::size_t i = 0; i < open.size(); ++i)
        read_chunk(*open[i], open[i]->fd.get(), std::span(together_.get() + i * kChunkSize, kChunkSize));
      std::erase_if(open, [](const FileAmongOthers* file) { return !file->is_good; });
    }
  }

  void hand_over_ended(std::vector<FileAmongOthers*>& open) {
    const auto ended = std::ranges::partition(open, [](const FileAmongOthers* file) { return !is_over(*file); });
    for (FileAmongOthers* const file : ended) {
      done_(file->job.index, to_hashed(*file));
      if (!meter_.add(1, 0)) is_stopped_ = true;
    }
    open.erase(ended.begin(), ended.end());
  }

  const Root& root_;
  const Listing& listing_;
  ProgressMeter& meter_;
  const OnHashed& done_;
  std::atomic<bool>& is_stopped_;
  const std::unique_ptr<std::byte[]> buffer_ = std::make_unique_for_overwrite<std::byte[]>(kHashBuffer);
  std::unique_ptr<std::byte[]> together_;
};

}  // namespace

Result<> hash_all(const Root& root, const Listing& listing, std::vector<HashJob> jobs, unsigned threads, ProgressMeter& meter,
                  const OnHashed& done) {
  order_jobs(jobs);
  const std::size_t wanted = threads > 0 ? threads : std::max(1U, std::thread::hardware_concurrency());
  const auto groups = group(jobs, wanted);
  std::atomic<std::size_t> next = 0;
  std::atomic<bool> is_stopped = false;
  const auto work = [&] {
    HashWorker worker(root, listing, meter, done, is_stopped);
    for (std::size_t i = next++; i < groups.size() && !is_stopped; i = next++) worker.work(groups[i]);
  };
  {
    std::vector<std::jthread> helpers;
    for (std::size_t i = 1; i < std::min(wanted, groups.size()); ++i) helpers.emplace_back(work);
    work();
  }
  if (is_stopped) return stopped(root.path);
  return {};
}

}  // namespace shoal
