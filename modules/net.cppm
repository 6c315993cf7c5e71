/// The real world: Asio sockets, the machine's clocks and randomness, threads.
module;

#include <boost/asio/awaitable.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

export module shoal.net;

import shoal.base;
import shoal.world;

export namespace shoal {

struct NetOptions {
  unsigned io_threads = 0;         ///< 0: half as many as there are processors, 1 to 4: what computes takes the others.
  unsigned worker_threads = 0;     ///< 0: as many as there are processors.
  std::uint64_t upload_limit = 0;  ///< Bytes of file data a second, over all links; 0: none.
  /// TCP congestion control of each socket, where the system has a choice: `auto`, `system` for its own, or its name. `auto` is cubic,
  /// which moved 2.7 times as much as BBR over a local flow, and BBR from a round trip of 5 ms on (docs/decisions/0030).
  std::string congestion = "auto";
  bool ends_with_process = false;  ///< See World.
};

/// The world of a process. Make one.
class NetWorld : public World {
 public:
  /// Runs `main` on the io threads and returns when it has ended. Rethrows what it ended by.
  virtual void run(Task<> main) = 0;
  /// Calls `handler` for each SIGINT or SIGTERM for as long as the world is there, with how many there have been and which it is; on a
  /// thread of its own, so that it comes through where all others wait. Call it once, before `run`.
  virtual void on_interrupt(std::function<void(int count, int signal)> handler) = 0;
};

std::unique_ptr<NetWorld> make_net_world(const NetOptions& options);

/// Whether World::random works here: where it fails later, it throws what ends a session. Fails with `unsupported`.
Result<> check_randomness();

/// Whether sockets may be given that congestion control here. Fails with `usage`.
Result<> check_congestion(const std::string& name);

}  // namespace shoal
