module;

#include <fmt/core.h>

#include <charconv>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>

#include <tl/expected.hpp>

module shoal.base;

namespace shoal {
namespace {

Failure bad_endpoint(std::string_view text) {
  return fail(Errc::usage, fmt::format("'{}' is not an address", text), "write HOST:PORT, or [ADDRESS]:PORT for IPv6");
}

/// Splits `[host]rest` or `host:rest`; `rest` is empty or begins with ':'.
bool split_host(std::string_view text, std::string_view& host, std::string_view& rest) {
  if (text.starts_with('[')) {
    const auto close = text.find(']');
    if (close == std::string_view::npos) return false;
    host = text.substr(1, close - 1);
    rest = text.substr(close + 1);
    return true;
  }
  const auto colon = text.find(':');
  if (colon != text.rfind(':')) return false;  // an IPv6 address without its brackets
  host = text.substr(0, colon);
  rest = colon == std::string_view::npos ? std::string_view{} : text.substr(colon);
  return true;
}

}  // namespace

Result<Endpoint> parse_endpoint(std::string_view text, std::uint16_t default_port) {
  std::string_view host;
  std::string_view rest;
  if (!split_host(text, host, rest) || host.empty()) return bad_endpoint(text);
  Endpoint endpoint{std::string(host), default_port};
  if (rest.empty()) return default_port != 0 ? Result<Endpoint>(endpoint) : bad_endpoint(text);
  if (!rest.starts_with(':')) return bad_endpoint(text);
  rest.remove_prefix(1);
  const char* const end = rest.data() + rest.size();
  const auto [stop, error] = std::from_chars(rest.data(), end, endpoint.port);
  if (rest.empty() || error != std::errc{} || stop != end) return bad_endpoint(text);
  return endpoint;
}

std::string to_string(const Endpoint& endpoint) {
  const bool is_ipv6 = endpoint.host.find(':') != std::string::npos;
  return is_ipv6 ? fmt::format("[{}]:{}", endpoint.host, endpoint.port) : fmt::format("{}:{}", endpoint.host, endpoint.port);
}

bool is_loopback(std::string_view host) {
  if (host == "localhost" || host == "::1") return true;
  if (host.starts_with("::ffff:")) host.remove_prefix(7);
  // Digits alone: 127.example.com is a name, and may be anyone's.
  return host.starts_with("127.") && host.find_first_not_of("0123456789.") == std::string_view::npos;
}

bool is_any_address(std::string_view host) { return host.empty() || host == "0.0.0.0" || host == "::" || host == "::ffff:0.0.0.0"; }

namespace {

/// fe80::/10.
bool is_link_local(std::string_view host) {
  return host.find(':') == 4 && (host.starts_with("fe") || host.starts_with("FE")) &&
         std::string_view("89abAB").find(host[2]) != std::string_view::npos;
}

}  // namespace

std::string without_zone(std::string_view host) { return std::string(is_link_local(host) ? host.substr(0, host.find('%')) : host); }

std::string with_zone_of(std::string_view host, std::string_view neighbour) {
  const auto zone = neighbour.find('%');
  if (!is_link_local(host) || host.find('%') != std::string_view::npos || zone == std::string_view::npos) return std::string(host);
  return std::string(host).append(neighbour.substr(zone));
}

}  // namespace shoal
