module;

#include <tl/expected.hpp>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

module shoal.peer;

import shoal.digest;
import shoal.manifest;

namespace shoal {

void Names::take(const std::string& name, Taken taken) { taken_.insert_or_assign(name, std::move(taken)); }

void Names::add_own(const std::string& self, const FileEntry& entry) {
  take(entry.name, {self, entry.kind, entry.root, entry.size, true});
  offers_.emplace(entry.root, std::pair(self, entry.name));
}

void Names::reserve(const std::string& name) { take(name, {{}, EntryKind::file, {}, ~std::uint64_t{0}, true}); }

void Names::remove_own(const std::string& name) {
  const auto taken = taken_.find(name);
  if (taken != taken_.end() && taken->second.is_own) taken_.erase(taken);
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

/// Where a parent folder of `name` is a file here, that part of the name tells the owner.
std::string Names::without_file_parents(std::string name, const std::string& owner) const {
  for (auto slash = name.find('/'); slash != std::string::npos; slash = name.find('/', slash + 1)) {
    const auto parent = taken_.find(std::string_view(name).substr(0, slash));
    if (parent == taken_.end() || parent->second.kind == EntryKind::folder) continue;
    const std::string other = conflict_name(parent->first, owner);
    name = other + name.substr(slash);
    slash = other.size();
  }
  return name;
}

std::optional<Names::Place> Names::try_name(const std::string& name, const std::string& owner, const FileEntry& entry, bool& is_taken) {
  const Taken wanted{owner, entry.kind, entry.root, entry.size, false};
  const auto below = taken_.lower_bound(name + '/');
  const bool is_parent = below != taken_.end() && below->first.starts_with(name + '/');
  const auto taken = taken_.find(name);
  is_taken = false;
  if (taken == taken_.end()) {
    if (is_parent && entry.kind == EntryKind::folder) return std::nullopt;
    if (is_parent) is_taken = true;
    if (is_taken) return std::nullopt;
    take(name, wanted);
    return Place{name};
  }
  if (taken->second.kind == entry.kind && taken->second.root == entry.root && taken->second.size == entry.size) return std::nullopt;
  if (taken->second.owner == owner && !taken->second.is_own && taken->second.kind == entry.kind) {
    taken->second = wanted;
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
  if (is_taken) place = try_name(conflict_name(name, owner), owner, entry, is_taken);
  if (place) place->is_conflict = place->name != entry.name;
  return place;
}

}  // namespace shoal
