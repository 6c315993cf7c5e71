module;

#include <fmt/core.h>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <tl/expected.hpp>

#include <string>
#include <string_view>

module shoal.net;

import :tcp;
import shoal.base;

namespace asio = boost::asio;
using asio::ip::tcp;

namespace shoal {
namespace {

constexpr std::string_view kAutomatic = "auto";
constexpr std::string_view kSystem = "system";
const std::string kNear = "cubic";
const std::string kFar = "bbr";  // fills a long path that loses packets now and then

}  // namespace

/// A connection that begins under a pacing control keeps its pacing: so all begin as if they were near.
void begin_congestion_control(int socket, const std::string& choice) {
  if (choice != kSystem) static_cast<void>(choose_congestion_control(socket, choice == kAutomatic ? kNear : choice));
}

void adapt_congestion_control(int socket, const std::string& choice, bool is_far) {
  if (choice == kAutomatic && is_far) static_cast<void>(choose_congestion_control(socket, kFar));
}

Result<> check_congestion(const std::string& name) {
  if (name == kAutomatic || name == kSystem) return {};
  asio::io_context io;
  tcp::socket socket(io);
  boost::system::error_code error;
  socket.open(tcp::v4(), error);
  if (error) socket.open(tcp::v6(), error);
  if (error) return {};  // without a socket there is nothing to choose for
  const auto chosen = choose_congestion_control(socket.native_handle(), name);
  if (chosen) return {};
  return fail(Errc::usage, fmt::format("'{}' is no congestion control that this system lets us use", name),
              "choose another with --congestion; 'sysctl net.ipv4.tcp_allowed_congestion_control' names them");
}

}  // namespace shoal
