#include <catch2/catch_test_macros.hpp>
#include <tl/expected.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

import shoal.base;
import shoal.schedule;

using namespace shoal;
using namespace std::chrono_literals;

namespace {

std::string best_of(const std::vector<Candidate>& candidates, std::uint64_t bytes = 1000) {
  return candidates[rank(candidates, bytes).front()].name;
}

LatencyTable table(std::string_view text) {
  auto parsed = LatencyTable::parse(text);
  REQUIRE(parsed.has_value());
  return *parsed;
}

std::string failure_of(std::string_view text) {
  const auto parsed = LatencyTable::parse(text);
  return parsed ? std::string() : parsed.error().message();
}

const LatencyTable::Party kA{"a", {"10.0.0.1", 1000}};
const LatencyTable::Party kB{"b", {"10.0.0.2", 2000}};

}  // namespace

TEST_CASE("A latency of 40 ms without load is better than 10 ms with a load of 5") {
  CHECK(best_of({{"near", 10ms, 5, 0}, {"far", 40ms, 0, 0}}) == "far");
}

TEST_CASE("A score is the latency in milliseconds and ten for each transfer") { CHECK(score_of({"x", 12500us, 3, 0}) == 42.5); }

TEST_CASE("Equal scores are told apart by name, so that the choice is always the same") {
  CHECK(best_of({{"b", 10ms, 0, 0}, {"a", 10ms, 0, 0}}) == "a");
}

TEST_CASE("A source that cannot be reached comes last") { CHECK(best_of({{"a", std::nullopt, 0, 0}, {"b", 1h, 9, 0}}) == "b"); }

TEST_CASE("A measured rate rules over the score") {
  CHECK(best_of({{"slow", 1ms, 0, 1e5}, {"fast", 100ms, 5, 1e8}}, 10'000'000) == "fast");
}

TEST_CASE("A source without a rate is taken to be as fast as the others are on average") {
  CHECK(best_of({{"measured", 1ms, 0, 1e6}, {"unknown", 5ms, 0, 0}}, 10'000'000) == "measured");
  CHECK(best_of({{"slow", 1ms, 0, 1e4}, {"fast", 1ms, 0, 1e8}, {"unknown", 5ms, 0, 0}}, 10'000'000) == "fast");
}

TEST_CASE("A table names pairs by name or address, in both directions") {
  const auto latencies = table("# a test network\n a  b 2.5 # near\n\n10.0.0.1:1000 c 7\r\n");
  CHECK(latencies.find(kA, kB) == 2500us);
  CHECK(latencies.find(kB, kA) == 2500us);
  CHECK(latencies.find(kA, {"c", {"10.0.0.3", 1}}) == 7ms);
  CHECK(latencies.find(kB, {"c", {"10.0.0.3", 1}}) == std::nullopt);
}

TEST_CASE("A line about the reverse direction counts there") {
  const auto latencies = table("a b 1\nb a 9\n");
  CHECK(latencies.find(kA, kB) == 1ms);
  CHECK(latencies.find(kB, kA) == 9ms);
}

TEST_CASE("A bad line is told by its number") {
  CHECK(failure_of("a b 1\n\na b\n").find("line 3: 2 words") != std::string::npos);
  CHECK(failure_of("a b fast\n").find("line 1: 'fast' is no number") != std::string::npos);
  CHECK(failure_of("a b -1\n").find("line 1") != std::string::npos);
  CHECK(failure_of("a b 1\na b 2\n").find("line 2: a to b is there already") != std::string::npos);
}
