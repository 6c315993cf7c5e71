// What the registry answers about files, and what of it outlives the tracker.
module;

#include <fmt/core.h>
#include <tl/expected.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

module shoal.tracker;

import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.wire;

namespace shoal {

// ---- queries ------------------------------------------------------------------------------------------

namespace {

/// So many names are looked at before others get their turn on the strand.
constexpr std::size_t kMostLooks = 20'000;

/// No content comes after it.
const Sha256Digest kLastDigest = [] {
  Sha256Digest digest;
  digest.bytes.fill(0xff);
  return digest;
}();

}  // namespace

Registry::Listing Registry::list(std::string_view pattern, const Cursor& from, std::size_t max_bytes, bool with_remembered,
                                 const Holders& holders) const {
  const EntryPattern meaning{std::string(pattern)};
  Listing listing;
  std::size_t bytes = 0;
  bool is_full = false;
  Cursor last = from;
  const auto add = [&](const FileEntry& entry, std::span<const PeerId> offered_by) {
    FoundEntry answer{entry, holders(entry, offered_by)};
    bytes += encoded_size(answer);
    is_full = bytes > max_bytes && !listing.entries.empty();
    if (is_full) return;
    listing.entries.push_back(std::move(answer));
    last = {entry.name, entry.root};
  };
  const auto visit = [&](const std::string& name, std::span<const PeerId> offered_by) {
    std::map<Sha256Digest, const FileEntry*> contents;  // one entry a name and content, whoever offers it
    for (const PeerId peer : offered_by) {
      const Member& member = members_[peer.value];
      const auto offered = member.offers.find(name);
      const bool counts = member.is_here || (with_remembered && is_asked(member));
      if (offered != member.offers.end() && (counts || is_held(offered->second)) && meaning.means(offered->second))
        contents.try_emplace(offered->second.root, &offered->second);
      const auto remembered = with_remembered && member.is_here ? member.remembered.find(name) : member.remembered.end();
      if (remembered != member.remembered.end() && meaning.means(remembered->second))
        contents.try_emplace(remembered->second.root, &remembered->second);
    }
    for (const auto& [root, entry] : contents)
      if (!is_full && (name != from.first || root > from.second)) add(*entry, offered_by);
    return !is_full;
  };
  const auto looked_at = names_.visit(pattern, from.first, kMostLooks, visit);
  if (is_full)
    listing.next = last;
  else if (looked_at)
    listing.next = Cursor(*looked_at, kLastDigest);
  return listing;
}

/// Who is gone without a goodbye is asked once more, so that somebody hears of it.
bool Registry::is_asked(const Member& member) {
  const bool is_missing = member.gone_since && !member.is_claim && !member.is_given_up;
  return !member.is_down && (member.is_here || is_missing);
}

bool Registry::may_have(const Member& member, const FileEntry& entry, bool is_sure) const {
  if (!is_asked(member)) return false;
  const auto has = [&](const auto& offers) {
    const auto offered = offers.find(entry.name);
    return offered != offers.end() && offered->second.root == entry.root && offered->second.kind == entry.kind;
  };
  return is_sure || has(member.offers) || has(member.remembered);
}

std::vector<PeerId> Registry::candidates_for(const FileEntry& entry, std::span<const PeerId> offered_by) const {
  std::set<PeerId> peers;
  for (const PeerId peer : offered_by)
    if (may_have(members_[peer.value], entry, false)) peers.insert(peer);
  const std::uint64_t chunks = chunk_count(entry.size);
  const auto counts = counts_.find(entry.root);
  if (chunks > 0 && counts != counts_.end())
    for (const auto& [peer, count] : counts->second)
      if (count >= chunks && may_have(members_[peer.value], entry, true)) peers.insert(peer);
  return {peers.begin(), peers.end()};
}

Registry::Listing Registry::candidates(std::string_view pattern, const Cursor& from, std::size_t max_bytes) const {
  return list(pattern, from, max_bytes, true,
              [this](const FileEntry& entry, std::span<const PeerId> offered_by) { return candidates_for(entry, offered_by); });
}

std::uint64_t Registry::offered_by(PeerId peer) const {
  const Member* known = member(peer);
  return known ? known->offers.size() - known->unconfirmed.size() : 0;
}

std::optional<RosterEntry> Registry::find_peer(PeerId peer, const Vantage& reader) const {
  const Member* known = member(peer);
  return known ? std::optional(roster_entry(*known, reader)) : std::nullopt;
}

const Vantage* Registry::vantage_of(PeerId peer) const {
  const Member* known = member(peer);
  return known && known->is_here ? &known->where.seen : nullptr;
}

void Registry::set_down(PeerId peer, bool is_down) {
  if (Member* known = member(peer)) known->is_down = is_down;
}

bool Registry::is_down(PeerId peer) const {
  const Member* known = member(peer);
  return known && known->is_down;
}

// ---- what outlives the tracker ------------------------------------------------------------------------

void Registry::restore(std::vector<RememberedPeer> peers, Instant now) {
  for (RememberedPeer& peer : peers) {
    if (!check_peer_id(peer.id)) continue;
    Member& member = enlist(peer.id);
    member.where = {std::move(peer.host), peer.port, {}};
    member.is_kept = member.is_claim = true;
    member.gone_since = now;
    for (FileEntry& entry : peer.offers) {
      if (!check_entry(entry)) continue;
      names_.add(entry.name, member.peer);
      member.remembered.try_emplace(entry.name, entry);
    }
  }
}

void Registry::keep(StateChange change) {
  if (options_.keeps_changes && options_.expect == 0) changes_.push_back(std::move(change));
}

void Registry::note_member(Member& member) {
  member.is_down = member.is_claim = false;
  keep(PeerSeen{member.id, std::string(member.where.plain_host()), member.where.port});
}

void Registry::note_offered(Member& member, const FileEntry& entry) {
  names_.add(entry.name, member.peer);
  const auto remembered = member.remembered.find(entry.name);
  const bool is_kept = remembered != member.remembered.end() && remembered->second == entry;
  if (remembered != member.remembered.end()) member.remembered.erase(remembered);
  if (!is_kept) keep(EntryOffered{member.id, entry});
}

void Registry::note_gone(Member& member, const std::string& name) {
  member.remembered.erase(name);
  names_.remove(name, member.peer);
  if (!member.is_given_up) keep(EntryWithdrawn{member.id, name});  // else all of it is forgotten already
}

void Registry::forget_remembered(Member& member) {
  std::vector<std::string> names;
  for (const auto& [name, entry] : member.remembered) names.push_back(name);
  for (const auto& name : names) note_gone(member, name);
}

void Registry::note_given_up(Member& member) {
  for (const auto& [name, entry] : member.remembered)
    if (!member.offers.contains(name)) names_.remove(name, member.peer);
  member.remembered.clear();
  member.is_kept = false;
  keep(PeerForgotten{member.id});
}

// ---- names --------------------------------------------------------------------------------------------

namespace {

constexpr std::string_view kSpecial = "*?[\\";

std::string_view last_part(std::string_view name) { return name.substr(name.rfind('/') + 1); }
std::size_t hash_of(std::string_view part) { return std::hash<std::string_view>()(part); }

/// What a name has to end with so that `pattern`, which is none by itself, may mean it.
std::string_view literal_end(std::string_view pattern) {
  if (pattern.ends_with('/') || pattern.find('\\') != std::string_view::npos) return {};
  const auto special = pattern.find_last_of("*?[]");
  if (special == std::string_view::npos) return {};
  pattern.remove_prefix(special + 1);
  return pattern.substr(pattern.starts_with('/') ? 1 : 0);  // `**/` may be no folder at all
}

}  // namespace

void NameIndex::add(const std::string& name, PeerId peer) {
  const std::size_t before = names_.size();
  const auto place = names_.try_emplace(names_.end(), name);  // most come in their order
  const bool is_new = names_.size() > before;
  auto& peers = place->second;
  if (std::ranges::find(peers, peer) != peers.end()) return;
  peers.push_back(peer);
  if (is_new && name.find('/') != std::string::npos) by_last_part_.emplace(hash_of(last_part(name)), place);
}

void NameIndex::remove(const std::string& name, PeerId peer) {
  const auto place = names_.find(name);
  if (place == names_.end()) return;
  std::erase(place->second, peer);
  if (!place->second.empty()) return;
  const auto [begin, end] = by_last_part_.equal_range(hash_of(last_part(name)));
  for (auto part = begin; part != end; ++part)
    if (part->second == place) {
      by_last_part_.erase(part);
      break;
    }
  names_.erase(place);
}

/// The names that a pattern without special characters means, in order.
std::vector<NameIndex::Names::const_iterator> NameIndex::spelled(std::string_view name) const {
  std::vector<Names::const_iterator> found;
  if (const auto place = names_.find(name); place != names_.end()) found.push_back(place);
  if (name.find('/') == std::string_view::npos) {
    const auto [begin, end] = by_last_part_.equal_range(hash_of(name));
    for (auto part = begin; part != end; ++part)
      if (last_part(part->second->first) == name) found.push_back(part->second);
  }
  std::ranges::sort(found, {}, [](const auto& place) { return std::string_view(place->first); });
  return found;
}

std::optional<std::string> NameIndex::visit(std::string_view pattern, std::string_view from, std::size_t most, const Visit& visit) const {
  const bool may_be_digest = pattern.size() == 32 || pattern.size() == 64;
  const auto special = pattern.find_first_of(kSpecial);
  if (!pattern.empty() && !pattern.ends_with('/') && special == std::string_view::npos && !may_be_digest) {
    for (const auto& place : spelled(pattern))
      if (place->first >= from && !visit(place->first, place->second)) break;
    return std::nullopt;
  }
  // A pattern with a '/' is compared with whole names, so they begin as it does.
  const auto slash = pattern.find('/');
  const bool is_whole = slash != std::string_view::npos && slash + 1 < pattern.size();
  const std::string_view prefix = is_whole && special != std::string_view::npos ? pattern.substr(0, special) : std::string_view();
  const std::string_view end = may_be_digest ? std::string_view() : literal_end(pattern);
  std::size_t looks = 0;
  for (auto place = names_.lower_bound(std::max(from, prefix)); place != names_.end(); ++place) {
    const std::string_view name = place->first;
    if (!name.starts_with(prefix)) return std::nullopt;
    if (name.ends_with(end) && !visit(place->first, place->second)) return place->first;
    if (++looks == most) return place->first;
  }
  return std::nullopt;
}

}  // namespace shoal
