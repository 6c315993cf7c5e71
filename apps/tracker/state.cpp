#include <SQLiteCpp/SQLiteCpp.h>
#include <fmt/core.h>
#include <sqlite3.h>

#include <tl/expected.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

#include "tracker/state.hpp"

import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.tracker;

namespace shoal::apps {
namespace {

constexpr int kVersion = 1;
constexpr int kApplication = 0x53484c54;  // "SHLT": tells our files from those of other programs
constexpr int kBusyTimeoutMs = 200;

constexpr const char* kSchema = R"sql(
  CREATE TABLE peers (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, host TEXT NOT NULL, port INTEGER NOT NULL);
  CREATE TABLE offers (
    peer INTEGER NOT NULL, name TEXT NOT NULL, kind INTEGER NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    executable INTEGER NOT NULL, md5 BLOB NOT NULL, root BLOB NOT NULL, PRIMARY KEY (peer, name)) WITHOUT ROWID;
)sql";

template <class D>
void read_digest(const SQLite::Column& column, D& digest) {
  const auto size = static_cast<std::size_t>(column.getBytes());
  if (size != digest.bytes.size()) throw SQLite::Exception("it has a digest of another size");
  std::copy_n(static_cast<const std::uint8_t*>(column.getBlob()), size, digest.bytes.begin());
}

FileEntry read_entry(SQLite::Statement& row) {
  FileEntry entry;
  entry.name = row.getColumn(1).getString();
  entry.kind = row.getColumn(2).getInt() == 0 ? EntryKind::file : EntryKind::folder;
  entry.size = static_cast<std::uint64_t>(row.getColumn(3).getInt64());
  entry.mtime_ns = row.getColumn(4).getInt64();
  entry.executable = row.getColumn(5).getInt() != 0;
  read_digest(row.getColumn(6), entry.md5);
  read_digest(row.getColumn(7), entry.root);
  return entry;
}

/// One transaction's worth of statements.
class Writer {
 public:
  explicit Writer(SQLite::Database& database)
      : see_(database,
             "INSERT INTO peers (id, host, port) VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET host = excluded.host, port = "
             "excluded.port"),
        find_(database, "SELECT number FROM peers WHERE id = ?"),
        forget_(database, "DELETE FROM peers WHERE number = ?"),
        clear_(database, "DELETE FROM offers WHERE peer = ?"),
        offer_(database, "INSERT OR REPLACE INTO offers VALUES (?, ?, ?, ?, ?, ?, ?, ?)"),
        withdraw_(database, "DELETE FROM offers WHERE peer = ? AND name = ?") {}

  void operator()(const PeerSeen& seen) {
    see_.bind(1, seen.id);
    see_.bind(2, seen.host);
    see_.bind(3, static_cast<int>(seen.port));
    run(see_);
    numbers_.erase(seen.id);
  }
  void operator()(const PeerForgotten& forgotten) {
    const auto number = number_of(forgotten.id);
    if (!number) return;
    clear_.bind(1, *number);
    run(clear_);
    forget_.bind(1, *number);
    run(forget_);
    numbers_.erase(forgotten.id);
  }
  void operator()(const EntryOffered& offered) {
    const auto number = number_of(offered.id);
    if (!number) return;
    const FileEntry& entry = offered.entry;
    offer_.bind(1, *number);
    offer_.bindNoCopy(2, entry.name);
    offer_.bind(3, static_cast<int>(entry.kind));
    offer_.bind(4, static_cast<std::int64_t>(entry.size));
    offer_.bind(5, entry.mtime_ns);
    offer_.bind(6, entry.executable ? 1 : 0);
    offer_.bindNoCopy(7, entry.md5.bytes.data(), static_cast<int>(entry.md5.bytes.size()));
    offer_.bindNoCopy(8, entry.root.bytes.data(), static_cast<int>(entry.root.bytes.size()));
    run(offer_);
  }
  void operator()(const EntryWithdrawn& withdrawn) {
    const auto number = number_of(withdrawn.id);
    if (!number) return;
    withdraw_.bind(1, *number);
    withdraw_.bindNoCopy(2, withdrawn.name);
    run(withdraw_);
  }

 private:
  static void run(SQLite::Statement& statement) {
    statement.exec();
    statement.reset();
  }

  std::optional<std::int64_t> number_of(const std::string& id) {
    if (const auto known = numbers_.find(id); known != numbers_.end()) return known->second;
    std::optional<std::int64_t> number;
    find_.bind(1, id);
    if (find_.executeStep()) number = find_.getColumn(0).getInt64();
    find_.reset();
    if (number) numbers_[id] = *number;
    return number;
  }

  SQLite::Statement see_;
  SQLite::Statement find_;
  SQLite::Statement forget_;
  SQLite::Statement clear_;
  SQLite::Statement offer_;
  SQLite::Statement withdraw_;
  std::map<std::string, std::int64_t> numbers_;
};

class SqliteState final : public TrackerState {
 public:
  explicit SqliteState(const std::string& file)
      : file_(file), database_(file, SQLite::OPEN_READWRITE | SQLite::OPEN_CREATE, kBusyTimeoutMs) {
    // One tracker at a time: two would mix up what their peers offer. The system releases the lock whatever ends us.
    database_.exec("PRAGMA locking_mode = EXCLUSIVE");
    database_.exec("PRAGMA journal_mode = WAL");
    database_.exec("PRAGMA synchronous = NORMAL");
    SQLite::Transaction transaction(database_, SQLite::TransactionBehavior::IMMEDIATE);
    const int version = database_.execAndGet("PRAGMA user_version").getInt();
    const int application = database_.execAndGet("PRAGMA application_id").getInt();
    const bool is_new = version == 0 && application == 0 && database_.execAndGet("SELECT count(*) FROM sqlite_master").getInt() == 0;
    if (is_new) {
      database_.exec(kSchema);
      database_.exec(fmt::format("PRAGMA user_version = {}", kVersion));
      database_.exec(fmt::format("PRAGMA application_id = {}", kApplication));
    } else if (application != kApplication) {
      throw SQLite::Exception("it belongs to another program");
    } else if (version != kVersion) {
      throw SQLite::Exception(fmt::format("it is of version {}, and this is version {}", version, kVersion));
    }
    transaction.commit();
  }

  Result<std::vector<RememberedPeer>> load() override {
    return attempt("read", [this] {
      std::map<std::int64_t, RememberedPeer> peers;
      SQLite::Statement row(database_, "SELECT number, id, host, port FROM peers");
      while (row.executeStep())
        peers[row.getColumn(0).getInt64()] = {
            row.getColumn(1).getString(), row.getColumn(2).getString(), static_cast<std::uint16_t>(row.getColumn(3).getInt()), {}};
      SQLite::Statement offer(database_, "SELECT peer, name, kind, size, mtime_ns, executable, md5, root FROM offers");
      while (offer.executeStep())
        if (const auto peer = peers.find(offer.getColumn(0).getInt64()); peer != peers.end())
          peer->second.offers.push_back(read_entry(offer));
      std::vector<RememberedPeer> all;
      for (auto& [number, peer] : peers) all.push_back(std::move(peer));
      return all;
    });
  }

  Result<> write(std::span<const StateChange> changes) override {
    const auto written = attempt("write", [&] {
      SQLite::Transaction transaction(database_, SQLite::TransactionBehavior::IMMEDIATE);
      Writer writer(database_);
      for (const StateChange& change : changes) std::visit(writer, change);
      transaction.commit();
      return true;
    });
    if (!written) return Failure(written.error());
    return {};
  }

 private:
  template <class F>
  auto attempt(const char* tried, F work) -> Result<decltype(work())> {
    try {
      return work();
    } catch (const std::exception& failed) {
      return fail(std::error_code(), fmt::format("cannot {} the state '{}': {}", tried, file_, failed.what()),
                  "move the file away, or choose another with --state");
    }
  }

  std::string file_;
  SQLite::Database database_;
};

std::string reason_of(const std::exception& error) {
  const auto* const from_sqlite = dynamic_cast<const SQLite::Exception*>(&error);
  if (from_sqlite && from_sqlite->getErrorCode() == SQLITE_BUSY) return "another tracker uses it";
  return error.what();
}

}  // namespace

Result<std::shared_ptr<TrackerState>> open_state(const std::string& file) {
  std::error_code ignored;
  std::filesystem::create_directories(std::filesystem::path(file).parent_path(), ignored);
  try {
    return std::make_shared<SqliteState>(file);
  } catch (const std::exception& error) {
    return fail(Errc::usage, fmt::format("cannot use the state '{}' ({})", file, reason_of(error)),
                "move it away, choose another with --state, or do without by --state :memory:");
  }
}

}  // namespace shoal::apps
