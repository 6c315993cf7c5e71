module;

#include <fmt/core.h>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

module shoal.peer;

import :node;
import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.schedule;
import shoal.wire;
import shoal.world;

namespace shoal {

Content* find_content(Node& node, ContentIndex index) {
  return index.value < node.contents.size() ? node.contents[index.value].get() : nullptr;
}

Content& content_of(Node& node, const Sha256Digest& root, std::uint64_t size) {
  const ContentIndex next(static_cast<std::uint32_t>(node.contents.size()));
  const auto [place, is_new] = node.by_root.try_emplace({root, size}, next);
  if (!is_new) return *node.contents[place->second.value];
  auto content = std::make_unique<Content>();
  content->index = next;
  content->root = root;
  content->size = size;
  content->chunks = static_cast<std::uint32_t>(chunk_count(size));
  content->first = node.picker.add_file(content->chunks);
  if (content->chunks > 1) {
    content->several = std::make_unique<Chunks>();
    content->several->spans.resize(span_count(content->chunks));
  }
  node.content_by_slot.resize(std::size_t{content->first.value} + content->chunks, next);
  node.contents.push_back(std::move(content));
  return *node.contents.back();
}

Content& content_at(Node& node, Slot slot) { return *node.contents[node.content_by_slot[slot.value].value]; }

const Sha256Digest& hash_of(const Content& content, std::uint32_t chunk) {
  if (content.chunks == 1) return content.root;
  return content.hashes ? (*content.hashes)[chunk] : content.several->gathered[chunk];
}

void begin_anew(Node& node, Content& content) {
  for (std::uint32_t chunk = 0; chunk < content.chunks; ++chunk) {
    node.picker.clear_have(slot_of(content, chunk));
    node.picker.unwant(slot_of(content, chunk));
  }
  ++content.life;
  content.stage = Stage::known;
  content.served_as.reset();
  content.partial.reset();
  content.descriptor = {};
  content.have = 0;
  forget_md5(node, content);
}

// ---- our own files ------------------------------------------------------------------------------------

void add_own(Node& node, StoredFile file) {
  const auto entry = std::make_shared<const FileEntry>(std::move(file.entry));
  // Most come in the order of their names.
  if (const auto place = node.own.insert(node.own.end(), entry); *place != entry) {
    node.own.erase(place);
    node.own.insert(entry);
  }
  node.names.add_own(node.options.id, entry);
  node.left_out.forget_file(entry->name);
  if (chunk_count(entry->size) == 0) return;
  Content& content = content_of(node, entry->root, entry->size);
  place_holdings(node, content);
  if (content.stage == Stage::failed) {  // it did not come from others, and is here now
    begin_anew(node, content);
    take_back(node, content);  // what neighbours know of it is what was here when it failed
  }
  if (content.stage != Stage::known) return;  // complete, or being fetched under another name
  content.stage = Stage::complete;
  content.served_as = entry;
  content.hashes = std::move(file.chunks);
  for (std::uint32_t chunk = 0; chunk < content.chunks; ++chunk) node.picker.set_have(slot_of(content, chunk));
  content.have = content.chunks;
}

void learn_folding(Node& node) { node.names.set_folding(node.storage.folding()); }

void on_changed(Node& node, ContentIndex index, const FileEntry& entry) {
  Content* content = find_content(node, index);
  if (!content || content->stage != Stage::complete || !content->served_as || !(*content->served_as == entry)) return;
  node.report.warn(fmt::format("{}: the file changed while it was shared; digesting it again", entry.name));
  forget_own(node, FileEntry(entry));
  node.tasks.spawn(node.strand, "digesting " + entry.name, digest_again(node, entry));
}

/// Waits until the file rests, and offers it as it is now. Until then it stays in the catalogue, for whoever wants the file
/// is to wait for what it becomes.
Task<> digest_again(Node& node, FileEntry entry) {
  constexpr int kTries = 60;
  for (int tries = 0; tries < kTries; ++tries) {
    co_await node.world.sleep(std::chrono::milliseconds(tries == 0 ? 200 : 1000));
    auto file = co_await offload(node.world, [&node, name = entry.name] { return node.storage.digest(name); });
    if (!file && file.error().code == make_error_code(Errc::changed)) continue;
    if (!file && file.error().code == make_error_code(Errc::not_found)) {
      node.left_out.forget_file(entry.name);
      node.report.warn(file.error().message());  // it was removed
      co_return tell_tracker(node, Withdraw{{entry.name}});
    }
    if (!file) {
      leave_out_file(node, entry.name, file.error());
      co_return tell_tracker(node, Withdraw{{entry.name}});
    }
    const FileEntry fresh = file->entry;
    add_own(node, std::move(*file));
    tell_tracker(node, Offer{{fresh}});
    if (chunk_count(fresh.size) > 0) introduce(node, content_of(node, fresh.root, fresh.size));
    co_return;
  }
  leave_out_file(node, entry.name,
                 {make_error_code(Errc::changed), fmt::format("{}: does not stop changing", entry.name), "it is not shared any more"});
  tell_tracker(node, Withdraw{{entry.name}});
}

// ---- what others offer --------------------------------------------------------------------------------

namespace {

/// Folders and empty files have no bytes to fetch.
Task<> make_empty_target(Node& node, EntryPtr entry) {
  const auto made = co_await offload(node.world, [&] { return node.storage.make_empty(*entry); });
  --node.unfinished;
  if (!made) {
    ++node.failed_targets;
    node.report.warn(made.error().message());
    if (exit_code_of(made.error()) == ExitCode::disk_full) finish(node, Failure(made.error()));
  } else {
    ++node.files_published;
  }
  check_done(node);
}

/// What to say of a file that does not get the name that it was offered under.
std::string other_name(const Node& node, const std::string& owner, const FileEntry& entry, const std::string& kept) {
  if (node.names.is_reserved(entry.name))
    return fmt::format("{}: what has that name here is left alone; keeping the file of {} as '{}'", entry.name, owner, kept);
  return fmt::format("{}: {} has a different file of that name; keeping it as '{}'", entry.name, owner, kept);
}

}  // namespace

std::optional<Names::Place> place_offer(Node& node, const std::string& owner, const FileEntry& entry) {
  const auto is_there = [&](const std::string& name) { return entry.kind == EntryKind::file && node.storage.exists(name); };
  return node.names.place(owner, entry, is_there);
}

namespace {

/// The content that is being fetched under just that name; null where there is none.
Content* fetched_as(Node& node, const FileEntry& entry) {
  const auto known = node.by_root.find({entry.root, entry.size});
  Content* const content = known == node.by_root.end() ? nullptr : find_content(node, known->second);
  const bool is_under_way = content && content->stage != Stage::known && content->stage != Stage::complete;
  const auto is_it = [&](const Target& target) { return target.entry->name == entry.name; };
  return is_under_way && std::ranges::any_of(content->targets, is_it) ? content : nullptr;
}

/// Two may say two MD5s of the bytes that are to have one name: each is held against what is found. Of one owner the last word counts.
void want_by_other_md5(Node& node, Content& content, const std::string& owner, const FileEntry& entry) {
  const auto is_of_name = [&](const Target& target) { return target.entry->name == entry.name; };
  const auto is_said = [&](const Target& target) { return is_of_name(target) && target.entry->md5 == entry.md5; };
  if (std::ranges::any_of(content.targets, is_said)) return;
  auto said = std::make_shared<const FileEntry>(entry);
  const auto before = std::ranges::find_if(
      content.targets, [&](const Target& target) { return is_of_name(target) && target.owner == owner && is_open(target); });
  if (before == content.targets.end()) return want(node, content, {std::move(said), owner});
  before->entry = std::move(said);
}

/// An offer of a content that has its name already.
void on_offered_again(Node& node, const std::string& owner, const FileEntry& entry) {
  if (Content* const content = fetched_as(node, entry)) want_by_other_md5(node, *content, owner, entry);
  refute_known(node, owner, entry);
  want_again(node, entry);
}

}  // namespace

void on_offered(Node& node, const std::string& owner, const FileEntry& entry) {
  if (const auto sound = check_entry(entry); !sound) {
    return leave_out(node, {sound.error().code, fmt::format("an entry of {} is refused: {}", owner, sound.error().what), {}});
  }
  if (owner == node.options.id || node.options.appetite == Appetite::nothing || is_left_out(node, entry.name)) return;
  learn_folding(node);
  if (chunk_count(entry.size) + node.picker.slots() > kMostSlots)
    return leave_out(node, {make_error_code(Errc::too_large),
                            fmt::format("{}: {} is more than one swarm can hold", entry.name, format_bytes(entry.size)),
                            {}});
  const auto place = place_offer(node, owner, entry);
  if (!place) return on_offered_again(node, owner, entry);
  if (place->is_refused)
    return leave_out(node,
                     {make_error_code(Errc::refused), fmt::format("{}: {} offers too many contents of that name", entry.name, owner), {}});
  if (place->is_conflict && entry.kind == EntryKind::file) node.report.warn(other_name(node, owner, entry, place->entry->name));
  if (place->is_newer) drop_outdated(node, owner, place->entry->name);
  if (chunk_count(entry.size) == 0) {
    ++node.unfinished;
    node.tasks.spawn(node.strand, "making " + place->entry->name, make_empty_target(node, place->entry));
    return;
  }
  want(node, content_of(node, entry.root, entry.size), {place->entry, owner});
}

void on_retracted(Node& node, const std::string& owner, const std::string& name, bool lost) {
  for (const auto& content : node.contents)
    for (auto& target : content->targets) {
      if (target.owner != owner || !is_open(target) || content->asked) continue;
      if (target.entry->name != name && target.entry->name != conflict_name(name, owner)) continue;
      target.is_lost = true;
      node.has_lost = true;
      want_others(node, kMostNeighbours);  // that nobody has it can only be said of those that are connected
      if (!lost)
        fail_target(node, *content, target,
                    {make_error_code(Errc::changed), fmt::format("{} of {} was withdrawn before it was whole", name, owner), {}});
    }
  give_up_lost(node);
  check_done(node);
}

// ---- chunks -------------------------------------------------------------------------------------------

void note_count(Node& node, Content& content) {
  if (std::exchange(content.is_count_told, false)) node.counts_changed.push_back(content.index);
}

void mark_have(Node& node, Content& content, std::uint32_t chunk) {
  const Slot slot = slot_of(content, chunk);
  if (node.picker.has(slot)) return;
  node.picker.set_have(slot);
  ++content.have;
  node.bytes_have += chunk_length(content.size, ChunkIndex(chunk));
  node.fresh_haves.push_back(slot);
  note_count(node, content);
  node.last_chunk = node.world.now();
  // What is rare is waited for.
  if (content.chunks > 1 && node.picker.availability(slot) <= 1) flush_haves(node);
  if (has_all(content))
    on_all_chunks(node, content);
  else if (content.chunks > 1 && chunk == content.several->md5_end)
    follow_md5(node, content);
}

void on_all_chunks(Node& node, Content& content) {
  content.stage = Stage::checking;
  node.fetching.erase(content.index);
  if (content.chunks > 1) {
    content.several->whole_since = node.world.now();
    --node.open_contents;
    open_contents(node);
  }
  if (content.md5_found) return on_md5(node, content, *content.md5_found);
  if (content.chunks == 1) return;
  publish_early(node, content);
  follow_md5(node, content);
}

}  // namespace shoal
