// What is in the folder already, and not known, where files of others are to go.
module;

#include <fmt/core.h>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <optional>
#include <string>
#include <utility>
#include <vector>

module shoal.peer;

import :node;
import shoal.base;
import shoal.manifest;
import shoal.report;
import shoal.world;

namespace shoal {
namespace {

/// Makes what has that name one of our own files. What cannot be read is left out, and left alone.
Task<> look_at(Node& node, std::string name, FileEntry wanted) {
  auto here = co_await offload(node.world, [&] { return node.storage.digest(name); });
  co_await run_on(node.strand, [&] {
    if (!here) {
      if (!is_no_file(here.error())) leave_out_file(node, name, here.error());
      return node.names.reserve(name);
    }
    const bool is_same = here->entry.root == wanted.root && here->entry.md5 == wanted.md5;
    add_own(node, std::move(*here));
    if (is_same) node.report.note(fmt::format("{}: already here", name));
  });
}

/// The folders above `name` that nothing is known to be in, from the top.
std::vector<std::string> unknown_parents(const Node& node, const std::string& name) {
  std::vector<std::string> parents;
  for (auto slash = name.find('/'); slash != std::string::npos; slash = name.find('/', slash + 1))
    if (std::string parent = name.substr(0, slash); !node.names.is_folder(parent)) parents.push_back(std::move(parent));
  return parents;
}

/// A file that is where one of these folders is to be becomes one of our own. Whether there was one.
Task<bool> look_at_parents(Node& node, std::vector<std::string> parents) {
  for (const std::string& parent : parents) {
    if (!node.storage.exists(parent)) co_return false;
    auto here = co_await offload(node.world, [&] { return node.storage.digest(parent); });
    if (!here) continue;
    co_await run_on(node.strand, [&] { add_own(node, std::move(*here)); });
    co_return true;
  }
  co_return false;
}

}  // namespace

Task<> look_at_folder(Node& node, std::string owner, FileEntry entry) {
  for (;;) {
    std::vector<std::string> parents;
    const auto name = co_await in_node(node, [&] {
      learn_folding(node);
      auto free = node.names.free_name(owner, entry);
      if (free) parents = unknown_parents(node, *free);
      return free;
    });
    if (!name) co_return;
    if (co_await look_at_parents(node, std::move(parents))) continue;
    if (entry.kind == EntryKind::folder || !node.storage.exists(*name)) co_return;
    co_await look_at(node, *name, entry);
  }
}

}  // namespace shoal
