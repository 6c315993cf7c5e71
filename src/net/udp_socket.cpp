module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/error.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/ip/udp.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

module shoal.net;

import :tcp;
import :udp;
import shoal.base;
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;
using asio::ip::udp;

namespace shoal {
namespace {

constexpr asio::as_tuple_t<asio::use_awaitable_t<Executor>> kAsTuple{};
constexpr std::size_t kOfAll = 64;  // that are taken at once, from everyone
constexpr std::size_t kOfOne = 8;   // and from one other

class UdpSocket final : public DatagramSocket {
 public:
  UdpSocket(udp::socket socket, std::size_t at_once) : socket_(std::move(socket)), received_(at_once) {}

  Task<Result<>> receive(std::vector<Datagram>& out) override {
    out.clear();
    while (out.empty()) {
      const auto [error] = co_await socket_.async_wait(udp::socket::wait_read, kAsTuple);  // also where there is more: others have a turn
      if (error) co_return fail(plain_error(error), "cannot receive");
      const auto count = receive_datagrams(socket_.native_handle(), received_);
      if (!count) co_return Failure(count.error());
      for (const RawDatagram& raw : std::span(received_).first(*count))
        if (auto message = decode_datagram(std::span(raw.bytes).first(raw.size)); message && *message)
          out.push_back({raw.peer, std::move(**message)});
    }
    co_return Result<>{};
  }

  void send(std::span<const Datagram> datagrams) override {
    if (!socket_.is_open()) return;
    sent_.clear();
    for (const Datagram& datagram : datagrams) {
      encoded_.clear();
      if (!encode(datagram.message, encoded_) || encoded_.size() > kMaxDatagram) continue;
      RawDatagram& raw = sent_.emplace_back();
      raw.peer = datagram.peer;
      raw.size = encoded_.size();
      std::ranges::copy(encoded_, raw.bytes.begin());
    }
    send_datagrams(socket_.native_handle(), sent_);
  }

  Endpoint local() const override {
    boost::system::error_code ignored;
    const auto endpoint = socket_.local_endpoint(ignored);
    return {endpoint.address().to_string(), endpoint.port()};
  }

  void close() override {
    boost::system::error_code ignored;
    socket_.close(ignored);
  }

 private:
  udp::socket socket_;
  std::vector<RawDatagram> received_;
  std::vector<RawDatagram> sent_;
  std::vector<std::byte> encoded_;
};

/// A socket that `attach` gives its address to, or connects. `at_once` datagrams are taken by one call.
template <class Attach>
Result<std::unique_ptr<DatagramSocket>> make_socket(const Endpoint& endpoint, const Executor& strand, std::size_t at_once, const char* what,
                                                    Attach attach) {
  boost::system::error_code error;
  udp::socket socket(strand);
  const auto address = asio::ip::make_address(endpoint.host, error);
  const udp::endpoint place(address, endpoint.port);
  if (!error) socket.open(place.protocol(), error);
  if (!error) socket.native_non_blocking(true, error);
  if (!error) attach(socket, place, error);
  if (error) return fail(plain_error(error), fmt::format("{} {}", what, to_string(endpoint)));
  return std::make_unique<UdpSocket>(std::move(socket), at_once);
}

}  // namespace

Result<std::unique_ptr<DatagramSocket>> open_udp_socket(const Endpoint& at, Executor strand) {
  const auto bind = [](udp::socket& socket, const udp::endpoint& place, boost::system::error_code& error) {
    share_port(socket.native_handle());
    enlarge_receive_buffer(socket.native_handle());
    socket.bind(place, error);
  };
  return make_socket(at, strand, kOfAll, "cannot take datagrams at", bind);
}

Result<std::unique_ptr<DatagramSocket>> connect_udp_socket(const Endpoint& to, Executor strand) {
  const auto connect = [](udp::socket& socket, const udp::endpoint& place, boost::system::error_code& error) {
    socket.connect(place, error);
  };
  return make_socket(to, strand, kOfOne, "cannot send datagrams to", connect);
}

}  // namespace shoal
