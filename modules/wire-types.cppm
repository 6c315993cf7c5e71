/// The types of messages, by their numbers on the wire.
module;

#include <cstdint>

export module shoal.wire:types;

export namespace shoal {

// clang-format off: a row a connection
enum class MessageType : std::uint16_t {
  hello = 1, welcome = 2, refusal = 3, ping = 4, pong = 5, leave = 6,
  register_peer = 16, registered = 17, offer = 18, withdraw = 19, offer_end = 20, roster = 21, catalogue = 22,
  retracted = 23, begin = 24, progress = 25, complete = 26, swarm_complete = 27, find = 28, found = 29, introduce = 30, introduced = 31,
  clock_join = 32, clock_joined = 33, tick = 34, tock = 35, clock_list = 36, clock_peers = 37,
  connect_back = 38, connect_to = 39,
  confirm = 40, confirmed = 41, locate = 42, located = 43, probe = 44, probe_reply = 45,
  subscribe = 48, inventory = 49, have = 50, request = 51, cancel = 52, reject = 53, chunk = 54,
  hash_request = 55, hash_reply = 56, gone = 57,
  table = 58, table_received = 59,
  load_request = 60, load_reply = 61,
  joinable = 64, join = 65, placed = 66, arrived = 67, after = 68,
  overlay_join = 72, overlay_place = 73, overlay_links = 74, overlay_ask = 75, overlay_list = 76, overlay_nodes = 77,
  attach = 80, attached = 81, refer = 82, detach = 83, verify = 84, verified = 85, around = 86,
  search = 88, search_answer = 89,
};
// clang-format on

}  // namespace shoal
