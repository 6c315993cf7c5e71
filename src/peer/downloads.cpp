module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
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
import shoal.report;
import shoal.schedule;
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;

namespace shoal {
namespace {

/// With so many neighbours that have what we need, none has to be kept busy by itself.
constexpr std::size_t kManySources = 4;
/// While more than this waits to be stored, more would wait, too, and in memory that nothing has used yet.
constexpr std::uint64_t kMostToStore = 2 * kMiB;
/// One part in so many of its window is free when a neighbour is asked for more small chunks.
constexpr std::uint64_t kLeastRoom = 4;
/// Ties are drawn over so many times what is on its way to us and all who ask alike.
constexpr std::size_t kSpread = 16;
/// By then, and a round trip later, somebody else should have what a neighbour would not give us at once.
constexpr Nanoseconds kPostponement = std::chrono::milliseconds(500);
/// Between two pieces of a chunk, however slowly they come.
constexpr Nanoseconds kMostPatience = std::chrono::seconds(30);

std::uint32_t length_of(const Content& content, std::uint32_t chunk) { return chunk_length(content.size, ChunkIndex(chunk)); }

ChunkRef ref_of(const Remote& remote, const Content& content, Slot slot) {
  return {remote.handle_of.at(content.index), chunk_of(content, slot)};
}

/// Lets the link's reader know what may come before the request goes out.
void send_request(Remote& remote, std::vector<std::pair<ChunkRef, std::shared_ptr<Expected>>> wanted) {
  asio::post(remote.session->link->executor(), [session = remote.session, wanted = std::move(wanted)]() mutable {
    Request request;
    for (auto& [ref, expected] : wanted) {
      request.chunks.push_back(ref);
      session->expected.insert_or_assign(ref, std::move(expected));
    }
    session->outbox.push(std::move(request));
  });
}

void send_cancel(Node& node, Remote& remote, Slot slot, bool is_elsewhere = false) {
  const Content& content = content_at(node, slot);
  if (remote.handle_of.contains(content.index)) tell(remote, Cancel{{ref_of(remote, content, slot)}, is_elsewhere});
}

/// Takes back a request that has not begun to arrive, so that another can be asked once that is confirmed.
void withdraw(Node& node, Remote& remote, Slot slot, Outstanding& outstanding) {
  outstanding.is_cancelled = true;
  send_cancel(node, remote, slot, true);
}

Random random_of(Node& node) {
  return [&world = node.world] { return world.random(); };
}

/// In order is better for the disk and the MD5; at random is better where others wait for what we have.
bool fetches_in_order(const Node& node) {
  return std::ranges::all_of(node.remotes, [&](const auto& other) {
    return std::ranges::all_of(node.fetching, [&](ContentIndex index) { return other.second->complete.contains(index); });
  });
}

/// Among whom a source is that is asked now.
Company company_of_sources(const Node& node) {
  if (node.remotes.size() == 1) return Company::alone;
  std::size_t sources = 0;
  for (const auto& [source, remote] : node.remotes)
    if (node.picker.is_interesting(source) && ++sources == kManySources) return Company::many;
  return Company::few;
}

/// Small chunks are asked for many at a time: a message costs as much as several of them.
bool is_worth_waiting(const Remote& remote, Company company) {
  const bool are_small = remote.rate.outstanding() < remote.outstanding.size() * kSmallChunk;
  return are_small && !remote.rate.has_room(remote.rate.window(company) / kLeastRoom, company);
}

/// What all neighbours together may be asked for besides what they were.
std::uint64_t room_of_all(const Node& node) {
  std::uint64_t awaited = 0;
  for (const auto& [source, remote] : node.remotes) awaited += remote->awaited;
  return node.options.most_in_flight - std::min(awaited, node.options.most_in_flight);
}

/// Begins a request. Who never delivered anything is not waited for as long before it counts as late.
void begin_request(Node& node, Remote& remote, Slot slot, std::uint32_t length) {
  const Instant now = node.world.now();
  const Instant expected = now + remote.rate.expected(length);
  const Instant deadline = now + remote.rate.patience(length);
  node.picker.begin(slot);
  remote.outstanding[slot] = {now, now, expected, deadline, remote.rate.rate() > 0 ? deadline : expected, length};
  remote.awaited += length;
  remote.rate.on_request(now, length);
}

/// Others may be asked for it. It keeps its place in the neighbour's window.
void give_up(Node& node, Remote& remote, Slot slot, Outstanding& outstanding) {
  if (std::exchange(outstanding.is_given_up, true)) return;
  node.picker.end(slot);
  remote.awaited -= outstanding.length;
}

/// Ends a request; what it held of the window and of the slot is free again.
void settle(Node& node, Remote& remote, std::map<Slot, Outstanding>::iterator outstanding) {
  give_up(node, remote, outstanding->first, outstanding->second);
  remote.outstanding.erase(outstanding);
}

}  // namespace

void refill(Node& node, Remote& remote) {
  if (node.outcome || node.to_store_bytes > kMostToStore || !node.picker.is_interesting(remote.source)) return;
  const Random random = random_of(node);
  const bool in_order = fetches_in_order(node);
  const Company company = company_of_sources(node);
  if (is_worth_waiting(remote, company)) return;
  const std::size_t spread = kSpread * node.remotes.size() * (remote.rate.under_way() / kChunkSize);
  std::uint64_t room = room_of_all(node);
  std::vector<std::pair<ChunkRef, std::shared_ptr<Expected>>> wanted;
  constexpr std::size_t kMostAtOnce = 2048;
  while (wanted.size() < kMostAtOnce && remote.outstanding.size() < kMostAtOnce && remote.rate.has_room(kLeafSize, company)) {
    const auto slot = pick_for(node, remote, random, in_order, spread);
    if (!slot || remote.outstanding.contains(*slot)) break;  // the latter: it was cancelled there, and is not answered yet
    const Content& content = content_at(node, *slot);
    const std::uint32_t length = length_of(content, chunk_of(content, *slot));
    if (!remote.rate.has_room(length, company) || (length > room && remote.rate.outstanding() > 0)) break;
    room -= std::min<std::uint64_t>(length, room);
    begin_request(node, remote, *slot, length);
    wanted.emplace_back(ref_of(remote, content, *slot), std::make_shared<Expected>(Expected{*slot, length, 0, {}}));
  }
  if (!wanted.empty()) send_request(remote, std::move(wanted));
}

namespace {

/// Asks for one slot that was asked of another already.
void request_again(Node& node, Remote& remote, Slot slot) {
  const Content& content = content_at(node, slot);
  const std::uint32_t length = length_of(content, chunk_of(content, slot));
  begin_request(node, remote, slot, length);
  std::vector<std::pair<ChunkRef, std::shared_ptr<Expected>>> wanted;
  wanted.emplace_back(ref_of(remote, content, slot), std::make_shared<Expected>(Expected{slot, length, 0, {}}));
  send_request(remote, std::move(wanted));
}

}  // namespace

void ask_instead(Node& node, Remote& remote, Slot slot) {
  if (node.picker.in_flight(slot) != 1 || remote.outstanding.contains(slot) || !remote.rate.has_room(kChunkSize)) return;
  for (const auto& [source, asked] : node.remotes) {
    const auto outstanding = asked->outstanding.find(slot);
    if (outstanding == asked->outstanding.end() || outstanding->second.is_given_up) continue;
    if (outstanding->second.has_begun || outstanding->second.is_cancelled || is_farther(remote, *asked)) return;
    if (!should_ask_instead(asked->rate, remote.rate, node.picker.availability(slot), random_of(node))) return;
    return withdraw(node, *asked, slot, outstanding->second);
  }
}

void on_piece(Node& node, const SessionPtr& session, Slot slot) {
  Remote* remote = remote_of(node, session);
  if (!remote) return;
  const Instant now = node.world.now();
  remote->last_received = now;
  const auto found = remote->outstanding.find(slot);
  if (found == remote->outstanding.end()) return;
  Outstanding& outstanding = found->second;
  outstanding.has_begun = true;
  outstanding.is_cancelled = false;  // the two have crossed: it comes
  const Nanoseconds patience = std::clamp(3 * (now - outstanding.last_piece), remote->rate.patience(0), kMostPatience);
  outstanding.deadline = std::max(outstanding.deadline, now + patience);
  outstanding.last_piece = now;
  const bool is_needed = content_at(node, slot).stage == Stage::fetching && !node.picker.has(slot);
  if (!outstanding.is_given_up || !is_needed || node.picker.in_flight(slot) > 0) return;
  outstanding.is_given_up = false;  // it is late, but nobody else sends it
  node.picker.begin(slot);
  remote->awaited += outstanding.length;
}

void refill_all(Node& node) {
  for (const auto& [source, remote] : node.remotes) refill(node, *remote);
}

// ---- arrivals -----------------------------------------------------------------------------------------

namespace {

/// Cancels what others were asked for, now that it is here.
void cancel_copies(Node& node, Slot slot, const Remote* except) {
  for (const auto& [source, remote] : node.remotes) {
    if (remote.get() == except) continue;
    const auto outstanding = remote->outstanding.find(slot);
    if (outstanding == remote->outstanding.end()) continue;
    give_up(node, *remote, slot, outstanding->second);
    if (!std::exchange(outstanding->second.is_cut_off, true)) send_cancel(node, *remote, slot);
  }
}

void report_chunk(const Node& node, const Content& content, const Arrival& arrival, const Remote& remote, Nanoseconds taken) {
  node.report.detail("chunk", {{"root", to_hex(content.root).substr(0, 16)},
                               {"chunk", std::uint64_t{chunk_of(content, arrival.slot)}},
                               {"bytes", std::uint64_t{arrival.buffer.size()}},
                               {"from", remote.id},
                               {"seconds", Seconds(taken).count()}});
}

void on_arrival(Node& node, Arrival arrival) {
  const Instant now = node.world.now();
  const std::uint32_t length = arrival.buffer.size();
  node.down.add(now, length);
  Content& content = content_at(node, arrival.slot);
  Remote* remote = remote_of(node, arrival.session);
  bool was_given_up = true;
  if (remote) {
    remote->bytes_received += length;
    remote->last_received = now;
    remote->is_late = false;
    if (const auto outstanding = remote->outstanding.find(arrival.slot); outstanding != remote->outstanding.end()) {
      was_given_up = outstanding->second.is_given_up;
      if (!was_given_up) remote->awaited -= outstanding->second.length;
      remote->rate.on_answer(outstanding->second.requested, now, length);
      if (node.report.wants_details()) report_chunk(node, content, arrival, *remote, now - outstanding->second.requested);
      remote->outstanding.erase(outstanding);
    }
  }
  cancel_copies(node, arrival.slot, remote);
  const bool is_needed = content.stage == Stage::fetching && !node.picker.has(arrival.slot);
  if (!is_needed || (was_given_up && node.picker.in_flight(arrival.slot) > 0)) {
    if (!was_given_up) node.picker.end(arrival.slot);
    node.bytes_wasted += length;
  } else {
    // Stays in flight until it is verified, so that nobody is asked for it meanwhile.
    if (was_given_up) node.picker.begin(arrival.slot);
    store(node, std::move(arrival));
  }
}

}  // namespace

void take_arrivals(Node& node, const SessionPtr& session) {
  for (Received& received : session->inbox.take()) on_arrival(node, {session, received.slot, std::move(received.buffer)});
  if (Remote* remote = remote_of(node, session)) refill(node, *remote);
}

namespace {

void postpone(Node& node, const Remote& remote, Slot slot) {
  const Instant until = node.world.now() + kPostponement + remote.rate.round_trip().value_or(Nanoseconds(0));
  const auto after = std::ranges::upper_bound(node.postponed, until, {}, &Postponed::until);
  node.postponed.insert(after, {until, remote.source, slot});
}

}  // namespace

void on_reject(Node& node, Remote& remote, const Reject& reject) {
  bool is_crowded = false;
  for (const ChunkRef& ref : reject.chunks) {
    const auto index = content_for(remote, ref.handle);
    if (!index || ref.chunk >= find_content(node, *index)->chunks) continue;
    const Content& content = *find_content(node, *index);
    const Slot slot = slot_of(content, ref.chunk);
    const auto outstanding = remote.outstanding.find(slot);
    if (outstanding == remote.outstanding.end()) continue;
    // Others are getting the first copies where we begin. A larger file is taken from its front all the same, for the MD5.
    if (reject.is_for_now && content.chunks == 1 && outstanding->second.requested > node.moved_on) is_crowded = true;
    remote.rate.on_dropped(node.world.now(), outstanding->second.length);
    // It does not have it after all, or not for us now. Or we took it back for another to be asked, which is not to be
    // this one again: it would be taken back, and asked for, without end. Where we cut it off because the chunk had come,
    // and what came was wrong, it has it as before.
    if (!outstanding->second.is_given_up && !outstanding->second.is_cut_off) {
      node.picker.source_lost(remote.source, slot);
      if (reject.is_for_now || outstanding->second.is_cancelled) postpone(node, remote, slot);
    }
    settle(node, remote, outstanding);
  }
  if (is_crowded) {
    node.moved_on = node.world.now();
    node.picker.begin_elsewhere(remote.source, random_of(node));
  }
  refill_all(node);
}

void resume_postponed(Node& node) {
  const Instant now = node.world.now();
  std::set<Source> sources;
  for (; !node.postponed.empty() && node.postponed.front().until <= now; node.postponed.pop_front()) {
    const Postponed& resumed = node.postponed.front();
    if (learn_has(node, *find_remote(node, resumed.source), resumed.slot)) sources.insert(resumed.source);
  }
  for (const Source source : sources) refill(node, *find_remote(node, source));
}

void release_requests(Node& node, Remote& remote) {
  while (!remote.outstanding.empty()) settle(node, remote, remote.outstanding.begin());
}

void release_requests(Node& node, Remote& remote, const Content& content) {
  const Instant now = node.world.now();
  for (auto asked = remote.outstanding.lower_bound(content.first);
       asked != remote.outstanding.end() && asked->first.value < content.first.value + content.chunks;) {
    const auto outstanding = asked++;
    remote.rate.on_dropped(now, outstanding->second.length);
    settle(node, remote, outstanding);
  }
}

namespace {

/// Whether it has become late just now: those that are far may be asked for what it has.
bool is_late_now(Remote& remote, const Outstanding& outstanding, Instant now) {
  if (outstanding.is_given_up || now < outstanding.late_at) return false;
  return !std::exchange(remote.is_late, true);
}

}  // namespace

void expire_requests(Node& node) {
  const Instant now = node.world.now();
  bool has_freed = false;
  for (const auto& [source, remote] : node.remotes)
    for (auto& [slot, outstanding] : remote->outstanding) {
      has_freed |= is_late_now(*remote, outstanding, now);
      if (outstanding.is_given_up || now < outstanding.deadline) continue;
      // It keeps its place in the window: who does not answer is asked for no more. What has begun to come may come to its end, so that
      // a chunk gets through on the slowest link, too.
      give_up(node, *remote, slot, outstanding);
      send_cancel(node, *remote, slot, true);
      has_freed = true;
    }
  if (has_freed) refill_all(node);
}

// ---- the endgame --------------------------------------------------------------------------------------

namespace {

/// Requests that may be moved or doubled: those that have not begun to arrive, and at the very end the others too.
std::vector<InFlight> slow_candidates(const Node& node) {
  std::vector<InFlight> waiting;
  std::vector<InFlight> begun;
  for (const auto& [source, remote] : node.remotes)
    for (const auto& [slot, outstanding] : remote->outstanding)
      if (!outstanding.is_given_up && !outstanding.is_cancelled)
        (outstanding.has_begun ? begun : waiting).push_back({slot, source, outstanding.expected_at});
  const bool is_the_end = waiting.size() + begun.size() >= node.picker.missing();
  if (is_the_end) waiting.insert(waiting.end(), begun.begin(), begun.end());
  return waiting;
}

/// Whether it comes from somebody who was asked for it not long ago.
bool is_coming(const Node& node, Slot slot, Instant now) {
  return std::ranges::any_of(node.remotes, [&](const auto& remote) {
    const auto asked = remote.second->outstanding.find(slot);
    return asked != remote.second->outstanding.end() && asked->second.has_begun && now - asked->second.requested < kMostPatience;
  });
}

/// Takes back a request that has not begun to arrive, so that its slot is free once that is confirmed. One that has begun
/// goes on: then `remote` is asked too, and the sooner of the two counts.
void take_over(Node& node, Remote& remote, const InFlight& slow) {
  Remote& asked = *find_remote(node, slow.source);
  Outstanding& outstanding = asked.outstanding.at(slow.slot);
  if (outstanding.has_begun) return request_again(node, remote, slow.slot);
  withdraw(node, asked, slow.slot, outstanding);
}

}  // namespace

void duplicate_slow(Node& node) {
  std::vector<InFlight> candidates = slow_candidates(node);
  const Instant now = node.world.now();
  const Random random = random_of(node);
  for (const auto& [source, remote] : node.remotes) {
    if (candidates.empty()) return;
    if (!remote->rate.has_room(kChunkSize) || !node.picker.is_interesting(source)) continue;
    if (node.picker.pick(source, random, true)) continue;  // it has something fresh
    const bool may_double = remote->rate.rate() > 0;       // else nobody knows that it would be sooner
    const auto has = [&](Slot slot) {
      return node.picker.knows(source, slot) && !remote->outstanding.contains(slot) && (may_double || !is_coming(node, slot, now));
    };
    const auto copies = [&](Slot slot) { return node.picker.in_flight(slot); };
    const auto slow = pick_duplicate(candidates, source, now, remote->rate.expected(kChunkSize), has, copies);
    if (!slow) continue;
    take_over(node, *remote, *slow);
    std::erase_if(candidates, [&](const InFlight& other) { return other.slot == slow->slot; });
  }
}

}  // namespace shoal
