module;

#include <string_view>
#include <variant>

module shoal.wire;

namespace shoal {

MessageType type_of(const Message& message) {
  return std::visit([]<class M>(const M&) { return M::kType; }, message);
}

std::string_view name_of(MessageType type) {
  switch (type) {
    case MessageType::hello: return "hello";
    case MessageType::welcome: return "welcome";
    case MessageType::refusal: return "refusal";
    case MessageType::ping: return "ping";
    case MessageType::pong: return "pong";
    case MessageType::leave: return "leave";
    case MessageType::register_peer: return "register";
    case MessageType::registered: return "registered";
    case MessageType::offer: return "offer";
    case MessageType::withdraw: return "withdraw";
    case MessageType::offer_end: return "offer end";
    case MessageType::roster: return "roster";
    case MessageType::catalogue: return "catalogue";
    case MessageType::retracted: return "retracted";
    case MessageType::begin: return "begin";
    case MessageType::progress: return "progress";
    case MessageType::complete: return "complete";
    case MessageType::swarm_complete: return "swarm complete";
    case MessageType::find: return "find";
    case MessageType::found: return "found";
    case MessageType::introduce: return "introduce";
    case MessageType::introduced: return "introduced";
    case MessageType::subscribe: return "subscribe";
    case MessageType::inventory: return "inventory";
    case MessageType::have: return "have";
    case MessageType::request: return "request";
    case MessageType::cancel: return "cancel";
    case MessageType::reject: return "reject";
    case MessageType::chunk: return "chunk";
    case MessageType::hash_request: return "hash request";
    case MessageType::hash_reply: return "hash reply";
    case MessageType::gone: return "gone";
    case MessageType::clock_join: return "clock join";
    case MessageType::clock_joined: return "clock joined";
    case MessageType::tick: return "tick";
    case MessageType::tock: return "tock";
    case MessageType::clock_list: return "clock list";
    case MessageType::clock_peers: return "clock peers";
    case MessageType::table: return "table";
    case MessageType::table_received: return "table received";
    case MessageType::confirm: return "confirm";
    case MessageType::confirmed: return "confirmed";
    case MessageType::locate: return "locate";
    case MessageType::located: return "located";
    case MessageType::probe: return "probe";
    case MessageType::probe_reply: return "probe reply";
    case MessageType::load_request: return "load request";
    case MessageType::load_reply: return "load reply";
    case MessageType::connect_back: return "connect back";
    case MessageType::connect_to: return "connect to";
    case MessageType::joinable: return "joinable";
    case MessageType::join: return "join";
    case MessageType::placed: return "placed";
    case MessageType::arrived: return "arrived";
    case MessageType::after: return "after";
    case MessageType::overlay_join: return "overlay join";
    case MessageType::overlay_place: return "overlay place";
    case MessageType::overlay_links: return "overlay links";
    case MessageType::overlay_ask: return "overlay ask";
    case MessageType::overlay_list: return "overlay list";
    case MessageType::overlay_nodes: return "overlay nodes";
    case MessageType::attach: return "attach";
    case MessageType::attached: return "attached";
    case MessageType::refer: return "refer";
    case MessageType::detach: return "detach";
    case MessageType::verify: return "verify";
    case MessageType::verified: return "verified";
    case MessageType::around: return "around";
    case MessageType::search: return "search";
    case MessageType::search_answer: return "search answer";
  }
  return "unknown";
}

}  // namespace shoal
