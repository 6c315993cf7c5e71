// What is said of the overlay: what a search found, how it ended, and the tree.
module;

#include <fmt/format.h>
#include <tl/expected.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

module shoal.shell;

import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.peer;
import shoal.report;
import shoal.tree;
import shoal.wire;

namespace shoal {
namespace {

std::string counted(std::uint64_t number, std::string_view one, std::string_view many) {
  return fmt::format("{} {}", number, number == 1 ? one : many);
}

std::string asked_text(const OverlaySearch& search) { return counted(search.asked, "node", "nodes") + " asked"; }

std::string incomplete_text(std::uint32_t missing) {
  return fmt::format("incomplete: {} did not answer in time", counted(missing, "branch", "branches"));
}

Result<> judge(const OverlaySearch& search, std::uint64_t hits) {
  if (search.missing > 0) return fail(Errc::partial, fmt::format("{} ({})", incomplete_text(search.missing), asked_text(search)));
  if (hits == 0) return fail(Errc::not_found, fmt::format("not found anywhere ({})", asked_text(search)));
  return {};
}

void note_cut(Report& report, const OverlaySearch& search) {
  if (search.is_cut) report.note("there are more than these; a more precise pattern finds them");
}

}  // namespace

void print_hit(Report& report, const Hit& hit) {
  const std::string address = to_string({hit.host, hit.port});
  report.event("hit", {{"name", hit.entry.name},
                       {"bytes", hit.entry.size},
                       {"md5", to_hex(hit.entry.md5)},
                       {"root", to_hex(hit.entry.root)},
                       {"peer", hit.id},
                       {"address", address},
                       {"load", std::uint64_t{hit.load}},
                       {"hops", std::uint64_t{hit.hops}}});
  report.print(fmt::format("{:<21}  {:>10}  {}  {:>7}  {}  {}", address, format_bytes(hit.entry.size), to_hex(hit.entry.md5),
                           counted(hit.hops, "hop", "hops"), hit.entry.name, hit.id));
}

Result<> conclude_search(Report& report, const OverlaySearch& search, std::uint64_t hits) {
  note_cut(report, search);
  auto judged = judge(search, hits);
  if (judged) report.note(fmt::format("{}, {}", counted(hits, "hit", "hits"), asked_text(search)));
  return judged;
}

Result<> conclude_located(Report& report, const LocateAnswer& answer) {
  if (!answer.via_overlay) return {};
  note_cut(report, *answer.via_overlay);
  report.note("the tracker is away: " + asked_text(*answer.via_overlay));
  return judge(*answer.via_overlay, answer.files.size());
}

// ---- the tree -----------------------------------------------------------------------------------------

namespace {

void tell_node(Report& report, const OverlayNode& node) {
  std::vector<std::uint32_t> numbers;
  numbers.reserve(node.links.size());
  for (const NodeKey& link : node.links) numbers.push_back(link.number);
  std::ranges::sort(numbers);
  std::string links;
  for (const std::uint32_t number : numbers) links += fmt::format("{}s{}", links.empty() ? "" : " ", number);
  report.event(
      "node",
      {{"name", fmt::format("s{}", node.key.number)}, {"peer", node.id}, {"address", to_string({node.host, node.port})}, {"links", links}});
}

/// No name is more than one line of a picture.
std::vector<OverlayNode> printable_nodes(std::vector<OverlayNode> nodes) {
  for (OverlayNode& node : nodes) {
    node.id = printable(node.id);
    node.host = printable(node.host);
  }
  return nodes;
}

void print_lines(Report& report, std::string_view text) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    report.print(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

void print_drawing(Report& report, std::span<const OverlayNode> nodes) {
  for (const std::string& line : draw_topology(nodes)) report.print(line);
}

}  // namespace

Result<> print_topology(Report& report, const Topology& topology, bool as_dot) {
  for (const OverlayNode& node : topology.nodes) tell_node(report, node);
  const auto nodes = printable_nodes(topology.nodes);
  if (as_dot)
    print_lines(report, topology_dot(nodes));
  else if (nodes.empty() && topology.missing == 0)
    report.print("empty network");
  else
    print_drawing(report, nodes);
  if (!topology.is_from_tracker)
    report.note(fmt::format("{} told of themselves, through the overlay", counted(nodes.size(), "node", "nodes")));
  if (topology.missing > 0) return fail(Errc::partial, incomplete_text(topology.missing));
  return {};
}

}  // namespace shoal
