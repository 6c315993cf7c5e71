module;

#include <fmt/core.h>
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
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

module shoal.peer;

import :node;
import shoal.base;
import shoal.digest;
import shoal.schedule;
import shoal.wire;
import shoal.world;

namespace shoal {

bool is_interested(const Remote& remote, const Content& content) {
  return remote.wants_everything || remote.wanted_roots.contains(content.root);
}

namespace {

constexpr std::size_t kMessageRoom = kControlLimit - 1024;
constexpr std::uint32_t kBitsPerHolding = 32 * 1024 * 8;  // half a message's worth of bits
constexpr std::uint64_t kLargestFile = std::uint64_t{1} << 50;

/// What we have of a content, in one holding or, for very long files, several.
std::vector<Holding> holdings_of(const Node& node, const Content& content) {
  if (has_all(content)) return {{content.index.value, content.root, content.size, true, 0, {}}};
  std::vector<Holding> holdings;
  for (std::uint32_t first = 0; first < content.chunks; first += kBitsPerHolding) {
    Holding holding{content.index.value, content.root, content.size, false, first, {}};
    const std::uint32_t count = std::min(kBitsPerHolding, content.chunks - first);
    holding.bits.resize((count + 7) / 8);
    for (std::uint32_t i = 0; i < count; ++i)
      if (node.picker.has(slot_of(content, first + i))) holding.bits[i / 8] |= static_cast<std::uint8_t>(1U << i % 8);
    holdings.push_back(std::move(holding));
  }
  return holdings;
}

/// Gathers holdings into as few messages as their size allows.
class InventoryWriter {
 public:
  explicit InventoryWriter(Remote& remote) : remote_(remote) {}
  ~InventoryWriter() { flush(); }
  InventoryWriter(const InventoryWriter&) = delete;
  InventoryWriter& operator=(const InventoryWriter&) = delete;

  void add(Holding holding) {
    const std::size_t size = encoded_size(holding);
    if (bytes_ + size > kMessageRoom) flush();
    bytes_ += size;
    message_.holdings.push_back(std::move(holding));
  }

  void flush() {
    if (!message_.holdings.empty()) tell(remote_, std::exchange(message_, {}));
    bytes_ = 0;
  }

 private:
  Remote& remote_;
  Inventory message_;
  std::size_t bytes_ = 0;
};

bool is_shown(const Content& content) {
  return content.have > 0 && (content.stage == Stage::complete || content.partial != nullptr || content.served_as != nullptr);
}

}  // namespace

std::optional<ContentIndex> content_for(const Remote& remote, std::uint32_t handle) {
  const auto known = remote.their_handles.find(handle);
  if (known == remote.their_handles.end()) return std::nullopt;
  return known->second;
}

// ---- what we have -------------------------------------------------------------------------------------

void greet_with_inventory(Node& node, Remote& remote) {
  InventoryWriter writer(remote);
  for (const auto& content : node.contents) {
    if (!is_shown(*content) || !is_interested(remote, *content) || !remote.introduced.insert(content->index)) continue;
    for (auto& holding : holdings_of(node, *content)) writer.add(std::move(holding));
  }
}

void introduce(Node& node, const Content& content) {
  if (!is_shown(content)) return;
  for (const auto& [source, remote] : node.remotes) {
    if (!is_interested(*remote, content) || !remote->introduced.insert(content.index)) continue;
    InventoryWriter writer(*remote);
    for (auto& holding : holdings_of(node, content)) writer.add(std::move(holding));
  }
}

void take_back(Node& node, const Content& content) {
  for (const auto& [source, remote] : node.remotes)
    if (remote->introduced.erase(content.index)) tell(*remote, Gone{{content.index.value}});
}

std::vector<Message> subscriptions(const Node& node) {
  constexpr std::size_t kRootsPerMessage = kMessageRoom / sizeof(Sha256Digest);
  std::vector<Message> messages;
  Subscribe subscribe{node.options.appetite == Appetite::everything, {}};
  for (const Sha256Digest& root : node.asked_roots) {
    subscribe.roots.push_back(root);
    if (subscribe.roots.size() == kRootsPerMessage) messages.emplace_back(std::exchange(subscribe, {subscribe.everything, {}}));
  }
  if (messages.empty() || !subscribe.roots.empty()) messages.emplace_back(std::move(subscribe));
  return messages;
}

void on_subscribe(Node& node, Remote& remote, const Subscribe& subscribe) {
  remote.wants_everything |= subscribe.everything;
  remote.wanted_roots.insert(subscribe.roots.begin(), subscribe.roots.end());
  greet_with_inventory(node, remote);
}

namespace {

void send_haves(Remote& remote, std::span<const ChunkRun> runs) {
  constexpr std::size_t kRunsPerMessage = kMessageRoom / sizeof(ChunkRun);
  while (!runs.empty()) {
    const auto part = runs.first(std::min(runs.size(), kRunsPerMessage));
    tell(remote, Have{{part.begin(), part.end()}});
    runs = runs.subspan(part.size());
  }
}

}  // namespace

/// News of single-chunk contents go out as one Inventory for many; of others as runs of chunks.
void flush_haves(Node& node) {
  if (node.fresh_haves.empty()) return;
  std::vector<Slot> fresh = std::exchange(node.fresh_haves, {});
  std::ranges::sort(fresh);
  for (const auto& [source, remote] : node.remotes) {
    std::vector<ChunkRun> runs;
    InventoryWriter writer(*remote);
    for (const Slot slot : fresh) {
      const Content& content = content_at(node, slot);
      if (!is_interested(*remote, content) || !is_shown(content) || node.picker.knows(source, slot)) continue;
      if (remote->introduced.insert(content.index)) {
        for (auto& holding : holdings_of(node, content)) writer.add(std::move(holding));
        continue;
      }
      const std::uint32_t chunk = chunk_of(content, slot);
      const bool goes_on = !runs.empty() && runs.back().handle == content.index.value && runs.back().first + runs.back().count == chunk;
      if (goes_on)
        ++runs.back().count;
      else
        runs.push_back({content.index.value, chunk, 1});
    }
    writer.flush();  // a handle is introduced before it is used
    send_haves(*remote, runs);
  }
}

// ---- what they have -----------------------------------------------------------------------------------

bool learn_has(Node& node, Remote& remote, Slot slot) {
  const Content& content = content_at(node, slot);
  if (may_fetch_from(content, remote.id)) {
    remote.withheld.erase(slot);
    return node.picker.source_has(remote.source, slot);
  }
  if (!remote.complete.contains(content.index)) remote.withheld.insert(slot);
  node.picker.source_lost(remote.source, slot);
  return false;
}

namespace {

void note_chunk(Node& node, Remote& remote, const Content& content, std::uint32_t chunk) {
  const Slot slot = slot_of(content, chunk);
  if (!learn_has(node, remote, slot)) return;
  if (!node.picker.has(slot) && is_near(remote) && !remote.is_late) node.crossing.on_news(node.world.now());
  node.first_copies.keep(slot);
  ask_instead(node, remote, slot);
  // Somebody who has it does not need it from us any more.
  if (node.queue.cancel(remote.source, slot)) tell(remote, Reject{{{content.index.value, chunk}}});
}

/// The content that a root stands for here; none while nobody has offered it.
Content* known_content(Node& node, const Sha256Digest& root, std::uint64_t size) {
  const auto known = node.by_root.find({root, size});
  return known == node.by_root.end() ? nullptr : find_content(node, known->second);
}

std::vector<ChunkRun> runs_of(const Holding& holding) {
  std::vector<ChunkRun> runs;
  for (std::size_t bit = 0; bit < holding.bits.size() * 8; ++bit) {
    if ((holding.bits[bit / 8] >> bit % 8 & 1) == 0) continue;
    const auto chunk = static_cast<std::uint32_t>(holding.first_chunk + bit);
    if (!runs.empty() && runs.back().first + runs.back().count == chunk)
      ++runs.back().count;
    else
      runs.push_back({holding.handle, chunk, 1});
  }
  return runs;
}

Result<> note_runs(Node& node, Remote& remote, const Content& content, std::span<const ChunkRun> runs) {
  for (const ChunkRun& run : runs) {
    if (std::uint64_t{run.first} + run.count > content.chunks) return fail(Errc::malformed, "a have past the end");
    for (std::uint32_t i = 0; i < run.count; ++i) note_chunk(node, remote, content, run.first + i);
  }
  return {};
}

/// A handle stands for one content and a content has one handle, until the neighbour takes it back.
Result<> bind_handle(Remote& remote, std::uint32_t handle, const Content& content) {
  const auto [known, is_new] = remote.their_handles.try_emplace(handle, content.index);
  if (known->second != content.index || remote.handle_of.try_set(content.index, handle) != handle)
    return fail(Errc::malformed, fmt::format("handle {} does not stand for one content", handle));
  return {};
}

Result<> note_holding(Node& node, Remote& remote, Content& content, std::uint32_t handle, bool is_complete,
                      std::span<const ChunkRun> runs) {
  const bool is_waited_for = content.stage == Stage::wanted && content.chunks > 1 && !has_holder(node, content);
  if (auto bound = bind_handle(remote, handle, content); !bound) return bound;
  if (is_waited_for) node.to_open.push_back(content.index);
  if (is_complete) {
    remote.complete.insert(content.index);
    const ChunkRun all{handle, 0, content.chunks};
    return note_runs(node, remote, content, {&all, 1});
  }
  return note_runs(node, remote, content, runs);
}

/// Remembers what may be offered later. What is too much to remember is let go: then it is only not fetched from there.
Result<> keep_unplaced(Remote& remote, const Holding& holding) {
  constexpr std::size_t kMostUnplaced = 1'000'000;  // contents, and runs of chunks
  auto runs = runs_of(holding);
  const auto named = remote.unplaced_handles.find(holding.handle);
  if (remote.their_handles.contains(holding.handle) || (named != remote.unplaced_handles.end() && named->second != holding.root))
    return fail(Errc::malformed, fmt::format("handle {} does not stand for one content", holding.handle));
  if (remote.unplaced.size() >= kMostUnplaced || remote.unplaced_runs + runs.size() > kMostUnplaced) {
    remote.has_let_go = true;
    return {};
  }
  Unplaced& unplaced = remote.unplaced[holding.root];
  unplaced.handle = holding.handle;
  unplaced.size = holding.size;
  unplaced.is_complete |= holding.is_complete;
  unplaced.runs.insert(unplaced.runs.end(), runs.begin(), runs.end());
  remote.unplaced_runs += runs.size();
  remote.unplaced_handles[holding.handle] = holding.root;
  return {};
}

Result<> take_holding(Node& node, Remote& remote, const Holding& holding) {
  if (holding.size == 0 || holding.size >= kLargestFile)
    return fail(Errc::malformed, fmt::format("an inventory of {} bytes", holding.size));
  if (Content* content = known_content(node, holding.root, holding.size)) {
    const auto taken = note_holding(node, remote, *content, holding.handle, holding.is_complete, runs_of(holding));
    if (taken && content->stage == Stage::opening && !content->hashes) ask_for_hashes(node, *content);
    return taken;
  }
  for (const ChunkRun& run : runs_of(holding))
    if (std::uint64_t{run.first} + run.count > chunk_count(holding.size))
      return fail(Errc::malformed, "an inventory with chunks past the end");
  return keep_unplaced(remote, holding);
}

}  // namespace

void place_holdings(Node& node, const Content& content) {
  for (const auto& [source, remote] : node.remotes) {
    const auto unplaced = remote->unplaced.find(content.root);
    if (unplaced == remote->unplaced.end() || unplaced->second.size != content.size) continue;
    const Unplaced kept = std::move(unplaced->second);
    remote->unplaced_runs -= kept.runs.size();
    remote->unplaced.erase(unplaced);
    remote->unplaced_handles.erase(kept.handle);
    const auto noted = note_holding(node, *remote, *find_content(node, content.index), kept.handle, kept.is_complete, kept.runs);
    if (!noted) node.report.debug(fmt::format("peer {}: {}", remote->id, noted.error().message()));
  }
}

Result<> on_inventory(Node& node, Remote& remote, const Inventory& inventory) {
  for (const Holding& holding : inventory.holdings)
    if (auto taken = take_holding(node, remote, holding); !taken) return taken;
  open_contents(node);
  refill(node, remote);
  return {};
}

Result<> on_have(Node& node, Remote& remote, const Have& have) {
  for (const ChunkRun& run : have.runs) {
    if (const auto index = content_for(remote, run.handle)) {
      if (auto noted = note_runs(node, remote, *find_content(node, *index), {&run, 1}); !noted) return noted;
    } else if (const auto root = remote.unplaced_handles.find(run.handle); root != remote.unplaced_handles.end()) {
      Unplaced& unplaced = remote.unplaced[root->second];
      if (std::uint64_t{run.first} + run.count > chunk_count(unplaced.size)) return fail(Errc::malformed, "a have past the end");
      unplaced.runs.push_back(run);
      if (++remote.unplaced_runs > 2'000'000) return fail(Errc::too_large, "too many haves for what nobody offers");
    } else if (!remote.has_let_go) {
      return fail(Errc::malformed, fmt::format("a have for the unknown handle {}", run.handle));
    }
  }
  refill(node, remote);
  return {};
}

void on_gone(Node& node, Remote& remote, const Gone& gone) {
  for (const std::uint32_t handle : gone.handles) {
    if (const auto root = remote.unplaced_handles.find(handle); root != remote.unplaced_handles.end()) {
      remote.unplaced_runs -= remote.unplaced[root->second].runs.size();
      remote.unplaced.erase(root->second);
      remote.unplaced_handles.erase(root);
    }
    const auto index = content_for(remote, handle);
    if (!index) continue;
    const Content& content = *find_content(node, *index);
    for (std::uint32_t chunk = 0; chunk < content.chunks; ++chunk) {
      node.picker.source_lost(remote.source, slot_of(content, chunk));
      remote.withheld.erase(slot_of(content, chunk));
    }
    std::erase_if(node.postponed, [&](const Postponed& each) {
      return each.source == remote.source && content_at(node, each.slot).index == content.index;
    });
    release_requests(node, remote, content);  // their rejections name a handle that stands for nothing by then
    remote.complete.erase(*index);
    remote.handle_of.erase(*index);
    remote.their_handles.erase(handle);
  }
  give_up_lost(node);
  refill_all(node);
}

}  // namespace shoal
