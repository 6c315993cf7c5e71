// How a tree is drawn.
module;

#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

module shoal.tree;

import :census;
import shoal.base;
import shoal.wire;

namespace shoal {
namespace {

using ByNonce = std::map<std::uint64_t, const OverlayNode*>;

ByNonce by_nonce(std::span<const OverlayNode> nodes) {
  ByNonce all;
  for (const OverlayNode& node : nodes) all.try_emplace(node.key.nonce, &node);
  return all;
}

std::vector<const OverlayNode*> by_number(std::span<const OverlayNode> nodes) {
  std::vector<const OverlayNode*> sorted;
  for (const OverlayNode& node : nodes) sorted.push_back(&node);
  std::ranges::sort(sorted, {}, [](const OverlayNode* node) { return node->key; });
  return sorted;
}

std::string line_for(const OverlayNode& node) {
  return fmt::format("s{}  {} ({})", node.key.number, node.id, to_string(Endpoint{node.host, node.port}));
}

constexpr std::size_t kWidestIndent = 120;  // what is deeper stands below each other: nobody could read it, and it may be made up

/// Draws one tree. Not by recursion: anybody may say that it is as deep as it likes.
class Drawing {
 public:
  explicit Drawing(std::span<const OverlayNode> nodes) : nodes_(by_nonce(nodes)) {}

  void draw(const OverlayNode& root) {
    if (!drawn_.insert(root.key.nonce).second) return;
    std::vector<Line> waiting{{&root, {}, {}}};
    while (!waiting.empty()) {
      const Line line = std::move(waiting.back());
      waiting.pop_back();
      lines_.push_back(line.lead + line_for(*line.node));
      const auto below = children(*line.node);
      // A node alone below another stands at its indentation: most trees are long and thin.
      for (std::size_t i = below.size(); i-- > 0;) {
        const bool is_last = i + 1 == below.size();
        if (below.size() == 1 || line.indent.size() >= kWidestIndent)
          waiting.push_back({below[i], line.indent, line.indent});
        else
          waiting.push_back({below[i], line.indent + (is_last ? "`- " : "|- "), line.indent + (is_last ? "   " : "|  ")});
      }
    }
  }
  std::vector<std::string> take() { return std::move(lines_); }

 private:
  struct Line {
    const OverlayNode* node;
    std::string lead;
    std::string indent;
  };
  std::vector<const OverlayNode*> children(const OverlayNode& node) {
    std::vector<const OverlayNode*> below;
    for (const NodeKey& key : node.links)
      if (const auto found = nodes_.find(key.nonce); found != nodes_.end() && drawn_.insert(key.nonce).second)
        below.push_back(found->second);
    std::ranges::sort(below, {}, [](const OverlayNode* child) { return child->key; });
    return below;
  }

  ByNonce nodes_;
  std::set<std::uint64_t> drawn_;
  std::vector<std::string> lines_;
};

std::string dot_quoted(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + '"';
}

}  // namespace

void keep_confirmed(std::vector<OverlayNode>& nodes) {
  std::set<std::uint64_t> seen;
  std::erase_if(nodes, [&](const OverlayNode& node) { return !seen.insert(node.key.nonce).second; });
  std::set<std::pair<std::uint64_t, std::uint64_t>> told;
  std::map<std::uint64_t, NodeKey> keys;
  for (const OverlayNode& node : nodes) {
    keys[node.key.nonce] = node.key;
    for (const NodeKey& link : node.links) told.emplace(node.key.nonce, link.nonce);
  }
  for (OverlayNode& node : nodes) {
    std::set<std::uint64_t> linked{node.key.nonce};
    std::erase_if(node.links, [&](NodeKey& link) {
      const auto known = keys.find(link.nonce);
      const bool is_made_up = known != keys.end() && !told.contains({link.nonce, node.key.nonce});
      if (known != keys.end()) link = known->second;
      return is_made_up || !linked.insert(link.nonce).second;
    });
  }
}

std::string topology_text(std::span<const OverlayNode> nodes) {
  std::string text;
  for (const OverlayNode* node : by_number(nodes)) {
    text += fmt::format("s{}:", node->key.number);
    const char* gap = "  ";
    for (const NodeKey& link : node->links) text += fmt::format("{}s{}", std::exchange(gap, " "), link.number);
    text += '\n';
  }
  return text;
}

std::vector<std::string> draw_topology(std::span<const OverlayNode> nodes) {
  Drawing drawing(nodes);
  for (const OverlayNode* node : by_number(nodes)) drawing.draw(*node);
  return drawing.take();
}

std::string topology_dot(std::span<const OverlayNode> nodes) {
  const ByNonce known = by_nonce(nodes);
  const auto name = [](const NodeKey& key) { return fmt::format("n{:x}", key.nonce); };
  std::string text = "graph overlay {\n  node [shape=box];\n";
  for (const OverlayNode* node : by_number(nodes)) text += fmt::format("  {} [label={}];\n", name(node->key), dot_quoted(line_for(*node)));
  std::set<std::pair<std::uint64_t, std::uint64_t>> drawn;
  for (const OverlayNode* node : by_number(nodes))
    for (const NodeKey& link : node->links) {
      const auto pair = std::minmax(node->key.nonce, link.nonce);
      if (known.contains(link.nonce) && drawn.insert(pair).second) text += fmt::format("  {} -- {};\n", name(node->key), name(link));
    }
  return text + "}\n";
}

}  // namespace shoal
