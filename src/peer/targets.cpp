module;

#include <fmt/core.h>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
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

namespace shoal {

// ---- wishes -------------------------------------------------------------------------------------------

namespace {

void start_fetching(Node& node, Content& content) {
  content.stage = Stage::wanted;
  node.bytes_wanted += content.size;
  if (content.chunks > 1) {
    node.to_open.push_back(content.index);
    open_contents(node);
  } else {
    content.stage = Stage::fetching;
    node.picker.want(content.first);
  }
}

}  // namespace

void take_up(Node& node, Content& content) {
  if (content.stage == Stage::failed) begin_anew(node, content);
  if (content.stage == Stage::known) return start_fetching(node, content);
  if (content.stage == Stage::complete) {
    for (std::size_t i = 0; i < content.targets.size(); ++i) {
      Target& target = content.targets[i];
      if (target.is_published || target.is_failed || std::exchange(target.is_publishing, true)) continue;
      node.to_publish.push_back({content.index, i});
    }
    node.publish_signal.notify();
  } else if (content.stage == Stage::checking && content.md5_found) {
    on_md5(node, content, *content.md5_found);
  }
}

void want(Node& node, Content& content, Target target) {
  ++node.unfinished;
  node.complete_told.reset();
  content.targets.push_back(std::move(target));
  place_holdings(node, content);
  take_up(node, content);
}

void want_again(Node& node, const FileEntry& entry) {
  const auto known = node.by_root.find({entry.root, entry.size});
  if (known == node.by_root.end()) return;
  Content& content = *find_content(node, known->second);
  bool was_given_up = false;
  for (Target& target : content.targets) {
    if (target.is_published || !std::exchange(target.is_lost, false) || !target.is_failed) continue;
    target.is_failed = false;
    --node.failed_targets;
    ++node.unfinished;
    was_given_up = true;
  }
  if (!was_given_up) return;
  node.complete_told.reset();
  take_up(node, content);
}

bool has_holder(const Node& node, const Content& content) {
  return std::ranges::any_of(node.remotes, [&](const auto& remote) { return remote.second->handle_of.contains(content.index); });
}

void open_contents(Node& node) {
  while (!node.to_open.empty() && node.open_contents < kMostOpenContents) {
    // Any of them: peers that begin at different files have more to give each other.
    std::swap(node.to_open.front(), node.to_open[node.world.random() % node.to_open.size()]);
    Content& content = *find_content(node, node.to_open.front());
    node.to_open.pop_front();
    if (content.stage != Stage::wanted || !has_holder(node, content)) continue;
    content.stage = Stage::opening;
    ++node.open_contents;
    content.several->gathered.resize(content.chunks);
    if (content.hashes || std::ranges::all_of(content.several->spans, [](bool is_here) { return is_here; }))
      on_hashes_complete(node, content);
    else
      ask_for_hashes(node, content);
  }
}

void on_hashes_complete(Node& node, Content& content) {
  if (!content.hashes) content.hashes = std::make_shared<const std::vector<Sha256Digest>>(std::move(content.several->gathered));
  content.several->gathered = {};
  node.tasks.spawn(node.strand, "opening", open_content(node, content.index));
}

namespace {

/// What an earlier run left, chunk by chunk: those that are right. On a worker, in slices.
std::vector<std::uint32_t> right_chunks(const Digester& digester, const PartialFile& file, const std::vector<Sha256Digest>& hashes,
                                        std::uint32_t begin, std::uint32_t end) {
  std::vector<std::uint32_t> right;
  std::vector<std::byte> bytes(kChunkSize);
  for (std::uint32_t chunk = begin; chunk < end; ++chunk) {
    const auto part = std::span(bytes).first(chunk_length(file.size(), ChunkIndex(chunk)));
    if (file.read(std::uint64_t{chunk} * kChunkSize, part) && digester.chunk_hash(part, file.size()) == hashes[chunk])
      right.push_back(chunk);
  }
  return right;
}

}  // namespace

/// Opens the partial file, verifies what is in it, and asks for the rest.
Task<> open_content(Node& node, ContentIndex index) {
  Content& content = *find_content(node, index);
  const EntryPtr entry = content.targets.front().entry;
  const std::uint32_t life = content.life;
  const auto is_given_up = [&] { return content.life != life || content.stage == Stage::failed; };
  auto opened = co_await offload(node.world, [&] { return node.storage.open_partial(*entry); });
  if (is_given_up()) co_return;
  if (!opened) {
    if (exit_code_of(opened.error()) == ExitCode::disk_full) co_return finish(node, Failure(opened.error()));
    for (auto& target : content.targets) fail_target(node, content, target, opened.error());
    co_return check_done(node);
  }
  const std::shared_ptr<PartialFile> file = *opened;
  const ChunkHashes hashes = content.hashes;
  content.partial = file;
  content.began = node.world.now();
  std::uint64_t resumed = 0;
  for (const ByteRange range : file->written()) {
    const auto end = static_cast<std::uint32_t>(chunk_count(range.end));
    for (auto chunk = static_cast<std::uint32_t>(range.begin / kChunkSize); chunk < end;) {
      const std::uint32_t stop = std::min(chunk + 64, end);
      const auto right = co_await offload(node.world, [&] { return right_chunks(node.world.digester(), *file, *hashes, chunk, stop); });
      if (is_given_up()) co_return;
      for (const std::uint32_t had : right) {
        resumed += chunk_length(content.size, ChunkIndex(had));
        mark_have(node, content, had);
      }
      chunk = stop;
    }
  }
  if (resumed > 0)
    node.report.note(
        fmt::format("{}: {} of {} are here from an earlier run", entry->name, format_bytes(resumed), format_bytes(content.size)));
  introduce(node, content);
  if (has_all(content)) co_return;
  content.stage = Stage::fetching;
  node.fetching.insert(index);
  for (std::uint32_t chunk = 0; chunk < content.chunks; ++chunk) node.picker.want(slot_of(content, chunk));
  refill_all(node);
}

// ---- the end of a content -----------------------------------------------------------------------------

namespace {

/// Goes on without this target; where it was the last, without the content.
void give_up_target(Node& node, Content& content, Target& target) {
  target.is_failed = true;
  --node.unfinished;
  node.further_files.erase({content.index, static_cast<std::size_t>(&target - content.targets.data())});
  if (!std::ranges::all_of(content.targets, [](const Target& other) { return other.is_failed; })) return;
  if (content.stage == Stage::complete) return;
  if ((content.stage == Stage::opening || content.stage == Stage::fetching) && content.chunks > 1 && !has_all(content))
    --node.open_contents;
  content.stage = Stage::failed;
  content.partial.reset();
  content.descriptor = {};
  node.fetching.erase(content.index);
  for (std::uint32_t chunk = 0; chunk < content.chunks; ++chunk) node.picker.unwant(slot_of(content, chunk));
  open_contents(node);
}

}  // namespace

void fail_target(Node& node, Content& content, Target& target, const Error& error) {
  if (target.is_published || target.is_failed) return;
  ++node.failed_targets;
  if (content.asked) content.asked->failure = error;
  if (content.asked && content.asked->is_awaited) return give_up_target(node, content, target);  // the command tells of it
  if (exit_code_of(error) == ExitCode::checksum) node.failure = ExitCode::checksum;
  node.report.error(error);
  give_up_target(node, content, target);
}

void drop_outdated(Node& node, const std::string& owner, const std::string& name) {
  for (const auto& content : node.contents)
    for (auto& target : content->targets) {
      if (is_open(target) && target.owner == owner && target.entry->name == name) give_up_target(node, *content, target);
    }
}

namespace {

/// The early name could not be given: what waited for it goes on.
void follow_early(Node& node, Content& content) {
  if (content.md5_found)
    on_md5(node, content, *content.md5_found);
  else
    follow_md5(node, content);
}

void on_published(Node& node, Content& content, Target& target, const Result<>& result) {
  if (target.is_failed) return;
  if (!result) {
    if (exit_code_of(result.error()) == ExitCode::disk_full) return finish(node, Failure(result.error()));
    fail_target(node, content, target, result.error());
    if (target.is_early && (content.md5_found || content.partial)) follow_early(node, content);
    return;
  }
  if (target.is_early) return on_published_early(node, content, target);
  target.is_published = true;
  if (content.asked) content.asked->is_published = true;
  --node.unfinished;
  ++node.files_published;
  content.stage = Stage::complete;
  if (!content.served_as) content.served_as = target.entry;
  report_published(node, content, target);
}

/// The file that is to get the name, which was written for it, or for the content.
std::shared_ptr<PartialFile> file_for(const Node& node, const ToPublish& job) {
  const auto further = node.further_files.find(job);
  return further == node.further_files.end() ? node.contents[job.content.value]->partial : further->second.partial;
}

/// Contents that are here under a name already get further names by copies.
Task<> publish_copies(Node& node, std::vector<ToPublish> jobs) {
  std::vector<Copying> copies;
  for (const ToPublish& job : jobs) {
    const Content& content = *find_content(node, job.content);
    copies.push_back({{*content.served_as, content.hashes}, *content.targets[job.target].entry});
  }
  const auto results = co_await offload(node.world, [&] { return node.storage.copy_all(copies); });
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    Content& content = *find_content(node, jobs[i].content);
    on_published(node, content, content.targets[jobs[i].target], results[i]);
  }
}

Task<> publish_batch(Node& node, std::vector<ToPublish> jobs) {
  std::vector<Publication> files;
  for (const ToPublish& job : jobs) {
    const Content& content = *find_content(node, job.content);
    const Target& target = content.targets[job.target];
    files.push_back({file_for(node, job), *target.entry, content.hashes, !target.is_early});
  }
  const auto results = co_await offload(node.world, [&] { return node.storage.publish(files); });
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    Content& content = *find_content(node, jobs[i].content);
    on_published(node, content, content.targets[jobs[i].target], results[i]);
    node.further_files.erase(jobs[i]);
    if (!results[i] && !std::ranges::all_of(content.targets, [](const Target& target) { return target.is_failed; })) continue;
    if (!content.md5_found) continue;  // it is still read for that
    content.partial.reset();
    content.descriptor = {};
  }
}

/// Further names of contents, whose first names were to be given before, and that were not written for these names.
Task<> publish_further(Node& node, std::span<const ToPublish> jobs) {
  for (const ToPublish& job : jobs) {
    const Content& content = *find_content(node, job.content);
    if (!content.served_as && content.partial) co_await publish_batch(node, {job});  // the first name could not be given
  }
  std::vector<ToPublish> copies;
  for (const ToPublish& job : jobs) {
    Content& content = *find_content(node, job.content);
    Target& target = content.targets[job.target];
    if (target.is_published || target.is_failed) continue;
    if (content.served_as)
      copies.push_back(job);
    else
      fail_target(node, content, target,
                  {make_error_code(Errc::changed),
                   fmt::format("cannot copy to {}: the first file of that content is gone", target.entry->name),
                   {}});
  }
  if (!copies.empty()) co_await publish_copies(node, std::move(copies));
}

}  // namespace

/// Publishes what is verified, as much at a time as has gathered.
Task<> publish_contents(Node& node) {
  constexpr std::size_t kBatch = 512;
  constexpr std::size_t kCopiesAtOnce = 64;  // each holds a descriptor
  for (;;) {
    while (node.to_publish.empty()) co_await node.publish_signal.wait();
    std::vector<ToPublish> batch;
    std::vector<ToPublish> copies;
    for (std::size_t i = 0; i < kBatch && !node.to_publish.empty(); ++i) {
      const ToPublish job = node.to_publish.front();
      node.to_publish.pop_front();
      Content& content = *find_content(node, job.content);
      const bool is_first =
          !content.served_as && content.partial && std::ranges::find(batch, job.content, &ToPublish::content) == batch.end();
      (is_first || node.further_files.contains(job) ? batch : copies).push_back(job);
    }
    if (!batch.empty()) co_await publish_batch(node, std::move(batch));
    for (std::size_t i = 0; i < copies.size(); i += kCopiesAtOnce)
      co_await publish_further(node, std::span(copies).subspan(i, std::min(kCopiesAtOnce, copies.size() - i)));
    check_done(node);
  }
}

void give_up_lost(Node& node) {
  if (!node.has_lost) return;
  // Only who is connected can be judged by: wait for those that are here, as many as there may be.
  const auto is_unreached = [&](const auto& peer) {
    return peer.second.is_here && peer.first != node.options.id && !node.by_id.contains(peer.first);
  };
  if (node.introduced < kMostNeighbours) return;
  if (node.remotes.size() < kMostNeighbours && std::ranges::any_of(node.roster, is_unreached)) return;
  for (const auto& content : node.contents) {
    const bool is_asked = std::ranges::any_of(
        content->targets, [](const Target& target) { return target.is_lost && !target.is_failed && !target.is_published; });
    if (!is_asked || content->stage == Stage::complete || content->stage == Stage::checking) continue;
    const auto is_out_of_reach = [&](std::uint32_t chunk) {
      const Slot slot = slot_of(*content, chunk);
      const auto is_it = [&](const Postponed& each) { return each.slot == slot; };
      return !node.picker.has(slot) && node.picker.availability(slot) == 0 && std::ranges::none_of(node.postponed, is_it);
    };
    bool is_lost = false;
    for (std::uint32_t chunk = 0; chunk < content->chunks && !is_lost; ++chunk) is_lost = is_out_of_reach(chunk);
    if (!is_lost) continue;
    for (auto& target : content->targets) {
      if (!target.is_lost) continue;
      fail_target(
          node, *content, target,
          {make_error_code(Errc::partial), fmt::format("{}: {} left, and nobody else has all of it", target.entry->name, target.owner),
           "run again when it is back; what was fetched is kept"});
    }
  }
}

void check_done(Node& node) {
  if (node.unfinished > 0 || !node.has_begun || node.outcome) return;
  const std::size_t failures = node.failed_targets + node.left_out.count();
  if (node.ends_when_done) return finish(node, failures > 0 ? node.failure : ExitCode::done);
  if (node.options.appetite == Appetite::nothing || node.complete_told == node.revision || !node.tracker) return;
  const bool is_first = !node.complete_told;
  node.complete_told = node.revision;
  report_progress(node);
  const auto upload = node.options.upload_limit > 0 ? node.options.upload_limit : static_cast<std::uint64_t>(node.up.peak());
  const auto at = node.clock.at(node.world.now()).count();
  tell_tracker(node, Complete{node.revision, node.bytes_fetched, static_cast<std::uint32_t>(failures), at, upload,
                              static_cast<std::uint64_t>(node.down.peak())});
  if (!is_first) return;
  node.report.event("complete", {{"bytes", node.bytes_fetched}, {"files", node.files_published}, {"failed", std::uint64_t{failures}}});
  node.report.end_progress();
  node.report.note(
      fmt::format("all complete: {} files, {} fetched; still serving", node.files_published, format_bytes(node.bytes_fetched)));
}

}  // namespace shoal
