/// What the implementation units of shoal.store share. Nobody else can import it.
module;

#include <sys/stat.h>
#include <tl/expected.hpp>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

module shoal.store:internal;

import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.world;

namespace shoal {

// ---- files (files.cpp) --------------------------------------------------------------------------------

/// A descriptor that closes itself.
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd();

  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

/// What tells that a file is still the one that was digested. The change time is part of it because nobody can set it
/// back: a content that was changed with its modification time restored is noticed as well.
struct FileStamp {
  std::uint64_t size = 0;
  std::int64_t mtime_ns = 0;
  std::int64_t ctime_ns = 0;
  std::uint64_t inode = 0;

  friend bool operator==(const FileStamp&, const FileStamp&) = default;
};

std::int64_t modified_ns(const struct stat& status);
FileStamp stamp_of(const struct stat& status);
bool set_modified(int fd, std::int64_t mtime_ns);

/// A failure of the last system call on `path`; says what to do when the disk is full.
Failure io_failure(std::string_view tried, std::string_view path);
Failure io_failure(int error, std::string_view tried, std::string_view path);

/// The part of a name before its last '/', and after it. The first is empty for a name of one part.
std::string_view folder_part(std::string_view name);
std::string_view base_part(std::string_view name);

/// All of `out` from `offset` on. Returns how many bytes there were before the end of the file, or -1.
std::int64_t read_fully(int fd, std::uint64_t offset, std::span<std::byte> out);
bool write_fully(int fd, std::uint64_t offset, std::span<const std::byte> data);
/// Removes a file beneath `folder`, however long its name is.
bool remove_beneath(int folder, const std::string& name);

/// Opens `name` beneath `folder` one part at a time, following no symbolic link. -1 and errno where it cannot.
int open_by_parts(int folder, const std::string& name, int flags);

/// A file, at a name in an open folder.
struct At {
  int folder = -1;
  const char* name = nullptr;
};

/// rename_if_free by looking first: what comes in between is replaced.
bool rename_if_missing(At from, At to);

std::int64_t wall_clock_ns();

/// Makes the folders of a file that nobody asked for, for the user alone, as far as that can be done.
void make_folders_of(const std::string& file);

// ---- what Linux does better (linux.cpp, or its twin portable.cpp) -----------------------------------------

/// The same as open_by_parts, in one system call where there is one. An empty name is the folder itself.
int open_beneath(int folder, const std::string& name, int flags);
/// Renames a file unless something has the new name: that fails with EEXIST.
bool rename_if_free(At from, At to);
/// Puts everything that was written to the file system of `fd` on the disk; false where that cannot be done at once.
bool sync_file_system(int fd);
/// Where a file has data rather than holes; may name more than that.
std::vector<ByteRange> data_extents(int fd, std::uint64_t size);
/// Lets `to` share all blocks of `from`; false where the file system cannot.
bool share_blocks(int from, int to);

/// Storage::watch (watch_linux.cpp, or its twin watch_portable.cpp).
Result<std::unique_ptr<FolderWatch>> watch_folder(const std::string& path, std::function<void(FolderChanges)> on_change);

class DigestCache;

// ---- what is in the folder (listing.cpp) ------------------------------------------------------------------

/// The folder that is shared: an open descriptor, and its path without symbolic links.
struct Root {
  Fd fd;
  std::string path;

  std::string path_of(std::string_view name) const;
};
Result<Root> open_root(const std::string& folder, bool create);

struct Listed {
  std::string name;
  FileStamp stamp;
  EntryKind kind = EntryKind::file;
  bool executable = false;
};

struct Listing {
  std::vector<Listed> found;  ///< By name, bytewise.
  std::vector<std::string> symlinks;
  std::vector<std::string> partials;  ///< Partial files, and what probes have left, by name.
  std::vector<Error> problems;
  bool is_complete = true;  ///< Nothing was left out by a pattern or a failure.
};
Result<Listing> list_folder(const Root& root, const ScanOptions& options);

/// What is neither a file nor a folder does not travel.
Failure not_regular(const std::string& path);

/// The partial files below the folder, and what probes have left, by name.
std::vector<std::string> list_partials(const Root& root);
inline constexpr std::string_view kPartialSuffix = ".part";

// ---- names that are one name (folding.cpp) ------------------------------------------------------------------

/// Which they are in this folder; nothing where no file can be made in it. Any number of processes at once.
std::optional<NameFolding> try_folding(const Root& root);
inline constexpr std::string_view kProbePrefix = ".shoal-probe-";

// ---- digests (hashing.cpp, progress.cpp, scan.cpp) -------------------------------------------------------------------------------

/// One file's digests and what it was while they were taken.
struct Hashed {
  FileStamp stamp;
  bool executable = false;
  bool is_settled = false;  ///< A later change would show in the stamp, so that it may be cached.
  Md5Digest md5;
  Sha256Digest root;
  ChunkHashes chunks;
};

/// Hears how many more bytes were digested; false stops the work with `interrupted`.
using OnBytes = std::function<bool(std::uint64_t bytes)>;
Result<Hashed> hash_file(const Root& root, const std::string& name, std::span<std::byte> buffer, const OnBytes& on_bytes);
Result<FileDigest> hash_descriptor(int fd, std::uint64_t size, std::span<std::byte> buffer, const OnBytes& on_bytes);
const FileDigest& empty_file_digest();
/// Shares the chunk hashes where the root alone does not say it all.
ChunkHashes shared_chunks(std::vector<Sha256Digest> chunks);
inline constexpr std::size_t kHashBuffer = 256 * 1024;

/// Counts what is done for ScanOptions::progress. Any thread.
class ProgressMeter {
 public:
  ProgressMeter(const ScanOptions& options, std::uint64_t bytes_total);
  /// False when the scan is to stop.
  bool add(std::uint64_t files, std::uint64_t bytes);
  void report_end();

 private:
  void report_sometimes();
  ScanProgress now() const;

  const ScanOptions& options_;
  std::uint64_t bytes_total_;
  std::atomic<std::uint64_t> files_ = 0;
  std::atomic<std::uint64_t> bytes_ = 0;
  std::atomic<bool> is_stopped_ = false;
  std::mutex mutex_;
  std::int64_t last_report_ns_ = 0;
};

struct HashJob {
  std::size_t index = 0;  ///< Of the file in the listing.
  std::uint64_t size = 0;
};
using OnHashed = std::function<void(std::size_t index, Result<Hashed>)>;
/// Digests files on several threads; `done` is called from any of them. Fails with `interrupted` when stopped.
Result<> hash_all(const Root& root, const Listing& listing, std::vector<HashJob> jobs, unsigned threads, ProgressMeter& meter,
                  const OnHashed& done);

/// Everything that a scan of the folder finds, with what the digests were taken of.
struct Scan {
  ScanReport report;
  std::vector<FileStamp> stamps;                     ///< Of report.files, in the same order.
  std::optional<std::vector<std::string>> partials;  ///< The names of all partial files, where the folder was looked at as a whole.
};
Result<Scan> scan_folder(const Root& root, DigestCache& cache, unsigned threads, const ScanOptions& options);

// ---- the digest cache (cache.cpp) -------------------------------------------------------------------------

struct CacheRecord {
  std::string path;  ///< Absolute.
  FileStamp stamp;
  Md5Digest md5;
  Sha256Digest root;
  ChunkHashes chunks;
};

/// A recorded file, as it is seen while the cache is read.
struct CachedFile {
  std::string_view name;  ///< Relative to the folder that is being read.
  FileStamp stamp;
  Md5Digest md5;
  Sha256Digest root;
  /// The recorded chunk hashes, checked against the root. False where they are missing or wrong.
  std::function<bool(ChunkHashes& chunks)> load_chunks;
};

/// Digests by absolute path, in SQLite. Any thread; any number of processes. No failure is fatal: the first is told to
/// `warn`, and then files are simply digested again.
class DigestCache {
 public:
  DigestCache(std::string file, std::function<void(const Error&)> warn);
  ~DigestCache();
  DigestCache(const DigestCache&) = delete;
  DigestCache& operator=(const DigestCache&) = delete;

  /// Every file that is recorded beneath `folder`, by name, bytewise.
  void for_each(const std::string& folder, const std::function<void(const CachedFile&)>& visit);
  void record(std::span<const CacheRecord> records);
  /// The same, but what follows soon is written together with them. What a kill takes is digested again: at most kMostWaiting files or
  /// kMostWaitingBytes.
  void record_soon(std::vector<CacheRecord> records);
  void forget(std::span<const std::string> paths);
  /// Writes what waits, and lets go of the file: it does nothing more.
  void close();

 private:
  static constexpr std::size_t kMostWaiting = 8192;
  static constexpr std::uint64_t kMostWaitingBytes = 64 * kMiB;
  static constexpr std::chrono::seconds kLongestWait{3};

  struct State;
  void attempt(const std::function<void(State&)>& work);
  void write_waiting(State& state);

  std::string file_;
  std::function<void(const Error&)> warn_;
  std::mutex mutex_;
  bool has_warned_ = false;
  std::unique_ptr<State> state_;
  std::vector<CacheRecord> waiting_;
  std::uint64_t waiting_bytes_ = 0;  ///< Of the files in waiting_.
  std::chrono::steady_clock::time_point last_written_;
};

// ---- sources and partial files (partial.cpp) ----------------------------------------------------------------

/// An open file that is served.
class FileSource final : public ChunkSource {
 public:
  FileSource(Fd fd, std::string path, std::uint64_t size) : fd_(std::move(fd)), path_(std::move(path)), size_(size) {}

  std::uint64_t size() const override { return size_; }
  Result<> read(std::uint64_t offset, std::span<std::byte> out) const override;
  Result<> check() const override;
  int descriptor() const override { return fd_.get(); }

  const std::string& path() const { return path_; }
  /// From here on check() holds the file to `stamp`. Once.
  void settle(const FileStamp& stamp);
  bool is_settled() const { return is_settled_.load(std::memory_order_acquire); }
  const FileStamp& stamp() const { return stamp_; }

 private:
  Fd fd_;
  std::string path_;
  std::uint64_t size_;
  FileStamp stamp_;
  std::atomic<bool> is_settled_ = false;
};

/// A file that is being fetched, under its temporary name next to its final one.
class DiskPartial final : public PartialFile {
 public:
  DiskPartial(std::shared_ptr<FileSource> source, std::string part_name, std::vector<ByteRange> written, bool is_plain)
      : source_(std::move(source)), part_name_(std::move(part_name)), written_(std::move(written)), is_plain_(is_plain) {}

  std::uint64_t size() const override { return source_->size(); }
  Result<> write(std::uint64_t offset, std::span<const std::byte> data) override;
  Result<> read(std::uint64_t offset, std::span<std::byte> out) const override { return source_->read(offset, out); }
  std::vector<ByteRange> written() const override { return written_; }
  std::shared_ptr<const ChunkSource> source() const override { return source_; }

  const std::shared_ptr<FileSource>& file() const { return source_; }
  const std::string& part_name() const { return part_name_; }  ///< Relative to the shared folder.
  bool is_plain() const { return is_plain_; }                  ///< We made it, and as one that nobody may execute.

 private:
  std::shared_ptr<FileSource> source_;
  std::string part_name_;
  std::vector<ByteRange> written_;
  bool is_plain_;
  std::mutex writing_;  ///< The system writes a file for one at a time, and lets the others spin.
};

/// The temporary name of `entry`: in the same folder, and the same for the same content after a restart.
std::string part_name_of(const FileEntry& entry);

/// Folders that were made and whose own entry in their parent may not be on the disk yet.
class FreshFolders {
 public:
  void add(std::string name);
  /// Whether `name` was one; it is not any more.
  bool take(std::string_view name);

 private:
  std::mutex mutex_;
  std::set<std::string, std::less<>> names_;
};

/// Opens folder `name`, making what is missing of it. Refuses to go through a symbolic link.
Result<Fd> make_folder(const Root& root, std::string_view name, FreshFolders& fresh);

/// So many descriptors as one of `share` parts of those that the process may have, at most `most`.
std::size_t part_of_descriptors(long share, long most);

/// The folders that files were put into a moment ago, open: many small files share them. Any thread.
class RecentFolders {
 public:
  using Folder = std::shared_ptr<const Fd>;

  RecentFolders();
  /// Null where there is none. It was at that name at most kTrust ago; a folder may be moved any time.
  Folder find(std::string_view name);
  void keep(std::string_view name, Folder folder);

 private:
  static constexpr std::chrono::milliseconds kTrust{100};
  struct Entry {
    Folder folder;
    std::chrono::steady_clock::time_point opened;
  };

  const std::size_t most_;
  std::mutex mutex_;
  TextMap<Entry> by_name_;
};

/// The same as make_folder, and keeps the folder.
Result<RecentFolders::Folder> make_recent_folder(const Root& root, std::string_view name, FreshFolders& fresh, RecentFolders& recent);

/// The folder that was last looked for, and whether it was missing: then nothing can be in it. Any thread.
class LastLookedFor {
 public:
  /// Nothing where that is another folder, or it was more than kTrust ago.
  std::optional<bool> is_missing(std::string_view name) const;
  void set(std::string_view name, bool is_missing);

 private:
  static constexpr std::chrono::milliseconds kTrust{5};  ///< Somebody else may make it any time.

  mutable std::mutex mutex_;
  std::string name_;
  bool is_missing_ = false;
  std::chrono::steady_clock::time_point at_;
};

Result<std::shared_ptr<DiskPartial>> open_partial_file(const Root& root, const FileEntry& entry, FreshFolders& fresh,
                                                       RecentFolders& recent);

// ---- what is known of files (known.cpp) --------------------------------------------------------------------

/// What files were when they were digested, by name; those that were used last are open. Any thread.
class KnownFiles {
 public:
  using SourcePtr = std::shared_ptr<const FileSource>;
  struct Known {
    FileStamp stamp;
    Sha256Digest root;
    SourcePtr source;  ///< Null where it is not open. It may be of another stamp, where the file was digested again since.
  };

  KnownFiles();
  void set(const std::string& name, const FileStamp& stamp, const Sha256Digest& root);
  /// A scan may tell of a file that was published again while the scan went on: the younger one counts.
  void set_unless_older(const std::string& name, const FileStamp& stamp, const Sha256Digest& root);
  /// One that was published: it is of the stamp that `source` is settled with.
  void set_open(const std::string& name, const Sha256Digest& root, SourcePtr source);
  /// One that is known, and was opened.
  void keep_open(std::string_view name, SourcePtr source);
  /// Nothing for one that is not known. Counts as a use.
  std::optional<Known> find(std::string_view name);
  /// Another file may be there by now, or none: it is to be opened anew.
  void close(std::string_view name);
  void close_all();

 private:
  struct Entry;
  using ByUse = std::list<Entry*>;
  struct Entry {
    FileStamp stamp;
    Sha256Digest root;
    SourcePtr source;
    ByUse::iterator place;  ///< In by_use_, while it is open.
  };

  /// Returns what is to be closed.
  SourcePtr keep(Entry& entry, SourcePtr source);

  const std::size_t most_open_;
  std::mutex mutex_;
  TextMap<Entry> files_;
  ByUse by_use_;  ///< Those that are open, the last used first.
};

// ---- publication (publish.cpp) ---------------------------------------------------------------------------

/// One file on its way to its name, and what became of it.
struct Publishing {
  std::shared_ptr<DiskPartial> file;
  const FileEntry* entry = nullptr;
  Result<> result;
  FileStamp stamp;  ///< After its publication.
};
enum class Durability { none, disk };
/// What has such a name is replaced where it is as `known` has it, and left alone where not: that fails with `file_exists`.
void publish_files(const Root& root, std::span<Publishing> files, FreshFolders& fresh, RecentFolders& recent, KnownFiles& known,
                   Durability durability);

}  // namespace shoal
