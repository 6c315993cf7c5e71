// What of the answers to a search is taken.
module;

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <tl/expected.hpp>

module shoal.tree;

import :actions;
import :search;
import shoal.base;
import shoal.manifest;
import shoal.wire;

namespace shoal {
namespace {

constexpr std::size_t kHitBytes = 512;   // a hit that has no more of them counts as one
constexpr std::size_t kNodeBytes = 256;  // likewise a node
constexpr std::size_t kMostIdBytes = 64;
constexpr std::size_t kMostHostBytes = 255;
constexpr std::size_t kMostWork = std::size_t{1} << 25;  // bytes of the pattern times bytes of a name
constexpr std::size_t kWorkOfAny = 16;                   // a pattern is taken apart for each

/// What others say is only as good as what anybody could say.
bool is_name(const std::string& id) { return id.size() <= kMostIdBytes && id.find('/') == std::string::npos && check_name(id); }
bool is_sound(const Hit& hit) { return hit.port != 0 && hit.host.size() <= kMostHostBytes && is_name(hit.id) && check_entry(hit.entry); }
bool is_sound(const OverlayNode& node) {
  return node.key.nonce != 0 && node.key.number < kMostNodes && node.host.size() <= kMostHostBytes && is_name(node.id);
}

}  // namespace

std::size_t room_of(const Hit& hit) { return 1 + encoded_size(hit) / kHitBytes; }
std::size_t room_of(const OverlayNode& node) { return 1 + encoded_size(node) / kNodeBytes; }

SearchSieve::SearchSieve(SearchKind kind, std::string pattern)
    : kind_(kind), pattern_bytes_(pattern.size()), pattern_(std::move(pattern)), work_left_(kMostWork) {}

bool SearchSieve::is_meant(const Hit& hit) {
  const std::size_t work = pattern_bytes_ * (hit.entry.name.size() + kWorkOfAny);
  is_cut_ |= work > work_left_;
  if (is_cut_) return false;
  work_left_ -= work;
  return pattern_.means(hit.entry);
}

void SearchSieve::sift(SearchAnswer& answer) {
  if (kind_ == SearchKind::nodes) answer.hits.clear();
  if (kind_ == SearchKind::files) answer.found_nodes.clear();
  std::erase_if(answer.hits, [this](const Hit& hit) { return !is_sound(hit) || !is_meant(hit); });
  std::erase_if(answer.found_nodes, [](const OverlayNode& node) { return !is_sound(node); });
  answer.is_cut |= is_cut_;
  answer.nodes = std::min(answer.nodes, kMostNodes);
  answer.missing = std::min(answer.missing, kMostNodes);
  if (answer.is_last && answer.nodes == 0) answer.missing = std::max(answer.missing, 1U);
}

}  // namespace shoal
