module;

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

module shoal.tracker;

import shoal.base;
import shoal.wire;
import shoal.world;

namespace shoal {
namespace {

/// A probe holds less than these entries' bytes, so that it fits its frame.
constexpr std::size_t kEntriesBytes = 24 * 1024;

bool has_bit(const std::vector<std::uint8_t>& bits, std::size_t bit) {
  return bit / 8 < bits.size() && (bits[bit / 8] >> bit % 8 & 1) != 0;
}

}  // namespace

/// One page's worth of questions.
struct Locator::Round {
  struct Question {
    std::vector<std::size_t> entries;  ///< Of the page, in the order of the probe.
    std::optional<ProbeReply> reply;
  };
  std::map<PeerId, Question> questions;
  std::vector<std::uint32_t> probes;
  std::size_t waiting = 0;
  Signal changed;
};

Locator::Locator(World& world, Registry& registry, TaskGroup& tasks, Executor strand, Send send)
    : world_(world), registry_(registry), tasks_(tasks), strand_(std::move(strand)), send_(std::move(send)) {}

void Locator::ask(const std::shared_ptr<Round>& round, const Registry::Listing& listing) {
  std::map<PeerId, Probe> probes;
  for (std::size_t i = 0; i < listing.entries.size(); ++i)
    for (const PeerId peer : listing.entries[i].holders) {
      round->questions[peer].entries.push_back(i);
      probes[peer].wanted.push_back({listing.entries[i].entry.name, listing.entries[i].entry.size, listing.entries[i].entry.root});
    }
  for (auto& [peer, probe] : probes) {
    probe.probe = next_probe_++;
    const std::uint32_t number = probe.probe;
    if (!send_(peer, std::move(probe))) continue;
    waiting_[number] = {peer, round};
    round->probes.push_back(number);
    ++round->waiting;
  }
}

Task<> Locator::end_in_time(std::shared_ptr<Round> round) {
  co_await world_.sleep(kPatience);
  round->waiting = 0;
  round->changed.notify();
}

void Locator::on_reply(PeerId peer, const ProbeReply& reply) {
  const auto asked = waiting_.find(reply.probe);
  if (asked == waiting_.end() || asked->second.first != peer) return;  // too late
  const auto round = std::move(asked->second.second);
  waiting_.erase(asked);
  round->questions.at(peer).reply = reply;
  if (round->waiting > 0 && --round->waiting == 0) round->changed.notify();
}

void Locator::on_gone(PeerId peer) {
  for (auto asked = waiting_.begin(); asked != waiting_.end();) {
    if (asked->second.first != peer) {
      ++asked;
      continue;
    }
    const auto round = std::move(asked->second.second);
    asked = waiting_.erase(asked);
    if (round->waiting > 0 && --round->waiting == 0) round->changed.notify();
  }
}

Task<Locator::Page> Locator::locate(std::string pattern, Registry::Cursor from, Vantage reader) {
  Registry::Listing listing = registry_.candidates(pattern, from, kEntriesBytes);
  Page page{{}, 0, 0, {}, std::move(listing.next)};
  const auto round = std::make_shared<Round>();
  ask(round, listing);
  if (round->waiting > 0) tasks_.spawn(strand_, "probing", end_in_time(round));
  while (round->waiting > 0) co_await round->changed.wait();
  for (const std::uint32_t probe : round->probes) waiting_.erase(probe);

  for (auto& found : listing.entries) page.entries.push_back({std::move(found.entry), {}});
  for (const auto& [peer, question] : round->questions) {
    ++page.asked;
    if (!question.reply) {
      ++page.silent;
      registry_.set_down(peer, true);
      if (const auto gone = registry_.find_peer(peer, reader); gone && page.missing.size() < kMaxMissing)
        page.missing.push_back({peer, gone->id, gone->host, gone->port, 0});
      continue;
    }
    const auto known = registry_.find_peer(peer, reader);
    if (!known || !known->is_here) continue;
    for (std::size_t i = 0; i < question.entries.size(); ++i)
      if (has_bit(question.reply->bits, i))
        page.entries[question.entries[i]].holders.push_back({peer, known->id, known->host, known->port, question.reply->load});
  }
  std::erase_if(page.entries, [](const LocatedEntry& entry) { return entry.holders.empty(); });
  for (LocatedEntry& entry : page.entries) {
    std::ranges::sort(entry.holders, {}, [](const Holder& holder) { return std::pair(holder.load, holder.peer); });
    if (entry.holders.size() > kMaxHolders) entry.holders.resize(kMaxHolders);
  }
  co_return page;
}

}  // namespace shoal
