/// Whom a node better leaves alone for a while.
module;

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>

export module shoal.tree:doubts;

import shoal.base;

export namespace shoal {

/// Why an address was asked in vain.
enum class Vain : std::uint8_t {
  unreachable,  ///< No connection. It may be back at any time.
  useless,      ///< It answered with what does not help, or let go soon of whoever it took in.
  silent,       ///< It took the connection, and said nothing.
};

/// Addresses that were asked in vain, each left alone for twice as long each time. As many as anybody likes to name cost no more than
/// kMost of them. One strand.
class Doubts {
 public:
  static constexpr std::size_t kMost = 256;
  static constexpr Nanoseconds kForgotten = std::chrono::minutes(2);  ///< After its time, an address is as good as any.

  void add(const Endpoint& at, Vain why, Instant now);
  bool holds(const Endpoint& at, Instant now) const;
  std::size_t size() const { return doubts_.size(); }

 private:
  struct Doubt {
    int times = 0;
    Instant until;
  };
  void make_room(Instant now);

  std::map<Endpoint, Doubt> doubts_;
};

}  // namespace shoal
