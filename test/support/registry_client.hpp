// What a peer knows of a swarm that believes every message of its tracker, and no more.
#pragma once

#include <tl/expected.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>

import shoal.base;
import shoal.manifest;
import shoal.tracker;
import shoal.wire;

namespace shoal::test {

struct RegistryClient {
  explicit RegistryClient(PeerId peer) : self(peer) {}

  using Files = std::map<std::pair<PeerId, std::string>, FileEntry>;  ///< By owner and name.

  PeerId self;
  std::uint64_t revision = 0;
  Files files;
  std::map<PeerId, RosterEntry> roster;
  std::map<PeerId, std::string> owners;  ///< What the catalogue calls those who offer something.
  std::size_t largest_message = 0;

  /// Takes what there is in one slice. Whether there was anything.
  bool read(const Registry& registry, std::size_t max_bytes) {
    const auto news = registry.news_for(self, revision, max_bytes);
    if (!news) return false;
    for (const Message& message : news->messages) {
      largest_message = std::max(largest_message, encoded_size(message));
      std::visit([this](const auto& known) { apply(known); }, message);
    }
    revision = news->revision;
    return true;
  }

  void read_all(const Registry& registry, std::size_t max_bytes) {
    while (read(registry, max_bytes)) {
    }
  }

 private:
  void apply(const Roster& news) {
    for (const auto& entry : news.peers) roster[entry.peer] = entry;
  }
  void apply(const Catalogue& news) {
    for (const auto& owner : news.owners) owners[owner.peer] = owner.id;
    for (const auto& offered : news.entries) files[{offered.owner, offered.entry.name}] = offered.entry;
  }
  void apply(const Retracted& news) {
    for (const auto& name : news.names) files.erase({news.owner, name});
  }
  template <class M>
  void apply(const M&) {}
};

}  // namespace shoal::test
