/// Inside shoal.tracker: the nodes of the overlay, and the picture of them.
module;

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

module shoal.tracker:overlay;

import :addresses;
import shoal.base;
import shoal.report;
import shoal.tree;
import shoal.wire;
import shoal.world;

namespace shoal {

/// Why a node may not join.
Result<> check_join(const OverlayJoin& join);

/// Serves nodes of the overlay. A session stays on its link's strand, what sessions share on `strand`.
class OverlayBoard {
 public:
  /// `records` may be null: no files of the picture then. `clock` is the swarm clock, from any thread.
  OverlayBoard(World& world, Report& report, std::shared_ptr<RecordFolder> records, Executor strand, std::function<Nanoseconds()> clock);

  /// A connection with the tracker.
  struct Connection {
    Census::SessionNumber number = 0;
    std::shared_ptr<Link> link;
    std::shared_ptr<Outbox> outbox;  ///< What is pushed is sent.
    Vantage seen;
  };
  /// A node's connection, from its OverlayJoin on, which was checked. Returns when it has said goodbye; throws where the connection ends
  /// otherwise.
  Task<> serve(Connection connection, Hello hello, OverlayJoin join);
  /// Answers whoever asks for all nodes.
  Task<> list(Connection connection, OverlayList query);

  // On `strand`:

  /// Writes the files where they are not as the picture is: before there are nodes, and at the end. One call at a time.
  Task<> write();
  /// Writes what has changed, until cancelled.
  Task<> keep();
  /// The tracker ends, and its connections with it: the picture stays as it is.
  void freeze() { is_frozen_ = true; }

 private:
  struct Node {
    Connection connection;
    std::string id;
    std::uint64_t instance = 0;
    Whereabouts where;
  };
  using Process = std::pair<std::string, std::uint64_t>;  ///< What a peer is called, and its instance.
  /// All nodes at one moment; shared by those who are being sent it.
  struct Picture {
    std::vector<OverlayNode> nodes;  ///< Without their addresses.
    std::vector<Whereabouts> places;
  };
  using PicturePtr = std::shared_ptr<const Picture>;

  Task<> answer(Connection connection);
  Task<> on_strand(std::function<void()> work);

  // On the strand:
  void enter(Connection connection, const Hello& hello, const OverlayJoin& join);
  void part(Census::SessionNumber number, bool has_left);
  void set_links(Census::SessionNumber number, const OverlayLinks& links);
  void send_place(Census::SessionNumber number);
  void note_change();
  PicturePtr picture();

  // On a worker:
  Result<> write_all(const std::vector<OverlayNode>& nodes);
  Result<> replace(const std::string& name, std::string text);

  World& world_;
  Report& report_;
  std::shared_ptr<RecordFolder> records_;
  Executor strand_;
  std::function<Nanoseconds()> clock_;

  // On the strand:
  Census census_;
  std::map<Census::SessionNumber, Node> nodes_;
  std::map<Process, Census::SessionNumber> by_process_;
  PicturePtr picture_;  ///< Null after a change.
  bool is_frozen_ = false;
  Signal changed_;
  Nanoseconds pause_{0};                        ///< Between a change and its being written.
  bool has_failed_ = false;                     ///< A file could not be written, which was said.
  std::map<std::string, std::string> written_;  ///< What is in the files, by name. Only write_all touches it.
};

}  // namespace shoal
