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

Error wrong_md5(const Target& target, const Md5Digest& md5) {
  return {make_error_code(Errc::wrong_digest),
          fmt::format("{}: MD5 is {}, but {} said {}", target.entry->name, to_hex(md5), target.owner, to_hex(target.entry->md5)),
          target.is_early ? fmt::format("it is there under that name, as {} has it; delete it, or ask who offers it", target.owner) : ""};
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

}  // namespace

void on_md5(Node& node, Content& content, const Md5Digest& md5) {
  content.md5_found = md5;
  if (is_being_named(content)) return;
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
