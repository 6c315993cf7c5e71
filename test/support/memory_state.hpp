/// What a tracker keeps, in memory that outlives it. Include this after the headers of libraries; import shoal.base, shoal.manifest and
/// shoal.tracker before it.
#pragma once

#include <tl/expected.hpp>

#include <map>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace shoal::test {

class MemoryState final : public TrackerState {
 public:
  Result<std::vector<RememberedPeer>> load() override {
    std::vector<RememberedPeer> remembered;
    for (const auto& [id, peer] : peers_) {
      remembered.push_back({id, peer.host, peer.port, {}});
      for (const auto& [name, entry] : peer.offers) remembered.back().offers.push_back(entry);
    }
    return remembered;
  }
  Result<> write(std::span<const StateChange> changes) override {
    for (const StateChange& change : changes) std::visit([this](const auto& known) { apply(known); }, change);
    return {};
  }

 private:
  struct Peer {
    std::string host;
    std::uint16_t port = 0;
    std::map<std::string, FileEntry> offers;
  };

  void apply(const PeerSeen& seen) {
    Peer& peer = peers_[seen.id];
    peer.host = seen.host;
    peer.port = seen.port;
  }
  void apply(const PeerForgotten& forgotten) { peers_.erase(forgotten.id); }
  void apply(const EntryOffered& offered) { peers_[offered.id].offers[offered.entry.name] = offered.entry; }
  void apply(const EntryWithdrawn& withdrawn) { peers_[withdrawn.id].offers.erase(withdrawn.name); }

  std::map<std::string, Peer> peers_;
};

}  // namespace shoal::test
