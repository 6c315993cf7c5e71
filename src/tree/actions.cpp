// Names and addresses of nodes.
module;

#include <fmt/core.h>

#include <cstddef>
#include <string>
#include <variant>
#include <vector>

module shoal.tree;

import :actions;
import shoal.base;
import shoal.wire;

namespace shoal {
namespace {

constexpr std::size_t kMostHostBytes = 255;

void set_host(std::string& host, const std::string& remote) {
  if (is_any_address(host) || (is_loopback(host) && !is_loopback(remote)))
    host = remote;
  else
    host = with_zone_of(host, remote);
}

void set_hosts_of(std::vector<Contact>& contacts, const std::string& remote) {
  for (Contact& contact : contacts) set_host(contact.host, remote);
}

}  // namespace

Endpoint address_of(const Contact& contact) { return {contact.host, contact.port}; }

std::string name_of(const Contact& contact) {
  const std::string where = to_string(address_of(contact));
  return contact.key.number == 0 ? fmt::format("the node at {}", where) : fmt::format("s{} ({})", contact.key.number, where);
}

void set_hosts(Message& message, const std::string& remote) {
  if (auto* attach = std::get_if<Attach>(&message)) {
    set_host(attach->self.host, remote);
  } else if (auto* refer = std::get_if<Refer>(&message)) {
    set_hosts_of(refer->to, remote);
  } else if (auto* detach = std::get_if<Detach>(&message)) {
    set_hosts_of(detach->to, remote);
  } else if (auto* verify = std::get_if<Verify>(&message)) {
    set_host(verify->origin.host, remote);
  } else if (auto* around = std::get_if<Around>(&message)) {
    set_hosts_of(around->known, remote);
  } else if (auto* answer = std::get_if<SearchAnswer>(&message)) {
    for (Hit& hit : answer->hits) set_host(hit.host, remote);
    for (OverlayNode& node : answer->found_nodes) set_host(node.host, remote);
  }
}

bool is_sound(const Contact& contact) {
  return contact.key.number < kMostNodes && contact.port != 0 && contact.host.size() <= kMostHostBytes;
}

}  // namespace shoal
