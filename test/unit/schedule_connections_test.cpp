#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

import shoal.base;
import shoal.schedule;

using namespace shoal;
using namespace std::chrono_literals;

namespace {

constexpr double kMbit = 1e6 / 8;

/// Flows over one path: each doubles its rate every round trip until its window, loss or the line is the limit.
struct Path {
  Nanoseconds round_trip = 200ms;
  double line = 500 * kMbit;                                ///< Bytes a second.
  double window = 4.0 * 1024 * 1024;                        ///< Bytes that a flow has under way at most.
  double loss_a_trip = 0;                                   ///< How likely a flow halves itself, each round trip.
  double supply = std::numeric_limits<double>::infinity();  ///< What the programs give it, bytes a second.
  bool takes_further = true;                                ///< Whether the other side lets more connections come.
};

/// A pair that moves data over a path, and opens and closes connections as it is told.
class Pair {
 public:
  explicit Pair(const Path& path) : path_(path) {}

  void run(Nanoseconds time, std::size_t waiting = 1) {
    const Instant end = now_ + time;
    while (now_ < end) {
      now_ += kStep;
      if (waiting > 0) move();
      apply(count_.on_look({now_, static_cast<std::uint64_t>(moved_), waiting, path_.round_trip, flows_.size(), most}));
    }
  }
  double rate() const { return std::min({path_.line, path_.supply, wanted()}); }
  std::size_t connections() const { return flows_.size(); }

  std::size_t most = 8;
  int opened = 0;
  std::size_t highest = 1;

 private:
  static constexpr Nanoseconds kStep = 20ms;

  double wanted() const {
    double sum = 0;
    for (const double flow : flows_) sum += flow;
    return sum;
  }
  double first_rate() const { return 14'600 / Seconds(path_.round_trip).count(); }

  void move() {
    moved_ += rate() * Seconds(kStep).count();
    const double trips = Seconds(kStep).count() / Seconds(path_.round_trip).count();
    const bool is_full = wanted() >= path_.line;
    std::uniform_real_distribution<double> draw(0, 1);
    for (double& flow : flows_) {
      if (path_.loss_a_trip > 0 && draw(random_) < path_.loss_a_trip * trips)
        flow = std::max(flow / 2, first_rate());
      else if (path_.loss_a_trip > 0)
        flow += first_rate() * trips;
      else if (!is_full)
        flow = std::min(flow * (1 + trips), path_.window / Seconds(path_.round_trip).count());
    }
  }

  void apply(int change) {
    for (int i = change; i < 0; ++i) flows_.pop_back();
    for (int i = 0; i < change; ++i) {
      ++opened;
      if (path_.takes_further) flows_.push_back(first_rate());
    }
    highest = std::max(highest, flows_.size());
  }

  Path path_;
  ConnectionCount count_;
  Instant now_{1h};
  double moved_ = 0;
  std::vector<double> flows_ = {first_rate()};
  std::mt19937 random_{7};
};

}  // namespace

TEST_CASE("Flows that their windows limit are joined by others until the line is full") {
  const Nanoseconds round_trip = GENERATE(Nanoseconds(100ms), Nanoseconds(200ms), Nanoseconds(300ms));
  CAPTURE(round_trip.count());
  Pair pair({.round_trip = round_trip});
  pair.run(100 * round_trip);
  CHECK(pair.rate() > 0.95 * 500 * kMbit);
  CHECK(pair.connections() >= 2);
  CHECK(pair.connections() <= 6);
}

TEST_CASE("The second connection comes as soon as the first has stopped growing") {
  Pair pair({});
  pair.run(3s);
  CHECK(pair.connections() >= 2);
  pair.run(5s);
  CHECK(pair.rate() > 0.9 * 500 * kMbit);
}

TEST_CASE("Who is very far and has much to move begins with four connections, and again after a pause") {
  Pair pair({.round_trip = 50ms});
  pair.run(40ms, 8);
  CHECK(pair.connections() == 4);
  pair.run(8s, 0);
  REQUIRE(pair.connections() == 1);
  pair.run(40ms, 8);
  CHECK(pair.connections() == 4);
}

TEST_CASE("Who is not so far, or has little to move, or may have no more, begins with one connection") {
  Pair near({.round_trip = 19ms});
  near.run(40ms, 64);
  CHECK(near.opened == 0);
  Pair small({.round_trip = 50ms});
  small.run(40ms, 7);
  CHECK(small.opened == 0);
  Pair bounded({.round_trip = 50ms});
  bounded.most = GENERATE(1U, 2U);
  bounded.run(40ms, 64);
  CHECK(bounded.connections() == bounded.most);
}

TEST_CASE("Flows that loss limits are joined by others") {
  Pair pair({.round_trip = 100ms, .line = 200 * kMbit, .loss_a_trip = 0.05});
  Pair alone({.round_trip = 100ms, .line = 200 * kMbit, .loss_a_trip = 0.05});
  alone.most = 1;
  pair.run(60s);
  alone.run(60s);
  CHECK(pair.connections() >= 4);
  CHECK(pair.rate() > 2.5 * alone.rate());
}

TEST_CASE("On a near link nothing is opened, however little it moves") {
  Pair pair({.round_trip = 4ms, .loss_a_trip = 0.5});
  pair.run(60s);
  CHECK(pair.opened == 0);
}

TEST_CASE("Where the line, or what there is to move, is the limit, one more is tried, closed, and tried again ever more seldom") {
  const Path path = GENERATE(Path{.round_trip = 50ms, .line = 20 * kMbit}, Path{.round_trip = 50ms, .supply = 10 * kMbit});
  Pair pair(path);
  pair.run(30s);
  CHECK(pair.opened >= 1);
  CHECK(pair.connections() == 1);
  CHECK(pair.highest == 2);
  const int before = pair.opened;
  pair.run(10min);
  CHECK(pair.opened - before >= 5);
  CHECK(pair.opened - before <= 10);
}

TEST_CASE("A side that takes no more connections is asked ever more seldom, and loses none") {
  Pair pair({.takes_further = false});
  pair.run(10min);
  CHECK(pair.connections() == 1);
  CHECK(pair.opened >= 2);
  CHECK(pair.opened <= 12);
}

TEST_CASE("There are never more connections than may be") {
  Pair pair({.line = 1e5 * kMbit});
  pair.most = GENERATE(1U, 3U, 8U);
  pair.run(60s);
  CHECK(pair.highest == pair.most);
  CHECK(pair.connections() == pair.most);
}

TEST_CASE("A pair that is idle for some seconds comes down to one connection, and begins anew when it is busy again") {
  Pair pair({});
  pair.run(20s);
  const std::size_t before = pair.connections();
  REQUIRE(before > 1);
  pair.run(4s, 0);
  CHECK(pair.connections() == before);
  pair.run(4s, 0);
  CHECK(pair.connections() == 1);
  pair.run(20s);
  CHECK(pair.connections() > 1);
}
