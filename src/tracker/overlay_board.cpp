// The tracker's side of the overlay: a number and a place for each node, and the picture of all of them.
module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

module shoal.tracker;

import :overlay;
import shoal.base;
import shoal.report;
import shoal.tree;
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kIdleTimeout = 4s;     // a node pings once a second: it is out of the picture soon after it is gone
constexpr Nanoseconds kAskEvery = 100ms;     // of one node; one that asks more often waits
constexpr std::size_t kMostLinks = 1024;     // of one node
constexpr Nanoseconds kWriteAfter = 20ms;    // changes that come together are written together
constexpr Nanoseconds::rep kWriteShare = 9;  // drawing a large network takes no more than a tenth of the time
constexpr const char* kTopology = "topo.txt";
constexpr const char* kCount = "NumberOfServers.txt";

}  // namespace

Result<> check_join(const OverlayJoin& join) {
  if (join.key.nonce == 0) return fail(Errc::malformed, "overlay: a node without a nonce");
  if (join.port == 0) return fail(Errc::malformed, "overlay: a node without a port");
  if (join.host.size() > kMaxHost) return fail(Errc::too_large, fmt::format("overlay: an address of {} bytes", join.host.size()));
  return {};
}

OverlayBoard::OverlayBoard(World& world, Report& report, std::shared_ptr<RecordFolder> records, Executor strand,
                           std::function<Nanoseconds()> clock)
    : world_(world), report_(report), records_(std::move(records)), strand_(std::move(strand)), clock_(std::move(clock)) {}

Task<> OverlayBoard::on_strand(std::function<void()> work) { return run_on(strand_, std::move(work)); }

// ---- who is here --------------------------------------------------------------------------------------

/// A process that is here already has come back before its old connection was found dead. Others that say they are that node are
/// others: only the process knows its instance.
void OverlayBoard::enter(Connection connection, const Hello& hello, const OverlayJoin& join) {
  const auto number = connection.number;
  if (const auto old = by_process_.find({hello.id, hello.instance}); old != by_process_.end()) {
    asio::post(nodes_.at(old->second).connection.link->executor(), [link = nodes_.at(old->second).connection.link] { link->close(); });
    part(old->second, false);
  }
  const auto renumbered = census_.join(number, hello.id, join);
  const Whereabouts where{join.host, join.port, connection.seen};
  by_process_[{hello.id, hello.instance}] = number;
  nodes_[number] = {std::move(connection), hello.id, hello.instance, where};
  const std::string address = to_string(Endpoint{std::string(where.plain_host()), where.port});
  report_.event("overlay_joined", {{"node", fmt::format("s{}", census_.number_of(number))}, {"peer", hello.id}, {"address", address}});
  note_change();
  send_place(number);
  if (!renumbered) return;
  report_.debug(fmt::format("overlay: {} is s{} again, {} becomes s{}", hello.id, census_.number_of(number), nodes_.at(*renumbered).id,
                            census_.number_of(*renumbered)));
  send_place(*renumbered);
}

/// The connection is over. One that was replaced changes nothing.
void OverlayBoard::part(Census::SessionNumber number, bool has_left) {
  const auto found = nodes_.find(number);
  if (is_frozen_ || found == nodes_.end()) return;
  const Node node = std::move(found->second);
  report_.event("overlay_left", {{"node", fmt::format("s{}", census_.number_of(number))}, {"peer", node.id}, {"clean", has_left}});
  nodes_.erase(found);
  by_process_.erase({node.id, node.instance});
  census_.leave(number);
  note_change();
}

void OverlayBoard::set_links(Census::SessionNumber number, const OverlayLinks& links) {
  if (is_frozen_) return;
  census_.set_links(number, links);
  note_change();
}

/// The number of a node, and whom it may link to that it can reach. All of them go this way, so that a node hears the last one last.
void OverlayBoard::send_place(Census::SessionNumber number) {
  const auto found = nodes_.find(number);
  if (found == nodes_.end()) return;
  const auto address_of = [&](Census::SessionNumber other) { return address_for(nodes_.at(other).where, found->second.where.seen); };
  const auto reaches = [&](Census::SessionNumber other) { return address_of(other).port != 0; };
  OverlayPlace place{census_.number_of(number), {}};
  for (const auto entry : census_.entries_for(number, world_.now(), reaches)) {
    Endpoint at = address_of(entry);
    place.entries.push_back({census_.key_of(entry), std::move(at.host), at.port});
  }
  const Connection& to = found->second.connection;
  asio::post(to.link->executor(), [outbox = to.outbox, place = std::move(place)]() mutable { outbox->push(std::move(place)); });
}

Task<> OverlayBoard::answer(Connection connection) {
  Instant next_ask = world_.now();
  for (;;) {
    co_await connection.outbox->wait_for_room();
    const Incoming incoming = co_await step(connection.link->receive(kIdleTimeout));
    const auto* message = std::get_if<Message>(&incoming);
    if (const auto* links = message ? std::get_if<OverlayLinks>(message) : nullptr) {
      if (links->links.size() > kMostLinks)
        throw StepFailed(Error{make_error_code(Errc::too_large), fmt::format("overlay: a node with {} links", links->links.size()), {}});
      co_await on_strand([&] { set_links(connection.number, *links); });
    } else if (message && std::holds_alternative<OverlayAsk>(*message)) {
      if (const Instant now = world_.now(); now < next_ask) co_await world_.sleep(next_ask - now);
      next_ask = world_.now() + kAskEvery;
      co_await on_strand([&] { send_place(connection.number); });
    } else if (const auto* query = message ? std::get_if<OverlayList>(message) : nullptr) {
      co_await list(connection, *query);
    } else if (const auto* ping = message ? std::get_if<Ping>(message) : nullptr) {
      const auto now = clock_().count();
      connection.outbox->push(Pong{ping->t1, now, now});
    } else if (message && std::holds_alternative<Leave>(*message)) {
      co_return;
    } else {
      throw StepFailed(unexpected_message(incoming, MessageType::overlay_links));
    }
  }
}

Task<> OverlayBoard::serve(Connection connection, Hello hello, OverlayJoin join) {
  co_await on_strand([&] { enter(connection, hello, join); });
  bool has_left = false;
  std::optional<Error> failure;
  try {
    co_await answer(connection);
    has_left = true;
  } catch (const StepFailed& failed) {
    failure = failed.error();
  }
  co_await on_strand([&] { part(connection.number, has_left); });
  if (failure) throw StepFailed(std::move(*failure));
}

// ---- the picture --------------------------------------------------------------------------------------

void OverlayBoard::note_change() {
  picture_.reset();
  changed_.notify();
}

OverlayBoard::PicturePtr OverlayBoard::picture() {
  if (picture_) return picture_;
  const auto made = std::make_shared<Picture>();
  for (Census::Seen& seen : census_.nodes()) {
    made->places.push_back(nodes_.at(seen.session).where);
    made->nodes.push_back(std::move(seen.node));
  }
  return picture_ = made;
}

/// In as few messages as it takes, as fast as the reader takes them.
Task<> OverlayBoard::list(Connection connection, OverlayList query) {
  const PicturePtr all = co_await call_on(strand_, [this] { return picture(); });
  OverlayNodes part{query.query, false, {}};
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < all->nodes.size(); ++i) {
    OverlayNode node = all->nodes[i];
    Endpoint at = address_for(all->places[i], connection.seen);
    node.host = std::move(at.host);
    node.port = at.port;
    if (!part.nodes.empty() && bytes + encoded_size(node) > kElementRoom) {
      co_await connection.outbox->wait_for_room();
      connection.outbox->push(std::exchange(part, {query.query, false, {}}));
      bytes = 0;
    }
    bytes += encoded_size(node);
    part.nodes.push_back(std::move(node));
  }
  part.is_last = true;
  connection.outbox->push(std::move(part));
}

/// Readers see the old text or the new one, never half of it.
Result<> OverlayBoard::replace(const std::string& name, std::string text) {
  const auto before = written_.find(name);
  if (before != written_.end() && before->second == text) return {};
  const std::string temporary = ".shoal-" + name;
  auto file = records_->create(temporary);
  if (!file) return Failure(std::move(file).error());
  Result<> done = (*file)->append(std::as_bytes(std::span(text)));
  if (done) done = records_->rename(temporary, name);
  if (done)
    written_[name] = std::move(text);
  else
    records_->remove(temporary);
  return done;
}

Result<> OverlayBoard::write_all(const std::vector<OverlayNode>& nodes) {
  Result<> topology = replace(kTopology, topology_text(nodes));
  Result<> count = replace(kCount, fmt::format("{}\n", nodes.size()));
  return topology ? count : topology;
}

Task<> OverlayBoard::write() {
  if (!records_) co_return;
  const Instant began = world_.now();
  const PicturePtr now = picture();
  pause_ = std::max(kWriteAfter, kWriteShare * (world_.now() - began));
  const auto written = co_await offload(world_, [&] { return write_all(now->nodes); });
  if (written || std::exchange(has_failed_, true)) co_return;
  report_.lose(written.error(), fmt::format("{} and {} are out of date: {}", kTopology, kCount, written.error().message()));
}

Task<> OverlayBoard::keep() {
  while (records_) {
    co_await changed_.wait();
    co_await world_.sleep(pause_);
    co_await write();
  }
}

}  // namespace shoal
