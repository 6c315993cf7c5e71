// What is taken of the answers to a search.
module;

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
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

constexpr std::size_t kMostIdBytes = 64;
constexpr std::size_t kMostLinksTold = 1024;                              // of one node
constexpr std::size_t kMostLinks = 2 * Searches::kMostFoundNodes + 1024;  // of all: a tree has fewer than two a node

}  // namespace

SearchFilter::SearchFilter(std::uint64_t id, SearchKind kind, const std::string& pattern) : id_(id), kind_(kind), pattern_(pattern) {}

/// What others say is only as good as what anybody could say.
bool SearchFilter::is_wanted(const Hit& hit) const {
  return hit.port != 0 && hit.id.size() <= kMostIdBytes && check_name(hit.id) && check_entry(hit.entry) && pattern_.means(hit.entry);
}

bool SearchFilter::is_wanted(const OverlayNode& node) {
  return node.key.number < kMostNodes && node.id.size() <= kMostIdBytes && check_name(node.id) && node.links.size() <= kMostLinksTold;
}

Result<> SearchFilter::take(SearchAnswer& part) {
  if (part.id != id_) return fail(Errc::out_of_order, "got an answer to another search");
  if (kind_ != SearchKind::files) part.hits.clear();
  if (kind_ != SearchKind::nodes) part.found_nodes.clear();
  hits_ += part.hits.size();
  nodes_ += part.found_nodes.size();
  std::erase_if(part.hits, [this](const Hit& hit) { return !is_wanted(hit); });
  std::erase_if(part.found_nodes, [](const OverlayNode& node) { return !is_wanted(node); });
  for (const OverlayNode& node : part.found_nodes) links_ += node.links.size();
  if (is_full_ || hits_ > Searches::kMostHits || nodes_ > Searches::kMostFoundNodes || links_ > kMostLinks) {
    is_full_ = true;
    part.is_cut = true;
    part.hits.clear();
    part.found_nodes.clear();
  }
  part.nodes = std::min(part.nodes, kMostNodes);
  part.missing = std::min(part.missing, kMostNodes);
  if (part.is_last && part.nodes == 0) part.missing = std::max(part.missing, 1U);  // whoever answers is one itself
  return {};
}

}  // namespace shoal
