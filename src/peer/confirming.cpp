// What becomes of a content's names when its MD5 is known: they are published then, or, where the MD5 may come later, the first of them was
// published before and is confirmed now.
module;

#include <fmt/core.h>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

module shoal.peer;

import :node;
import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.report;
import shoal.world;

namespace shoal {
namespace {

double seconds_of(const Node& node, const Content& content) {
  return content.began ? Seconds(node.world.now() - *content.began).count() : 0.0;
}

Error wrong_md5(const FileEntry& offered, const std::string& owner, const Md5Digest& md5, std::string advice) {
  return {make_error_code(Errc::wrong_digest),
          fmt::format("{}: MD5 is {}, but {} said {}", offered.name, to_hex(md5), owner, to_hex(offered.md5)), std::move(advice)};
}

Error wrong_md5(const Target& target, const Md5Digest& md5) {
  const auto advice = fmt::format("it is there under that name, as {} has it; delete it, or ask who offers it", target.owner);
  return wrong_md5(*target.entry, target.owner, md5, target.is_early ? advice : "");
}

bool is_same_content(const FileEntry& one, const FileEntry& other) {
  return one.kind == other.kind && one.root == other.root && one.size == other.size;
}

/// The MD5 of what is here of a content, under whatever name; none where that is not whole, or not confirmed.
std::optional<Md5Digest> known_md5(const Node& node, const FileEntry& entry) {
  const auto own = node.own.find(entry.name);
  if (own != node.own.end() && is_same_content(**own, entry)) return (*own)->md5;
  const auto known = node.by_root.find({entry.root, entry.size});
  if (known == node.by_root.end()) return std::nullopt;
  const Content& content = *node.contents[known->second.value];
  if (content.stage != Stage::complete || !content.served_as) return std::nullopt;
  return content.served_as->md5;
}

/// It was to be fetched from that owner, with that MD5: what becomes of that is said there.
bool was_wanted(const Node& node, const std::string& owner, const FileEntry& entry) {
  const auto known = node.by_root.find({entry.root, entry.size});
  return known != node.by_root.end() && std::ranges::any_of(node.contents[known->second.value]->targets, [&](const Target& target) {
           return target.owner == owner && target.entry->md5 == entry.md5;
         });
}

/// It was handed on early, and has neither been confirmed nor failed.
bool is_to_settle(const Target& target) { return target.is_early && target.is_publishing && !target.is_published && !target.is_failed; }

void report_confirmed(const Node& node, const Content& content, const Target& target) {
  node.report.event(
      "confirmed",
      {{"name", target.entry->name}, {"bytes", content.size}, {"md5", to_hex(target.entry->md5)}, {"seconds", seconds_of(node, content)}});
  node.report.note(fmt::format("{}: MD5 {} confirmed", target.entry->name, to_hex(target.entry->md5)));
}

/// The command is not over before the digests are remembered.
Task<> confirm(Node& node, ToPublish job) {
  Content& content = *find_content(node, job.content);
  const StoredFile file{*content.targets[job.target].entry, content.hashes};
  co_await run_on(node.world.workers(), [&] { node.storage.confirm(file); });
  if (content.asked) content.asked->is_published = true;
  --node.unfinished;
  ++node.files_published;
  report_confirmed(node, content, content.targets[job.target]);
  check_done(node);
}

void on_confirmed_early(Node& node, Content& content, std::size_t target) {
  content.targets[target].is_published = true;
  content.stage = Stage::complete;
  if (!content.served_as) content.served_as = content.targets[target].entry;
  node.tasks.spawn(node.strand, "confirming", confirm(node, {content.index, target}));
}

/// The file stays, and other names of the content may be copied from it, under its true MD5.
void on_refuted_early(Node& node, Content& content, Target& target, const Md5Digest& md5) {
  const auto others = std::ranges::count_if(content.targets, [&](const Target& other) { return &other != &target && !other.is_failed; });
  if (others > 0 && !content.served_as) {
    FileEntry truly = *target.entry;
    truly.md5 = md5;
    content.served_as = std::make_shared<const FileEntry>(std::move(truly));
  }
  fail_target(node, content, target, wrong_md5(target, md5));
}

void settle(Node& node, Content& content, std::size_t target) {
  if (content.targets[target].entry->md5 == *content.md5_found)
    on_confirmed_early(node, content, target);
  else
    on_refuted_early(node, content, content.targets[target], *content.md5_found);
  content.partial.reset();
}

/// An early name is being given: what is still open waits for that.
bool is_being_named(const Content& content) {
  return std::ranges::any_of(content.targets, [](const Target& target) { return is_to_settle(target) && !target.is_named; });
}

bool has_early_name(const Content& content) { return std::ranges::any_of(content.targets, is_to_settle); }

/// Its bytes are not those that came, so that their MD5 says nothing of these.
bool is_changed_early(const Content& content, const Md5Digest& md5) {
  const auto is_wrong = [&](const Target& target) { return is_to_settle(target) && target.entry->md5 != md5; };
  if (!content.partial || std::ranges::none_of(content.targets, is_wrong)) return false;
  const auto checked = content.partial->source()->check();
  return !checked && checked.error().code == make_error_code(Errc::changed);
}

/// The early name fails, for its file is the user's now. What other names are to get is fetched once more.
void on_changed_early(Node& node, Content& content) {
  for (Target& target : content.targets)
    if (is_to_settle(target))
      fail_target(node, content, target,
                  {make_error_code(Errc::changed), fmt::format("{}: changed before its MD5 was confirmed", target.entry->name),
                   "it is left as it is; move it away, and run again"});
  content.stage = Stage::failed;
  content.served_as.reset();
  content.partial.reset();
  take_back(node, content);
  if (std::ranges::any_of(content.targets, is_open)) take_up(node, content);
  check_done(node);
}

}  // namespace

void on_unread(Node& node, Content& content, const Error& why) {
  if (why.code != make_error_code(Errc::changed) || !has_early_name(content)) return finish(node, Failure(why));
  if (!is_being_named(content)) on_changed_early(node, content);  // else it is read once more then
}

void on_md5(Node& node, Content& content, const Md5Digest& md5) {
  content.md5_found = md5;
  if (is_being_named(content)) return;
  if (is_changed_early(content, md5)) return on_changed_early(node, content);
  for (std::size_t i = 0; i < content.targets.size(); ++i)
    if (is_to_settle(content.targets[i])) settle(node, content, i);
  for (std::size_t i = 0; i < content.targets.size(); ++i) {
    Target& target = content.targets[i];
    if (!is_open(target)) continue;
    if (target.entry->md5 != md5) {
      fail_target(node, content, target, wrong_md5(target, md5));
      continue;
    }
    target.is_publishing = true;
    node.to_publish.push_back({content.index, i});
  }
  if (content.stage == Stage::failed) {
    content.served_as.reset();
    take_back(node, content);
  }
  node.publish_signal.notify();
  check_done(node);
}

std::optional<Error> wrong_md5_here(const Node& node, const std::string& owner, const FileEntry& offered) {
  const auto md5 = known_md5(node, offered);
  if (!md5 || *md5 == offered.md5) return std::nullopt;
  return wrong_md5(offered, owner, *md5, "its bytes are here, as their Merkle root says; ask who offers it");
}

void refute_known(Node& node, const std::string& owner, const FileEntry& offered) {
  const auto wrong = wrong_md5_here(node, owner, offered);
  if (!wrong || was_wanted(node, owner, offered) || !node.left_out.add(*wrong)) return;
  node.failure = ExitCode::checksum;
  node.report.error(*wrong);
}

void publish_early(Node& node, Content& content) {
  if (!node.options.md5_later) return;
  const auto first = std::ranges::find_if(content.targets, is_open);
  if (first == content.targets.end()) return;
  first->is_publishing = first->is_early = true;
  node.to_publish.push_back({content.index, static_cast<std::size_t>(first - content.targets.begin())});
  node.publish_signal.notify();
}

void on_published_early(Node& node, Content& content, Target& target) {
  target.is_named = true;
  report_published(node, content, target);
  if (content.md5_found) return on_md5(node, content, *content.md5_found);
  follow_md5(node, content);  // where it could not be read a moment ago
  node.report.note(fmt::format("{}: here, as its Merkle root says; its MD5 is being confirmed", target.entry->name));
}

void report_published(const Node& node, const Content& content, const Target& target) {
  if (node.report.wants_events()) {
    Fields fields{{"name", target.entry->name},
                  {"bytes", content.size},
                  {"md5", to_hex(target.entry->md5)},
                  {"seconds", seconds_of(node, content)},
                  {"owner", target.owner}};
    if (target.is_early) fields.emplace_back("is_confirmed", false);
    node.report.event("file", std::move(fields));
  }
  if (node.report.wants_debug() && !target.is_early)
    node.report.debug(fmt::format("{}: complete, MD5 {} confirmed", target.entry->name, to_hex(target.entry->md5)));
}

}  // namespace shoal
