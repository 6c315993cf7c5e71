module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/post.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

module shoal.peer;

import :node;
import shoal.base;
import shoal.report;
import shoal.schedule;
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;

namespace shoal {
namespace {

/// A writer that is busy for this many times as long as usual is stuck, and does not count.
constexpr double kStuckFactor = 4.0;               // docs/decisions/0023
constexpr double kStuckLeast = 0.1;                // seconds
constexpr double kStuckAtFirst = 2;                // seconds, while nothing has been sent
constexpr std::uint64_t kBatchBytes = kChunkSize;  // small chunks go out together

bool is_stuck(const Node& node, const Remote& remote) {
  const double stuck_after = node.batch_seconds ? kStuckFactor * *node.batch_seconds : kStuckAtFirst;
  return Seconds(node.world.now() - remote.sending_since).count() > stuck_after;
}

/// What is stuck counts as the least that is: where all are slow, nobody is stuck before long.
void learn_batch_time(Node& node, double seconds) {
  const double usual = node.batch_seconds.value_or(seconds);
  const double learned = usual + (std::min(seconds, kStuckFactor * usual) - usual) / 16;
  node.batch_seconds = std::max(learned, kStuckLeast / kStuckFactor);
}

/// Whether the neighbours that are sent to take up the uplink.
bool is_uplink_busy(const Node& node) {
  const Seconds usual(node.batch_seconds.value_or(0));
  std::uint32_t shares = 0;
  for (const auto& [source, remote] : node.remotes)
    if (remote->is_sending && !is_stuck(node, *remote)) shares += upload_shares(remote->rate.round_trip().value_or(Nanoseconds(0)), usual);
  return shares >= kUplinkShares;
}

UploadJob job_for(const Content& content, Slot slot) {
  const std::uint32_t chunk = chunk_of(content, slot);
  UploadJob job;
  job.ref = {content.index.value, chunk};
  job.slot = slot;
  job.length = chunk_length(content.size, ChunkIndex(chunk));
  job.file_offset = std::uint64_t{chunk} * kChunkSize;
  job.content = content.index;
  job.served_as = content.served_as;
  if (!content.served_as && content.partial) job.source = content.partial->source();
  return job;
}

bool can_serve(const Node& node, const Content& content, Slot slot) {
  return node.picker.has(slot) && (content.served_as || content.partial);
}

/// Whether we have chunks of this content that nobody else has or is getting.
bool has_unshared(const Node& node, const Content& content) {
  const Slot end(content.first.value + content.chunks);
  for (auto slot = node.picker.next_alone(content.first, end); slot; slot = node.picker.next_alone(Slot(slot->value + 1), end))
    if (!node.first_copies.is_promised(*slot)) return true;
  return false;
}

/// False where another is getting the first copy of it, and where it would be a further copy while first ones wait to be given out:
/// each of those is as good for whoever asks, and better for all others. Who asks again has found no other: it may have got what we
/// take for unshared, because nobody tells us of chunks that we have.
bool may_have_now(Node& node, Remote& remote, const Content& content, Slot slot, bool goes_out) {
  if (node.picker.availability(slot) == 0) {
    const Nanoseconds round_trip = remote.rate.round_trip().value_or(Nanoseconds(0));
    const Instant now = node.world.now();
    return goes_out ? node.first_copies.serve(slot, remote.source, now, round_trip)
                    : node.first_copies.promise(slot, remote.source, now, round_trip);
  }
  const bool must_wait = remote.wants_everything && content.chunks > 1 && has_unshared(node, content);
  return !must_wait || !remote.sent_away.insert(slot).second;
}

/// Takes the next chunk for one of the neighbours that `is_ready`; requests that cannot be served any more are rejected.
std::optional<std::pair<Remote*, UploadJob>> next_job(Node& node, const std::function<bool(Source)>& is_ready) {
  const auto availability = [&](Slot slot) { return node.picker.availability(slot); };
  while (const auto serve = node.queue.next(is_ready, availability)) {
    Remote& remote = *find_remote(node, serve->to);
    const Content& content = content_at(node, serve->slot);
    const bool is_here = can_serve(node, content, serve->slot);
    if (is_here && may_have_now(node, remote, content, serve->slot, true)) return std::pair(&remote, job_for(content, serve->slot));
    node.queue.unsend(serve->slot);
    Reject reject{{{content.index.value, chunk_of(content, serve->slot)}}};
    reject.is_for_now = is_here;
    tell(remote, std::move(reject));
  }
  return std::nullopt;
}

/// It may be on its way out: then the writer stops between two pieces.
void cancel_sending(Remote& remote, ChunkRef ref) {
  asio::post(remote.session->link->executor(), [session = remote.session, ref] {
    if (session->in_hand.contains(ref)) session->cancelled.insert(ref);
  });
}

void hand_over(Node& node, Remote& remote, std::vector<UploadJob> jobs) {
  remote.is_sending = true;
  remote.sending_since = node.world.now();
  asio::post(remote.session->link->executor(), [session = remote.session, jobs = std::move(jobs)]() mutable {
    for (auto& job : jobs) session->uploads.push_back(std::move(job));
    session->outbox.wake();
  });
}

}  // namespace

Result<> on_request(Node& node, Remote& remote, const Request& request) {
  remote.last_served = node.world.now();
  Reject refused;
  Reject postponed;
  postponed.is_for_now = true;
  for (const ChunkRef& ref : request.chunks) {
    const Content* content = find_content(node, ContentIndex(ref.handle));
    if (!content || ref.chunk >= content->chunks)
      return fail(Errc::malformed, fmt::format("a request for chunk {} of the unknown handle {}", ref.chunk, ref.handle));
    const Slot slot = slot_of(*content, ref.chunk);
    if (!can_serve(node, *content, slot))
      refused.chunks.push_back(ref);
    else if (!node.queue.has_room(remote.source, slot) || !may_have_now(node, remote, *content, slot, false))
      postponed.chunks.push_back(ref);  // no promise is made of what does not wait here
    else
      node.queue.add(remote.source, slot);
  }
  if (!refused.chunks.empty()) tell(remote, std::move(refused));
  if (!postponed.chunks.empty()) tell(remote, std::move(postponed));
  serve_next(node);
  return {};
}

void on_cancel(Node& node, Remote& remote, const Cancel& cancel) {
  Reject rejected;
  for (const ChunkRef& ref : cancel.chunks) {
    const Content* content = find_content(node, ContentIndex(ref.handle));
    if (content && ref.chunk < content->chunks && node.queue.cancel(remote.source, slot_of(*content, ref.chunk))) {
      node.first_copies.withdraw(slot_of(*content, ref.chunk), remote.source);
      rejected.chunks.push_back(ref);
    } else if (remote.is_sending && !cancel.is_elsewhere) {
      cancel_sending(remote, ref);
    }
  }
  if (!rejected.chunks.empty()) tell(remote, std::move(rejected));
}

void serve_next(Node& node) {
  if (node.queue.waiting() == 0) return;
  const auto is_idle = [&](Source source) { return !find_remote(node, source)->is_sending; };
  while (!is_uplink_busy(node)) {
    auto first = next_job(node, is_idle);
    if (!first) return;
    Remote& remote = *first->first;
    std::vector<UploadJob> jobs;
    std::uint64_t bytes = first->second.length;
    jobs.push_back(std::move(first->second));
    const auto is_same = [&](Source source) { return source == remote.source; };
    while (bytes < kBatchBytes) {
      auto more = next_job(node, is_same);
      if (!more) break;
      bytes += more->second.length;
      jobs.push_back(std::move(more->second));
    }
    hand_over(node, remote, std::move(jobs));
  }
}

void on_sent(Node& node, const SessionPtr& session, std::uint64_t bytes, std::vector<UploadJob> unsent) {
  const Instant now = node.world.now();
  node.up.add(now, bytes);
  for (const UploadJob& job : unsent) {
    node.queue.unsend(job.slot);
    if (job.is_changed && job.served_as) on_changed(node, job.content, *job.served_as);
  }
  Remote* remote = remote_of(node, session);
  if (!remote) return;
  Reject rejected;
  Reject postponed;
  postponed.is_for_now = true;
  // What cannot be read now, perhaps for want of a descriptor, is not gone for that.
  for (const UploadJob& job : unsent) (job.is_cancelled || job.is_changed ? rejected : postponed).chunks.push_back(job.ref);
  if (!rejected.chunks.empty()) tell(*remote, std::move(rejected));
  if (!postponed.chunks.empty()) tell(*remote, std::move(postponed));
  remote->bytes_sent += bytes;
  remote->last_served = now;
  remote->is_sending = false;
  if (bytes >= kBatchBytes / 2) learn_batch_time(node, Seconds(now - remote->sending_since).count());
  serve_next(node);
}

}  // namespace shoal
