/// Part of shoal.tracker: where one peer reaches another.
module;

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

export module shoal.tracker:addresses;

import shoal.base;

export namespace shoal {

/// How somebody came to the tracker: from which host, and at which of the tracker's own (empty: not known).
struct Vantage {
  Vantage() = default;
  Vantage(std::string from, std::string at = {}) : remote(std::move(from)), local(std::move(at)) {}
  Vantage(const char* from) : remote(from) {}

  std::string remote;
  std::string local;
};

/// Where a peer takes connections.
struct Whereabouts {
  std::string host;  ///< As it said; empty, 0.0.0.0 or :: for all addresses that it has.
  std::uint16_t port = 0;
  Vantage seen;

  /// What it said, or the address that it was seen at.
  std::string_view plain_host() const;
};

/// Where whoever came from `reader` reaches it (docs/decisions/0037); with port 0 where it cannot.
Endpoint address_for(const Whereabouts& peer, const Vantage& reader);

}  // namespace shoal
