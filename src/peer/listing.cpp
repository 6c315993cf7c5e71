// What we offer, and how it follows the folder.
module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

module shoal.peer;

import :node;
import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.report;
import shoal.schedule;
import shoal.wire;
import shoal.world;

using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kQuiet = 150ms;     // after the last change, before it is looked at
constexpr Nanoseconds kLongestWait = 1s;  // with changes that do not end
constexpr Nanoseconds kAgain = 500ms;     // for a file that is still changing

std::vector<Message> split_withdrawals(std::vector<std::string> names) {
  return to_messages(split(std::move(names), &Withdraw::names, [](const std::string& name) { return 4 + name.size(); }));
}

}  // namespace

std::vector<Message> split_offers(std::vector<FileEntry> entries) {
  return to_messages(split(std::move(entries), &Offer::entries, [](const FileEntry& entry) { return encoded_size(entry); }));
}

bool is_left_out(const Node& node, const std::string& name) {
  const auto is_match = [&](const std::string& pattern) { return matches(pattern, name); };
  const auto& [include, exclude] = std::tie(node.options.include, node.options.exclude);
  return (!include.empty() && std::ranges::none_of(include, is_match)) || std::ranges::any_of(exclude, is_match);
}

void forget_own(Node& node, const FileEntry& entry) {
  if (const auto own = node.own.find(entry.name); own != node.own.end()) node.own.erase(own);
  node.names.remove_own(entry.name);
  const auto known = node.by_root.find({entry.root, entry.size});
  Content* const content = known == node.by_root.end() ? nullptr : find_content(node, known->second);
  if (!content || content->stage != Stage::complete || !content->served_as || content->served_as->name != entry.name) return;
  const auto twin = std::ranges::find_if(node.own, [&](const EntryPtr& own) { return own->root == entry.root && own->size == entry.size; });
  if (twin != node.own.end()) {
    content->served_as = *twin;  // an equal file of ours goes on being served
  } else {
    begin_anew(node, *content);
    take_back(node, *content);
  }
}

namespace {

/// Makes a file what we offer; says whether that is news.
void take_file(Node& node, const StoredFile& file, ListNews& news) {
  const auto known = node.own.find(file.entry.name);
  if (known != node.own.end() && **known == file.entry) return;
  const bool is_new = known == node.own.end();
  if (!is_new && (*known)->root != file.entry.root) forget_own(node, FileEntry(**known));
  ++(is_new ? news.change.added : news.change.changed);
  news.fresh.push_back(file.entry);
  add_own(node, file);
  if (chunk_count(file.entry.size) > 0) introduce(node, content_of(node, file.entry.root, file.entry.size));
}

void drop_file(Node& node, const std::string& name, ListNews& news) {
  node.left_out.forget_file(name);
  const auto known = node.own.find(name);
  if (known == node.own.end()) return;
  ++news.change.removed;
  news.gone.push_back(name);
  forget_own(node, FileEntry(**known));
}

void tell_of_news(Node& node, ListNews news) {
  for (Message& message : split_withdrawals(std::move(news.gone))) tell_tracker(node, std::move(message));
  for (Message& message : split_offers(std::move(news.fresh))) tell_tracker(node, std::move(message));
}

void count_all(const Node& node, ListChange& change) {
  change.files = node.own.size();
  for (const EntryPtr& entry : node.own) change.bytes += entry->size;
}

bool is_busy_listing(const Node& node) { return node.is_taking_in || node.is_listing || node.is_announcing; }

/// One comparison at a time.
class ListingTurn {
 public:
  explicit ListingTurn(Node& node) : node_(node) { node_.is_listing = true; }
  ~ListingTurn() { node_.is_listing = false; }
  ListingTurn(const ListingTurn&) = delete;
  ListingTurn& operator=(const ListingTurn&) = delete;

 private:
  Node& node_;
};

}  // namespace

ListNews take_listing(Node& node, std::vector<StoredFile> files) {
  ListNews news;
  std::set<std::string, std::less<>> listed;
  for (const StoredFile& file : files) listed.insert(file.entry.name);
  std::vector<std::string> gone;
  for (const EntryPtr& entry : node.own)
    if (!listed.contains(entry->name)) gone.push_back(entry->name);
  for (const auto& name : gone) drop_file(node, name, news);
  for (const StoredFile& file : files) take_file(node, file, news);
  count_all(node, news.change);
  return news;
}

Task<> take_in(Node& node, std::vector<StoredFile> files, std::function<void(Node&)> begin) {
  for (std::size_t next = 0; next < files.size(); next += kFilesTogether)
    co_await run_on(node.strand, [&] {
      for (StoredFile& file : std::span(files).subspan(next, std::min(kFilesTogether, files.size() - next))) add_own(node, std::move(file));
    });
  co_await run_on(node.strand, [&] {
    node.is_taking_in = false;
    for (const auto& [source, remote] : node.remotes) greet_with_inventory(node, *remote);
    begin(node);
  });
}

namespace {

Task<ScanReport> scan_for_list(Node& node) {
  ScanOptions options;
  options.include = node.options.include;
  options.exclude = node.options.exclude;
  options.should_stop = [&node] { return node.is_interrupted.load(); };
  co_return unwrap(co_await offload(node.world, [&] { return node.storage.scan(options); }));
}

/// Brings the tracker up to date: by what is new, or by everything where it does not know us.
void announce_news(Node& node, ListNews news) {
  if (node.announced_epoch == node.epoch) return tell_of_news(node, std::move(news));
  std::vector<FileEntry> all;
  for (const EntryPtr& entry : node.own) all.push_back(*entry);
  const std::uint64_t count = all.size();
  for (Message& message : split_offers(std::move(all))) tell_tracker(node, std::move(message));
  tell_tracker(node, OfferEnd{count});
  if (node.tracker) node.announced_epoch = node.epoch;
}

}  // namespace

Task<ListChange> update_list(Node& node) {
  while (is_busy_listing(node)) co_await node.world.sleep(5ms);
  ListChange change;
  {
    const ListingTurn turn(node);
    ScanReport scanned = co_await scan_for_list(node);
    leave_out_own(node, std::exchange(scanned.problems, {}));
    ListNews news = take_listing(node, std::move(scanned.files));
    change = news.change;
    co_await wait_for(node, [&] { return node.tracker != nullptr; }, 5s);
    announce_news(node, std::move(news));
  }
  change.confirmed = co_await confirm_list(node);
  co_return change;
}

// ---- watching -----------------------------------------------------------------------------------------

void start_watching(Node& node) {
  auto watch = node.storage.watch([&node](FolderChanges changes) {
    post_to(node, [&node, changes = std::move(changes)]() mutable {
      node.changes.names.merge(changes.names);
      node.changes.is_anything |= changes.is_anything;
      node.last_change = node.world.now();
      node.has_changes.notify();
    });
  });
  if (!watch) return node.report.warn(fmt::format("{}; changes show after updatelist only", watch.error().message()));
  node.watch = std::move(*watch);
  node.tasks.spawn(node.strand, "following the folder", follow_folder(node));
}

namespace {

/// What a command is about to publish under that name counts when it is there.
bool is_being_fetched(const Node& node, const std::string& name) {
  if (node.own.contains(name) || !node.names.is_taken(name)) return false;
  return std::ranges::any_of(node.contents, [&](const auto& content) {
    return content->asked && std::ranges::any_of(content->targets, [&](const Target& target) {
             return target.entry->name == name && !target.is_failed && !target.is_published;
           });
  });
}

/// A folder that is empty now, or is not any more, is listed or not.
bool concerns_folders(const Node& node, const ListNews& news) {
  const auto parent_of = [](const std::string& name) { return name.substr(0, name.rfind('/') + 1); };
  const auto is_left_empty = [&](const std::string& name) {
    const std::string parent = parent_of(name);
    const auto next = node.own.lower_bound(parent);
    return !parent.empty() && (next == node.own.end() || !(*next)->name.starts_with(parent));
  };
  const auto was_empty = [&](const FileEntry& entry) {
    for (auto slash = entry.name.find('/'); slash != std::string::npos; slash = entry.name.find('/', slash + 1))
      if (node.own.contains(entry.name.substr(0, slash))) return true;
    return false;
  };
  return std::ranges::any_of(news.gone, is_left_empty) || std::ranges::any_of(news.fresh, was_empty);
}

/// Looks at the files that changed. Those that still change are looked at again.
Task<ListNews> take_names(Node& node, std::set<std::string> names) {
  ListNews news;
  for (const std::string& name : names) {
    if (is_left_out(node, name) || is_being_fetched(node, name)) continue;
    if (const auto sound = check_name(name); !sound) {
      if (node.storage.exists(name)) leave_out_file(node, name, sound.error());
      continue;
    }
    std::optional<FileEntry> known;
    if (const auto own = node.own.find(name); own != node.own.end()) known = **own;
    auto file = co_await offload(node.world, [&]() -> Result<std::optional<StoredFile>> {
      if (known && node.storage.open(*known)) return std::nullopt;  // it is what it was
      auto digested = node.storage.digest(name);
      if (!digested) return Failure(std::move(digested).error());
      return std::optional(std::move(*digested));
    });
    if (file && *file)
      take_file(node, **file, news);
    else if (!file && file.error().code == make_error_code(Errc::changed))
      node.changes.names.insert(name);
    else if (!file) {
      drop_file(node, name, news);
      if (!is_no_file(file.error())) leave_out_file(node, name, file.error());
    }
  }
  co_return news;
}

Task<> take_changes(Node& node, FolderChanges changes) {
  while (is_busy_listing(node)) co_await node.world.sleep(5ms);
  const ListingTurn turn(node);
  ListNews news;
  if (!changes.is_anything) {
    news = co_await take_names(node, std::move(changes.names));
    // What was taken may be what could not be read before.
    changes.is_anything = concerns_folders(node, news) || (news.change.added > 0 && node.left_out.has_own());
  }
  if (changes.is_anything) {
    ScanReport scanned = co_await scan_for_list(node);
    leave_out_own(node, std::exchange(scanned.problems, {}));
    ListNews more = take_listing(node, std::move(scanned.files));
    news.fresh.insert(news.fresh.end(), more.fresh.begin(), more.fresh.end());
    news.gone.insert(news.gone.end(), more.gone.begin(), more.gone.end());
    news.change.added += more.change.added;
    news.change.changed += more.change.changed;
    news.change.removed += more.change.removed;
  }
  const ListChange change = news.change;
  if (change.added + change.changed + change.removed == 0) co_return;
  if (node.announced_epoch == node.epoch) tell_of_news(node, std::move(news));
  node.report.event("list", {{"added", std::uint64_t{change.added}},
                             {"changed", std::uint64_t{change.changed}},
                             {"removed", std::uint64_t{change.removed}},
                             {"files", std::uint64_t{node.own.size()}}});
  node.report.debug(fmt::format("the folder changed: {} added, {} changed, {} removed", change.added, change.changed, change.removed));
}

}  // namespace

Task<> follow_folder(Node& node) {
  for (;;) {
    if (node.changes.names.empty() && !node.changes.is_anything) co_await node.has_changes.wait();
    const Instant first = node.world.now();
    while (node.world.now() - node.last_change < kQuiet && node.world.now() - first < kLongestWait) co_await node.world.sleep(kQuiet / 3);
    try {
      co_await take_changes(node, std::exchange(node.changes, {}));
    } catch (const StepFailed& failed) {
      if (failed.error().code != make_error_code(Errc::interrupted)) node.report.warn(failed.error().message());
      node.changes.is_anything = true;
    }
    if (!node.changes.names.empty() || node.changes.is_anything) co_await node.world.sleep(kAgain);
  }
}

}  // namespace shoal
