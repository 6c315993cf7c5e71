module;

#include <fmt/core.h>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

module shoal.peer;

import :node;
import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.report;
import shoal.schedule;
import shoal.world;

namespace asio = boost::asio;

namespace shoal {

Task<> keep_near_md5(Node& node, const Content& content);  // following.cpp

namespace {

/// A further name that a small file is written under, too, while its bytes are at hand.
struct FurtherName {
  std::size_t target = 0;
  EntryPtr entry;
  FurtherFile file;
};

/// What became of an arrival on a worker.
struct Stored {
  bool is_right = false;
  Result<> written;
  std::shared_ptr<PartialFile> partial;  ///< Of a single-chunk content, opened with it.
  std::optional<Md5Digest> md5;          ///< Of a single-chunk content.
  std::vector<FurtherName> further;      ///< Those that have a file.
};

void on_wrong_chunk(Node& node, const SessionPtr& session, Slot slot) {
  Remote* remote = remote_of(node, session);
  // What was under way when it was dropped adds nothing to that.
  if (remote && node.dropped.contains({remote->id, session->instance})) return node.picker.source_lost(remote->source, slot);
  const Content& content = content_at(node, slot);
  const std::string from = remote ? remote->id : "a peer that left";
  node.report.warn(fmt::format("peer {}: sent a wrong chunk {} of {}; fetching it from someone else", from, chunk_of(content, slot),
                               to_hex(content.root).substr(0, 16)));
  if (!remote) return;
  node.picker.source_lost(remote->source, slot);
  on_asked_wrong(node, content_at(node, slot), from);
  if (++remote->wrong_chunks < kMostWrongChunks) return;
  node.report.warn(fmt::format("peer {}: sent {} wrong chunks and is dropped", from, remote->wrong_chunks));
  node.dropped.emplace(remote->id, remote->session->instance);
  node.has_roster_news = true;
  want_others(node, others_here(node) + 1);  // somebody else is to take its place
  asio::post(remote->session->link->executor(), [session = remote->session] { session->link->close(); });
}

void keep_further(Node& node, const Content& content, std::vector<FurtherName> further) {
  for (FurtherName& name : further)
    if (name.file.partial && is_open(content.targets[name.target]))
      node.further_files.insert_or_assign({content.index, name.target}, std::move(name.file));
}

void on_stored(Node& node, const Arrival& arrival, Stored stored) {
  Content& content = content_at(node, arrival.slot);
  const std::uint32_t chunk = chunk_of(content, arrival.slot);
  node.picker.end(arrival.slot);  // it was kept in flight while it was being verified
  if (!stored.is_right) {
    node.bytes_wasted += arrival.buffer.size();
    return on_wrong_chunk(node, arrival.session, arrival.slot);
  }
  if (!stored.written) {
    if (exit_code_of(stored.written.error()) == ExitCode::disk_full) return finish(node, Failure(stored.written.error()));
    for (auto& target : content.targets) fail_target(node, content, target, stored.written.error());
    return check_done(node);
  }
  if (content.stage != Stage::fetching) return;  // it was given up meanwhile
  node.bytes_fetched += arrival.buffer.size();
  if (content.asked) content.asked->from[arrival.session->id] += arrival.buffer.size();
  if (stored.md5) {
    content.partial = std::move(stored.partial);
    content.md5_found = stored.md5;
    keep_further(node, content, std::move(stored.further));
  }
  mark_have(node, content, chunk);
}

// ---- chunks of larger files ---------------------------------------------------------------------------

/// On a worker: is it right, and if so, on disk. The content's own hashes stay with the node, where they may change meanwhile.
Stored verify_and_write(const Digester& digester, const Sha256Digest& hash, PartialFile& file, std::uint32_t chunk,
                        std::span<const std::byte> bytes) {
  Stored stored;
  stored.is_right = digester.chunk_hash(bytes, file.size()) == hash;
  if (stored.is_right) stored.written = file.write(std::uint64_t{chunk} * kChunkSize, bytes);
  return stored;
}

Task<> store_chunk(Node& node, Arrival arrival) {
  const Budget::Share turn = co_await node.storing.take(1);
  const Content& content = content_at(node, arrival.slot);
  const std::uint32_t chunk = chunk_of(content, arrival.slot);
  co_await keep_near_md5(node, content);
  if (!content.partial) {  // it was given up before this began
    node.picker.end(arrival.slot);
    node.bytes_wasted += arrival.buffer.size();
    co_return;
  }
  Stored stored = co_await offload(node.world, [&, file = content.partial, hash = hash_of(content, chunk)] {
    return verify_and_write(node.world.digester(), hash, *file, chunk, arrival.buffer.span());
  });
  on_stored(node, arrival, std::move(stored));
  if (Remote* remote = remote_of(node, arrival.session)) refill(node, *remote);
}

// ---- files of a single chunk --------------------------------------------------------------------------

/// So many of them, or so many bytes, are stored in one go: a worker's call costs more than a small file does.
constexpr std::size_t kMostTogether = 128;
constexpr std::uint64_t kMostBytesTogether = 2 * kMiB;
/// Several workers store where there is enough for each.
constexpr std::size_t kMostStorers = 2;
constexpr std::size_t kWorthAnother = 32;
/// Names that one of them gets at once; to more it is copied.
constexpr std::size_t kMostNames = 16;

struct SmallFile {
  Arrival arrival;
  const Content& content;
  EntryPtr entry;
  Budget::Share descriptor;
  Stored stored;
  Md5Stream md5;
  std::span<const std::byte> to_digest;  ///< What the MD5 still lacks of the arrival's bytes.
};

/// On a worker: which of them are right.
void check_small(const Digester& digester, std::span<SmallFile> files) {
  std::vector<ChunkToHash> chunks;
  for (const SmallFile& file : files) chunks.push_back({file.arrival.buffer.span(), file.content.size, {}});
  digester.hash_chunks(chunks);
  for (std::size_t i = 0; i < files.size(); ++i) files[i].stored.is_right = chunks[i].hash == files[i].content.root;
}

/// On a worker.
Result<std::shared_ptr<PartialFile>> write_small_as(Storage& storage, const FileEntry& entry, std::span<const std::byte> bytes) {
  auto opened = storage.open_partial(entry);
  if (!opened) return opened;
  if (auto written = (*opened)->write(0, bytes); !written) return Failure(std::move(written).error());
  return opened;
}

/// On a worker. A further name that cannot be written now is copied to later, when it is seen why.
void write_small(Storage& storage, SmallFile& file) {
  const auto bytes = std::as_const(file.arrival.buffer).span();
  auto first = write_small_as(storage, *file.entry, bytes);
  if (!first) {
    file.stored.written = Failure(std::move(first).error());
    return;
  }
  file.stored.partial = std::move(*first);
  for (FurtherName& name : file.stored.further)
    if (auto written = write_small_as(storage, *name.entry, bytes)) name.file.partial = std::move(*written);
}

/// On a worker: each that is right is written.
void check_and_write(const Digester& digester, Storage& storage, std::span<SmallFile> files) {
  check_small(digester, files);
  for (SmallFile& file : files) {
    if (!file.stored.is_right) continue;
    file.to_digest = std::as_const(file.arrival.buffer).span();
    write_small(storage, file);
  }
}

/// On a worker: their MD5s, side by side. Those that would go on with too few others are left `to_digest`, unless `are_last`.
void digest_small(const Digester& digester, std::span<SmallFile> files, bool are_last) {
  std::vector<Md5Piece> pieces;
  for (SmallFile& file : files)
    if (!file.to_digest.empty()) pieces.push_back({&file.md5, std::exchange(file.to_digest, {})});
  // The largest first, so that few of them are left.
  std::ranges::sort(pieces, std::greater(), [](const Md5Piece& piece) { return piece.data.size(); });
  for (const Md5Piece& piece : digester.update_small(pieces, are_last))
    std::ranges::find(files, piece.stream, [](SmallFile& file) { return &file.md5; })->to_digest = piece.data;
  for (SmallFile& file : files)
    if (file.stored.is_right && file.to_digest.empty()) file.stored.md5 = file.md5.finish();
}

SmallFile small_file(Arrival arrival, const Content& content) {
  const auto& targets = content.targets;
  auto target = std::ranges::find_if(targets, is_open);
  if (target == targets.end()) target = targets.begin();  // it was given up a moment ago
  SmallFile file{std::move(arrival), content, target->entry, {}, {}, {}, {}};
  auto& further = file.stored.further;
  while (++target != targets.end() && further.size() + 1 < kMostNames)
    if (is_open(*target)) further.push_back({static_cast<std::size_t>(target - targets.begin()), target->entry, {}});
  return file;
}

std::vector<SmallFile> next_small(Node& node) {
  std::vector<SmallFile> files;
  files.reserve(std::min(kMostTogether, node.to_store.size()));
  std::size_t names = 0;
  std::uint64_t bytes = 0;
  while (!node.to_store.empty() && names < kMostTogether && bytes < kMostBytesTogether) {
    Arrival& arrival = node.to_store.front();
    const Content& content = content_at(node, arrival.slot);
    files.push_back(small_file(std::move(arrival), content));
    const std::size_t added = 1 + files.back().stored.further.size();
    names += added;
    bytes += added * content.size;
    node.to_store_bytes -= content.size;
    node.to_store.pop_front();
  }
  return files;
}

Task<> take_descriptors(Node& node, std::span<SmallFile> files) {
  for (SmallFile& file : files) {
    file.descriptor = co_await node.descriptors.take(1);
    for (FurtherName& name : file.stored.further) name.file.descriptor = co_await node.descriptors.take(1);
  }
}

Task<> store_small(Node& node) {
  std::vector<SmallFile> held;  // stored, and what is left of their MD5s waits for company
  while (!node.to_store.empty() || !held.empty()) {
    std::vector<SmallFile> files = next_small(node);
    co_await take_descriptors(node, files);
    const std::size_t fresh = files.size();
    std::ranges::move(std::exchange(held, {}), std::back_inserter(files));
    co_await run_on(node.world.workers(), [&] {
      check_and_write(node.world.digester(), node.storage, std::span(files).first(fresh));
      digest_small(node.world.digester(), files, fresh == 0);
    });
    for (SmallFile& file : files) {
      if (!file.to_digest.empty()) {
        held.push_back(std::move(file));
        continue;
      }
      Content& content = content_at(node, file.arrival.slot);
      if (file.stored.partial && content.stage == Stage::fetching) content.descriptor = std::move(file.descriptor);
      on_stored(node, file.arrival, std::move(file.stored));
    }
    refill_all(node);
  }
  --node.storers;
}

}  // namespace

void store(Node& node, Arrival arrival) {
  if (content_at(node, arrival.slot).chunks > 1) return node.tasks.spawn(node.strand, "storing", store_chunk(node, std::move(arrival)));
  node.to_store_bytes += arrival.buffer.size();
  node.to_store.push_back(std::move(arrival));
  const bool is_worth_another = node.storers == 0 || node.to_store.size() >= kWorthAnother;
  if (!is_worth_another || node.storers == kMostStorers) return;
  ++node.storers;
  node.tasks.spawn(node.strand, "storing small files", store_small(node));
}

}  // namespace shoal
