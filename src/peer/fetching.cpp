// What a command fetches: from whom, until it is here, and from whom else where something is wrong.
module;

#include <fmt/core.h>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
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

constexpr std::uint32_t kMostWrong = 5;         // tries that brought something wrong, all in all
constexpr std::uint64_t kChunksForSeveral = 4;  // what is asked for at once and is no more is faster from the best source alone
constexpr std::size_t kMostCalled = 16;         // sources of a file that we make sure to be connected with
constexpr std::size_t kMostFetched = 16;        // files that a command fetches at one time
constexpr Nanoseconds kConnectPatience = 4s;    // with the only source that a file may come from
constexpr Nanoseconds kHopePatience = 6s;       // while no source is connected
constexpr Nanoseconds kTurnPatience = 15s;      // with a source that is connected and sends nothing, where there is another
constexpr Nanoseconds kSilencePatience = 2min;  // while no source sends anything
constexpr Nanoseconds kForEver = std::chrono::hours(24 * 365);

std::string milliseconds_of(const LocatedSource& source) {
  return source.candidate.latency ? fmt::format("{:.1f} ms", Seconds(*source.candidate.latency).count() * 1000)
                                  : std::string("unreachable");
}

bool is_other(const LocatedSource& source) { return source.latency_from != LatencyFrom::self; }

/// Whom the file is taken to be from: the best source, or ourselves where there is no other.
std::string owner_of(const Node& node, const LocatedFile& file) {
  const auto source = std::ranges::find_if(file.sources, is_other);
  return source == file.sources.end() ? node.options.id : source->holder.id;
}

/// The best source that is not excluded.
const LocatedSource* best_of(const Asked& asked) {
  for (const LocatedSource& source : asked.file.sources)
    if (is_other(source) && !asked.excluded.contains(source.holder.id)) return &source;
  return nullptr;
}

}  // namespace

// ---- which neighbours may send it ---------------------------------------------------------------------

bool may_fetch_from(const Content& content, const std::string& peer) {
  if (!content.asked) return true;
  return !content.asked->excluded.contains(peer) && (!content.asked->only || *content.asked->only == peer);
}

void apply_sources(Node& node, Content& content) {
  for (const auto& [source, remote] : node.remotes) {
    if (!remote->handle_of.contains(content.index)) continue;
    const bool may = may_fetch_from(content, remote->id);
    const bool is_complete = remote->complete.contains(content.index);
    for (std::uint32_t chunk = 0; chunk < content.chunks; ++chunk) {
      const Slot slot = slot_of(content, chunk);
      if (may ? is_complete || remote->withheld.contains(slot) : node.picker.knows(source, slot)) learn_has(node, *remote, slot);
    }
    if (!may) release_requests(node, *remote, content);
  }
  refill_all(node);
}

namespace {

void fail_asked(Node& node, Content& content, Error error) {
  for (Target& target : content.targets)
    if (!target.is_published && !target.is_failed) fail_target(node, content, target, error);
}

/// Goes on with the next best source, where there is one.
bool exclude(Node& node, Content& content, const std::string& peer) {
  Asked& asked = *content.asked;
  asked.excluded.insert(peer);
  const LocatedSource* const next = best_of(asked);
  if (next && asked.only) {
    asked.only = next->holder.id;
    node.report.note(fmt::format("{}: going on from {}", asked.file.entry.name, next->holder.id));
  }
  apply_sources(node, content);
  return next != nullptr;
}

void fail_wrong(Node& node, Content& content) {
  const Asked& asked = *content.asked;
  fail_asked(node, content,
             {make_error_code(Errc::wrong_digest),
              fmt::format("{}: {} wrong {}, and {}", asked.file.entry.name, asked.wrong, asked.wrong == 1 ? "try" : "tries",
                          asked.wrong >= kMostWrong ? "that is enough" : "no other source has it"),
              "have its owner run updatelist"});
}

}  // namespace

void on_asked_wrong(Node& node, Content& content, const std::string& from) {
  if (!content.asked || content.asked->failure) return;
  const bool is_too_often = ++content.asked->wrong >= kMostWrong;
  const bool has_others = exclude(node, content, from);
  // Where no command waits, there is time for others to come, and for the owner to notice that its file has changed.
  if (is_too_often || (!has_others && content.asked->is_awaited)) fail_wrong(node, content);
}

// ---- one file -----------------------------------------------------------------------------------------

namespace {

std::string reason_for(const Asked& asked) {
  std::vector<const LocatedSource*> others;
  for (const LocatedSource& source : asked.file.sources)
    if (is_other(source)) others.push_back(&source);
  if (others.empty()) return "nobody else has it";
  const LocatedSource& best = *others.front();
  if (others.size() == 1) return "it is the only source";
  if (!asked.only) {
    const bool is_alone = asked.together.files == 1;
    const auto what = is_alone ? format_bytes(asked.file.entry.size) + " is" : fmt::format("{} files together are", asked.together.files);
    return fmt::format("{} more than {} chunks: all sources at once are faster than one", what, kChunksForSeveral);
  }
  if (best.candidate.rate > 0)
    return fmt::format("its measured rate of {}/s promises the shortest time",
                       format_bytes(static_cast<std::uint64_t>(best.candidate.rate)));
  return fmt::format("its score is the lowest: {} + 10 × load {} = {:.1f}", milliseconds_of(best), best.candidate.load,
                     score_of(best.candidate));
}

Choice choice_of(const LocatedFile& file, const Asked& asked) {
  Choice choice{file, {}, reason_for(asked), {}};
  for (const LocatedSource& source : file.sources)
    if (is_other(source) && (!asked.only || *asked.only == source.holder.id)) choice.chosen.push_back(source.holder.id);
  return choice;
}

/// Of files, or of findings.
template <class T>
AskedTogether together(const std::vector<T>& files) {
  AskedTogether all{files.size(), 0};
  for (const T& file : files) all.chunks += chunk_count(file.entry.size);
  return all;
}

bool is_for_one(const AskedTogether& all, bool from_one) { return from_one || all.chunks <= kChunksForSeveral; }

std::shared_ptr<Asked> plan(const Node& node, LocatedFile file, const AskedTogether& all, bool from_one) {
  auto asked = std::make_shared<Asked>();
  asked->file = std::move(file);
  asked->together = all;
  asked->last_hope = asked->last_bytes = node.world.now();
  const LocatedSource* const best = best_of(*asked);
  if (best && is_for_one(all, from_one)) asked->only = best->holder.id;
  return asked;
}

/// Keeps us connected with the sources of a file, or trying to be, while it is there.
class CalledSources {
 public:
  CalledSources(Node& node, const Asked& asked) : node_(node) {
    for (const LocatedSource& source : asked.file.sources) {
      if (!is_other(source) || called_.size() >= kMostCalled) continue;
      const Holder& holder = source.holder;
      called_.push_back(node.called.insert(holder.id));
      if (!node.roster.contains(holder.id)) on_roster(node, {holder.peer, holder.id, holder.host, holder.port, true, true});
    }
    node.has_roster_news = true;
    connect_missing(node);
  }
  CalledSources(const CalledSources&) = delete;
  CalledSources& operator=(const CalledSources&) = delete;
  ~CalledSources() {
    for (const auto& place : called_) node_.called.erase(place);
  }

 private:
  Node& node_;
  std::vector<std::multiset<std::string>::iterator> called_;
};

/// What an earlier command wanted under that name, and did not get; else another of that owner, or of anybody.
Target* failed_target(Content& content, const std::string& owner, const std::string& name) {
  const auto find = [&](auto is_it) {
    const auto target = std::ranges::find_if(content.targets, [&](const Target& each) { return each.is_failed && is_it(each); });
    return target == content.targets.end() ? nullptr : &*target;
  };
  Target* target = find([&](const Target& each) { return each.entry->name == name; });
  if (!target) target = find([&](const Target& each) { return each.owner == owner; });
  return target ? target : find([](const Target&) { return true; });
}

/// Such a target is wanted again, as it is offered now. Returns the name that it gets.
std::optional<std::string> revive(Node& node, Content& content, const std::string& owner, const FileEntry& entry) {
  Target* const target = failed_target(content, owner, entry.name);
  if (!target) return std::nullopt;
  auto again = std::make_shared<FileEntry>(entry);
  again->name = target->entry->name;
  *target = {again, owner};
  --node.failed_targets;
  ++node.unfinished;
  take_up(node, content);
  return again->name;
}

void subscribe_to(Node& node, const Sha256Digest& root) {
  if (!node.asked_roots.insert(root).second) return;
  for (const auto& [source, remote] : node.remotes) tell(*remote, Subscribe{false, {root}});
}

void say_other_name(Node& node, const FileEntry& offered, const FileEntry& kept) {
  node.report.warn(fmt::format("{}: another file of that name is here; keeping this one as '{}'", offered.name, kept.name));
}

/// The same for a content that has a name already.
std::optional<std::string> want_known(Node& node, Content& content, const std::string& owner, const FileEntry& entry) {
  if (auto name = revive(node, content, owner, entry)) return name;
  content.asked.reset();
  if (content.stage == Stage::complete) return std::nullopt;
  throw StepFailed(Error{make_error_code(Errc::partial), fmt::format("{}: it is not whole yet", entry.name), "try again in a moment"});
}

/// Wants the file; returns the name that it gets. Nothing where it is here.
std::optional<std::string> want_asked(Node& node, const LocatedFile& file, std::shared_ptr<Asked> asked) {
  const FileEntry& entry = file.entry;
  Content& content = content_of(node, entry.root, entry.size);
  content.asked = std::move(asked);
  subscribe_to(node, entry.root);
  const std::string owner = owner_of(node, file);
  apply_sources(node, content);
  const auto place = place_offer(node, owner, entry);
  if (place && place->is_refused) {
    content.asked.reset();
    throw StepFailed(Error{make_error_code(Errc::refused), fmt::format("{}: too many contents of that name are here", entry.name), {}});
  }
  if (!place) return want_known(node, content, owner, entry);
  if (place->is_conflict) say_other_name(node, entry, *place->entry);
  want(node, content, {place->entry, owner});
  return place->entry->name;
}

/// Whether it is here, or somebody is who it may come from.
bool has_hope(const Node& node, const Content& content) {
  if (content.stage == Stage::checking || content.stage == Stage::complete) return true;
  return std::ranges::any_of(node.remotes, [&](const auto& remote) {
    return remote.second->handle_of.contains(content.index) && may_fetch_from(content, remote.second->id);
  });
}

/// For how long none of those that it may come from has sent anything, of this file or another, while it waits for that.
Nanoseconds silence(const Node& node, const Content& content) {
  const Instant now = node.world.now();
  Asked& asked = *content.asked;
  const bool waits = content.stage == Stage::fetching || (content.stage == Stage::opening && !content.hashes);
  if (!waits) asked.last_bytes = now;
  for (const auto& [source, remote] : node.remotes)
    if (may_fetch_from(content, remote->id)) asked.last_bytes = std::max(asked.last_bytes, remote->last_received);
  return now - asked.last_bytes;
}

bool has_others(Asked asked) {
  asked.excluded.insert(*asked.only);
  return best_of(asked) != nullptr;
}

/// Until it is here or has failed. A source that does not come is done without.
Task<> follow(Node& node, Content& content, const std::shared_ptr<Asked>& asked) {
  const auto is_over = [&] {
    if (asked->is_published || asked->failure) return true;
    const Instant now = node.world.now();
    if (has_hope(node, content)) asked->last_hope = now;
    if (asked->only && now - asked->last_hope > kConnectPatience) {
      asked->last_hope = now;
      if (!exclude(node, content, *asked->only)) asked->last_hope = now - kHopePatience;
    }
    const Nanoseconds silent = silence(node, content);
    if (silent > kTurnPatience && asked->only && has_others(*asked)) {
      asked->last_bytes = now;
      exclude(node, content, *asked->only);
    }
    const bool is_out_of_reach = now - asked->last_hope >= kHopePatience;
    if (!is_out_of_reach && silent < kSilencePatience) return false;
    fail_asked(node, content,
               {make_error_code(Errc::timed_out),
                fmt::format("{}: {}", asked->file.entry.name,
                            is_out_of_reach ? "no source of it can be reached" : "no source of it has sent anything for two minutes"),
                "try again, or see who has it with find"});
    return true;
  };
  co_await wait_for(node, is_over, kForEver);
}

void remember_rates(Node& node, const Asked& asked) {
  for (const auto& [id, bytes] : asked.from)
    if (const double rate = measured_rate(node, id); rate > 0) node.rates[id] = rate;
}

/// A fetched file is one of ours from now on.
void offer_fetched(Node& node, const Content& content, const FileEntry& entry) {
  add_own(node, {entry, content.hashes});
  if (node.announced_epoch == node.epoch) tell_tracker(node, Offer{{entry}});
}

/// Folders and empty files have no bytes.
Task<Fetched> make_empty(Node& node, LocatedFile file) {
  const auto place = place_offer(node, owner_of(node, file), file.entry);
  if (!place && node.own.contains(file.entry.name)) co_return Fetched{file.entry, true, {}, {}};
  if (place && place->is_conflict) say_other_name(node, file.entry, *place->entry);
  const FileEntry entry = place ? *place->entry : file.entry;
  unwrap(co_await offload(node.world, [&] { return node.storage.make_empty(entry); }));
  add_own(node, {entry, nullptr});
  if (node.announced_epoch == node.epoch) tell_tracker(node, Offer{{entry}});
  co_return Fetched{entry, false, {}, {}};
}

/// What a command began and does not wait for any more.
void abandon(Node& node, Content& content, const std::shared_ptr<Asked>& asked) {
  if (content.asked == asked && !asked->is_published && !asked->failure)
    fail_asked(node, content, {make_error_code(Errc::interrupted), fmt::format("{}: stopped", asked->file.entry.name), {}});
}

/// What a command says of a file that is here already, as `here`.
Fetched found_here(const Node& node, const LocatedFile& file, FileEntry here) {
  if (const auto wrong = wrong_md5_here(node, owner_of(node, file), file.entry)) throw StepFailed(*wrong);
  return {std::move(here), true, {}, {}};
}

Task<Fetched> fetch_one(Node& node, LocatedFile file, AskedTogether all, bool from_one) {
  co_await look_at_folder(node, owner_of(node, file), file.entry);
  const auto own = node.own.find(file.entry.name);
  const auto is_it = [&](const FileEntry& entry) {
    return entry.kind == file.entry.kind && entry.root == file.entry.root && entry.size == file.entry.size;
  };
  if (own != node.own.end() && is_it(**own)) co_return found_here(node, file, **own);
  if (chunk_count(file.entry.size) == 0) co_return co_await make_empty(node, file);
  const Instant begun = node.world.now();
  const auto asked = plan(node, file, all, from_one);
  node.choices[file.entry.name] = choice_of(file, *asked);
  const CalledSources called(node, *asked);
  const auto name = want_asked(node, file, asked);
  Content& content = content_of(node, file.entry.root, file.entry.size);
  if (!name) co_return found_here(node, file, content.served_as ? *content.served_as : file.entry);
  try {
    co_await follow(node, content, asked);
  } catch (const StepFailed&) {
    abandon(node, content, asked);
    content.asked.reset();
    throw;
  }
  content.asked.reset();
  remember_rates(node, *asked);
  node.choices[file.entry.name].from = asked->from;
  if (asked->failure) throw StepFailed(*asked->failure);
  FileEntry kept = file.entry;
  kept.name = *name;
  offer_fetched(node, content, kept);
  co_return Fetched{kept, false, node.world.now() - begun, asked->from};
}

}  // namespace

// ---- what no command waits for ------------------------------------------------------------------------

namespace {

/// Whether the sources of a finding were chosen in an earlier round; who has it by now is added to them.
bool is_chosen(Node& node, const Finding& finding) {
  const auto known = node.by_root.find({finding.entry.root, finding.entry.size});
  Content* const content = known == node.by_root.end() ? nullptr : find_content(node, known->second);
  if (!content || !content->asked) return false;
  auto& sources = content->asked->file.sources;
  for (const RosterEntry& peer : finding.holders) {
    const auto is_it = [&](const LocatedSource& source) { return source.holder.id == peer.id; };
    if (std::ranges::none_of(sources, is_it))
      sources.push_back({{peer.peer, peer.id, peer.host, peer.port, 0}, {peer.id, std::nullopt, 0, 0}, LatencyFrom::nowhere});
  }
  return true;
}

void choose(Node& node, LocatedFile file, const AskedTogether& all) {
  const FileEntry& entry = file.entry;
  if (chunk_count(entry.size) == 0 || chunk_count(entry.size) + node.picker.slots() > kMostSlots) return;
  Content& content = content_of(node, entry.root, entry.size);
  if (content.asked || content.stage != Stage::known) return;
  content.asked = plan(node, std::move(file), all, node.options.from_one);
  content.asked->is_awaited = false;
  node.chosen.push_back(content.index);
}

/// The source after the one that did not come; where it need not be one, all of them.
void turn_to_others(Node& node, Content& content) {
  Asked& asked = *content.asked;
  const std::string before = *std::exchange(asked.only, std::nullopt);
  if (node.options.from_one) {
    auto& sources = asked.file.sources;
    const auto is_it = [&](const LocatedSource& source) { return source.holder.id == before; };
    const auto place = std::ranges::find_if(sources, is_it);
    if (place != sources.end()) std::rotate(place, std::next(place), sources.end());  // it is the last to be tried again
    const LocatedSource* const next = best_of(asked);
    asked.only = next ? next->holder.id : before;
  }
  if (asked.only != before) node.report.note(fmt::format("{}: going on without {}", asked.file.entry.name, before));
  apply_sources(node, content);
}

}  // namespace

Task<> choose_sources(Node& node, std::vector<Finding> findings) {
  co_await run_on(node.strand, [&] { std::erase_if(findings, [&](const Finding& finding) { return is_chosen(node, finding); }); });
  if (findings.empty()) co_return;
  const AskedTogether all = together(findings);
  auto files = co_await weigh_findings(node.world, node.options, std::move(findings), is_for_one(all, node.options.from_one));
  co_await run_on(node.strand, [&] {
    for (LocatedFile& file : files) choose(node, std::move(file), all);
  });
}

void look_after_chosen(Node& node) {
  const Instant now = node.world.now();
  std::erase_if(node.chosen, [&](ContentIndex index) {
    Content& content = *find_content(node, index);
    Asked& asked = *content.asked;
    if (asked.is_published || asked.failure) return true;
    const LocatedSource* const best = best_of(asked);
    if (!best && asked.wrong > 0) {
      if (now - asked.last_hope <= kHopePatience) return false;
      fail_wrong(node, content);
      return true;
    }
    const bool is_excluded = asked.only && asked.excluded.contains(*asked.only);
    if (!asked.only || (has_hope(node, content) && silence(node, content) <= kTurnPatience)) asked.last_hope = now;
    if (!is_excluded && now - asked.last_hope <= kConnectPatience) return false;
    asked.last_hope = asked.last_bytes = now;
    turn_to_others(node, content);
    return false;
  });
}

namespace {

// ---- what a name means --------------------------------------------------------------------------------

bool has_wildcard(std::string_view name) { return name.find_first_of("*?[") != std::string_view::npos; }

/// The files that are meant: those of that very name, else what the pattern matches. Of each name, its contents, the best first: that
/// whose best source is better; where nobody but its sources says that it is there, that which more of them have.
using Contents = std::map<std::string, std::vector<LocatedFile>>;
Result<Contents> meant_files(std::string_view name, std::vector<LocatedFile> found, bool by_number) {
  if (found.empty()) return fail(Errc::not_found, fmt::format("no peer has '{}'", name), "ls shows what there is");
  if (std::ranges::any_of(found, [&](const LocatedFile& file) { return file.entry.name == name; }))
    std::erase_if(found, [&](const LocatedFile& file) { return file.entry.name != name; });
  Contents by_name;
  for (LocatedFile& file : found) by_name[file.entry.name].push_back(std::move(file));
  const auto rank_of = [by_number](const LocatedFile& one) {
    const double score = one.sources.empty() ? 1e300 : score_of(one.sources.front().candidate);
    return std::tuple(by_number ? one.sources.size() : 0, -score, one.entry.root);
  };
  for (auto& [key, contents] : by_name) std::ranges::sort(contents, std::ranges::greater(), rank_of);
  const bool is_several = by_name.size() > 1 && !has_wildcard(name) && !name.ends_with('/');
  if (is_several)
    return fail(
        Errc::usage,
        fmt::format("'{}' means {} files, '{}' and '{}' among them", name, by_name.size(), by_name.begin()->first, by_name.rbegin()->first),
        "say which, by its whole name");
  return by_name;
}

/// What one command fetches.
struct Download {
  std::vector<std::vector<LocatedFile>> files;  ///< Those that are equal are together: they are fetched once.
  Contents others;                              ///< What else has such a name, to be fetched where that fails.
  AskedTogether together;
  bool from_one = false;
  std::size_t begun = 0;    ///< Of `files`.
  std::size_t workers = 0;  ///< That are not done yet.
  std::vector<Fetched> fetched;
  std::vector<Error> failures;
  Signal changed;
};

std::vector<std::vector<LocatedFile>> by_content(std::vector<LocatedFile> files) {
  std::map<std::pair<Sha256Digest, std::uint64_t>, std::vector<LocatedFile>> contents;
  for (LocatedFile& file : files) contents[{file.entry.root, file.entry.size}].push_back(std::move(file));
  std::vector<std::vector<LocatedFile>> ordered;
  for (auto& [content, equal] : contents) ordered.push_back(std::move(equal));
  std::ranges::sort(ordered, {}, [](const auto& equal) { return std::string_view(equal.front().entry.name); });
  return ordered;
}

/// The file or, where nobody delivers it, the next content of its name.
Task<Fetched> fetch_any(Node& node, std::shared_ptr<Download> download, LocatedFile file) {
  for (;;) {
    std::optional<Error> why;
    const std::string name = file.entry.name;
    try {
      co_return co_await fetch_one(node, file, download->together, download->from_one);
    } catch (const StepFailed& failed) {
      why = failed.error();
    }
    auto& others = download->others[name];
    if (others.empty() || node.is_interrupted) throw StepFailed(*why);
    node.report.warn(fmt::format("{}; going on with another content of that name", why->message()));
    file = std::move(others.front());
    others.erase(others.begin());
  }
}

/// One of those that work on it side by side.
Task<> fetch_next(Node& node, std::shared_ptr<Download> download) {
  while (download->begun < download->files.size() && !node.is_interrupted) {
    for (LocatedFile& file : download->files[download->begun++]) {
      try {
        download->fetched.push_back(co_await fetch_any(node, download, std::move(file)));
      } catch (const StepFailed& failed) {
        download->failures.push_back(failed.error());
        break;
      }
    }
  }
  --download->workers;
  download->changed.notify();
}

}  // namespace

Task<std::vector<Fetched>> download(Node& node, std::string name, bool from_one) {
  LocateAnswer answer = co_await locate(node, name);
  const auto all = std::make_shared<Download>();
  std::vector<LocatedFile> files;
  for (auto& [key, contents] : unwrap(meant_files(name, std::move(answer.files), answer.via_overlay.has_value()))) {
    files.push_back(contents.front());
    all->others[key].assign(contents.begin() + 1, contents.end());
  }
  all->together = together(files);
  all->from_one = from_one;
  all->files = by_content(std::move(files));
  all->workers = std::min(all->files.size(), kMostFetched);
  for (std::size_t i = 0, count = all->workers; i < count; ++i) node.tasks.spawn(node.strand, "fetching " + name, fetch_next(node, all));
  while (all->workers > 0) co_await all->changed.wait();
  if (node.is_interrupted) throw StepFailed(Error{make_error_code(Errc::interrupted), fmt::format("{}: stopped", name), {}});
  for (std::size_t i = 1; i < all->failures.size(); ++i) node.report.warn(all->failures[i].message());
  if (!all->failures.empty()) throw StepFailed(all->failures.front());
  std::ranges::sort(all->fetched, {}, [](const Fetched& one) { return std::string_view(one.entry.name); });
  co_return std::move(all->fetched);
}

Task<std::vector<Choice>> explain(Node& node, std::string name) {
  LocateAnswer answer = co_await locate(node, name);
  std::vector<LocatedFile> files;
  for (const auto& [key, contents] : unwrap(meant_files(name, std::move(answer.files), answer.via_overlay.has_value())))
    files.push_back(contents.front());
  const AskedTogether all = together(files);
  std::vector<Choice> choices;
  for (const LocatedFile& file : files) {
    const auto made = node.choices.find(file.entry.name);
    if (made != node.choices.end() && made->second.file.entry.root == file.entry.root)
      choices.push_back(made->second);
    else
      choices.push_back(choice_of(file, *plan(node, file, all, false)));
  }
  co_return choices;
}

}  // namespace shoal
