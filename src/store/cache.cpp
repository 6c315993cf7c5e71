module;

#include <SQLiteCpp/Column.h>
#include <SQLiteCpp/Database.h>
#include <SQLiteCpp/Exception.h>
#include <SQLiteCpp/Statement.h>
#include <SQLiteCpp/Transaction.h>
#include <fmt/core.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

module shoal.store;

import :internal;
import shoal.base;
import shoal.digest;
import shoal.world;

namespace shoal {
namespace {

constexpr int kBusyTimeoutMs = 2000;
constexpr int kSchemaVersion = 1;
constexpr std::string_view kAdvice = "files are digested at every start until it can be used; it may be deleted";

constexpr const char* kSchema =
    "CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,"
    " ctime_ns INTEGER NOT NULL, inode INTEGER NOT NULL, md5 BLOB NOT NULL, root BLOB NOT NULL, chunks BLOB) WITHOUT ROWID";
constexpr const char* kSelect =
    "SELECT path, size, mtime_ns, ctime_ns, inode, md5, root, chunks FROM digests WHERE path >= ? AND path < ? ORDER BY path";
constexpr const char* kInsert = "INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
/// SQLite holds no more than 10^9 bytes in one value. A file of more chunks (7 TB) is digested again.
constexpr std::size_t kMaxChunks = 30'000'000;
constexpr int kPathColumn = 0;
constexpr int kChunksColumn = 7;

std::string_view text_of(SQLite::Statement& row, int column) {
  const SQLite::Column value = row.getColumn(column);
  const char* const text = value.getText();
  return {text, static_cast<std::size_t>(value.getBytes())};
}

template <class D>
bool read_digest(SQLite::Statement& row, int column, D& digest) {
  const SQLite::Column value = row.getColumn(column);
  const void* const blob = value.getBlob();
  if (!blob || static_cast<std::size_t>(value.getBytes()) != digest.bytes.size()) return false;
  std::memcpy(digest.bytes.data(), blob, digest.bytes.size());
  return true;
}

bool read_chunks(SQLite::Statement& row, const CachedFile& file, ChunkHashes& chunks) {
  const std::uint64_t count = chunk_count(file.stamp.size);
  chunks = nullptr;
  if (count < 2) return true;
  const SQLite::Column value = row.getColumn(kChunksColumn);
  const void* const blob = value.getBlob();
  if (!blob || static_cast<std::uint64_t>(value.getBytes()) != count * sizeof(Sha256Digest)) return false;
  std::vector<Sha256Digest> hashes(count);
  std::memcpy(static_cast<void*>(hashes.data()), blob, count * sizeof(Sha256Digest));
  if (merkle_root(hashes) != file.root) return false;
  chunks = shared_chunks(std::move(hashes));
  return true;
}

/// False for a row that is none of ours.
bool read_row(SQLite::Statement& row, std::string_view prefix, CachedFile& file) {
  const std::string_view path = text_of(row, kPathColumn);
  if (!path.starts_with(prefix)) return false;
  file.name = path.substr(prefix.size());
  file.stamp.size = static_cast<std::uint64_t>(row.getColumn(1).getInt64());
  file.stamp.mtime_ns = row.getColumn(2).getInt64();
  file.stamp.ctime_ns = row.getColumn(3).getInt64();
  file.stamp.inode = static_cast<std::uint64_t>(row.getColumn(4).getInt64());
  return read_digest(row, 5, file.md5) && read_digest(row, 6, file.root);
}

void bind_record(SQLite::Statement& insert, const CacheRecord& record) {
  insert.bindNoCopy(1, record.path);
  insert.bind(2, static_cast<std::int64_t>(record.stamp.size));
  insert.bind(3, record.stamp.mtime_ns);
  insert.bind(4, record.stamp.ctime_ns);
  insert.bind(5, static_cast<std::int64_t>(record.stamp.inode));
  insert.bindNoCopy(6, record.md5.bytes.data(), static_cast<int>(record.md5.bytes.size()));
  insert.bindNoCopy(7, record.root.bytes.data(), static_cast<int>(record.root.bytes.size()));
  if (record.chunks)
    insert.bindNoCopy(8, record.chunks->data(), static_cast<int>(record.chunks->size() * sizeof(Sha256Digest)));
  else
    insert.bind(8);
}

/// By path, as they lie in the table: so each of its pages is written once. Of two with one path the later one stays.
std::vector<const CacheRecord*> in_order(std::span<const CacheRecord> records) {
  std::vector<const CacheRecord*> order;
  for (const CacheRecord& record : records) order.push_back(&record);
  std::ranges::sort(order, [](const CacheRecord* a, const CacheRecord* b) { return std::tie(a->path, a) < std::tie(b->path, b); });
  return order;
}

void write_records(SQLite::Database& database, std::span<const CacheRecord> records) {
  SQLite::Transaction transaction(database, SQLite::TransactionBehavior::IMMEDIATE);
  SQLite::Statement insert(database, kInsert);
  for (const CacheRecord* const record : in_order(records)) {
    if (record->chunks && record->chunks->size() > kMaxChunks) continue;
    bind_record(insert, *record);
    insert.exec();
    insert.reset();
  }
  transaction.commit();
}

}  // namespace

static_assert(sizeof(Sha256Digest) == 32, "chunk hashes are stored as they stand in memory");

struct DigestCache::State {
  explicit State(const std::string& file) : database(file, SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE, kBusyTimeoutMs) {
    // Another process may be switching at the same moment; then its switch serves us as well.
    database.tryExec("PRAGMA journal_mode = WAL");
    database.tryExec("PRAGMA synchronous = NORMAL");
    if (version() == kSchemaVersion) return;
    SQLite::Transaction transaction(database, SQLite::TransactionBehavior::IMMEDIATE);
    const int found = version();  // another process may have been first
    if (found != 0 && found != kSchemaVersion) throw SQLite::Exception(fmt::format("it is of version {}", found));
    database.exec(kSchema);
    database.exec(fmt::format("PRAGMA user_version = {}", kSchemaVersion));
    transaction.commit();
  }

  int version() { return database.execAndGet("PRAGMA user_version").getInt(); }

  SQLite::Database database;
};

DigestCache::DigestCache(std::string file, std::function<void(const Error&)> warn) : file_(std::move(file)), warn_(std::move(warn)) {
  if (file_.empty()) return;
  make_folders_of(file_);
  try {
    state_ = std::make_unique<State>(file_);
  } catch (const std::exception& error) {
    has_warned_ = true;
    if (warn_) warn_(Error{{}, fmt::format("cannot use the digest cache '{}': {}", file_, error.what()), std::string(kAdvice)});
  }
}

DigestCache::~DigestCache() { close(); }

void DigestCache::close() {
  attempt([this](State& state) { write_waiting(state); });
  const std::lock_guard lock(mutex_);
  state_.reset();
}

void DigestCache::attempt(const std::function<void(State&)>& work) {
  std::optional<Error> failure;
  {
    const std::lock_guard lock(mutex_);
    if (!state_) return;
    try {
      work(*state_);
    } catch (const std::exception& error) {
      const auto* const from_sqlite = dynamic_cast<const SQLite::Exception*>(&error);
      const bool is_busy = from_sqlite && from_sqlite->getErrorCode() == SQLITE_BUSY;
      if (!is_busy) state_.reset();
      if (!std::exchange(has_warned_, true))
        failure = Error{{}, fmt::format("cannot use the digest cache '{}': {}", file_, error.what()), std::string(kAdvice)};
    }
  }
  if (failure && warn_) warn_(*failure);
}

void DigestCache::for_each(const std::string& folder, const std::function<void(const CachedFile&)>& visit) {
  const std::string prefix = folder.ends_with('/') ? folder : folder + '/';
  std::string end = prefix;
  end.back() = '/' + 1;  // the first path that is no longer beneath the folder
  attempt([&](State& state) {
    write_waiting(state);
    SQLite::Statement row(state.database, kSelect);
    row.bindNoCopy(1, prefix);
    row.bindNoCopy(2, end);
    while (row.executeStep()) {
      CachedFile file;
      if (!read_row(row, prefix, file)) continue;
      file.load_chunks = [&](ChunkHashes& chunks) { return read_chunks(row, file, chunks); };
      visit(file);
    }
  });
}

void DigestCache::record(std::span<const CacheRecord> records) {
  if (records.empty()) return;
  attempt([&](State& state) {
    write_waiting(state);
    write_records(state.database, records);
  });
}

void DigestCache::record_soon(std::vector<CacheRecord> records) {
  if (records.empty()) return;
  attempt([&](State& state) {
    for (CacheRecord& record : records) {
      waiting_bytes_ += record.stamp.size;
      waiting_.push_back(std::move(record));
    }
    const bool is_time = std::chrono::steady_clock::now() - last_written_ >= kLongestWait;
    if (is_time || waiting_.size() >= kMostWaiting || waiting_bytes_ >= kMostWaitingBytes) write_waiting(state);
  });
}

void DigestCache::write_waiting(State& state) {
  if (waiting_.empty()) return;
  std::vector<CacheRecord> records = std::exchange(waiting_, {});
  waiting_bytes_ = 0;
  last_written_ = std::chrono::steady_clock::now();
  write_records(state.database, records);
  records.clear();
  waiting_ = std::move(records);  // the room is needed again
}

void DigestCache::forget(std::span<const std::string> paths) {
  if (paths.empty()) return;
  attempt([&](State& state) {
    write_waiting(state);
    SQLite::Transaction transaction(state.database, SQLite::TransactionBehavior::IMMEDIATE);
    SQLite::Statement remove(state.database, "DELETE FROM digests WHERE path = ?");
    for (const std::string& path : paths) {
      remove.bindNoCopy(1, path);
      remove.exec();
      remove.reset();
    }
    transaction.commit();
  });
}

}  // namespace shoal
