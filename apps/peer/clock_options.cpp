// The options of the clock, and of the timelines that its logs make.
#include <fmt/core.h>
#include <tl/expected.hpp>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "peer/option_parts.hpp"

import shoal.base;

namespace shoal::apps {
namespace {

constexpr std::uint32_t kMostClockPeers = 10'000;

Setter positive_into(Nanoseconds& target) {
  return [&target](const std::string& text) -> Result<void> {
    if (auto done = into(target)(text); !done) return done;
    if (target <= Nanoseconds::zero())
      return fail(Errc::usage, fmt::format("'{}' is no time at all", text), "write a duration such as 10ms");
    return {};
  };
}

Setter some_into(std::uint32_t& target) {
  return [&target](const std::string& text) -> Result<void> {
    if (auto done = into(target)(text); !done) return done;
    if (target == 0 || target > kMostClockPeers)
      return fail(Errc::usage, fmt::format("'{}' clock peers", text), fmt::format("write 1 to {}", kMostClockPeers));
    return {};
  };
}

Setter sync_into(std::optional<Nanoseconds>& target) {
  return [&target](const std::string& text) -> Result<void> {
    Nanoseconds most{0};
    if (auto done = positive_into(most)(text); !done) return done;
    target = most;
    return {};
  };
}

}  // namespace

Command clock_command(PeerCommand& command) {
  Command clock =
      make_command<ClockAction>(command, "clock", "", "exchange timestamps with the tracker, then the tables of them with everybody",
                                "shoal-peer clock --count 4 --duration 10s");
  clock.groups = {{"Clock",
                   {{.name = "count",
                     .value = "K",
                     .help = "so many peers in this process",
                     .standard = "1",
                     .set = within<ClockAction>(command, [](ClockAction& action) { return some_into(action.count); })},
                    {.name = "interval",
                     .value = "DURATION",
                     .help = "between two timestamps of a peer",
                     .standard = "10ms",
                     .set = within<ClockAction>(command, [](ClockAction& action) { return positive_into(action.interval); })},
                    {.name = "duration",
                     .value = "DURATION",
                     .help = "how long timestamps are exchanged",
                     .standard = "5m",
                     .set = within<ClockAction>(command, [](ClockAction& action) { return positive_into(action.duration); })},
                    {.name = "out",
                     .letter = 'o',
                     .value = "DIR",
                     .help = "where the tables go; made if missing",
                     .standard = "out",
                     .set = within<ClockAction>(command, [](ClockAction& action) { return into(action.out); })},
                    {.name = "no-exchange",
                     .help = "do not send the tables to each other at the end",
                     .set = within<ClockAction>(command, [](ClockAction& action) { return into(action.no_exchange); })},
                    {.name = "wait-sync",
                     .value = "DURATION",
                     .help = "write no tables; exit 0 as soon as the error of the clock is bounded by this, else 6",
                     .set = within<ClockAction>(command, [](ClockAction& action) { return sync_into(action.wait_sync); })}}}};
  return clock;
}

Command timeline_command(PeerCommand& command) {
  Command timeline = make_command<TimelineAction>(command, "timeline", "LOG...", "merge the event logs of several peers into one list",
                                                  "shoal-peer timeline a.log b.log c.log --svg timeline.svg");
  timeline.set_operand = within<TimelineAction>(command, [](TimelineAction& action) { return into(action.logs); });
  timeline.groups = {{"Timeline",
                      {{.name = "svg",
                        .value = "FILE",
                        .help = "draw it: a lane a peer, each chunk from whom to whom",
                        .set = within<TimelineAction>(command, [](TimelineAction& action) { return into(action.svg); })}}}};
  return timeline;
}

}  // namespace shoal::apps
