/// What the rooms' deciding parts want done: whoever runs a node of the overlay carries it out, in this order.
module;

#include <cstdint>
#include <functional>
#include <string>
#include <variant>
#include <vector>

export module shoal.tree:actions;

import shoal.base;
import shoal.wire;

export namespace shoal {

/// A connection of a node with another, or with somebody who only asks. Never used twice.
using LinkIndex = Index<struct OverlayLinkTag>;

struct SendTo {
  LinkIndex link;
  Message message;
};
/// Opens a connection, tells that it is there (`on_connected`) or could not be had (`on_closed`), greets as a node, and sends what there is
/// to send along with the greeting.
struct Dial {
  LinkIndex link;
  Endpoint to;
};
/// Closes a connection, once what was sent on it is gone. Nothing is told of it any more.
struct CloseLink {
  LinkIndex link;
};
/// Nothing happens where the tracker is away.
struct TellTracker {
  Message message;
};
/// Looks up what this node has: `Searches::on_looked_up`.
struct LookUp {
  std::uint64_t search = 0;
  SearchKind kind = SearchKind::files;
  std::string pattern;
};
/// It is not needed any more.
struct EndLookUp {
  std::uint64_t search = 0;
};
/// A line for whoever runs the node.
struct Warn {
  std::string text;
};
/// The same, for whoever wants to hear more.
struct Remark {
  std::string text;
};

using TreeAction = std::variant<SendTo, Dial, CloseLink, TellTracker, LookUp, EndLookUp, Warn, Remark>;
using TreeActions = std::vector<TreeAction>;

using RandomWords = std::function<std::uint64_t()>;

Endpoint address_of(const Contact& contact);
/// A node as lines name it: `s3 (10.0.0.7:4010)`.
std::string name_of(const Contact& contact);

/// What came from the machine `remote` names that machine by no address, or by one that is good there only; here it is reached at `remote`.
void set_hosts(Message& message, const std::string& remote);

/// Numbers from there on are nobody's.
inline constexpr std::uint32_t kMostNodes = 10'000'000;
/// Whether that can be a node that takes connections.
bool is_sound(const Contact& contact);

}  // namespace shoal
