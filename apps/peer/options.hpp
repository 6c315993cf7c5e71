/// What the command line of shoal-peer says. Include this last: it imports modules.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/options.hpp"

import shoal.base;

namespace shoal::apps {

/// Offer a folder and fetch all that others offer.
struct SwarmAction {
  std::string folder;
  std::uint32_t expect = 0;  ///< Peers of a closed swarm; 0 for an open one.
};

/// Offer a folder until stopped.
struct ShareAction {
  std::string folder;
  bool no_watch = false;
};

/// The interactive peer.
struct ShellAction {
  std::string folder;
  bool no_watch = false;
  bool no_reannounce = false;
  std::string history;  ///< A file; none when empty.
};

/// Say how busy a peer is.
struct LoadAction {
  Endpoint peer;
};

/// Fetch what is named.
struct GetAction {
  std::vector<std::string> wanted;  ///< Names, MD5s or Merkle roots, as written; at least one.
  std::string out = ".";
  bool from_one = false;
};

/// Say who has the files whose names match.
struct FindAction {
  std::string pattern;
  bool via_tracker = false;  ///< And nobody else.
  bool via_overlay = false;
};

/// Show the tree of the overlay.
struct TopologyAction {
  bool as_dot = false;
};

/// List all that is offered.
struct ListAction {};

/// Check a folder against what is known of it.
struct VerifyAction {
  std::string folder;
};

/// Exchange timestamps with the tracker, then the tables of them with everybody.
struct ClockAction {
  std::uint32_t count = 1;
  Nanoseconds interval = std::chrono::milliseconds(10);
  Nanoseconds duration = std::chrono::minutes(5);
  std::string out = "out";
  bool no_exchange = false;
  std::optional<Nanoseconds> wait_sync;
};

/// Merge the event logs of several peers.
struct TimelineAction {
  std::vector<std::string> logs;
  std::string svg;  ///< Where the picture goes; none when empty.
};

/// How a peer has to do with the overlay.
struct OverlayCommand {
  bool is_left_out = false;  ///< --no-overlay
  std::uint32_t max_links = 2;
  bool is_max_links_chosen = false;
  std::optional<Endpoint> join;
  std::string nodes;  ///< The file of nodes that were heard of; none when empty.
};

struct PeerCommand {
  std::variant<SwarmAction, ShareAction, GetAction, FindAction, ListAction, VerifyAction, ClockAction, TimelineAction, ShellAction,
               LoadAction, TopologyAction>
      action;
  Endpoint tracker{"127.0.0.1", 5555};
  Endpoint listen{"127.0.0.1", 0};   ///< All addresses (no host) where the tracker or --join is not on loopback, unless given.
  bool is_listen_chosen = false;     ///< By the user.
  std::string id;                    ///< 1..64 printable bytes without '/'.
  std::vector<std::string> include;  ///< Globs.
  std::vector<std::string> exclude;
  std::uint64_t limit_rate = 0;     ///< Bytes a second; 0 for no limit.
  std::uint64_t in_flight = 0;      ///< Bytes that are asked for at a time, of all peers together; 0: by the machine's memory.
  std::string congestion = "auto";  ///< TCP congestion control: see NetOptions.
  bool insecure = false;
  std::optional<Nanoseconds> wait;                               ///< How long to try to reach the tracker; without a value forever.
  std::string latency;                                           ///< A file with latencies of pairs; none when empty.
  Nanoseconds latency_default = std::chrono::milliseconds(100);  ///< Of pairs that it does not name.
  bool emulate_latency = false;
  OverlayCommand overlay;
  bool md5_later = false;  ///< Of swarm, get and shell: a file gets its name when its Merkle root is verified, before its MD5 is.
  std::string cache;       ///< The digest cache; `:memory:` for none.
  std::string kernels;     ///< Where the times of the digest kernels are kept; nowhere when empty.
  CommonOptions common;
};

/// The options, with their setters bound to `command`.
Program peer_program(PeerCommand& command);
Parsed<PeerCommand> parse_peer(const Inputs& inputs);

}  // namespace shoal::apps
