module;

#include <fmt/core.h>
#include <tl/expected.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

module shoal.peer;

import shoal.base;
import shoal.digest;
import shoal.manifest;

namespace shoal {
namespace {

/// More different contents than this under one name, of one owner, are not kept.
constexpr int kMaxSpellings = 1000;
/// What stands for the size of something that is not looked at.
constexpr std::uint64_t kReservedSize = ~std::uint64_t{0};

/// The `n`th name for a content of `owner` that cannot have `name`: `a (from mars)`, `a (from mars 2)`.
std::string spelling(std::string_view name, const std::string& owner, int n) {
  return conflict_name(name, n == 1 ? owner : fmt::format("{} {}", owner, n));
}

}  // namespace

void Names::set_folding(const NameFolding& folding) {
  if (std::exchange(folding_, folding) == folding) return;
  folders_.clear();
  clean_folder_.clear();
  for (auto& [key, taken] : std::exchange(taken_, {})) take(taken.entry, taken.offered_as, taken.owner, taken.is_own);
}

const Names::Taken* Names::find(std::string_view name) const {
  const auto taken = folding_.is_any() ? taken_.find(fold_name(name, folding_)) : taken_.find(name);
  return taken == taken_.end() ? nullptr : &taken->second;
}

bool Names::is_taken(std::string_view name) const { return find(name) != nullptr; }

bool Names::is_reserved(std::string_view name) const {
  const Taken* const taken = find(name);
  return taken && taken->entry->size == kReservedSize;
}

bool Names::is_folder(std::string_view name) const { return folders_.contains(fold_name(name, folding_)); }

void Names::count_in_folders(std::string_view key) {
  for (auto slash = key.rfind('/'); slash != std::string_view::npos; slash = key.rfind('/')) {
    key = key.substr(0, slash);
    const auto [folder, is_new] = folders_.try_emplace(std::string(key), 0);
    ++folder->second;
    if (!is_new) return;
  }
}

void Names::uncount_in_folders(std::string_view key) {
  for (auto slash = key.rfind('/'); slash != std::string_view::npos; slash = key.rfind('/')) {
    key = key.substr(0, slash);
    const auto folder = folders_.find(key);
    if (--folder->second > 0) return;
    folders_.erase(folder);
  }
}

Names::OwnerIndex Names::index_of(const std::string& owner) {
  if (!owners_.empty() && owners_.back() == owner) return OwnerIndex(static_cast<std::uint32_t>(owners_.size() - 1));
  const auto [place, is_new] = owner_indices_.try_emplace(owner, OwnerIndex(static_cast<std::uint32_t>(owners_.size())));
  if (is_new) owners_.push_back(owner);
  return place->second;
}

void Names::take(EntryPtr entry, EntryPtr offered_as, OwnerIndex owner, bool is_own) {
  Taken taken{std::move(entry), std::move(offered_as), owner, is_own, nullptr};
  if (folding_.is_any()) taken.folded = std::make_unique<const std::string>(fold_name(taken.entry->name, folding_));
  const std::string_view key = taken.key();
  if (taken.entry->kind == EntryKind::file && clean_folder_.starts_with(key)) clean_folder_.clear();
  auto known = taken_.extract(key);
  if (known.empty()) {
    count_in_folders(key);
    taken_.emplace(key, std::move(taken));
    return;
  }
  known.key() = key;
  known.mapped() = std::move(taken);
  taken_.insert(std::move(known));
}

void Names::add_own(const std::string& self, EntryPtr entry) {
  const OwnerIndex owner = index_of(self);
  offers_.push_back({entry, owner});
  take(entry, entry, owner, true);
}

void Names::reserve(const std::string& name) {
  auto entry = std::make_shared<FileEntry>();
  entry->name = name;
  entry->size = kReservedSize;
  take(entry, entry, index_of({}), true);
}

void Names::remove_own(const std::string& name) {
  const Taken* const taken = find(name);
  if (!taken || !taken->is_own || taken->entry->name != name) return;  // else it is there under another spelling
  const auto removed = taken_.extract(taken->key());
  uncount_in_folders(removed.mapped().key());
}

/// A peer that came back offers what it once kept under a conflict name as a file of its own: that is no new file.
bool Names::is_alias(const std::string& owner, const FileEntry& entry) {
  if (entry.name.find(" (from ") == std::string::npos) return false;
  for (std::size_t next = offers_by_root_.size(); next < offers_.size(); ++next) offers_by_root_.emplace(offers_[next].entry->root, next);
  const auto [begin, end] = offers_by_root_.equal_range(entry.root);
  return std::any_of(begin, end, [&](const auto& place) {
    const Offered& offered = offers_[place.second];
    const std::string& other = owners_[offered.owner.value];
    return other != owner && conflict_name(offered.entry->name, other) == entry.name;
  });
}

bool Names::is_file(std::string_view name) const {
  const Taken* const taken = find(name);
  return taken && taken->entry->kind == EntryKind::file;
}

/// Where a parent folder of `name` is a file here, that part of the name tells the owner.
std::string Names::without_file_parents(std::string name, const std::string& owner) {
  const auto folder = std::string_view(name).substr(0, std::min(name.rfind('/'), name.size()));
  if (folder.size() == name.size() || fold_name(folder, folding_) == clean_folder_) return name;  // files come by the folder
  bool is_clean = true;
  for (auto slash = name.find('/'); slash != std::string::npos; slash = name.find('/', slash + 1)) {
    const std::string parent = name.substr(0, slash);
    if (!is_file(parent)) continue;
    is_clean = false;
    std::string other = spelling(parent, owner, 1);
    for (int n = 2; n <= kMaxSpellings && is_file(other); ++n) other = spelling(parent, owner, n);
    name = other + name.substr(slash);
    slash = other.size();
  }
  if (is_clean) clean_folder_ = fold_name(std::string_view(name).substr(0, name.rfind('/')), folding_);
  // Where that made it too long, it moves to the top.
  return check_name(name) ? name : name.substr(name.rfind('/') + 1);
}

Names::Fit Names::fit(const std::string& name, const Offered& offered) const {
  const FileEntry& entry = *offered.entry;
  const Taken* const taken = find(name);
  if (!taken && !is_folder(name)) return Fit::free;
  if (!taken) return entry.kind == EntryKind::file ? Fit::taken : Fit::here;
  const FileEntry& known = *taken->entry;
  if (known.kind == entry.kind && known.root == entry.root && known.size == entry.size) return Fit::here;
  const bool is_newer =
      taken->owner == offered.owner && taken->offered_as->name == entry.name && !taken->is_own && known.kind == entry.kind;
  return is_newer ? Fit::newer : Fit::taken;
}

/// The first of its names that goes with an offer.
Names::Spot Names::spot_for(const Offered& offered, const IsThere& is_there) {
  const std::string owner = owners_[offered.owner.value];
  const std::string wished = without_file_parents(offered.entry->name, owner);
  const auto look_at = [&](std::string name) {
    Fit found = fit(name, offered);
    if (found == Fit::free && is_there && is_there(name)) {
      reserve(name);
      found = Fit::taken;
    }
    return Spot{std::move(name), found};
  };
  Spot spot = look_at(wished);
  for (int n = 1; n <= kMaxSpellings && spot.fit == Fit::taken; ++n) spot = look_at(spelling(wished, owner, n));
  return spot;
}

std::optional<Names::Place> Names::place(const std::string& owner, const FileEntry& entry, const IsThere& is_there) {
  if (is_alias(owner, entry)) return std::nullopt;
  const Offered offered{std::make_shared<const FileEntry>(entry), index_of(owner)};
  if (entry.kind == EntryKind::file) offers_.push_back(offered);
  const Spot spot = spot_for(offered, is_there);
  if (spot.fit == Fit::here) return std::nullopt;
  if (spot.fit == Fit::taken) return Place{.entry = offered.entry, .is_refused = true};
  EntryPtr kept = offered.entry;
  if (spot.name != entry.name) {
    auto renamed = std::make_shared<FileEntry>(entry);
    renamed->name = spot.name;
    kept = std::move(renamed);
  }
  take(kept, offered.entry, offered.owner, false);
  return Place{kept, kept != offered.entry, spot.fit == Fit::newer};
}

std::optional<std::string> Names::free_name(const std::string& owner, const FileEntry& entry) {
  if (is_alias(owner, entry)) return std::nullopt;
  Spot spot = spot_for({std::make_shared<const FileEntry>(entry), index_of(owner)}, nullptr);
  return spot.fit == Fit::free ? std::optional(std::move(spot.name)) : std::nullopt;
}

}  // namespace shoal
