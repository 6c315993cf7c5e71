module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/post.hpp>
#include <system_error>
#include <tl/expected.hpp>

#include <cstdint>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <system_error>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <variant>

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

bool ContentSet::insert(ContentIndex index) {
  if (contains(index)) return false;
  if (index.value >= bits_.size()) bits_.resize(index.value + std::size_t{1});
  bits_[index.value] = true;
  return true;
}

bool ContentSet::erase(ContentIndex index) {
  if (!contains(index)) return false;
  bits_[index.value] = false;
  return true;
}

std::uint32_t HandleTable::try_set(ContentIndex index, std::uint32_t handle) {
  if (index.value >= handles_.size()) handles_.resize(index.value + std::size_t{1});
  auto& held = handles_[index.value];
  if (!held) held = handle;
  return *held;
}

void HandleTable::erase(ContentIndex index) {
  if (contains(index)) handles_[index.value].reset();
}

std::uint64_t instance_for_peers(std::uint64_t instance_for_tracker) {
  const Sha256Digest digest = sha256(std::as_bytes(std::span(&instance_for_tracker, 1)));
  std::uint64_t instance = 0;
  std::memcpy(&instance, digest.bytes.data(), sizeof instance);
  return instance | 1;
}

Remote* find_remote(Node& node, Source source) {
  const auto remote = node.remotes.find(source);
  return remote == node.remotes.end() ? nullptr : remote->second.get();
}

Remote* remote_of(Node& node, const SessionPtr& session) {
  Remote* remote = session->source ? find_remote(node, *session->source) : nullptr;
  return remote && remote->session == session ? remote : nullptr;
}

void tell(Remote& remote, Message message) {
  asio::post(remote.session->link->executor(),
             [session = remote.session, message = std::move(message)]() mutable { session->outbox.push(std::move(message)); });
}

namespace {

void close_later(const SessionPtr& session) {
  asio::post(session->link->executor(), [session] { session->link->close(); });
}

/// Two peers may connect to each other at once. Both keep the connection that the one with the lesser name began.
bool is_better(const Node& node, const PeerSession& fresh, const PeerSession& old) {
  if (fresh.instance != old.instance) return true;  // the other has started anew; its old connection is dead
  const bool we_are_lesser = node.options.id < fresh.id;
  return fresh.is_initiator == we_are_lesser && old.is_initiator != we_are_lesser;
}

/// Takes a neighbour out of all tables.
void forget(Node& node, Remote& remote) {
  release_requests(node, remote);
  node.queue.remove(remote.source);
  node.first_copies.remove(remote.source);
  std::erase_if(node.hash_requests, [&](const auto& asked) { return asked.second.source == remote.source; });
  std::erase_if(node.postponed, [&](const Postponed& each) { return each.source == remote.source; });
  node.picker.remove_source(remote.source);
  if (const auto known = node.by_id.find(remote.id); known != node.by_id.end() && known->second == remote.source) node.by_id.erase(known);
  node.remotes.erase(remote.source);
}

/// Anybody may come as a peer, under any name: each by itself are only those that the tracker named.
void tell_of_end(Node& node, const std::string& id, const Error& why) {
  const std::string kind = fmt::format("peer {}: {}", node.roster.contains(id) ? id : std::string(), why.code.message());
  if (why.code == std::errc::connection_reset)
    node.report.note_now_and_then(kind, fmt::format("peer {}: connection was forcibly closed", id));
  else if (why.code == make_error_code(Errc::closed))
    node.report.debug_now_and_then(kind, fmt::format("peer {}: connection closed", id));
  else
    node.report.warn_now_and_then(kind, fmt::format("peer {}: {}", id, why.message()));
}

}  // namespace

bool admit(Node& node, const SessionPtr& session) {
  end_attempt(node, *session);
  if (node.outcome || session->instance == instance_for_peers(node.instance) || session->id == node.options.id) return false;
  if (node.dropped.contains({session->id, session->instance})) return false;
  if (const auto known = node.by_id.find(session->id); known != node.by_id.end()) {
    Remote& old = *node.remotes.at(known->second);
    if (!is_better(node, *session, *old.session)) return false;
    close_later(old.session);
    forget(node, old);
  }
  if (node.remotes.size() >= kMostNeighbours) return false;
  auto remote = std::make_unique<Remote>();
  remote->since = node.world.now();
  remote->source = node.picker.add_source();
  remote->id = session->id;
  remote->session = session;
  session->source = remote->source;
  node.by_id[session->id] = remote->source;
  node.report.detail("peer", {{"peer", session->id}, {"address", to_string(session->link->remote())}});
  node.remotes.emplace(remote->source, std::move(remote));
  if (session->roots_told != node.asked_roots.size())
    for (Message& subscription : subscriptions(node)) tell(*node.remotes.at(*session->source), std::move(subscription));
  return true;
}

void part(Node& node, const SessionPtr& session, const std::optional<Error>& why) {
  if (!session->source) return;
  Remote* remote = find_remote(node, *session->source);
  if (!remote || remote->session != session) return;
  node.report.detail("peer_gone", {{"peer", session->id}, {"why", why ? why->message() : "left"}});
  if (why && !node.outcome) tell_of_end(node, session->id, *why);
  forget(node, *remote);
  give_up_lost(node);
  check_done(node);
  refill_all(node);
  serve_next(node);
}

Result<> on_message(Node& node, const SessionPtr& session, const Message& message) {
  Remote* remote = remote_of(node, session);
  if (!remote) return fail(Errc::closed, "the session was replaced");
  Result<> result;
  if (const auto* have = std::get_if<Have>(&message))
    result = on_have(node, *remote, *have);
  else if (const auto* request = std::get_if<Request>(&message))
    result = on_request(node, *remote, *request);
  else if (const auto* inventory = std::get_if<Inventory>(&message))
    result = on_inventory(node, *remote, *inventory);
  else if (const auto* cancel = std::get_if<Cancel>(&message))
    on_cancel(node, *remote, *cancel);
  else if (const auto* reject = std::get_if<Reject>(&message))
    on_reject(node, *remote, *reject);
  else if (const auto* hashes = std::get_if<HashRequest>(&message))
    on_hash_request(node, *remote, *hashes);
  else if (const auto* reply = std::get_if<HashReply>(&message))
    result = on_hash_reply(node, *remote, *reply);
  else if (const auto* gone = std::get_if<Gone>(&message))
    on_gone(node, *remote, *gone);
  else if (const auto* subscribe = std::get_if<Subscribe>(&message))
    on_subscribe(node, *remote, *subscribe);
  else
    return fail(Errc::out_of_order, fmt::format("got {} from a peer", name_of(type_of(message))));
  return result;
}

}  // namespace shoal
