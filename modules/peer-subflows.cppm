/// Inside shoal.peer: who may open further connections, and how many there are.
module;

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

module shoal.peer:subflows;

import shoal.base;
import shoal.bundle;
import shoal.wire;
import shoal.world;

namespace shoal {

/// The further connections of a node, to whichever peers. Any thread.
class Subflows {
 public:
  /// Of a node. Each may have a chunk begun, whose buffer waits for the rest of it; with that of each neighbour's first connection they
  /// stay within what the node keeps in buffers.
  static constexpr std::size_t kMost = 32;

  /// A secret by which connections may join, until it is withdrawn.
  Secret offer(World& world, const std::shared_ptr<Bundle>& bundle);
  void withdraw(const Secret& secret);
  /// Null where the secret is not, or no longer, good.
  std::shared_ptr<Bundle> find(const Secret& secret) const;
  /// A place for one more of a bundle, free again when it dies; null where there are too few left.
  std::shared_ptr<void> take_place(const std::shared_ptr<Bundle>& bundle) { return places_.take(bundle.get()); }

 private:
  mutable std::mutex mutex_;
  std::map<Secret, std::weak_ptr<Bundle>> offered_;
  Places places_{kMost};
};

/// What a session knows of further connections. On the strand of its link.
struct Several {
  bool are_known = false;                 ///< Both sides know how.
  bool is_to_be_looked_at = true;         ///< Whether to offer them now.
  std::optional<Secret> secret;           ///< That was offered.
  std::optional<Nanoseconds> round_trip;  ///< The least that a ping took.
};

}  // namespace shoal
