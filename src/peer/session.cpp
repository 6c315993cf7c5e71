module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
#include <boost/system/system_error.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <exception>
#include <iterator>
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
import :subflows;
import shoal.base;
import shoal.bundle;
import shoal.manifest;
import shoal.report;
import shoal.schedule;
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kGreetingPatience = 10s;
constexpr Nanoseconds kIdlePatience = 15s;
constexpr Nanoseconds kRefusalLinger = 1s;
constexpr Nanoseconds kPingInterval = 4s;
constexpr Nanoseconds kPause = 30s;           // of a chunk, between two pieces of it
constexpr Nanoseconds kPauseOfSeveral = 90s;  // where there are further connections, or just were
constexpr Nanoseconds kChunkPatience = Bundle::kRemembered;
constexpr double kPieceSeconds = 0.005;  // a piece of a chunk takes about this long, so that control messages get between
constexpr std::uint32_t kLeastPiece = kLeafSize;
constexpr double kFarBelow = 8;                 // times as fast as it is, a link was taken for what its socket took
constexpr double kFarAbove = 4;                 // times as fast as it was, and no more, a link is taken to be
constexpr std::size_t kMostBegunChunks = 4;     // that a neighbour may send in alternating pieces, ...
constexpr std::size_t kMostBegunFurther = 2;    // ... and so many more for each further connection
constexpr std::size_t kMostUnsent = 64 * kMiB;  // of control messages to a neighbour
constexpr std::size_t kControlAtOnce = 16 * 1024;

[[noreturn]] void out_of_order(std::string what) { throw StepFailed(Error{make_error_code(Errc::out_of_order), std::move(what), {}}); }

// ---- the greeting -------------------------------------------------------------------------------------

/// Says hello and, along with it, what we want to hear of: a round trip is long where the other is far.
Task<> greet_as_initiator(Node& node, PeerSession& session) {
  Hello hello;
  hello.features = kSeveralConnections;
  hello.role = Role::peer_to_peer;
  hello.id = node.options.id;
  hello.instance = instance_for_peers(node.instance);
  std::vector<Message> first{std::move(hello)};
  co_await run_on(node.strand, [&] {
    session.roots_told = node.asked_roots.size();
    std::ranges::move(subscriptions(node), std::back_inserter(first));
  });
  co_await step(session.link->send(std::move(first)));
  const Welcome welcome = co_await step(receive<Welcome>(*session.link, kGreetingPatience));
  if (welcome.version < kOldestVersion || welcome.version > kProtocolVersion)
    throw StepFailed(Error{make_error_code(Errc::unsupported_version), "greeting", {}});
  session.id = welcome.id;
  session.instance = welcome.instance;
  session.several.are_known = (welcome.features & kSeveralConnections) != 0;
}

Task<> greet_as_acceptor(Node& node, PeerSession& session) {
  const Hello hello = co_await step(receive<Hello>(*session.link, kGreetingPatience));
  if (hello.magic != kMagic) throw StepFailed(Error{make_error_code(Errc::malformed), "not a shoal peer", {}});
  if (hello.version < kOldestVersion || hello.oldest > kProtocolVersion)
    co_await refuse(node.world, session, RefusalReason::version,
                    fmt::format("this peer speaks protocol {} to {}", kOldestVersion, kProtocolVersion));
  if (hello.role == Role::peer_to_tracker) co_await refuse(node.world, session, RefusalReason::wrong_role, "this is a peer, not a tracker");
  if (!check_name(hello.id)) co_await refuse(node.world, session, RefusalReason::other, "that name cannot be a peer's");
  if (hello.role == Role::overlay && !node.overlay)
    co_await refuse(node.world, session, RefusalReason::wrong_role, "this peer is no node of the overlay");
  session.is_subflow = hello.role == Role::subflow;
  if (session.is_subflow) co_return co_await let_join(node, session, hello);
  const std::uint64_t features = hello.features & kSeveralConnections;
  co_await step(send(*session.link,
                     Welcome{std::min(hello.version, kProtocolVersion), features, node.options.id, instance_for_peers(node.instance)}));
  session.id = hello.id;
  session.instance = hello.instance;
  session.is_question = hello.role == Role::question;
  session.is_node = hello.role == Role::overlay;
  session.several.are_known = features != 0;
}

// ---- the writer ---------------------------------------------------------------------------------------

/// How much of a chunk to send in one frame.
std::uint32_t piece_length(const PeerSession& session, std::uint32_t left) {
  const double piece = std::clamp(session.upload_rate * kPieceSeconds, double{kLeastPiece}, static_cast<double>(session.most_in_piece));
  return std::min(left, static_cast<std::uint32_t>(piece));
}

/// A socket takes the first bytes at once, however slow the link is: pieces become large only little by little, and small at once.
void update_rate(PeerSession& session, std::uint32_t bytes, Nanoseconds taken) {
  session.most_in_piece = std::max(session.most_in_piece, std::min(2 * bytes, kChunkSize));
  const double rate = bytes / std::max(Seconds(taken).count(), 1e-5);
  const bool was_guessed = session.upload_rate <= 0 || rate < session.upload_rate / kFarBelow;
  const double change = (std::min(rate, kFarAbove * session.upload_rate) - session.upload_rate) / 8;
  session.upload_rate = was_guessed ? rate : session.upload_rate + change;
}

Task<> send_control(PeerSession& session) {
  while (!session.outbox.is_empty()) co_await step(session.link->send(session.outbox.take_now(kControlAtOnce)));
}

/// Sends one chunk, with control messages between its pieces. False where the file is no longer what it was, or the
/// neighbour no longer wants it.
Task<bool> send_job(Node& node, PeerSession& session, UploadJob& job) {
  std::uint32_t sent = 0;
  while (sent < job.length) {
    co_await send_control(session);
    job.is_cancelled = session.cancelled.erase(job.ref) > 0;
    if (job.is_cancelled) co_return false;
    const std::uint32_t piece = piece_length(session, job.length - sent);
    const Instant begun = node.world.now();
    const auto result = co_await session.link->send_chunk({job.ref.handle, job.ref.chunk, sent, piece}, job.source, job.file_offset + sent);
    job.is_changed = !result && result.error().code == make_error_code(Errc::changed);
    if (job.is_changed) co_return false;
    if (!result) throw StepFailed(result.error());
    update_rate(session, piece, node.world.now() - begun);
    sent += piece;
  }
  co_return true;
}

/// How many of the first jobs can go out in one write, which takes no longer than a piece of a large chunk.
std::size_t small_ones(const PeerSession& session, std::span<const UploadJob> jobs) {
  std::uint32_t room = piece_length(session, kChunkSize);
  std::size_t count = 0;
  for (; count < jobs.size(); ++count) {
    const UploadJob& job = jobs[count];
    if (!job.source || job.length > kSmallChunk || job.length > room) break;
    room -= job.length;
  }
  return count;
}

/// Sends small chunks together; ends early with one whose file changed. Returns how many were dealt with.
Task<std::size_t> send_small(Node& node, PeerSession& session, std::span<UploadJob> jobs) {
  co_await send_control(session);
  std::vector<OutgoingChunk> chunks;
  std::vector<std::size_t> indices;
  std::uint32_t bytes = 0;
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    jobs[i].is_cancelled = session.cancelled.erase(jobs[i].ref) > 0;
    if (jobs[i].is_cancelled) continue;
    chunks.push_back({{jobs[i].ref.handle, jobs[i].ref.chunk, 0, jobs[i].length}, jobs[i].source, jobs[i].file_offset});
    indices.push_back(i);
    bytes += jobs[i].length;
  }
  const Instant begun = node.world.now();
  const std::size_t sent = co_await step(session.link->send_chunks(std::move(chunks)));
  for (std::size_t i = 0; i < sent; ++i) jobs[indices[i]].is_sent = true;
  if (sent == indices.size()) {
    if (bytes > 0) update_rate(session, bytes, node.world.now() - begun);
    co_return jobs.size();
  }
  jobs[indices[sent]].is_changed = true;
  co_return indices[sent] + 1;
}

/// Opens what the jobs are served from, on a worker.
Task<> open_sources(Node& node, std::vector<UploadJob>& jobs) {
  co_await run_on(node.world.workers(), [&] {
    for (auto& job : jobs) {
      if (job.source || !job.served_as) continue;
      auto opened = node.storage.open(*job.served_as);
      if (opened)
        job.source = std::move(*opened);
      else
        job.is_changed = opened.error().code == make_error_code(Errc::changed) || opened.error().code == make_error_code(Errc::not_found);
    }
  });
}

Task<> send_uploads(Node& node, SessionPtr session) {
  std::vector<UploadJob> jobs(std::make_move_iterator(session->uploads.begin()), std::make_move_iterator(session->uploads.end()));
  session->uploads.clear();
  for (const auto& job : jobs) session->in_hand.insert(job.ref);
  co_await open_sources(node, jobs);
  for (std::span<UploadJob> rest = jobs; !rest.empty();) {
    std::size_t done = small_ones(*session, rest);
    if (done > 1) {
      done = co_await send_small(node, *session, rest.first(done));
    } else {
      done = 1;
      rest.front().is_sent = rest.front().source && co_await send_job(node, *session, rest.front());
    }
    rest = rest.subspan(done);
  }
  std::uint64_t bytes = 0;
  std::vector<UploadJob> unsent;
  for (auto& job : jobs) {
    if (job.is_sent)
      bytes += job.length;
    else
      unsent.push_back(std::move(job));
  }
  session->in_hand.clear();
  session->cancelled.clear();
  post_to(node, [&node, session, bytes, unsent = std::move(unsent)]() mutable { on_sent(node, session, bytes, std::move(unsent)); });
}

/// The one writer of a connection: control messages before data. Without it the connection is of no use.
Task<> write_to(Node& node, SessionPtr session) {
  try {
    while (!session->is_over) {
      co_await send_control(*session);
      if (!session->uploads.empty())
        co_await send_uploads(node, session);
      else if (session->outbox.is_empty())
        co_await session->outbox.wait_for_work();
    }
  } catch (...) {
    session->link->close();
    throw;
  }
}

// ---- what was begun -----------------------------------------------------------------------------------

/// Stands still while the reader waits for buffers, for which the other side cannot help.
Nanoseconds reading_time(const Node& node, const PeerSession& session) { return node.world.now().time_since_epoch() - session.held_up; }

Task<ChunkBuffer> take_buffer(Node& node, PeerSession& session, std::uint32_t size) {
  const Instant begun = node.world.now();
  session.is_held_up = true;
  Budget::Share share = co_await node.buffers.take(size);
  session.is_held_up = false;
  session.held_up += node.world.now() - begun;
  co_return ChunkBuffer(node.buffer_pool, size, std::move(share));
}

std::size_t most_begun(const PeerSession& session) { return kMostBegunChunks + kMostBegunFurther * (session.link->carriers() - 1); }

/// A chunk that was begun keeps a buffer, which others wait for. What a lost connection of several carried comes later than a pause of
/// one: the loss has to be noticed.
void check_begun(const Node& node, const PeerSession& session) {
  if (session.is_held_up) return;
  const Nanoseconds now = reading_time(node, session);
  const Nanoseconds longest_pause = session.link->carriers() > 1 ? kPauseOfSeveral : kPause;
  for (const auto& [ref, expected] : session.expected) {
    if (!expected->begun) continue;
    const bool has_stopped = !session.is_within_piece && now - expected->moved > longest_pause;
    if (has_stopped || now - *expected->begun > kChunkPatience)
      throw StepFailed(Error{make_error_code(Errc::timed_out), fmt::format("the rest of chunk {}", ref.chunk), {}});
  }
}

Task<> ping_regularly(Node& node, SessionPtr session) {
  try {
    while (!session->is_over) {
      check_begun(node, *session);
      session->outbox.push(session->pings.next(node.world.now()));
      co_await node.world.sleep(kPingInterval);
    }
  } catch (...) {
    session->link->close();
    throw;
  }
}

// ---- the reader ---------------------------------------------------------------------------------------

void hand_in(Node& node, const SessionPtr& session, Received received) {
  if (session->inbox.put(std::move(received))) post_to(node, [&node, session] { take_arrivals(node, session); });
}

void keep_for_later(Node& node, PeerSession& session, PeerSession::Late late) {
  session.late.emplace_back(node.world.now() + session.latency, std::move(late));
  session.late_came.notify();
}

void tell_of_piece(Node& node, const SessionPtr& session, Slot slot) {
  post_to(node, [&node, session, slot] { on_piece(node, session, slot); });
}

/// One piece of a chunk that was asked for; when the chunk is whole it goes to the node.
Task<> take_piece(Node& node, SessionPtr session, ChunkHeader header) {
  const ChunkRef ref{header.handle, header.chunk};
  const auto found = session->expected.find(ref);
  if (found == session->expected.end()) out_of_order(fmt::format("a chunk {} that was not asked for", header.chunk));
  const std::shared_ptr<Expected> kept = found->second;  // a later request for the same chunk replaces the entry
  Expected& expected = *kept;
  if (header.offset != expected.filled || header.length > expected.length - expected.filled)
    out_of_order("a piece that does not follow the last one");
  if (expected.filled == 0) {
    if (++session->begun_chunks > most_begun(*session)) out_of_order("too many chunks at once");
    // What comes in one small piece is here before the news of its beginning would be.
    const bool is_soon_here = header.length == expected.length && header.length <= kSmallChunk;
    if (!is_soon_here) tell_of_piece(node, session, expected.slot);
    expected.buffer = co_await take_buffer(node, *session, expected.length);
    expected.begun = reading_time(node, *session);
  } else {
    tell_of_piece(node, session, expected.slot);
  }
  session->is_within_piece = true;
  co_await step(session->link->receive_payload(expected.buffer.span().subspan(expected.filled, header.length)));
  session->is_within_piece = false;
  expected.filled += header.length;
  expected.moved = reading_time(node, *session);
  if (expected.filled < expected.length) co_return;
  --session->begun_chunks;
  Received received{expected.slot, std::move(expected.buffer)};
  if (const auto entry = session->expected.find(ref); entry != session->expected.end() && entry->second == kept)
    session->expected.erase(entry);
  if (session->latency > Nanoseconds::zero())
    keep_for_later(node, *session, std::move(received));
  else
    hand_in(node, session, std::move(received));
}

/// A rejected chunk is not expected any more, unless it was begun.
void forget_rejected(PeerSession& session, const Reject& reject) {
  for (const ChunkRef& ref : reject.chunks) {
    const auto found = session.expected.find(ref);
    if (found == session.expected.end()) continue;
    if (found->second->filled > 0) --session.begun_chunks;
    session.expected.erase(found);
  }
}

Task<> handle(Node& node, SessionPtr session, Message message) {
  if (const auto* ping = std::get_if<Ping>(&message)) {
    const auto now = node.world.now().time_since_epoch().count();
    session->outbox.push(Pong{ping->t1, now, now});
    co_return;
  }
  if (const auto* pong = std::get_if<Pong>(&message)) {
    const Instant now = node.world.now();
    const auto rtt = session->pings.on_pong(*pong, now);
    if (!rtt) co_return;
    session->several.round_trip = std::min(session->several.round_trip.value_or(*rtt), *rtt);
    session->several.is_to_be_looked_at = true;
    co_await run_on(node.strand, [&] {
      if (Remote* remote = remote_of(node, session); remote) remote->rate.on_round_trip(now, *rtt);
    });
    co_return;
  }
  if (const auto* reject = std::get_if<Reject>(&message)) forget_rejected(*session, *reject);
  unwrap(co_await in_node(node, [&] { return on_message(node, session, message); }));
}

Task<> read_from(Node& node, SessionPtr session) {
  for (;;) {
    // Two peers that both stopped reading until the other takes what they say would wait for ever.
    if (session->outbox.bytes() > kMostUnsent)
      throw StepFailed(Error{make_error_code(Errc::too_large), "it does not take what it is sent", {}});
    offer_connections(node, *session);
    Incoming incoming = co_await step(session->link->receive(kIdlePatience));
    if (const auto* header = std::get_if<ChunkHeader>(&incoming)) {
      co_await take_piece(node, session, *header);
      continue;
    }
    if (std::holds_alternative<Leave>(std::get<Message>(incoming))) co_return;
    if (const auto* offer = std::get_if<Joinable>(&std::get<Message>(incoming))) {
      take_offer(node, session, *offer);
      continue;
    }
    if (session->latency > Nanoseconds::zero())
      keep_for_later(node, *session, std::get<Message>(std::move(incoming)));
    else
      co_await handle(node, session, std::get<Message>(std::move(incoming)));
  }
}

/// With an emulated latency: takes up what came when its time has come.
Task<> deliver_late(Node& node, SessionPtr session) {
  try {
    while (!session->is_over) {
      if (session->late.empty()) {
        co_await session->late_came.wait();
        continue;
      }
      auto [due, late] = std::move(session->late.front());
      session->late.pop_front();
      if (const Instant now = node.world.now(); due > now) co_await node.world.sleep(due - now);
      if (auto* message = std::get_if<Message>(&late))
        co_await handle(node, session, std::move(*message));
      else
        hand_in(node, session, std::get<Received>(std::move(late)));
    }
  } catch (...) {
    session->link->close();
    throw;
  }
}

}  // namespace

/// What the other sent along with its hello is not read: it would reset the connection, and the refusal may be lost with that.
Task<> refuse(World& world, PeerSession& session, RefusalReason reason, std::string text) {
  static_cast<void>(co_await send(*session.link, Refusal{reason, text}));
  co_await world.sleep(kRefusalLinger);
  throw StepFailed(Error{make_error_code(Errc::refused), std::move(text), {}});
}

Task<> serve_peer(Node& node, SessionPtr session) {
  std::optional<Error> why;
  try {
    co_await (session->is_initiator ? greet_as_initiator(node, *session) : greet_as_acceptor(node, *session));
    session->is_guest = session->is_question || session->is_node;
    if (session->is_subflow) co_return;
    session->link->established();
    if (session->is_node) co_return co_await node.overlay->serve(session->link, [session] { session->is_guest = false; });
    if (session->is_question) {
      co_await answer_questions(node, session);
      session->link->close();
      co_return;
    }
    session->latency = co_await in_node(node, [&] { return emulated_latency(node, *session); });
    const bool is_in = co_await in_node(node, [&] { return admit(node, session); });
    if (is_in) {
      node.tasks.spawn(session->link->executor(), "writer to " + session->id, write_to(node, session));
      node.tasks.spawn(session->link->executor(), "pings to " + session->id, ping_regularly(node, session));
      if (session->latency > Nanoseconds::zero())
        node.tasks.spawn(session->link->executor(), "late news of " + session->id, deliver_late(node, session));
      co_await read_from(node, session);
    }
  } catch (const StepFailed& failed) {
    why = failed.error();
  } catch (const boost::system::system_error& failed) {
    if (failed.code() == asio::error::operation_aborted) throw;
    why = Error{failed.code(), "a session failed", {}};
  } catch (const std::exception& failed) {
    why = Error{make_error_code(Errc::malformed), failed.what(), {}};
  }
  session->is_over = true;
  session->link->close();
  if (session->several.secret) node.subflows.withdraw(*session->several.secret);
  session->outbox.wake();
  session->late_came.notify();
  if (session->source) {
    co_await run_on(node.strand, [&] { part(node, session, why); });
  } else if (why) {
    const std::string kind = fmt::format("connection dropped: {}", why->code.message());
    node.report.detail_now_and_then(kind, "stranger", {{"address", to_string(session->link->remote())}, {"why", why->message()}});
    const bool is_worth_a_line = !session->is_initiator && why->code != make_error_code(Errc::closed);
    if (is_worth_a_line)
      node.report.warn_now_and_then(kind,
                                    fmt::format("connection from {} dropped: {}", to_string(session->link->remote()), why->message()));
  }
}

}  // namespace shoal
