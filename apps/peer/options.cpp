#include <fmt/core.h>
#include <unistd.h>
#include <tl/expected.hpp>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "peer/option_parts.hpp"

import shoal.base;
import shoal.manifest;
import shoal.report;

namespace shoal::apps {

Setter reachable_into(Endpoint& target, std::uint16_t default_port) {
  return [&target, default_port](const std::string& text) -> Result<void> {
    if (auto done = into(target, default_port)(text); !done) return done;
    if (target.port == 0) return fail(Errc::usage, fmt::format("'{}' has port 0, where nobody listens", text), "write HOST:PORT");
    return {};
  };
}

namespace {

constexpr std::size_t kMaxIdBytes = 64;
constexpr std::uint16_t kTrackerPort = 5555;

// ---- values -------------------------------------------------------------------------------------------------

Result<void> check_id(const std::string& id) {
  const bool is_valid = !id.empty() && id.size() <= kMaxIdBytes && id.find('/') == std::string::npos && printable(id) == id;
  if (is_valid) return {};
  return fail(Errc::usage, fmt::format("'{}' is not a name for a peer", id), "write 1 to 64 bytes of printable text without '/'");
}

Setter id_into(std::string& target) {
  return [&target](const std::string& text) -> Result<void> {
    if (auto valid = check_id(text); !valid) return valid;
    target = text;
    return {};
  };
}

/// What was chosen is kept, also where it is what would be taken without.
Setter listen_into(PeerCommand& command) {
  return [&command](const std::string& text) -> Result<void> {
    command.is_listen_chosen = true;
    return into(command.listen, 0)(text);
  };
}

/// The host's name and four random digits: two peers of one host differ, and logs of one run can be told apart.
std::string make_id() {
  std::array<char, kMaxIdBytes - 4> host{};
  const bool is_named = ::gethostname(host.data(), host.size() - 1) == 0 && check_id(host.data());
  return fmt::format("{}-{:04x}", is_named ? host.data() : "peer", std::random_device{}() & 0xffffu);
}

/// `now` or `later`.
Setter md5_into(bool& is_later) {
  return [&is_later](const std::string& text) -> Result<void> {
    if (text != "now" && text != "later") return fail(Errc::usage, fmt::format("'{}' is no time for an MD5", text), "write now or later");
    is_later = text == "later";
    return {};
  };
}

Option md5_option(PeerCommand& command) {
  return {.name = "md5",
          .value = "now|later",
          .help = "when the MD5 of a large file is confirmed: before it gets its name, or after, once its Merkle root is verified",
          .standard = "now",
          .set = md5_into(command.md5_later)};
}

// ---- commands -------------------------------------------------------------------------------------------------

Command swarm_command(PeerCommand& command) {
  Command swarm = make_command<SwarmAction>(command, "swarm", "DIR", "offer DIR, and fetch all that others offer",
                                            "shoal-peer swarm ./data --tracker rack1:5555 --listen 0.0.0.0:0 --insecure");
  swarm.set_operand = within<SwarmAction>(command, [](SwarmAction& action) { return folder_into(action.folder); });
  swarm.groups = {{"Swarm",
                   {{.name = "expect",
                     .value = "N",
                     .help = "a closed swarm, that of a tracker with --expect N and no other: exit when all have everything",
                     .standard = "0: as the tracker is; go on until stopped where it is open",
                     .set = within<SwarmAction>(command, [](SwarmAction& action) { return into(action.expect); })},
                    md5_option(command)}},
                  node_group(command)};
  return swarm;
}

Option no_watch(Setter set) { return {.name = "no-watch", .help = "do not follow changes of DIR while running", .set = std::move(set)}; }

Command share_command(PeerCommand& command) {
  Command share =
      make_command<ShareAction>(command, "share", "DIR", "offer DIR until stopped", "shoal-peer share ./images --limit-rate 50M");
  share.set_operand = within<ShareAction>(command, [](ShareAction& action) { return folder_into(action.folder); });
  share.groups = {{"Share", {no_watch(within<ShareAction>(command, [](ShareAction& action) { return into(action.no_watch); }))}},
                  node_group(command)};
  return share;
}

Command shell_command(PeerCommand& command) {
  Command shell = make_command<ShellAction>(command, "shell", "DIR", "offer DIR, and do what is typed: find, download, ls, help, ...",
                                            "shoal-peer shell ./images --tracker rack1:5555 --insecure");
  shell.set_operand = within<ShellAction>(command, [](ShellAction& action) { return folder_into(action.folder); });
  shell.groups = {{"Shell",
                   {no_watch(within<ShellAction>(command, [](ShellAction& action) { return into(action.no_watch); })),
                    {.name = "no-reannounce",
                     .help = "tell a tracker that has started anew what DIR holds only when updatelist is typed",
                     .set = within<ShellAction>(command, [](ShellAction& action) { return into(action.no_reannounce); })},
                    md5_option(command)}},
                  node_group(command)};
  return shell;
}

Command load_command(PeerCommand& command) {
  Command load =
      make_command<LoadAction>(command, "load", "HOST:PORT", "say how many transfers a peer is in now", "shoal-peer load rack7:40213");
  load.set_operand = within<LoadAction>(command, [](LoadAction& action) { return into(action.peer, 0); });
  return load;
}

Command get_command(PeerCommand& command) {
  Command get = make_command<GetAction>(command, "get", "NAME|MD5|ROOT...", "fetch files by name, MD5 or Merkle root",
                                        "shoal-peer get disk.img 9e107d9d372bb6826bd81d3542a419d6 -o ./images");
  get.set_operand = within<GetAction>(command, [](GetAction& action) { return into(action.wanted); });
  get.groups = {{"Get",
                 {{.name = "out",
                   .letter = 'o',
                   .value = "DIR",
                   .help = "where the files go",
                   .standard = ".",
                   .set = within<GetAction>(command, [](GetAction& action) { return into(action.out); })},
                  {.name = "one",
                   .help = "fetch each file from the best source only",
                   .set = within<GetAction>(command, [](GetAction& action) { return into(action.from_one); })},
                  md5_option(command)}},
                asking_group(command)};
  return get;
}

/// `tracker` or `overlay`.
Setter via_into(FindAction& action) {
  return [&action](const std::string& text) -> Result<void> {
    if (text != "tracker" && text != "overlay")
      return fail(Errc::usage, fmt::format("'{}' is no way to search", text), "write tracker or overlay");
    action.via_overlay = text == "overlay";
    action.via_tracker = !action.via_overlay;
    return {};
  };
}

Command find_command(PeerCommand& command) {
  Command find =
      make_command<FindAction>(command, "find", "PATTERN", "say who has the files whose names match PATTERN", "shoal-peer find '*.iso'");
  find.choose = [&command] {
    command.action = FindAction{};
    command.wait = std::chrono::seconds(5);
  };
  find.set_operand = within<FindAction>(command, [](FindAction& action) { return into(action.pattern); });
  find.groups = {{"Find",
                  {{.name = "via",
                    .value = "tracker|overlay",
                    .help = "whom to ask, and nobody else; without this the tracker, and where it is away the overlay",
                    .set = within<FindAction>(command, [](FindAction& action) { return via_into(action); })}}},
                 asking_group(command)};
  return find;
}

Command list_command(PeerCommand& command) {
  Command list = make_command<ListAction>(command, "ls", "", "list all files that are offered", "shoal-peer ls --json");
  list.choose = [&command] {
    command.action = ListAction{};
    command.wait = std::chrono::seconds(5);
  };
  return list;
}

Command verify_command(PeerCommand& command) {
  Command verify = make_command<VerifyAction>(command, "verify", "DIR", "read every file in DIR and check it against its digests",
                                              "shoal-peer verify ./images");
  verify.set_operand = within<VerifyAction>(command, [](VerifyAction& action) { return folder_into(action.folder); });
  return verify;
}

Setter size_into(std::uint64_t& target) {
  return [&target](const std::string& text) -> Result<void> {
    const auto bytes = parse_bytes(text);
    if (!bytes) return Failure(bytes.error());
    if (*bytes < kChunkSize) return fail(Errc::usage, fmt::format("'{}' is less than a chunk", text), "write 256K or more");
    target = *bytes;
    return {};
  };
}

// ---- options of every command -----------------------------------------------------------------------------------

OptionGroup network_group(PeerCommand& command) {
  return {"Network",
          {{.name = "tracker",
            .value = "HOST:PORT",
            .help = "where the tracker is; port 5555 where it is left out",
            .standard = to_string(command.tracker),
            .set = reachable_into(command.tracker, kTrackerPort)},
           {.name = "listen",
            .value = "HOST:PORT",
            .help = "where other peers reach this one; port 0 takes a free one",
            .standard = to_string(command.listen) + "; all addresses where the tracker or --join is on another machine",
            .set = listen_into(command)},
           {.name = "id",
            .value = "NAME",
            .help = "what the others call this peer; unique in the swarm",
            .standard = "host name and four random digits",
            .set = id_into(command.id)},
           {.name = "wait",
            .value = "DURATION",
            .help = "how long to try to reach the tracker; 0 gives up at once, with exit code 6",
            .standard = "forever; 5 s for find, ls and topo",
            .set = into(command.wait)},
           {.name = "limit-rate",
            .value = "RATE",
            .help = "send no more bytes a second than this, 32K at least; K, M and G are powers of 1024",
            .standard = "0: no limit",
            .set = rate_into(command.limit_rate)},
           {.name = "in-flight",
            .value = "SIZE",
            .help = "ask all peers together for no more than this at a time: what a fast link to far peers holds",
            .standard = "an eighth of the memory, 64M to 1G",
            .set = size_into(command.in_flight)},
           {.name = "congestion",
            .value = "NAME",
            .help = "TCP congestion control where the system has a choice: 'auto' is bbr over long ways and cubic else, 'system' its own",
            .standard = command.congestion,
            .set = into(command.congestion)},
           {.name = "insecure", .help = "allow plain text on an address that is not loopback", .set = into(command.insecure)}}};
}

OptionGroup choice_group(PeerCommand& command) {
  return {"Choice of sources",
          {{.name = "latency",
            .value = "FILE",
            .help = "latencies of pairs, a line 'A B MILLISECONDS' each, with names or addresses; otherwise they are measured",
            .set = into(command.latency)},
           {.name = "latency-default",
            .value = "DURATION",
            .help = "latency of the pairs that FILE does not name",
            .standard = format_duration(command.latency_default),
            .set = into(command.latency_default)},
           {.name = "emulate-latency",
            .help = "take up what comes from a peer as late as FILE says, to stage a network on one machine",
            .set = into(command.emulate_latency)}}};
}

OptionGroup files_group(PeerCommand& command) {
  return {"Files",
          {{.name = "include", .value = "GLOB", .help = "only files that match", .set = into(command.include), .repeats = true},
           {.name = "exclude", .value = "GLOB", .help = "no files that match", .set = into(command.exclude), .repeats = true},
           {.name = "cache",
            .value = "FILE",
            .help = "remembers digests, so that a second start hashes nothing; ':memory:' for none",
            .standard = "~/.cache/shoal/digests.db",
            .set = into(command.cache)}}};
}

bool is_elsewhere(const std::optional<Endpoint>& endpoint) { return endpoint && !is_loopback(endpoint->host); }

Parsed<void> check_addresses(const Program& program, PeerCommand& command) {
  const auto& join = command.overlay.join;
  if (auto safe = require_loopback(program, "--tracker", command.tracker, command.insecure); !safe) return safe;
  if (join)
    if (auto safe = require_loopback(program, "--join", *join, command.insecure); !safe) return safe;
  if (command.is_listen_chosen) return require_loopback(program, "--listen", command.listen, command.insecure);
  if (is_elsewhere(command.tracker) || is_elsewhere(join)) command.listen.host.clear();
  return {};
}

}  // namespace

Program peer_program(PeerCommand& command) {
  Program program{.name = "shoal-peer",
                  .table = "peer",
                  .summary = "offers files to other machines, and fetches and verifies what they offer",
                  .commands = {},
                  .groups = {}};
  program.commands = {swarm_command(command),  share_command(command),    get_command(command),     find_command(command),
                      list_command(command),   topology_command(command), load_command(command),    shell_command(command),
                      verify_command(command), clock_command(command),    timeline_command(command)};
  program.groups = {network_group(command), choice_group(command), files_group(command), common_group(command.common)};
  return program;
}

/// No name is as long as that, however it is quoted.
Parsed<void> check_patterns(const Program& program, const PeerCommand& command) {
  std::vector<std::string> patterns;
  if (const auto* const find = std::get_if<FindAction>(&command.action)) patterns.push_back(find->pattern);
  if (const auto* const get = std::get_if<GetAction>(&command.action)) patterns = get->wanted;
  for (const std::string& pattern : patterns)
    if (pattern.size() > kMaxPattern)
      return usage_error(program, fmt::format("a pattern of {} bytes is too long", pattern.size()),
                         fmt::format("write at most {}", kMaxPattern));
  return {};
}

Parsed<PeerCommand> parse_peer(const Inputs& inputs) {
  PeerCommand command;
  const Program program = peer_program(command);
  command.cache = xdg_path(inputs, "XDG_CACHE_HOME", ".cache", "digests.db").value_or(":memory:");
  command.kernels = xdg_path(inputs, "XDG_CACHE_HOME", ".cache", "kernels").value_or("");
  if (auto done = parse(program, inputs); !done) return tl::unexpected(done.error());
  if (auto sound = check_overlay(program, command); !sound) return tl::unexpected(sound.error());
  if (auto sound = check_patterns(program, command); !sound) return tl::unexpected(sound.error());
  if (auto safe = check_addresses(program, command); !safe) return tl::unexpected(safe.error());
  // Clock peers without a name get numbers from the tracker.
  if (command.id.empty() && !std::holds_alternative<ClockAction>(command.action)) command.id = make_id();
  if (auto* shell = std::get_if<ShellAction>(&command.action))
    shell->history = xdg_path(inputs, "XDG_STATE_HOME", ".local/state", "history").value_or("");
  command.overlay.nodes = xdg_path(inputs, "XDG_STATE_HOME", ".local/state", "nodes").value_or("");
  return command;
}

}  // namespace shoal::apps
