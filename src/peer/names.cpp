module;

#include <fmt/core.h>
#include <tl/expected.hpp>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

module shoal.peer;

import shoal.digest;
import shoal.manifest;

namespace shoal {
namespace {

/// More different contents than this under one name, of one owner, are not kept.
constexpr int kMaxSpellings = 1000;

/// The `n`th name for a content of `owner` that cannot have `name`: `a (from mars)`, `a (from mars 2)`.
std::string spelling(std::string_view name, const std::string& owner, int n) {
  return conflict_name(name, n == 1 ? owner : fmt::format("{} {}", owner, n));
}

}  // namespace

void Names::count_in_folders(std::string_view name) {
  for (auto slash = name.rfind('/'); slash != std::string_view::npos; slash = name.rfind('/')) {
    name = name.substr(0, slash);
    const auto [folder, is_new] = folders_.try_emplace(std::string(name), 0);
    ++folder->second;
    if (!is_new) return;
  }
}

void Names::uncount_in_folders(std::string_view name) {
  for (auto slash = name.rfind('/'); slash != std::string_view::npos; slash = name.rfind('/')) {
    name = name.substr(0, slash);
    const auto folder = folders_.find(name);
    if (--folder->second > 0) return;
    folders_.erase(folder);
  }
}

void Names::take(const std::string& name, Taken taken) {
  if (taken.kind == EntryKind::file && clean_folder_.starts_with(name)) clean_folder_.clear();
  const auto [place, is_new] = taken_.insert_or_assign(name, std::move(taken));
  if (is_new) count_in_folders(name);
}

void Names::add_own(const std::string& self, const FileEntry& entry) {
  take(entry.name, {self, entry.name, entry.kind, entry.root, entry.size, true});
  offers_.emplace(entry.root, std::pair(self, entry.name));
}

void Names::reserve(const std::string& name) { take(name, {{}, {}, EntryKind::file, {}, ~std::uint64_t{0}, true}); }

void Names::remove_own(const std::string& name) {
  const auto taken = taken_.find(name);
  if (taken == taken_.end() || !taken->second.is_own) return;
  taken_.erase(taken);
  uncount_in_folders(name);
}

/// A peer that came back offers what it once kept under a conflict name as a file of its own: that is no new file.
bool Names::is_alias(const std::string& owner, const FileEntry& entry) const {
  if (entry.name.find(" (from ") == std::string::npos) return false;
  const auto [begin, end] = offers_.equal_range(entry.root);
  for (auto offer = begin; offer != end; ++offer) {
    const auto& [other, name] = offer->second;
    if (other != owner && conflict_name(name, other) == entry.name) return true;
  }
  return false;
}

bool Names::is_file(std::string_view name) const {
  const auto taken = taken_.find(name);
  return taken != taken_.end() && taken->second.kind == EntryKind::file;
}

/// Where a parent folder of `name` is a file here, that part of the name tells the owner.
std::string Names::without_file_parents(std::string name, const std::string& owner) {
  const auto folder = std::string_view(name).substr(0, std::min(name.rfind('/'), name.size()));
  if (folder.size() == name.size() || folder == clean_folder_) return name;  // files come by the folder
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
  if (is_clean) clean_folder_ = name.substr(0, name.rfind('/'));
  // Where that made it too long, it moves to the top.
  return check_name(name) ? name : name.substr(name.rfind('/') + 1);
}

std::optional<Names::Place> Names::try_name(const std::string& name, const std::string& owner, const FileEntry& entry, bool& is_taken) {
  Taken wanted{owner, entry.name, entry.kind, entry.root, entry.size, false};
  const auto taken = taken_.find(name);
  is_taken = false;
  if (taken == taken_.end()) {
    const bool is_folder = folders_.contains(name);
    is_taken = is_folder && entry.kind == EntryKind::file;
    if (is_folder) return std::nullopt;
    take(name, std::move(wanted));
    return Place{name};
  }
  if (taken->second.kind == entry.kind && taken->second.root == entry.root && taken->second.size == entry.size) return std::nullopt;
  const bool is_older = taken->second.owner == owner && taken->second.offered_as == entry.name && !taken->second.is_own;
  if (is_older && taken->second.kind == entry.kind) {
    taken->second = std::move(wanted);
    return Place{name, false, true};
  }
  is_taken = true;
  return std::nullopt;
}

std::optional<Names::Place> Names::place(const std::string& owner, const FileEntry& entry) {
  if (is_alias(owner, entry)) return std::nullopt;
  if (entry.kind == EntryKind::file) offers_.emplace(entry.root, std::pair(owner, entry.name));
  const std::string name = without_file_parents(entry.name, owner);
  bool is_taken = false;
  auto place = try_name(name, owner, entry, is_taken);
  for (int n = 1; n <= kMaxSpellings && is_taken; ++n) place = try_name(spelling(name, owner, n), owner, entry, is_taken);
  if (place) place->is_conflict = place->name != entry.name;
  return place;
}

}  // namespace shoal
