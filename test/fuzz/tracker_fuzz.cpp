// Any bytes, as what peers say to a tracker and when: decoded messages, in any order, from members and from nobody.
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "check.hpp"
#include "registry_client.hpp"

import shoal.base;
import shoal.manifest;
import shoal.tracker;
import shoal.wire;

using namespace shoal;
using test::RegistryClient;

namespace {

constexpr std::size_t kPlenty = std::size_t{1} << 24;

class Swarm {
 public:
  explicit Swarm(std::uint8_t options) : registry_({options % 4U, std::chrono::seconds(options / 4), 1}) {}

  /// One step of the peer that `who` says, at a moment a little later.
  void happen(std::uint8_t what, std::uint8_t who, std::span<const std::byte> bytes) {
    now_ += std::chrono::milliseconds(who * 16);
    peer_ = PeerId(who % 8U);
    switch (what % 10) {
      case 0: return admit(who, bytes);
      case 1: return registry_.gone(peer_, who % 3U, who % 2 == 0, now_);
      case 2: return registry_.expire(now_);
      case 3: return static_cast<void>(registry_.offer_end(peer_, now_));
      case 4: return say<Offer>(bytes, [this](const auto& offer) { return registry_.offer(peer_, offer, now_); });
      case 5: return say<Withdraw>(bytes, [this](const auto& withdraw) { return registry_.withdraw(peer_, withdraw, now_); });
      case 6: return say<Progress>(bytes, [this](const auto& progress) { return registry_.progress(peer_, progress); });
      case 7: return say<Complete>(bytes, [this](const auto& complete) { return registry_.complete(peer_, complete, now_); });
      case 8: return offer_one(who, bytes);
      default: return say<Find>(bytes, [this](const auto& find) { return list(find.pattern); });
    }
  }

  /// In slices or at once, the news end, and lead to the same.
  void check_news() const {
    for (std::uint32_t i = 0; i < 8; ++i) {
      RegistryClient whole((PeerId(i)));
      while (whole.revision < registry_.revision() && whole.read(registry_, kPlenty)) {
      }
      RegistryClient sliced((PeerId(i)));
      for (std::uint64_t before = 0; sliced.read(registry_, 1); before = sliced.revision)
        check(sliced.revision > before, "news go forward");
      check(sliced.revision == whole.revision, "news in slices end where news at once do");
      check(sliced.files == whole.files && sliced.roster == whole.roster, "news in slices lead to the same as news at once");
      check(std::max(whole.largest_message, sliced.largest_message) <= kControlLimit, "news fit their frames");
    }
  }

 private:
  template <class M, class F>
  void say(std::span<const std::byte> bytes, F step) {
    const auto message = decode(M::kType, bytes);
    if (message) static_cast<void>(step(std::get<M>(**message)));
  }

  void admit(std::uint8_t who, std::span<const std::byte> bytes) {
    say<Register>(bytes, [&](const Register& request) {
      Hello hello;
      hello.id = std::string(1, static_cast<char>('a' + who % 8));
      hello.instance = 1U + who / 128U;
      return registry_.admit(hello, request, "192.0.2.1", who % 3U, now_);
    });
  }

  /// Decoded entries hardly ever make sense; this one does.
  void offer_one(std::uint8_t who, std::span<const std::byte> bytes) {
    FileEntry entry;
    entry.name = std::string(1, static_cast<char>('a' + who / 8 % 8));
    entry.size = bytes.size() * kChunkSize + 1;
    entry.root.bytes.fill(static_cast<std::uint8_t>(bytes.size()));
    static_cast<void>(registry_.offer(peer_, Offer{{entry}}, now_));
  }

  Result<> list(const std::string& pattern) const {
    const auto whole = registry_.find(pattern, {}, kPlenty);
    std::size_t found = 0;
    for (std::optional<Registry::Cursor> from = Registry::Cursor{}; from;) {
      const auto part = registry_.find(pattern, *from, 1);
      check(!part.next || *part.next > *from, "a listing goes forward");
      found += part.entries.size();
      from = part.next;
    }
    check(found == whole.entries.size(), "a listing in parts has all");
    static_cast<void>(registry_.roster(whole.entries));
    return {};
  }

  Registry registry_;
  Instant now_{};
  PeerId peer_;
};

}  // namespace

/// The first byte chooses the options; then each step is what, who, a length, and as many bytes.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  Swarm swarm(data[0]);
  std::span<const std::uint8_t> rest(data + 1, size - 1);
  while (rest.size() >= 3) {
    const auto what = rest[0];
    const auto who = rest[1];
    const std::size_t length = std::min<std::size_t>(rest[2], rest.size() - 3);
    swarm.happen(what, who, std::as_bytes(rest.subspan(3, length)));
    rest = rest.subspan(3 + length);
  }
  swarm.check_news();
  return 0;
}
