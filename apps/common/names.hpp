/// Every option of both commands and the configuration's table that it belongs to. One configuration serves both, so each must
/// know the other's names to tell a mistyped one. The tests compare this with what the commands have.
#pragma once

#include <array>
#include <string_view>

namespace shoal::apps {

struct KnownOption {
  std::string_view table;  ///< Empty: both commands have it.
  std::string_view name;
};

inline constexpr std::array kKnownOptions{
    KnownOption{"", "quiet"},
    KnownOption{"", "verbose"},
    KnownOption{"", "json"},
    KnownOption{"", "no-color"},
    KnownOption{"", "log"},
    KnownOption{"", "listen"},
    KnownOption{"", "insecure"},
    KnownOption{"", "congestion"},
    KnownOption{"tracker", "expect"},
    KnownOption{"tracker", "grace"},
    KnownOption{"tracker", "out"},
    KnownOption{"tracker", "state"},
    KnownOption{"peer", "tracker"},
    KnownOption{"peer", "id"},
    KnownOption{"peer", "include"},
    KnownOption{"peer", "exclude"},
    KnownOption{"peer", "limit-rate"},
    KnownOption{"peer", "in-flight"},
    KnownOption{"peer", "wait"},
    KnownOption{"peer", "cache"},
    KnownOption{"peer", "latency"},
    KnownOption{"peer", "latency-default"},
    KnownOption{"peer", "emulate-latency"},
    KnownOption{"peer.swarm", "expect"},
    KnownOption{"peer.swarm", "md5"},
    KnownOption{"peer.get", "out"},
    KnownOption{"peer.get", "one"},
    KnownOption{"peer.get", "md5"},
    KnownOption{"peer.clock", "count"},
    KnownOption{"peer.clock", "interval"},
    KnownOption{"peer.clock", "duration"},
    KnownOption{"peer.clock", "out"},
    KnownOption{"peer.clock", "no-exchange"},
    KnownOption{"peer.clock", "wait-sync"},
    KnownOption{"peer.timeline", "svg"},
    KnownOption{"peer.share", "no-watch"},
    KnownOption{"peer.shell", "no-watch"},
    KnownOption{"peer.shell", "no-reannounce"},
    KnownOption{"peer.shell", "md5"},
    KnownOption{"peer.swarm", "no-overlay"},
    KnownOption{"peer.swarm", "max-links"},
    KnownOption{"peer.swarm", "join"},
    KnownOption{"peer.share", "no-overlay"},
    KnownOption{"peer.share", "max-links"},
    KnownOption{"peer.share", "join"},
    KnownOption{"peer.shell", "no-overlay"},
    KnownOption{"peer.shell", "max-links"},
    KnownOption{"peer.shell", "join"},
    KnownOption{"peer.get", "join"},
    KnownOption{"peer.find", "via"},
    KnownOption{"peer.find", "join"},
    KnownOption{"peer.topo", "dot"},
    KnownOption{"peer.topo", "join"},
};

inline constexpr std::array<std::string_view, 13> kKnownTables{"tracker",    "peer",          "peer.swarm", "peer.share", "peer.get",
                                                               "peer.find",  "peer.ls",       "peer.topo",  "peer.load",  "peer.verify",
                                                               "peer.clock", "peer.timeline", "peer.shell"};

}  // namespace shoal::apps
