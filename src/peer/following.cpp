module;

#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <tuple>
#include <unordered_set>
#include <utility>
#include <vector>

module shoal.peer;

import :node;
import shoal.base;
import shoal.digest;
import shoal.schedule;
import shoal.world;

namespace shoal {
namespace {

constexpr std::uint32_t kMostChunks = 16;     // of each content, that a worker digests in one go, ...
constexpr std::uint32_t kMostAlone = 128;     // ... or of the only file of a command: it has to wait for the node in between
constexpr std::uint32_t kMostWaiting = 2048;  // chunks of a content, that wait for others to go along: they are likely still in memory
constexpr std::uint32_t kFarAhead = 3 * kMostAlone;                // chunks, that an MD5 has before it without coming to an end of them
constexpr Nanoseconds kMostLate = std::chrono::milliseconds(100);  // for company
constexpr std::size_t kPieceSize = 32 * 1024;  // of each content at a time: those of all lanes stay in the nearer caches

/// What a worker is to digest of one content.
struct Followed {
  ContentIndex content;
  std::uint32_t life = 0;
  std::shared_ptr<const PartialFile> file;
  std::uint64_t at = 0;
  std::uint64_t stop = 0;
  std::uint32_t next_chunk = 0;
  Md5Stream md5;
  Result<> digested;
};

/// The only file that is fetched is so far ahead of its MD5 that the command is over no sooner if more of it comes now.
bool is_far_ahead(const Node& node, const Content& content) {
  const bool is_alone = node.ends_when_done && node.fetching.size() == 1 && content.stage == Stage::fetching && content.several;
  return is_alone && !node.options.md5_later && content.several->md5_end - content.several->md5_next >= kFarAhead;
}

std::uint32_t backlog_of(const Content& content) { return content.several->md5_end - content.several->md5_next; }

WaitingMd5s waiting_md5s(const Node& node) {
  WaitingMd5s waiting{
      .contents = node.to_follow.size(), .fetching = node.fetching.size(), .workers = node.followers, .pace = kernels_in_use().pace};
  for (const ContentIndex index : node.to_follow) {
    const Content& content = *node.contents[index.value];
    const Nanoseconds elapsed = content.began ? node.world.now() - *content.began : Nanoseconds(0);
    const Nanoseconds whole_for = has_all(content) ? node.world.now() - content.several->whole_since : Nanoseconds(0);
    if (is_pressing(backlog_of(content), content.have, content.chunks, elapsed, whole_for, waiting.pace.chunk_time))
      waiting.is_one_pressing = true;
  }
  return waiting;
}

/// What is nearest to its end, or farthest behind, comes first.
void sort_by_need(Node& node) {
  const auto need = [&](ContentIndex index) {
    const Content& content = *node.contents[index.value];
    return std::tuple(content.several->md5_end == content.chunks, backlog_of(content));
  };
  std::ranges::sort(node.to_follow, std::greater(), need);
}

Followed hand_out(Content& content, std::uint32_t chunks) {
  content.several->is_hashing = true;
  const std::uint64_t begin = content.several->md5_next;
  const std::uint32_t end = content.several->md5_next + chunks;
  const std::uint64_t stop = std::min<std::uint64_t>(content.size, std::uint64_t{end} * kChunkSize);
  return {content.index, content.life, content.partial, begin * kChunkSize, stop, end, content.several->md5, {}};
}

/// What another worker is to digest, if any is worth it: as many contents as there are lanes, and as many chunks of each as the one
/// with the fewest has, so that no lane is idle.
std::vector<Followed> next_batch(Node& node) {
  const WaitingMd5s waiting = waiting_md5s(node);
  if (!is_worth_a_worker(waiting)) return {};
  std::erase_if(node.to_follow, [&](ContentIndex index) { return !node.contents[index.value]->partial; });  // given up
  sort_by_need(node);
  const auto taken = std::span(node.to_follow).first(std::min(waiting.pace.together, node.to_follow.size()));
  std::uint32_t chunks = node.ends_when_done && taken.size() == 1 ? kMostAlone : kMostChunks;
  for (const ContentIndex index : taken) chunks = std::min(chunks, backlog_of(*node.contents[index.value]));
  std::vector<Followed> batch;
  for (const ContentIndex index : taken) batch.push_back(hand_out(*node.contents[index.value], chunks));
  node.to_follow.erase(node.to_follow.begin(), node.to_follow.begin() + static_cast<std::ptrdiff_t>(taken.size()));
  if (!batch.empty()) ++node.followers;
  return batch;
}

/// Reads the next piece of a content; none where it is at its end, or cannot be read.
std::span<const std::byte> read_piece(Followed& followed, std::span<std::byte> buffer) {
  const auto piece = buffer.first(std::min<std::uint64_t>(buffer.size(), followed.stop - followed.at));
  followed.digested = followed.file->read(followed.at, piece);
  followed.at = followed.digested ? followed.at + piece.size() : followed.stop;
  return followed.digested ? piece : piece.first(0);
}

/// On a worker.
void digest_together(const Digester& digester, std::span<Followed> batch) {
  thread_local std::vector<std::byte> buffers(KernelPlan::kMostStreams * kPieceSize);
  std::vector<Md5Piece> pieces;
  std::vector<std::uint64_t> offsets;
  do {
    pieces.clear();
    offsets.clear();
    for (Followed& followed : batch) {
      if (followed.at >= followed.stop) continue;
      offsets.push_back(followed.at);
      pieces.push_back({&followed.md5, read_piece(followed, std::span(buffers).subspan(pieces.size() * kPieceSize, kPieceSize))});
    }
    digester.update_together(pieces, offsets);
  } while (!pieces.empty());
}

/// Queues a content where there is something to be digested.
void queue_up(Node& node, Content& content) {
  const bool is_queued = std::ranges::find(node.to_follow, content.index) != node.to_follow.end();
  if (!content.several->is_hashing && !content.md5_found && !is_queued && backlog_of(content) > 0) node.to_follow.push_back(content.index);
}

/// Takes back what a worker had in hand.
void take_in(Node& node, Followed& followed) {
  Content& content = *find_content(node, followed.content);
  if (content.life != followed.life) return;  // it was given up meanwhile
  content.several->is_hashing = false;
  if (!followed.digested) return on_unread(node, content, followed.digested.error());
  content.several->md5 = followed.md5;
  content.several->md5_next = followed.next_chunk;
  if (content.several->md5_next < content.chunks) return queue_up(node, content);
  content.md5_found = content.several->md5.finish();
  if (has_all(content)) on_md5(node, content, *content.md5_found);
}

/// Has contents digested for as long as it is worth it.
Task<> follow_contents(Node& node, std::vector<Followed> batch) {
  while (!batch.empty()) {
    co_await run_on(node.world.workers(), [&] { digest_together(node.world.digester(), batch); });
    for (Followed& followed : batch) take_in(node, followed);
    --node.followers;
    batch = next_batch(node);
  }
}

}  // namespace

/// One worker at a time; several only where there is enough for all lanes of each, or where lanes gain nothing.
bool is_worth_a_worker(const WaitingMd5s& waiting) {
  const Md5Pace& pace = waiting.pace;
  if (waiting.contents == 0) return false;
  if (waiting.workers > 0) return waiting.contents >= pace.together || pace.enough[pace.together] == 1;
  return waiting.is_one_pressing || waiting.contents >= pace.enough[std::min(waiting.fetching, pace.enough.size() - 1)];
}

bool is_pressing(std::uint32_t behind, std::uint32_t have, std::uint32_t chunks, Nanoseconds elapsed, Nanoseconds whole_for,
                 Nanoseconds chunk_time) {
  if (behind == 0 || have == 0) return false;
  const Nanoseconds remaining = have < chunks ? elapsed / have * (chunks - have) : kMostLate - whole_for;
  return behind >= kMostWaiting || behind * chunk_time > remaining;
}

/// Waits, before a chunk is stored, while the MD5 is far behind: what is received faster than that takes the processors from it, and has to
/// be read from the disk again where memory is short.
Task<> keep_near_md5(Node& node, const Content& content) {
  constexpr std::chrono::milliseconds kPause(2);
  while (is_far_ahead(node, content)) co_await node.world.sleep(kPause);
}

void follow_md5(Node& node, Content& content) {
  while (content.several->md5_end < content.chunks && node.picker.has(slot_of(content, content.several->md5_end)))
    ++content.several->md5_end;
  queue_up(node, content);
  follow_waiting(node);
}

void follow_waiting(Node& node) {
  auto batch = next_batch(node);
  if (!batch.empty()) node.tasks.spawn(node.strand, "md5", follow_contents(node, std::move(batch)));
}

void forget_md5(Node& node, Content& content) {
  content.md5_found.reset();
  if (!content.several) return;
  std::erase(node.to_follow, content.index);
  content.several->md5 = {};
  content.several->md5_next = content.several->md5_end = 0;
  content.several->is_hashing = false;
}

}  // namespace shoal
