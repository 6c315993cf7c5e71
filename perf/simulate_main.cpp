/// shoal-simulate: swarms in the simulated world, by scenario and size. perf/simulate runs it many times and draws.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

import shoal.base;
import shoal.sim;
import shoal.world;

#include "simulation/scenarios.hpp"

using namespace shoal;
using namespace shoal::simulation;

namespace {

struct Command {
  std::string scenario = "one-source";
  std::size_t peers = 16;
  std::string size = "500M";
  std::string rate = "125M";
  double latency_ms = 0.25;
  std::string tcp = "none";
  double loss = 0;
  std::string socket_limit = "4MiB";
  std::uint64_t seed = 1;
  std::uint64_t seeds = 1;
  bool is_real = false;
  bool is_tabular = false;
  std::string curve;  ///< A file for the curve of each run; empty: none.
};

CLI::Validator readable_bytes() {
  return {[](const std::string& text) {
            const auto bytes = parse_bytes(text);
            return bytes ? std::string() : bytes.error().message();
          },
          "BYTES"};
}

const std::map<std::string, sim::CongestionControl> kTcps{{"none", sim::CongestionControl::none},
                                                          {"reno", sim::CongestionControl::reno},
                                                          {"cubic", sim::CongestionControl::cubic},
                                                          {"bbr", sim::CongestionControl::bbr}};

const Scenario* find_scenario(const std::string& name) {
  const auto found = std::ranges::find(scenarios(), name, &Scenario::name);
  return found == scenarios().end() ? nullptr : &*found;
}

Scale scale_of(const Command& command, std::uint64_t seed) {
  if (command.scenario == "mixed") return mixed_scale(seed);  // draws its size from the seed
  Scale scale;
  scale.peers = command.peers;
  scale.bytes = parse_bytes(command.size).value();
  scale.rate = static_cast<double>(parse_bytes(command.rate).value());
  scale.latency = Nanoseconds(static_cast<std::int64_t>(command.latency_ms * 1e6));
  scale.tcp.control = kTcps.at(command.tcp);
  scale.tcp.loss = command.loss;
  scale.tcp.send_buffer = parse_bytes(command.socket_limit).value();
  scale.tcp.receive_buffer = scale.tcp.send_buffer / 2 * 3;  // as Linux's are
  scale.options.seed = seed;
  scale.options.bytes = command.is_real ? sim::Bytes::real : sim::Bytes::marks;
  scale.options.messages = command.is_real ? sim::Messages::encoded : sim::Messages::values;
  return scale;
}

/// Tab-separated, for programs. The columns are those of `kColumns`.
std::string row_of(const Command& command, std::uint64_t seed, const Figures& figures) {
  const auto seconds = [](Nanoseconds time) { return Seconds(time).count(); };
  return fmt::format("{}\t{}\t{}\t{:.6f}\t{:.3f}\t{:.4f}\t{:.3f}\t{:.2f}\t{:.4f}\t{:.6f}\t{:.6f}\t{:.6f}\t{}\t{:016x}\t{}\t{:.3f}",
                     command.scenario, command.peers, seed, seconds(figures.taken), figures.percent_of_bound, figures.duplicate_percent,
                     figures.messages_per_chunk, figures.control_bytes_per_chunk, figures.control_percent, seconds(figures.median),
                     seconds(figures.p99), seconds(figures.last), figures.steps, figures.trace, figures.problems.size(),
                     figures.crossings.empty() ? 0.0 : *std::ranges::max_element(figures.crossings));
}

void write_curve(std::FILE* file, std::uint64_t seed, const Figures& figures) {
  for (const auto& [at, percent] : figures.curve) fmt::print(file, "{}\t{:.6f}\t{:.3f}\n", seed, Seconds(at).count(), percent);
}

std::string replay_command(const Command& command, std::uint64_t seed) {
  const std::string tcp =
      command.tcp == "none" ? "" : fmt::format(" --tcp {} --loss {} --socket-limit {}", command.tcp, command.loss, command.socket_limit);
  return fmt::format("SHOAL_SIM_LOG=/dev/stderr shoal-simulate {} --peers {} --size {} --rate {} --latency {}{} --seed {}{}",
                     command.scenario, command.peers, command.size, command.rate, command.latency_ms, tcp, seed,
                     command.is_real ? " --real" : "");
}

constexpr const char* kColumns =
    "scenario\tpeers\tseed\tseconds\tpercent_of_bound\tduplicate_percent\tmessages_per_chunk\tcontrol_bytes_per_chunk\tcontrol_percent"
    "\tmedian\tp99\tlast\tsteps\ttrace\tproblems\tmost_crossings";

int run(const Command& command) {
  const Scenario& scenario = *find_scenario(command.scenario);
  if (command.is_tabular) fmt::print("{}\n", kColumns);
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> curves(command.curve.empty() ? nullptr : std::fopen(command.curve.c_str(), "w"),
                                                               std::fclose);
  if (!command.curve.empty() && !curves) throw std::runtime_error("cannot write " + command.curve);
  std::uint64_t bad = 0;
  for (std::uint64_t seed = command.seed; seed < command.seed + command.seeds; ++seed) {
    const Figures figures = scenario.run(scale_of(command, seed));
    if (command.is_tabular)
      fmt::print("{}\n", row_of(command, seed, figures));
    else if (command.seeds == 1 || !figures.problems.empty())
      fmt::print("{}, {} peers, seed {}: {}\n", command.scenario, command.peers, seed, to_string(figures));
    if (curves) write_curve(curves.get(), seed, figures);
    for (const auto& problem : figures.problems) fmt::print(stderr, "{}\n", problem);
    if (!figures.problems.empty()) fmt::print(stderr, "again, with what the peers say: {}\n", replay_command(command, seed));
    bad += figures.problems.empty() ? 0 : 1;
    std::fflush(stdout);
  }
  if (command.seeds > 1 && !command.is_tabular)
    fmt::print("{}: {} of {} seeds ended well\n", command.scenario, command.seeds - bad, command.seeds);
  return bad == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  Command command;
  CLI::App app{"Runs a swarm in virtual time, with the real tracker and peers on modelled machines."};
  std::vector<std::string> names;
  for (const auto& scenario : scenarios()) names.push_back(scenario.name);
  app.add_option("scenario", command.scenario, "What happens")->check(CLI::IsMember(names));
  app.add_option("--peers", command.peers, "Peers that fetch")->check(CLI::Range(1, 60'000));
  app.add_option("--size", command.size, "Bytes of each file")->check(readable_bytes());
  app.add_option("--rate", command.rate, "Bytes a second of each host, each way")->check(readable_bytes());
  app.add_option("--latency", command.latency_ms, "Milliseconds from a host to the middle of the network");
  app.add_option("--tcp", command.tcp, "Congestion control of all peers; none: a rate is there at once, and nothing is lost")
      ->check(CLI::IsMember(kTcps));
  app.add_option("--loss", command.loss, "Which part of the TCP segments is lost (with --tcp)")->check(CLI::Range(0.0, 0.5));
  app.add_option("--socket-limit", command.socket_limit, "Bytes that a connection may have under way (with --tcp)")
      ->check(readable_bytes());
  app.add_option("--seed", command.seed, "The first seed");
  app.add_option("--seeds", command.seeds, "So many seeds, one after the other")->check(CLI::PositiveNumber);
  app.add_flag("--real", command.is_real, "Real bytes and encoded messages");
  app.add_flag("--tsv", command.is_tabular, "A table for programs");
  app.add_option("--curve", command.curve, "Write how much was moved by when to this file: seed, seconds, percent");
  CLI11_PARSE(app, argc, argv);
  try {
    return run(command);
  } catch (const std::exception& error) {
    fmt::print(stderr, "shoal-simulate: {}\n", error.what());
    return 1;
  }
}
