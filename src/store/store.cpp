module;

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>
#include <tl/expected.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_set>
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

/// The partial files that this run has opened, by temporary name. Any thread.
class ActivePartials {
 public:
  void add(const std::string& part_name) {
    const std::lock_guard lock(mutex_);
    names_.insert(part_name);
  }
  void remove(const std::string& part_name) {
    const std::lock_guard lock(mutex_);
    names_.erase(part_name);
  }
  bool contains(const std::string& part_name) const {
    const std::lock_guard lock(mutex_);
    return names_.contains(part_name);
  }

 private:
  mutable std::mutex mutex_;
  std::unordered_set<std::string> names_;
};

constexpr std::size_t kCopyRoom = 2 * kMiB;  ///< For copies that are verified together.

class FolderStore final : public Storage {
 public:
  FolderStore(Root root, StoreOptions options)
      : root_(std::move(root)), threads_(options.threads), cache_(std::move(options.cache_file), std::move(options.warn)) {}

  Result<ScanReport> scan(const ScanOptions& options) override;
  Result<StoredFile> digest(const std::string& name) override;
  Result<std::shared_ptr<const ChunkSource>> open(const FileEntry& entry) override;
  Result<std::shared_ptr<PartialFile>> open_partial(const FileEntry& entry) override;
  std::vector<Result<>> publish(std::span<const Publication> files) override;
  void confirm(const StoredFile& file) override;
  Result<> copy(const StoredFile& from, const FileEntry& to) override;
  std::vector<Result<>> copy_all(std::span<const Copying> copies) override;
  bool exists(const std::string& name) const override;
  NameFolding folding() override;
  Result<> make_empty(const FileEntry& entry) override;
  std::size_t remove_stale_partials() override;
  void finish() override { cache_.close(); }
  Result<std::unique_ptr<FolderWatch>> watch(std::function<void(FolderChanges)> on_change) override {
    return watch_folder(root_.path, [this, on_change = std::move(on_change)](FolderChanges changes) {
      // A file that is open is still there for us when it was removed or replaced.
      for (const std::string& name : changes.names) known_.close(name);
      if (changes.is_anything) known_.close_all();
      on_change(std::move(changes));
    });
  }

 private:
  bool has_folder(const std::string& name) const;
  void remember(std::span<const Publication> files, std::span<Publishing> jobs);
  Result<> make_empty_file(const FileEntry& entry);
  Result<> make_empty_folder(const FileEntry& entry);
  /// A copy that is to be published.
  struct Copy {
    std::size_t index = 0;  ///< Of those that were asked for.
    std::shared_ptr<DiskPartial> partial;
    std::span<const std::byte> unverified;  ///< What is in it.
  };
  Result<> make_copy(const Copying& copying, std::span<std::byte> buffer, Copy& copy);
  Result<> copy_chunk(const StoredFile& from, Copy& copy, std::span<std::byte> buffer);
  Result<> copy_chunks(const StoredFile& from, const DiskPartial& to, std::span<std::byte> buffer) const;
  void verify_copies(std::span<Copy> waiting, std::span<const Copying> copies, std::span<Result<>> results);
  void discard(const DiskPartial& partial);
  std::vector<Result<>> publish_with(std::span<const Publication> files, Durability durability);

  Root root_;
  unsigned threads_;
  DigestCache cache_;
  KnownFiles known_;
  ActivePartials active_;
  FreshFolders fresh_;
  RecentFolders recent_folders_;
  mutable LastLookedFor last_looked_for_;
  std::mutex folding_mutex_;
  std::optional<NameFolding> folding_;                      ///< Once it could be tried.
  std::optional<std::vector<std::string>> found_partials_;  ///< By the last scan, where it saw all. For remove_stale_partials.
};

Result<ScanReport> FolderStore::scan(const ScanOptions& options) {
  auto scan = scan_folder(root_, cache_, threads_, options);
  if (!scan) return Failure(std::move(scan).error());
  for (std::size_t i = 0; i < scan->stamps.size(); ++i) {
    const FileEntry& entry = scan->report.files[i].entry;
    if (entry.kind == EntryKind::file) known_.set_unless_older(entry.name, scan->stamps[i], entry.root);
  }
  found_partials_ = std::move(scan->partials);
  return std::move(scan->report);
}

Result<StoredFile> FolderStore::digest(const std::string& name) {
  if (auto checked = check_name(name); !checked) return Failure(std::move(checked).error());
  const auto buffer = std::make_unique_for_overwrite<std::byte[]>(kHashBuffer);
  auto hashed = hash_file(root_, name, {buffer.get(), kHashBuffer}, {});
  if (!hashed && (hashed.error().code == std::errc::no_such_file_or_directory || hashed.error().code == std::errc::not_a_directory))
    return fail(Errc::not_found, std::move(hashed.error().what));
  if (!hashed) return Failure(std::move(hashed).error());
  known_.set(name, hashed->stamp, hashed->root);
  if (hashed->is_settled && hashed->stamp.size > 0) {
    const CacheRecord record{root_.path_of(name), hashed->stamp, hashed->md5, hashed->root, hashed->chunks};
    cache_.record({&record, 1});
  }
  FileEntry entry{name, EntryKind::file, hashed->stamp.size, hashed->stamp.mtime_ns, hashed->executable, hashed->md5, hashed->root};
  return StoredFile{std::move(entry), std::move(hashed->chunks)};
}

Result<std::shared_ptr<const ChunkSource>> FolderStore::open(const FileEntry& entry) {
  const auto known = known_.find(entry.name);
  const bool is_same = known && known->stamp.size == entry.size && known->root == entry.root;
  if (is_same && known->source && known->source->stamp() == known->stamp && known->source->check()) return known->source;
  std::string path = root_.path_of(entry.name);
  if (!is_same) return fail(Errc::changed, fmt::format("cannot serve '{}'", path));
  Fd fd(open_beneath(root_.fd.get(), entry.name, O_RDONLY | O_NONBLOCK));
  if (!fd && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP)) return fail(Errc::changed, fmt::format("cannot serve '{}'", path));
  if (!fd) return io_failure("open", path);
  const auto source = std::make_shared<FileSource>(std::move(fd), std::move(path), entry.size);
  source->settle(known->stamp);
  if (auto checked = source->check(); !checked) return Failure(std::move(checked).error());
  known_.keep_open(entry.name, source);
  return source;
}

Result<std::shared_ptr<PartialFile>> FolderStore::open_partial(const FileEntry& entry) {
  auto partial = open_partial_file(root_, entry, fresh_, recent_folders_);
  if (!partial) return Failure(std::move(partial).error());
  active_.add((*partial)->part_name());
  return std::move(*partial);
}

std::vector<Result<>> FolderStore::publish(std::span<const Publication> files) { return publish_with(files, Durability::disk); }

std::vector<Result<>> FolderStore::publish_with(std::span<const Publication> files, Durability durability) {
  std::vector<Publishing> jobs(files.size());
  for (std::size_t i = 0; i < files.size(); ++i) {
    jobs[i].file = std::dynamic_pointer_cast<DiskPartial>(files[i].file);
    jobs[i].entry = &files[i].entry;
    jobs[i].result = check_name(files[i].entry.name);
    if (!jobs[i].file) jobs[i].result = fail(std::make_error_code(std::errc::invalid_argument), "cannot publish a file of another store");
  }
  publish_files(root_, jobs, fresh_, recent_folders_, known_, durability);
  remember(files, jobs);
  std::vector<Result<>> results;
  for (Publishing& job : jobs) results.push_back(std::move(job.result));
  return results;
}

/// The bytes were verified when they came, so they need no digesting after a restart. A change in the very tick of the
/// publication would go unnoticed on systems with coarse time stamps; whoever gets the chunk would still refuse it.
void FolderStore::remember(std::span<const Publication> files, std::span<Publishing> jobs) {
  std::vector<CacheRecord> records;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    if (!jobs[i].result) continue;
    const FileEntry& entry = files[i].entry;
    jobs[i].file->file()->settle(jobs[i].stamp);
    known_.set_open(entry.name, entry.root, jobs[i].file->file());
    active_.remove(jobs[i].file->part_name());
    if (entry.size > 0 && files[i].is_confirmed)
      records.push_back({root_.path_of(entry.name), jobs[i].stamp, entry.md5, entry.root, files[i].chunks});
  }
  cache_.record_soon(std::move(records));
}

/// Only while it is the file that was published.
void FolderStore::confirm(const StoredFile& file) {
  const FileEntry& entry = file.entry;
  const auto known = known_.find(entry.name);
  if (!known || known->root != entry.root || known->stamp.size != entry.size) return;
  if (auto opened = open(entry); !opened) return;
  cache_.record_soon({{root_.path_of(entry.name), known->stamp, entry.md5, entry.root, file.chunks}});
}

Result<> FolderStore::copy(const StoredFile& from, const FileEntry& to) {
  const Copying copying{from, to};
  return copy_all({&copying, 1}).front();
}

/// Files of one chunk are verified side by side, as many as there is room for; larger ones as they are copied.
std::vector<Result<>> FolderStore::copy_all(std::span<const Copying> copies) {
  const auto memory = std::make_unique_for_overwrite<std::byte[]>(kCopyRoom);
  std::vector<Result<>> results(copies.size());
  std::vector<Copy> waiting;
  std::vector<Copy> made;
  std::span<std::byte> room(memory.get(), kCopyRoom);
  const auto verify_waiting = [&] {
    verify_copies(waiting, copies, results);
    for (Copy& copy : waiting)
      if (copy.partial) made.push_back(std::move(copy));
    waiting.clear();
    room = {memory.get(), kCopyRoom};
  };
  for (std::size_t i = 0; i < copies.size(); ++i) {
    if (room.size() < kHashBuffer) verify_waiting();
    Copy copy{i, {}, {}};
    results[i] = make_copy(copies[i], room.first(kHashBuffer), copy);
    if (!results[i]) continue;
    room = room.subspan(copy.unverified.size());
    (copy.unverified.empty() ? made : waiting).push_back(std::move(copy));
  }
  verify_waiting();
  std::vector<Publication> files;
  files.reserve(made.size());
  for (Copy& copy : made) files.push_back({copy.partial, copies[copy.index].to, copies[copy.index].from.chunks});
  auto published = publish(files);
  for (std::size_t i = 0; i < made.size(); ++i) {
    if (!published[i]) discard(*made[i].partial);
    results[made[i].index] = std::move(published[i]);
  }
  return results;
}

/// Bytes of that root were found to have that MD5 before.
Result<> FolderStore::make_copy(const Copying& copying, std::span<std::byte> buffer, Copy& copy) {
  const auto& [from, to] = copying;
  if (from.entry.root != to.root || from.entry.md5 != to.md5 || from.entry.size != to.size)
    return fail(Errc::wrong_digest, fmt::format("cannot copy '{}' to '{}'", from.entry.name, to.name));
  auto partial = open_partial_file(root_, to, fresh_, recent_folders_);
  if (!partial) return Failure(std::move(partial).error());
  copy.partial = std::move(*partial);
  active_.add(copy.partial->part_name());
  auto copied = to.size <= kChunkSize ? copy_chunk(from, copy, buffer) : copy_chunks(from, *copy.partial, buffer);
  if (!copied) discard(*copy.partial);
  return copied;
}

/// Discards those that are not what they should be.
void FolderStore::verify_copies(std::span<Copy> waiting, std::span<const Copying> copies, std::span<Result<>> results) {
  std::vector<ChunkToHash> chunks;
  for (const Copy& copy : waiting) chunks.push_back({copy.unverified, copies[copy.index].to.size, {}});
  hash_chunks(chunks);
  for (std::size_t i = 0; i < waiting.size(); ++i) {
    const FileEntry& from = copies[waiting[i].index].from.entry;
    if (chunks[i].hash == from.root) continue;
    discard(*waiting[i].partial);
    waiting[i].partial.reset();
    results[waiting[i].index] = fail(Errc::changed, fmt::format("cannot copy '{}'", root_.path_of(from.name)));
  }
}

void FolderStore::discard(const DiskPartial& partial) {
  remove_beneath(root_.fd.get(), partial.part_name());
  active_.remove(partial.part_name());
}

/// Copies a file of one chunk, or shares its blocks where the file system can. What was copied is left to be verified.
Result<> FolderStore::copy_chunk(const StoredFile& from, Copy& copy, std::span<std::byte> buffer) {
  // It was published a moment ago, as a rule.
  const auto known = known_.find(from.entry.name);
  const bool is_open = known && known->source && known->source->check();
  const Fd opened(is_open ? -1 : open_beneath(root_.fd.get(), from.entry.name, O_RDONLY | O_NONBLOCK));
  if (!is_open && !opened) return io_failure("open", root_.path_of(from.entry.name));
  const int source = is_open ? known->source->descriptor() : opened.get();
  const int target = copy.partial->file()->descriptor();
  const auto chunk = buffer.first(copy.partial->size());
  const bool is_shared = share_blocks(source, target);
  struct stat status{};
  const bool is_whole = read_fully(is_shared ? target : source, 0, chunk) == static_cast<std::int64_t>(chunk.size());
  if (is_whole && !is_shared && !write_fully(target, 0, chunk)) return io_failure("write", copy.partial->file()->path());
  if (::fstat(target, &status) != 0) return io_failure("look at", copy.partial->file()->path());
  if (!is_whole || static_cast<std::uint64_t>(status.st_size) != chunk.size())
    return fail(Errc::changed, fmt::format("cannot copy '{}'", root_.path_of(from.entry.name)));
  copy.unverified = chunk;
  return {};
}

/// The same for a larger one. It is held against the root, as its source may be changing.
Result<> FolderStore::copy_chunks(const StoredFile& from, const DiskPartial& to, std::span<std::byte> buffer) const {
  static_assert(kHashBuffer >= kChunkSize);
  const std::string source_path = root_.path_of(from.entry.name);
  const Fd source(open_beneath(root_.fd.get(), from.entry.name, O_RDONLY | O_NONBLOCK));
  if (!source) return io_failure("open", source_path);
  const int target = to.file()->descriptor();
  const bool is_shared = share_blocks(source.get(), target);
  std::vector<Sha256Digest> chunks;
  bool is_whole = true;
  for (std::uint64_t offset = 0; offset < to.size() && is_whole; offset += kChunkSize) {
    const auto chunk = buffer.first(chunk_length(to.size(), ChunkIndex(static_cast<std::uint32_t>(chunks.size()))));
    is_whole = read_fully(is_shared ? target : source.get(), offset, chunk) == static_cast<std::int64_t>(chunk.size());
    if (is_whole && !is_shared && !write_fully(target, offset, chunk)) return io_failure("write", to.file()->path());
    chunks.push_back(chunk_hash(chunk, to.size()));
  }
  struct stat status{};
  if (::fstat(target, &status) != 0) return io_failure("look at", to.file()->path());
  const bool is_right = is_whole && merkle_root(chunks) == from.entry.root;
  if (!is_right || static_cast<std::uint64_t>(status.st_size) != to.size())
    return fail(Errc::changed, fmt::format("cannot copy '{}'", source_path));
  return {};
}

bool FolderStore::exists(const std::string& name) const {
  // Names come by the folder, most of them for folders that are yet to be made.
  if (const auto folder = folder_part(name); !folder.empty() && !has_folder(std::string(folder))) return false;
  struct stat status{};
  return ::fstatat(root_.fd.get(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0;
}

NameFolding FolderStore::folding() {
  const std::lock_guard lock(folding_mutex_);
  if (!folding_) folding_ = try_folding(root_);
  return folding_.value_or(NameFolding{});
}

bool FolderStore::has_folder(const std::string& name) const {
  auto is_missing = last_looked_for_.is_missing(name);
  if (!is_missing) {
    struct stat status{};
    is_missing = ::fstatat(root_.fd.get(), name.c_str(), &status, 0) != 0 && (errno == ENOENT || errno == ENOTDIR);
    last_looked_for_.set(name, *is_missing);
  }
  return !*is_missing;
}

Result<> FolderStore::make_empty(const FileEntry& entry) {
  if (auto checked = check_name(entry.name); !checked) return checked;
  return entry.kind == EntryKind::folder ? make_empty_folder(entry) : make_empty_file(entry);
}

Result<> FolderStore::make_empty_folder(const FileEntry& entry) {
  const auto folder = make_folder(root_, entry.name, fresh_);
  if (!folder) return Failure(folder.error());
  if (!set_modified(folder->get(), entry.mtime_ns)) return io_failure("set the time of", root_.path_of(entry.name));
  return {};
}

/// Needs no flush: where a crash takes it back, the next start makes it again.
Result<> FolderStore::make_empty_file(const FileEntry& entry) {
  auto partial = open_partial(entry);
  if (!partial) return Failure(std::move(partial).error());
  const Publication publication{std::move(*partial), entry, nullptr};
  return publish_with({&publication, 1}, Durability::none).front();
}

std::size_t FolderStore::remove_stale_partials() {
  std::size_t removed = 0;
  for (const std::string& name : found_partials_ ? *found_partials_ : list_partials(root_)) {
    if (active_.contains(name)) continue;
    if (remove_beneath(root_.fd.get(), name)) ++removed;
  }
  return removed;
}

}  // namespace

Result<std::unique_ptr<Storage>> open_store(StoreOptions options) {
  auto root = open_root(options.folder, options.create_folder);
  if (!root) return Failure(std::move(root).error());
  return std::make_unique<FolderStore>(std::move(*root), std::move(options));
}

std::string default_cache_file() {
  const char* const cache = std::getenv("XDG_CACHE_HOME");
  if (cache && cache[0] == '/') return fmt::format("{}/shoal/digests.db", cache);
  const char* const home = std::getenv("HOME");
  return home && home[0] == '/' ? fmt::format("{}/.cache/shoal/digests.db", home) : std::string();
}

}  // namespace shoal
