module;

#include <fmt/core.h>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <ranges>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <variant>
#include <vector>

module shoal.tracker;

namespace shoal {
namespace {

Registry::Denial deny(RefusalReason reason, std::string why, std::string advice) {
  return {{make_error_code(Errc::refused), std::move(why), std::move(advice)}, reason};
}

Failure no_member(PeerId peer) { return fail(Errc::out_of_order, fmt::format("peer {} is not registered", peer.value)); }

/// The longest that a restarted tracker lets its clock be set ahead by what a peer remembers.
constexpr Nanoseconds kLongestSwarm = std::chrono::hours(24 * 365);

}  // namespace

Result<> check_peer_id(std::string_view id) {
  if (id.size() > kMaxPeerId)
    return fail(Errc::usage, fmt::format("the peer name is {} bytes long", id.size()), fmt::format("use at most {}", kMaxPeerId));
  if (id.find('/') != std::string_view::npos || !check_name(id))
    return fail(Errc::usage, fmt::format("'{}' cannot name a peer", id), "use letters, digits, '-', '_' and '.'");
  return {};
}

Registry::Registry(Options options) : options_(options) {}

namespace {

/// The swarm clock as a peer knows it from a tracker before this one.
Nanoseconds remembered(std::uint64_t last_epoch, std::int64_t last_clock_ns) {
  return Nanoseconds(std::clamp<std::int64_t>(last_epoch != 0 ? last_clock_ns : 0, 0, kLongestSwarm.count()));
}

}  // namespace

void Registry::begin_clock(std::uint64_t last_epoch, std::int64_t last_clock_ns, Instant now) {
  if (!clock_zero_) clock_zero_ = now - remembered(last_epoch, last_clock_ns);
}

Nanoseconds Registry::clock(Instant now) const { return clock_zero_ ? now - *clock_zero_ : Nanoseconds::zero(); }

Registry::Member* Registry::member(PeerId peer) { return peer.value < members_.size() ? &members_[peer.value] : nullptr; }
const Registry::Member* Registry::member(PeerId peer) const { return peer.value < members_.size() ? &members_[peer.value] : nullptr; }

std::string_view Registry::name_of_peer(PeerId peer) const {
  const Member* known = member(peer);
  return known ? std::string_view(known->id) : std::string_view("?");
}

// ---- members come and go ------------------------------------------------------------------------------

/// Why the peer may not come in. Nothing has changed for it yet.
std::optional<Registry::Denial> Registry::objection_to(const Hello& hello, const Register& request) const {
  if (outcome_) return deny(RefusalReason::swarm_over, "the swarm is over", "start a new tracker");
  if (request.host.size() > kMaxHost)
    return deny(RefusalReason::bad_register, fmt::format("an address of {} bytes", request.host.size()),
                fmt::format("use at most {}", kMaxHost));
  const auto known = by_id_.find(hello.id);
  const Member* namesake = known == by_id_.end() ? nullptr : member(known->second);
  if (namesake && namesake->is_here && namesake->instance != hello.instance)
    return deny(RefusalReason::id_in_use, fmt::format("a peer named '{}' is here already", hello.id), "choose another name with --id");
  return objection_to_size(request.expect);
}

/// The size of the swarm is the tracker's own: a peer says only which one it counts on, and is turned away where that is another.
std::optional<Registry::Denial> Registry::objection_to_size(std::uint32_t expect) const {
  if (expect == 0 || expect == options_.expect) return std::nullopt;
  if (options_.expect == 0)
    return deny(RefusalReason::bad_register, fmt::format("this tracker was started without --expect, this peer with --expect {}", expect),
                fmt::format("start the tracker with --expect {}, too, or this peer without it", expect));
  return deny(RefusalReason::bad_register, fmt::format("this swarm is of {} peers, not {}", options_.expect, expect),
              "start all with the same --expect");
}

std::optional<PeerId> Registry::peer_named(const std::string& id) const {
  const auto known = by_id_.find(id);
  return known == by_id_.end() ? std::nullopt : std::optional(known->second);
}

Registry::Member& Registry::enlist(const std::string& id) {
  const auto [place, is_new] = by_id_.try_emplace(id, PeerId(static_cast<std::uint32_t>(members_.size())));
  if (is_new) {
    members_.emplace_back();
    members_.back().peer = place->second;
    members_.back().id = id;
  }
  return members_[place->second.value];
}

tl::expected<Registry::Admission, Registry::Denial> Registry::admit(const Hello& hello, const Register& request, const Vantage& seen,
                                                                    std::uint64_t session, Instant now) {
  if (auto objection = objection_to(hello, request)) return tl::unexpected(std::move(*objection));
  if (!begun_at_) {
    begun_at_ = now - remembered(request.last_epoch, request.last_clock_ns);
    if (!clock_zero_) clock_zero_ = begun_at_;
  }
  Member& member = enlist(hello.id);
  Admission admission{member.peer, std::nullopt, member.instance != 0};
  if (member.is_here) admission.replaced_session = member.session;
  set_present(member, true, false);
  member.instance = hello.instance;
  member.session = session;
  member.where = {request.host, request.port, seen};
  member.appetite = request.appetite;
  member.is_complete = member.is_given_up = member.was_done = false;
  member.gone_since.reset();
  member.unconfirmed.clear();
  for (const auto& [name, entry] : member.offers) member.unconfirmed.insert(name);
  note_member(member);
  tell_of(member);
  if (options_.expect == 0 || has_begun_) introduce(introductions_.arrive(member.peer));
  return admission;
}

void Registry::set_present(Member& member, bool is_here, bool has_offered) {
  here_ += static_cast<std::size_t>(is_here) - static_cast<std::size_t>(member.is_here);
  ready_ -= member.is_here && member.has_offered ? 1 : 0;
  member.is_here = is_here;
  member.has_offered = has_offered;
  ready_ += is_here && has_offered ? 1 : 0;
}

Result<std::vector<RosterEntry>> Registry::introduce(PeerId peer, std::size_t others) {
  const Member* member = this->member(peer);
  if (!member) return no_member(peer);
  introduce(introductions_.widen(peer, others));
  std::vector<RosterEntry> entries;
  for (const auto& [other, since] : member->others) entries.push_back(roster_entry(members_[other.value], member->where.seen));
  return entries;
}

void Registry::gone(PeerId peer, std::uint64_t session, bool left, Instant now) {
  Member* member = this->member(peer);
  if (!member || member->session != session || !member->is_here) return;
  member->was_done = is_done(*member);
  set_present(*member, false, member->has_offered);
  if (outcome_) return;  // nobody is left to be told
  member->gone_since = now;
  for (auto& [root, holders] : counts_) holders.erase(peer);
  tell_of(*member);
  introduce(introductions_.depart(peer));
  // Whoever says goodbye after it was done, or in a swarm that waits for nobody, is not waited for.
  if (left && (options_.expect == 0 || member->was_done)) give_up(*member);
  update(now);
}

void Registry::expire(Instant now) {
  for (Member& member : members_)
    if (member.gone_since && now - *member.gone_since >= options_.grace) give_up(member);
  update(now);
}

void Registry::give_up(Member& member) {
  member.gone_since.reset();
  member.is_given_up = true;
  note_given_up(member);
  // What was offered by another that is given up may have been held by just this one.
  for (Member& other : members_)
    if (other.is_given_up) retract_lost(other);
}

void Registry::retract_lost(Member& member) {
  std::vector<std::string> lost;
  for (const auto& [name, entry] : member.offers)
    if (!is_held(entry)) lost.push_back(name);
  for (const auto& name : lost) retract(member, name, true);
}

/// Whether somebody who is here has all of it, or it has nothing to have.
bool Registry::is_held(const FileEntry& entry) const {
  const std::uint64_t chunks = chunk_count(entry.size);
  if (chunks == 0) return true;
  const auto holders = counts_.find(entry.root);
  if (holders == counts_.end()) return false;
  return std::ranges::any_of(holders->second,
                             [&](const auto& holder) { return holder.second >= chunks && members_[holder.first.value].is_here; });
}

// ---- the catalogue ------------------------------------------------------------------------------------

Result<> Registry::offer(PeerId peer, const Offer& offer, Instant now) {
  Member* member = this->member(peer);
  if (!member) return no_member(peer);
  for (const FileEntry& entry : offer.entries) {
    if (auto sound = check_entry(entry); !sound) return sound;
    if (member->offers.size() >= kMaxOffers)
      return fail(Errc::too_large, fmt::format("'{}' offers more than {} files", member->id, kMaxOffers));
    const bool was_forgotten = member->unconfirmed.erase(entry.name) > 0 && !member->is_kept;
    if (const std::uint64_t chunks = chunk_count(entry.size); chunks > 0) counts_[entry.root][peer] = static_cast<std::uint32_t>(chunks);
    const std::size_t before = member->offers.size();
    const auto place = member->offers.try_emplace(member->offers.end(), entry.name, entry);  // most come in the order of their names
    const bool is_new = member->offers.size() > before;
    if (is_new || was_forgotten || place->second != entry) note_offered(*member, entry);
    if (!is_new && place->second == entry) continue;
    if (is_new || place->second.root != entry.root) {
      ++member->names_of[entry.root];
      if (!is_new) drop_name(*member, place->second.root, true);
    }
    place->second = entry;
    tell(OfferNews{peer, entry.name});
  }
  update(now);
  return {};
}

Result<> Registry::withdraw(PeerId peer, const Withdraw& withdraw, Instant now) {
  Member* member = this->member(peer);
  if (!member) return no_member(peer);
  for (const auto& name : withdraw.names) {
    if (!member->offers.contains(name)) note_gone(*member, name);
    retract(*member, name, false);
  }
  update(now);
  return {};
}

Result<> Registry::offer_end(PeerId peer, Instant now) {
  Member* member = this->member(peer);
  if (!member) return no_member(peer);
  for (const auto& name : std::exchange(member->unconfirmed, {})) retract(*member, name, false);
  forget_remembered(*member);
  member->is_kept = true;
  set_present(*member, member->is_here, true);
  update(now);
  return {};
}

void Registry::retract(Member& member, const std::string& name, bool lost) {
  const auto offered = member.offers.find(name);
  if (offered == member.offers.end()) return;
  drop_name(member, offered->second.root, !lost);
  member.offers.erase(offered);
  note_gone(member, name);
  tell(RetractNews{member.peer, name, lost});
}

/// The member has one name less for that content; with the last one it no longer has it, where the file itself is gone.
void Registry::drop_name(Member& member, const Sha256Digest& root, bool is_file_gone) {
  const auto names = member.names_of.find(root);
  if (names == member.names_of.end() || --names->second > 0) return;
  member.names_of.erase(names);
  if (!is_file_gone) return;
  if (const auto holders = counts_.find(root); holders != counts_.end()) holders->second.erase(member.peer);
}

Result<> Registry::progress(PeerId peer, const Progress& progress) {
  Member* member = this->member(peer);
  if (!member) return no_member(peer);
  member->bytes_have = progress.bytes_have;
  member->bytes_wanted = progress.bytes_wanted;
  for (const auto& count : progress.counts) {
    auto known = counts_.find(count.root);
    if (known == counts_.end() && counts_.size() < kMaxOffers) known = counts_.try_emplace(count.root).first;
    if (known != counts_.end()) known->second[peer] = count.chunks;
  }
  return {};
}

Result<> Registry::complete(PeerId peer, const Complete& complete, Instant now) {
  Member* member = this->member(peer);
  if (!member) return no_member(peer);
  if (complete.revision > revision_)
    return fail(Errc::malformed, fmt::format("'{}' is complete up to a revision that is not there yet", member->id));
  const bool is_news = !member->is_complete;
  member->is_complete = true;
  member->complete_revision = complete.revision;
  member->failed = complete.failed;
  member->bytes_fetched = complete.bytes_fetched;
  member->upload_rate = complete.upload_rate;
  member->download_rate = complete.download_rate;
  if (is_done(*member)) last_complete_ = now - *begun_at_;
  if (is_news) tell_of(*member);
  update(now);
  return {};
}

bool Registry::is_done(const Member& member) const {
  if (member.appetite == Appetite::nothing) return member.has_offered;
  return member.is_complete && member.complete_revision >= catalogue_revision_;
}

/// Begins a closed swarm when all are here, and ends it when all are complete or given up.
void Registry::update(Instant now) {
  if (options_.expect == 0 || outcome_) return;
  if (!has_begun_ && ready_ >= options_.expect) begin();
  if (!has_begun_) return;
  const auto is_over = [this](const Member& member) { return member.is_given_up || is_done(member); };
  const auto is_member = [](const Member& member) { return !member.is_claim; };
  auto members = members_ | std::views::filter(is_member);
  if (static_cast<std::size_t>(std::ranges::distance(members)) < options_.expect || !std::ranges::all_of(members, is_over)) return;
  SwarmComplete outcome;
  outcome.total_ns = last_complete_.value_or(begun_at_ ? now - *begun_at_ : Nanoseconds::zero()).count();
  for (const Member& member : members) {
    outcome.bytes += member.bytes_fetched;
    if ((!is_done(member) && !member.was_done) || member.failed > 0) outcome.failed.push_back(member.id);
  }
  outcome.percent_of_bound_x100 = static_cast<std::uint32_t>(100.0 * percent_of_lower_bound(Nanoseconds(outcome.total_ns)));
  outcome_ = std::move(outcome);
  concerned_.all = true;
}

/// Everyone who is here learns of others, and of the catalogue.
void Registry::begin() {
  has_begun_ = concerned_.all = true;
  std::vector<PeerId> here;
  for (Member& member : members_) {
    member.changed = ++revision_;  // nobody was told of the roster while the swarm waited
    if (member.is_here) here.push_back(member.peer);
  }
  introduce(introductions_.begin(here));
}

/// How near the swarm came to the best that its links allow (see lower_bound in shoal.schedule), 0 when that cannot be told. A peer
/// that was never busy does not show what its link can do, so all are taken to be as fast as the fastest was seen to be.
double Registry::percent_of_lower_bound(Nanoseconds total) const {
  std::unordered_map<Sha256Digest, std::size_t> owners;
  for (const Member& member : members_)
    for (const auto& [root, names] : member.names_of) ++owners[root];
  std::uint64_t fastest = 0;
  for (const Member& member : members_) fastest = std::max({fastest, member.upload_rate, member.download_rate});
  std::vector<BoundPeer> peers;
  for (const Member& member : members_) {
    if (member.is_claim) continue;
    BoundPeer peer{0, member.bytes_fetched, static_cast<double>(fastest), static_cast<double>(fastest)};
    std::unordered_set<Sha256Digest> counted;
    for (const auto& [name, entry] : member.offers)
      if (owners.at(entry.root) == 1 && (member.names_of.at(entry.root) == 1 || counted.insert(entry.root).second))
        peer.offers += entry.size;
    peers.push_back(peer);
  }
  const auto bound = lower_bound(peers);
  const double percent = bound ? percent_of_bound(*bound, Seconds(total)) : 0.0;
  return percent <= 100.0 ? percent : 0.0;  // more: no rate was seen that says anything
}

// ---- news ---------------------------------------------------------------------------------------------

void Registry::tell(Item item) {
  news_.emplace_hint(news_.end(), ++revision_, std::move(item));
  catalogue_revision_ = revision_;
  concerned_.all = true;
  if (news_.size() > 1024 && news_.size() > 4 * live_news_) compact();
}

/// The member's place in the roster changed: news for itself and for those that were introduced to it.
void Registry::tell_of(Member& member) {
  member.changed = ++revision_;
  concerned_.sessions.push_back(member.session);
  for (const auto& [other, since] : member.others) concerned_.sessions.push_back(members_[other.value].session);
}

void Registry::introduce(const std::vector<Introductions::Pair>& pairs) {
  for (const auto& [one, other] : pairs) {
    Member& a = members_[one.value];
    Member& b = members_[other.value];
    a.others.emplace(other, ++revision_);
    b.others.emplace(one, revision_);
    concerned_.sessions.insert(concerned_.sessions.end(), {a.session, b.session});
  }
}

void Registry::even_out() { introduce(introductions_.even_out()); }

Registry::Concerned Registry::take_concerned() { return std::exchange(concerned_, {}); }

void Registry::compact() {
  // Walk from the newest to the oldest: an offer that was seen already is told by the newer item.
  std::set<std::pair<PeerId, std::string_view>> seen;
  for (auto place = news_.end(); place != news_.begin();) {
    --place;
    const auto key = std::visit([](const auto& news) { return std::pair(news.owner, std::string_view(news.name)); }, place->second);
    if (!seen.insert(key).second) place = news_.erase(place);
  }
  live_news_ = news_.size();
}

RosterEntry Registry::roster_entry(const Member& member, const Vantage& reader) const {
  Endpoint at = address_for(member.where, reader);
  return {member.peer, member.id, std::move(at.host), at.port, member.is_here, member.is_complete};
}

namespace {

constexpr std::size_t kMessageRoom = kControlLimit - 256;

std::size_t room_for(const RosterEntry& entry) { return 32 + entry.id.size() + entry.host.size(); }

}  // namespace

/// Gathers news into messages: neighbours of a kind share one.
struct Registry::Batch {
  std::vector<Message> messages;
  std::size_t bytes = 0;       ///< Of all messages.
  std::size_t last_bytes = 0;  ///< Of the last one.

  /// The message that the next element of `size` bytes goes into.
  template <class M, class Fits>
  M& open(std::size_t size, Fits fits) {
    bytes += size;
    if (!messages.empty() && last_bytes + size <= kMessageRoom)
      if (auto* last = std::get_if<M>(&messages.back()); last && fits(*last)) {
        last_bytes += size;
        return *last;
      }
    messages.emplace_back(M{});
    last_bytes = size;
    return std::get<M>(messages.back());
  }
};

/// What the member has not heard of its roster, in order of revision.
std::vector<Registry::RosterItem> Registry::roster_news(const Member& member, std::uint64_t revision) const {
  std::vector<RosterItem> items;
  if (member.changed > revision) items.push_back({member.changed, member.peer});
  for (const auto& [other, since] : member.others)
    if (const auto changed = std::max(since, members_[other.value].changed); changed > revision) items.push_back({changed, other});
  std::ranges::sort(items, {}, &RosterItem::revision);
  return items;
}

void Registry::add_item(Batch& batch, PeerId reader, std::uint64_t revision, const Item& item) const {
  const auto always = [](const auto&) { return true; };
  if (const auto* news = std::get_if<OfferNews>(&item)) {
    const Member& owner = members_[news->owner.value];
    const auto offered = owner.offers.find(news->name);
    const bool is_there = offered != owner.offers.end();
    auto& message = batch.open<Catalogue>(is_there ? 160 + news->name.size() + owner.id.size() : 0, always);
    message.revision = revision;
    if (!is_there || news->owner == reader) return;
    const bool is_named = !message.entries.empty() && message.entries.back().owner == news->owner;
    if (!is_named) message.owners.push_back({news->owner, owner.id});
    message.entries.push_back({news->owner, offered->second});
    return;
  }
  const auto& news = std::get<RetractNews>(item);
  const auto is_alike = [&](const Retracted& other) { return other.owner == news.owner && other.lost == news.lost; };
  auto& message = batch.open<Retracted>(16 + news.name.size(), is_alike);
  message.revision = revision;
  message.owner = news.owner;
  message.lost = news.lost;
  // A later offer of the same name is what counts; then only the revision moves on.
  if (news.owner != reader && !members_[news.owner.value].offers.contains(news.name)) message.names.push_back(news.name);
}

std::optional<Registry::News> Registry::news_for(PeerId peer, std::uint64_t revision, std::size_t max_bytes) const {
  const Member* reader = member(peer);
  const bool waits = options_.expect != 0 && !has_begun_;
  if (!reader || (waits && here_ < options_.expect)) return std::nullopt;
  const auto roster = waits ? std::vector<RosterItem>() : roster_news(*reader, revision);
  auto person = roster.begin();
  auto file = news_.upper_bound(revision);
  if (person == roster.end() && file == news_.end()) return std::nullopt;
  Batch batch;
  News news;
  const auto always = [](const auto&) { return true; };
  while ((person != roster.end() || file != news_.end()) && batch.bytes < max_bytes) {
    const bool is_person = file == news_.end() || (person != roster.end() && person->revision < file->first);
    news.revision = is_person ? person->revision : file->first;
    if (is_person) {
      RosterEntry entry = roster_entry(members_[person++->peer.value], reader->where.seen);
      batch.open<Roster>(room_for(entry), always).peers.push_back(std::move(entry));
    } else {
      add_item(batch, peer, file->first, file->second);
      ++file;
    }
  }
  if (person == roster.end() && file == news_.end()) news.revision = revision_;
  news.messages = std::move(batch.messages);
  return news;
}

// ---- queries ------------------------------------------------------------------------------------------

/// Who is here and has all of it: whoever offers it first, as the others may have it under another name.
std::vector<PeerId> Registry::holders_of(const FileEntry& entry) const {
  const std::uint64_t chunks = chunk_count(entry.size);
  const auto counts = counts_.find(entry.root);
  const auto has_all = [&](const Member& member) {
    if (counts == counts_.end()) return false;
    const auto count = counts->second.find(member.peer);
    return count != counts->second.end() && count->second >= chunks;
  };
  std::vector<PeerId> owners;
  std::vector<PeerId> others;
  for (const Member& member : members_) {
    if (!member.is_here || owners.size() == kMaxHolders) continue;
    const auto offered = member.offers.find(entry.name);
    const bool is_owner = offered != member.offers.end() && offered->second.root == entry.root;
    if (chunks > 0 ? !has_all(member) : !is_owner) continue;
    auto& holders = is_owner ? owners : others;
    if (holders.size() < kMaxHolders) holders.push_back(member.peer);
  }
  others.resize(std::min(others.size(), kMaxHolders - owners.size()));
  owners.insert(owners.end(), others.begin(), others.end());
  return owners;
}

Registry::Listing Registry::find(std::string_view pattern, const Cursor& from, std::size_t max_bytes) const {
  return list(pattern, from, max_bytes, false, [this](const FileEntry& entry, std::span<const PeerId>) { return holders_of(entry); });
}

std::vector<RosterEntry> Registry::roster(std::span<const FoundEntry> holders_of, const Vantage& reader) const {
  std::set<PeerId> peers;
  for (const auto& found : holders_of) peers.insert(found.holders.begin(), found.holders.end());
  std::vector<RosterEntry> entries;
  for (const PeerId peer : peers) entries.push_back(roster_entry(members_[peer.value], reader));
  return entries;
}

std::vector<Message> split_roster(std::vector<RosterEntry> peers) { return to_messages(split(std::move(peers), &Roster::peers, room_for)); }

Registry::Summary Registry::summary() const {
  Summary summary;
  summary.here = here_;
  for (const Member& member : members_) {
    if (member.is_claim) continue;
    ++summary.members;
    summary.complete += is_done(member) ? 1 : 0;
    summary.files += member.offers.size();
    for (const auto& [name, entry] : member.offers) summary.bytes += entry.size;
    summary.bytes_have += member.bytes_have;
    summary.bytes_wanted += member.bytes_wanted;
  }
  return summary;
}

}  // namespace shoal
