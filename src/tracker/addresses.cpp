// Where one peer reaches another, by what both of their connections with the tracker show.
module;

#include <string>
#include <string_view>
#include <utility>

module shoal.tracker;

import shoal.base;

namespace shoal {
namespace {

/// Tells machines apart; empty for the tracker's own.
std::string_view machine_of(const Vantage& seen) {
  return is_loopback(seen.remote) || seen.remote == seen.local ? std::string_view() : std::string_view(seen.remote);
}

/// An interface has its name on one machine only: a reader elsewhere puts in its own, that of its way to the tracker.
std::string host_for(const Vantage& reader, std::string_view host, const Vantage& peer) {
  return machine_of(reader).empty() ? with_zone_of(without_zone(host), peer.remote) : without_zone(host);
}

}  // namespace

std::string_view Whereabouts::plain_host() const { return is_any_address(host) ? std::string_view(seen.remote) : std::string_view(host); }

Endpoint address_for(const Whereabouts& peer, const Vantage& reader) {
  const std::string_view host = peer.plain_host();
  if (!is_loopback(host)) return {host_for(reader, host, peer.seen), peer.port};
  if (machine_of(peer.seen) == machine_of(reader)) return {std::string(host), peer.port};
  // It is on the tracker's machine, at all of whose addresses it listens: also at the one that the reader came to.
  if (is_any_address(peer.host) && !reader.local.empty()) return {without_zone(reader.local), peer.port};
  return {std::string(peer.seen.remote.empty() ? host : peer.seen.remote), 0};
}

}  // namespace shoal
