/// Files on a real disk: the Storage of shoal.world over one folder, with a digest cache in SQLite that several
/// processes may share, and `verify`, which compares a folder with what that cache remembers.
module;

#include <tl/expected.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

export module shoal.store;

import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.world;

export namespace shoal {

struct StoreOptions {
  std::string folder;
  std::string cache_file;      ///< The digest cache; none when empty. It is made when it is missing.
  unsigned threads = 0;        ///< How many hash at once in a scan; as many as there are processors when 0.
  bool create_folder = false;  ///< Make the folder, and those above it, where it is missing.
  /// Hears, once, why the digest cache cannot be used; everything else works without it. Any thread. May be empty.
  std::function<void(const Error&)> warn;
};

/// The files beneath `options.folder`. Fails with `usage` and the path when that is missing, unreadable or no folder.
/// A source that Storage::open returns holds a descriptor for as long as it lives: drop it after each use and open it again,
/// which costs one fstat for the 128 files that were opened last. A PartialFile holds one as well.
Result<std::unique_ptr<Storage>> open_store(StoreOptions options);

/// The records of a run beneath `folder`, which is made with the first of them.
std::unique_ptr<RecordFolder> open_records(std::string folder);

/// The same, with the folder made now. Fails with `usage` and the path where it cannot be made, or nothing can be written in it.
Result<std::unique_ptr<RecordFolder>> make_records(std::string folder);

/// `$XDG_CACHE_HOME/shoal/digests.db`, else `~/.cache/shoal/digests.db`; empty (no cache) where there is neither.
std::string default_cache_file();

/// What the kept times of the digest kernels hold for.
struct KernelKey {
  std::string version = SHOAL_VERSION;
  std::string processor = processor_name();
};
/// The times that `file` has for that program on that processor; else those that `measure` says (by the system's clock where that is
/// null), which are kept in `file`, where it can be written. A file that is damaged, or of others, is none. Any thread; any number of
/// processes may do so with one file at a time.
KernelTimes kept_kernel_times(const std::string& file, const KernelKey& key = {}, const std::function<KernelTimes()>& measure = {});

enum class Verdict : std::uint8_t {
  ok,         ///< The content is the recorded one.
  corrupted,  ///< Another content, although size, time and inode are those that were recorded.
  changed,    ///< Another content, and the file says so itself: its size, time or inode is another one.
  unknown,    ///< Nothing was ever recorded under this name.
};

struct VerifiedFile {
  std::string name;
  Verdict verdict = Verdict::unknown;
  std::uint64_t size = 0;
  Md5Digest md5;                      ///< Of the content as it is now.
  std::optional<Md5Digest> recorded;  ///< What the cache had for this name.
};

struct VerifyReport {
  std::vector<VerifiedFile> files;  ///< By name.
  std::vector<Error> problems;      ///< What could not be read.
  std::uint64_t bytes_hashed = 0;
};

/// Digests every file of the folder again, whatever the cache says, and compares. Records nothing.
/// `options` chooses files, hears of progress and stops as in a scan.
Result<VerifyReport> verify(const StoreOptions& store, const ScanOptions& options);

}  // namespace shoal
