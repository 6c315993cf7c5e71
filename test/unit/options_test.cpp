#include <rapidcheck.h>
#include <stdlib.h>
#include <catch2/catch_test_macros.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "common/names.hpp"
#include "peer/options.hpp"
#include "tracker/options.hpp"

import shoal.base;
import shoal.report;

using namespace shoal;
using namespace shoal::apps;
using namespace std::chrono_literals;

namespace {

using Variables = std::map<std::string, std::string>;

Inputs inputs(std::vector<std::string> arguments, Variables variables = {}) {
  return {std::move(arguments), [variables = std::move(variables)](const std::string& name) -> std::optional<std::string> {
            const auto found = variables.find(name);
            return found == variables.end() ? std::nullopt : std::optional(found->second);
          }};
}

PeerCommand peer(std::vector<std::string> arguments, Variables variables = {}) {
  const auto parsed = parse_peer(inputs(std::move(arguments), std::move(variables)));
  if (!parsed) FAIL(parsed.error().err);
  return *parsed;
}

TrackerCommand tracker(std::vector<std::string> arguments, Variables variables = {}) {
  const auto parsed = parse_tracker(inputs(std::move(arguments), std::move(variables)));
  if (!parsed) FAIL(parsed.error().err);
  return *parsed;
}

/// The one line of a usage error, without its end.
std::string refusal(const Stop& stop) {
  CHECK(stop.exit == ExitCode::usage);
  CHECK(stop.out.empty());
  REQUIRE(std::count(stop.err.begin(), stop.err.end(), '\n') == 1);
  REQUIRE(stop.err.ends_with('\n'));
  return stop.err.substr(0, stop.err.size() - 1);
}

std::string peer_refusal(std::vector<std::string> arguments, Variables variables = {}) {
  const auto parsed = parse_peer(inputs(std::move(arguments), std::move(variables)));
  REQUIRE(!parsed);
  return refusal(parsed.error());
}

std::string tracker_refusal(std::vector<std::string> arguments, Variables variables = {}) {
  const auto parsed = parse_tracker(inputs(std::move(arguments), std::move(variables)));
  REQUIRE(!parsed);
  return refusal(parsed.error());
}

/// A folder of its own, with `shoal/config.toml` in it.
class Config {
 public:
  explicit Config(std::string_view text) {
    std::string pattern = (std::filesystem::temp_directory_path() / "shoal-options-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
    std::filesystem::create_directory(folder_ + "/shoal");
    std::ofstream(path()) << text;
  }
  ~Config() { std::filesystem::remove_all(folder_); }

  std::string path() const { return folder_ + "/shoal/config.toml"; }
  Variables variables(Variables more = {}) const {
    more["XDG_CONFIG_HOME"] = folder_;
    return more;
  }

 private:
  std::string folder_;
};

}  // namespace

// ---- the command line -------------------------------------------------------------------------------------

TEST_CASE("A peer listens where it was told to, and else where its tracker's other peers can reach it") {
  CHECK(peer({"ls"}).listen == Endpoint{"127.0.0.1", 0});
  CHECK(peer({"ls", "--tracker", "[::1]:5555"}).listen == Endpoint{"127.0.0.1", 0});
  CHECK(peer({"topo", "--join", "10.0.0.1:7000", "--insecure"}).listen == Endpoint{"", 0});
  for (const auto tracker : {"10.0.0.1:5555", "[2001:db8::1]:5555", "rack1"})  // a name may mean addresses of both kinds
    CHECK(peer({"ls", "--tracker", tracker, "--insecure"}).listen == Endpoint{"", 0});
  for (const auto listen : {"127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0", "10.0.0.2:7000"}) {
    CHECK(to_string(peer({"ls", "--tracker", "10.0.0.1", "--listen", listen, "--insecure"}).listen) == listen);
    CHECK(to_string(peer({"ls", "--listen", listen, "--insecure"}).listen) == listen);
  }
}

TEST_CASE("The tracker without options listens where peers look for it") {
  const auto command = tracker({});
  CHECK(command.listen == Endpoint{"127.0.0.1", 5555});
  CHECK(command.expect == 0);
  CHECK(command.grace == 30s);
  CHECK(command.out.empty());
}

TEST_CASE("The tracker takes its options") {
  const auto command =
      tracker({"--listen", "[::1]:7000", "--expect=4", "--grace", "1.5s", "-o", "records", "-v", "--json", "--no-color", "--log", "l"});
  CHECK(command.listen == Endpoint{"::1", 7000});
  CHECK(command.expect == 4);
  CHECK(command.grace == 1500ms);
  CHECK(command.out == "records");
  CHECK((command.common.verbose && command.common.json && command.common.no_color && !command.common.quiet));
  CHECK(command.common.log == "l");
}

TEST_CASE("A peer's command, its folder and its options may come in any order") {
  for (const std::vector<std::string>& arguments : {std::vector<std::string>{"--json", "swarm", "/", "--expect", "4"},
                                                    {"swarm", "--expect", "4", "/", "--json"},
                                                    {"swarm", "--json", "--expect=4", "--", "/"}}) {
    const auto command = peer(arguments);
    CHECK(command.common.json);
    CHECK(std::get<SwarmAction>(command.action).folder == "/");
    CHECK(std::get<SwarmAction>(command.action).expect == 4);
  }
}

TEST_CASE("Every command of a peer is understood") {
  CHECK(std::get<ShareAction>(peer({"share", "/"}).action).folder == "/");
  CHECK(std::get<FindAction>(peer({"find", "*.iso"}).action).pattern == "*.iso");
  CHECK(std::holds_alternative<ListAction>(peer({"ls"}).action));
  CHECK(std::get<VerifyAction>(peer({"verify", "/"}).action).folder == "/");
  const auto get = std::get<GetAction>(peer({"get", "a b", "-o", "out", "c"}).action);
  CHECK(get.wanted == std::vector<std::string>{"a b", "c"});
  CHECK(get.out == "out");
}

TEST_CASE("What to get or find may look like a command, an option or a list") {
  CHECK(std::get<GetAction>(peer({"get", "find", "get"}).action).wanted == std::vector<std::string>{"find", "get"});
  CHECK(std::get<GetAction>(peer({"get", "--", "--json", "-x"}).action).wanted == std::vector<std::string>{"--json", "-x"});
  CHECK(std::get<FindAction>(peer({"find", "[a,b]"}).action).pattern == "[a,b]");
  CHECK(peer({"--id", "share", "ls"}).id == "share");
}

TEST_CASE("A peer's common options are taken as values") {
  const auto command = peer({"ls", "--tracker", "localhost", "--listen", "[::1]:0", "--id", "rack 7", "--limit-rate", "1.5M", "--wait", "0",
                             "--cache", ":memory:"});
  CHECK(command.tracker == Endpoint{"localhost", 5555});
  CHECK(command.listen == Endpoint{"::1", 0});
  CHECK(command.id == "rack 7");
  CHECK(command.limit_rate == 1536 * 1024);
  CHECK(command.wait == 0s);
  CHECK(command.cache == ":memory:");
}

TEST_CASE("Globs add up, each option takes one, and another option's last use counts") {
  const auto command = peer({"--include", "*.a", "share", "--include", "[ab]", "--exclude", "x,y", "/", "--id", "one", "--id", "two"});
  CHECK(command.include == std::vector<std::string>{"*.a", "[ab]"});
  CHECK(command.exclude == std::vector<std::string>{"x,y"});
  CHECK(command.id == "two");
}

TEST_CASE("A peer waits for its tracker for ever, but find, ls and topo for five seconds") {
  CHECK(peer({"share", "/"}).wait == std::nullopt);
  CHECK(peer({"ls"}).wait == 5s);
  CHECK(peer({"find", "x"}).wait == 5s);
  CHECK(peer({"topo"}).wait == 5s);
  CHECK(peer({"find", "x", "--wait", "forever"}).wait == std::nullopt);
}

TEST_CASE("The MD5 comes later where the command line, the environment or the configuration says so") {
  CHECK_FALSE(peer({"get", "file"}).md5_later);
  CHECK(peer({"get", "file", "--md5", "later"}).md5_later);
  CHECK(peer({"swarm", "/", "--md5", "later"}).md5_later);
  CHECK(peer({"shell", "/", "--md5=later"}).md5_later);
  CHECK_FALSE(peer({"get", "file", "--md5", "later", "--md5", "now"}).md5_later);
  CHECK(peer({"get", "file"}, {{"SHOAL_MD5", "later"}}).md5_later);
  CHECK_FALSE(peer({"get", "file", "--md5", "now"}, {{"SHOAL_MD5", "later"}}).md5_later);
  const Config everywhere("md5 = \"later\"\n");
  CHECK((peer({"get", "file"}, everywhere.variables()).md5_later && peer({"swarm", "/"}, everywhere.variables()).md5_later));
  CHECK_FALSE(peer({"ls"}, everywhere.variables()).md5_later);
  const Config of_get("[peer.get]\nmd5 = \"later\"\n");
  CHECK((peer({"get", "file"}, of_get.variables()).md5_later && !peer({"swarm", "/"}, of_get.variables()).md5_later));
  CHECK(peer_refusal({"get", "file", "--md5", "never"}) == "shoal-peer: --md5: 'never' is no time for an MD5; write now or later");
  CHECK_FALSE(peer_refusal({"share", "/", "--md5", "later"}).empty());
}

TEST_CASE("A peer that is given no name makes one that is valid and not another's") {
  const std::string id = peer({"ls"}).id;
  REQUIRE(id.size() >= 6);
  CHECK(id[id.size() - 5] == '-');
  CHECK(peer({"ls", "--id", id}).id == id);
  std::set<std::string> ids;
  for (int i = 0; i < 8; ++i) ids.insert(peer({"ls"}).id);
  CHECK(ids.size() > 1);
}

TEST_CASE("The digest cache is where the XDG specification has it") {
  CHECK(peer({"ls"}, {{"XDG_CACHE_HOME", "/c"}, {"HOME", "/h"}}).cache == "/c/shoal/digests.db");
  CHECK(peer({"ls"}, {{"XDG_CACHE_HOME", "relative"}, {"HOME", "/h"}}).cache == "/h/.cache/shoal/digests.db");
  CHECK(peer({"ls"}).cache == ":memory:");
}

// ---- the overlay ------------------------------------------------------------------------------------------

TEST_CASE("A search goes to the tracker unless it is to go through the overlay") {
  CHECK_FALSE(std::get<FindAction>(peer({"find", "x"}).action).via_overlay);
  CHECK_FALSE(std::get<FindAction>(peer({"find", "x"}).action).via_tracker);
  CHECK_FALSE(std::get<FindAction>(peer({"find", "x", "--via", "tracker"}).action).via_overlay);
  CHECK(std::get<FindAction>(peer({"find", "x", "--via", "tracker"}).action).via_tracker);
  CHECK_FALSE(std::get<FindAction>(peer({"find", "x", "--via", "overlay"}).action).via_tracker);
  CHECK(std::get<FindAction>(peer({"find", "x", "--via", "overlay"}).action).via_overlay);
  CHECK(std::get<FindAction>(peer({"find", "x"}, {{"SHOAL_VIA", "overlay"}}).action).via_overlay);
  const Config config("[peer.find]\nvia = 'overlay'\n");
  CHECK(std::get<FindAction>(peer({"find", "x"}, config.variables()).action).via_overlay);
  CHECK(peer_refusal({"find", "x", "--via", "web"}) == "shoal-peer: --via: 'web' is no way to search; write tracker or overlay");
}

TEST_CASE("What does not go together is a usage error") {
  CHECK(peer_refusal({"share", "/", "--no-overlay", "--join", "localhost:1"}) ==
        "shoal-peer: --no-overlay and --join do not go together; leave one of them out");
  CHECK(peer_refusal({"share", "/", "--no-overlay", "--max-links", "3"}) ==
        "shoal-peer: --no-overlay and --max-links do not go together; leave one of them out");
  CHECK(peer_refusal({"topo", "--dot", "--json"}) == "shoal-peer: --dot and --json are two ways to write the same; leave one of them out");
}

TEST_CASE("A pattern that no name can be as long as is a usage error") {
  const std::string longest(8192, 'x');
  CHECK(std::get<FindAction>(peer({"find", longest}).action).pattern == longest);
  CHECK(peer_refusal({"find", longest + "x"}) == "shoal-peer: a pattern of 8193 bytes is too long; write at most 8192");
  CHECK(peer_refusal({"get", "a", longest + "x"}) == "shoal-peer: a pattern of 8193 bytes is too long; write at most 8192");
}

TEST_CASE("The tree is drawn, or said in the words of Graphviz") {
  CHECK_FALSE(std::get<TopologyAction>(peer({"topo"}).action).as_dot);
  CHECK(std::get<TopologyAction>(peer({"topo", "--dot"}).action).as_dot);
}

TEST_CASE("A peer that is a node of the overlay has two neighbours there unless told otherwise") {
  for (const std::string command : {"share", "shell", "swarm"}) {
    const auto plain = peer({command, "/"}).overlay;
    CHECK((plain.max_links == 2 && !plain.join && !plain.is_left_out));
    const auto chosen = peer({command, "/", "--max-links", "5", "--join", "[::1]:7000"}).overlay;
    CHECK(chosen.max_links == 5);
    CHECK(chosen.join == Endpoint{"::1", 7000});
    CHECK(peer({command, "/", "--no-overlay"}).overlay.is_left_out);
  }
  CHECK(peer({"share", "/"}, {{"SHOAL_MAX_LINKS", "3"}}).overlay.max_links == 3);
  CHECK(peer_refusal({"share", "/", "--max-links", "1"}) ==
        "shoal-peer: --max-links: '1' is no number of links for a node; write 2 to 1000");
  CHECK(peer_refusal({"share", "/", "--max-links", "many"}) ==
        "shoal-peer: --max-links: 'many' is no number of links for a node; write 2 to 1000");
}

TEST_CASE("Commands that ask the overlay take a node to ask") {
  for (const std::vector<std::string>& line : {std::vector<std::string>{"find", "x"}, {"get", "x"}, {"topo"}}) {
    auto with_join = line;
    with_join.insert(with_join.end(), {"--join", "127.0.0.1:7000"});
    CHECK(peer(with_join).overlay.join == Endpoint{"127.0.0.1", 7000});
    auto with_links = line;
    with_links.insert(with_links.end(), {"--max-links", "3"});
    CHECK(peer_refusal(with_links).find("unknown option --max-links") != std::string::npos);
  }
  CHECK(peer_refusal({"topo", "--join", "127.0.0.1:0"}) ==
        "shoal-peer: --join: '127.0.0.1:0' has port 0, where nobody listens; write HOST:PORT");
  CHECK_FALSE(peer_refusal({"topo", "--join", "127.0.0.1"}).empty());
  CHECK_FALSE(peer_refusal({"ls", "--join", "127.0.0.1:7000"}).empty());
}

TEST_CASE("A node on another machine needs --insecure as a tracker does") {
  CHECK(peer_refusal({"topo", "--join", "rack1:7000"}).starts_with("shoal-peer: --join rack1:7000 leaves this machine"));
  CHECK(peer({"topo", "--join", "rack1:7000", "--insecure"}).overlay.join == Endpoint{"rack1", 7000});
}

TEST_CASE("A closed swarm has no overlay, and says so to whoever wants one") {
  const std::string advice = " is about the overlay, and a closed swarm has none: its peers all know each other; leave it out, or --expect";
  CHECK(peer_refusal({"swarm", "/", "--expect", "3", "--join", "127.0.0.1:7000"}) == "shoal-peer: --join" + advice);
  CHECK(peer_refusal({"swarm", "/", "--max-links", "3", "--expect", "3"}) == "shoal-peer: --max-links" + advice);
  CHECK(peer({"swarm", "/", "--expect", "0", "--max-links", "3"}).overlay.max_links == 3);
}

TEST_CASE("The nodes that were heard of are kept where the shell's history is") {
  CHECK(peer({"topo"}, {{"XDG_STATE_HOME", "/s"}, {"HOME", "/h"}}).overlay.nodes == "/s/shoal/nodes");
  CHECK(peer({"share", "/"}, {{"HOME", "/h"}}).overlay.nodes == "/h/.local/state/shoal/nodes");
  CHECK(peer({"topo"}).overlay.nodes.empty());
}

// ---- precedence -------------------------------------------------------------------------------------------

TEST_CASE("A flag wins over the environment, and the environment over the configuration") {
  const Config config("id = 'file'\nlog = 'file'\ncache = 'file'\n");
  const auto variables = config.variables({{"SHOAL_ID", "environment"}, {"SHOAL_LOG", "environment"}});
  const auto command = peer({"ls", "--id", "flag"}, variables);
  CHECK(command.id == "flag");
  CHECK(command.common.log == "environment");
  CHECK(command.cache == "file");
}

TEST_CASE("Every option can be set in the environment") {
  const auto command = peer({"swarm", "/"}, {{"SHOAL_EXPECT", "3"},
                                             {"SHOAL_LIMIT_RATE", "64K"},
                                             {"SHOAL_INSECURE", "yes"},
                                             {"SHOAL_NO_COLOR", "1"},
                                             {"SHOAL_INCLUDE", "*.a:*.b"},
                                             {"SHOAL_WAIT", "10ms"},
                                             {"SHOAL_TRACKER", "rack1:1"},
                                             {"SHOAL_ID", ""}});
  CHECK(std::get<SwarmAction>(command.action).expect == 3);
  CHECK(command.limit_rate == 65536);
  CHECK((command.insecure && command.common.no_color));
  CHECK(command.include == std::vector<std::string>{"*.a", "*.b"});
  CHECK(command.wait == 10ms);
  CHECK(command.tracker.host == "rack1");
  CHECK_FALSE(command.id.empty());
}

TEST_CASE("A switch that the environment turns off stays off") {
  const Config config("json = true\n");
  CHECK(peer({"ls"}, config.variables()).common.json);
  CHECK_FALSE(peer({"ls"}, config.variables({{"SHOAL_JSON", "off"}})).common.json);
  CHECK_FALSE(peer({"ls", "--json=false"}, config.variables()).common.json);
}

TEST_CASE("A table overrides the top level, and a command's table the program's") {
  const Config config(R"(
limit-rate = 100000
wait = 1.5
exclude = ["*.tmp", "*.part"]
expect = 2
[peer]
limit-rate = "64K"
tracker = "127.0.0.2:9"
[peer.swarm]
limit-rate = 300000
[peer.get]
out = "down"
[tracker]
expect = 7
)");
  const auto swarm = peer({"swarm", "/"}, config.variables());
  CHECK(swarm.limit_rate == 300'000);
  CHECK(swarm.wait == 1500ms);
  CHECK(swarm.exclude == std::vector<std::string>{"*.tmp", "*.part"});
  CHECK(std::get<SwarmAction>(swarm.action).expect == 2);
  const auto get = peer({"get", "x"}, config.variables());
  CHECK(get.limit_rate == 65536);
  CHECK(get.tracker == Endpoint{"127.0.0.2", 9});
  CHECK(std::get<GetAction>(get.action).out == "down");
  CHECK(tracker({}, config.variables()).expect == 7);
}

TEST_CASE("The configuration is also found in the home folder") {
  const Config config("id = 'home'\n");
  const std::string home = std::filesystem::path(config.path()).parent_path().parent_path();
  std::filesystem::create_directories(home + "/.config/shoal");
  std::filesystem::copy(config.path(), home + "/.config/shoal/config.toml");
  CHECK(peer({"ls"}, {{"HOME", home}}).id == "home");
}

TEST_CASE("Of quiet and verbose the stronger source wins, and one source cannot mean both") {
  const Config config("quiet = true\n");
  const auto command = peer({"ls", "-v"}, config.variables());
  CHECK((command.common.verbose && !command.common.quiet));
  CHECK(peer_refusal({"ls", "-qv"}) == "shoal-peer: --quiet and --verbose exclude each other; leave one out");
}

TEST_CASE("The known options are those that the commands have, each under its table") {
  std::set<std::pair<std::string, std::string>> had;
  const auto add = [&](const std::string& table, const std::vector<OptionGroup>& groups) {
    for (const OptionGroup& group : groups)
      for (const Option& option : group.options) had.emplace(table, option.name);
  };
  TrackerCommand tracker_command;
  PeerCommand peer_command;
  const Program tracker_of = tracker_program(tracker_command);
  const Program peer_of = peer_program(peer_command);
  add("tracker", tracker_of.groups);
  add("tracker", tracker_of.commands.front().groups);
  add("peer", peer_of.groups);
  for (const Command& command : peer_of.commands) add("peer." + command.name, command.groups);

  std::set<std::pair<std::string, std::string>> known;
  for (const KnownOption& option : kKnownOptions) {
    const bool is_of_both = option.table.empty();
    known.emplace(is_of_both ? "tracker" : option.table, option.name);
    if (is_of_both) known.emplace("peer", option.name);
  }
  CHECK(had == known);
}

// ---- refusals ---------------------------------------------------------------------------------------------

TEST_CASE("A mistyped option is answered with the one that was meant") {
  CHECK(peer_refusal({"ls", "--trakcer", "h:1"}) == "shoal-peer: unknown option --trakcer; did you mean --tracker?");
  CHECK(peer_refusal({"--jsno", "ls"}) == "shoal-peer: unknown option --jsno; did you mean --json?");
  CHECK(peer_refusal({"swarm", "/", "--expcet=4"}) == "shoal-peer: unknown option --expcet; did you mean --expect?");
  CHECK(tracker_refusal({"--lisen", "h:1"}) == "shoal-tracker: unknown option --lisen; did you mean --listen?");
}

TEST_CASE("An option that is like none gets no guess") {
  CHECK(peer_refusal({"ls", "--frobnicate"}) == "shoal-peer: unknown option --frobnicate; shoal-peer ls --help lists the options");
  CHECK(peer_refusal({"ls", "-x"}) == "shoal-peer: unknown option -x; shoal-peer ls --help lists the options");
}

TEST_CASE("A command's option in front of the command is told where it belongs") {
  CHECK(peer_refusal({"--expect", "4", "swarm", "/"}) == "shoal-peer: --expect is an option of swarm; write it after the command");
}

TEST_CASE("A mistyped command is answered with the one that was meant") {
  CHECK(peer_refusal({"swarn", "/"}) == "shoal-peer: unknown command 'swarn'; did you mean swarm?");
  CHECK(peer_refusal({"frobnicate"}) == "shoal-peer: unknown command 'frobnicate'; shoal-peer --help lists the commands");
}

TEST_CASE("No command, no operand and an operand too many are each one line") {
  CHECK(peer_refusal({}) ==
        "shoal-peer: no command was given; write one of swarm, share, get, find, ls, topo, load, shell, verify, clock, timeline; "
        "shoal-peer --help has more");
  CHECK(peer_refusal({"--json"}).starts_with("shoal-peer: no command was given"));
  CHECK(peer_refusal({"share"}) == "shoal-peer: DIR is missing; write shoal-peer share DIR");
  CHECK(peer_refusal({"get"}) == "shoal-peer: NAME|MD5|ROOT... is missing; write shoal-peer get NAME|MD5|ROOT...");
  CHECK(peer_refusal({"find", "a", "b"}) == "shoal-peer: unexpected argument 'b'; write shoal-peer find PATTERN");
  CHECK(peer_refusal({"ls", "a"}) == "shoal-peer: unexpected argument 'a'; shoal-peer ls takes options only");
  CHECK(tracker_refusal({"a"}) == "shoal-tracker: unexpected argument 'a'; shoal-tracker takes options only");
}

TEST_CASE("A value that cannot be meant is refused with where it stands and what to write") {
  CHECK(peer_refusal({"ls", "--tracker", "nowhere:x"}) ==
        "shoal-peer: --tracker: 'nowhere:x' is not an address; write HOST:PORT, or [ADDRESS]:PORT for IPv6");
  CHECK(peer_refusal({"ls", "--tracker", "127.0.0.1:0"}) ==
        "shoal-peer: --tracker: '127.0.0.1:0' has port 0, where nobody listens; write HOST:PORT");
  CHECK(peer_refusal({"ls", "--limit-rate", "5Q"}) ==
        "shoal-peer: --limit-rate: '5Q' is not a size; write a number with K, M, G or T, such as 128M");
  CHECK(peer_refusal({"ls", "--limit-rate", "31K"}) ==
        "shoal-peer: --limit-rate: '31K' is so slow that peers would take each other for dead; write 32K or more, or 0 for no limit");
  CHECK(peer({"ls", "--limit-rate", "32K"}).limit_rate == 32 * 1024);
  CHECK(peer({"ls", "--limit-rate", "0"}).limit_rate == 0);
  CHECK(peer_refusal({"ls", "--wait", "5q"}) == "shoal-peer: --wait: '5q' is not a duration; write a duration such as 10s, or forever");
  CHECK(tracker_refusal({"--expect", "-1"}) == "shoal-tracker: --expect: '-1' is not a count; write a whole number from 0 to 4294967295");
  CHECK(tracker_refusal({}, {{"SHOAL_EXPECT", "4x"}}) ==
        "shoal-tracker: SHOAL_EXPECT: '4x' is not a count; write a whole number from 0 to 4294967295");
  CHECK(peer_refusal({"ls", "--json=perhaps"}) == "shoal-peer: --json: 'perhaps' is neither yes nor no; write true or false");
}

TEST_CASE("An option without its value is refused in one line") {
  CHECK(peer_refusal({"ls", "--tracker"}) == "shoal-peer: --tracker needs a value; shoal-peer --help says which");
  CHECK(tracker_refusal({"--listen"}) == "shoal-tracker: --listen needs a value; shoal-tracker --help says which");
}

TEST_CASE("A folder that cannot be read is refused with its path and the reason") {
  CHECK(peer_refusal({"swarm", "/no/such folder"}) ==
        "shoal-peer: cannot read the folder '/no/such folder': No such file or directory; name a folder that is there and readable");
  CHECK(peer_refusal({"share", "/dev/null"}) ==
        "shoal-peer: cannot read the folder '/dev/null': Not a directory; name a folder that is there and readable");
}

TEST_CASE("A peer's name is short, printable and no path") {
  for (const std::string& id : {std::string(65, 'a'), std::string("a/b"), std::string("a\nb"), std::string("a\xff"),
                                std::string("\xe2\x80\xae"
                                            "a")})
    CHECK(peer_refusal({"ls", "--id", id}).ends_with("is not a name for a peer; write 1 to 64 bytes of printable text without '/'"));
  CHECK(peer({"ls", "--id", std::string(64, 'a')}).id.size() == 64);
}

TEST_CASE("Plain text to another machine needs --insecure") {
  CHECK(peer_refusal({"ls", "--tracker", "rack1:5555"}) ==
        "shoal-peer: --tracker rack1:5555 leaves this machine, and the traffic is plain text; add --insecure where everyone on the network "
        "is trusted");
  CHECK(peer_refusal({"ls", "--listen", "[::]:0"}).starts_with("shoal-peer: --listen [::]:0 leaves this machine"));
  CHECK(tracker_refusal({"--listen", "0.0.0.0:5555"}).starts_with("shoal-tracker: --listen 0.0.0.0:5555 leaves this machine"));
  CHECK(tracker({"--listen", "0.0.0.0:5555", "--insecure"}).listen.host == "0.0.0.0");
  CHECK(peer({"ls", "--tracker", "rack1:5555", "--insecure"}).insecure);
}

TEST_CASE("An unknown key in the configuration is refused with its file and line") {
  const Config config("id = 'a'\n[peer]\nlisen = 'h:1'\n");
  CHECK(peer_refusal({"ls"}, config.variables()) == "shoal-peer: " + config.path() + ":3: 'lisen' is not an option; did you mean listen?");
}

TEST_CASE("A key in the table of a command that does not have it is refused") {
  const Config config("[peer.share]\nexpect = 3\n");
  CHECK(peer_refusal({"ls"}, config.variables()).find(":2: 'expect' is not an option") != std::string::npos);
}

TEST_CASE("A table that is none of ours is refused with its line") {
  const Config config("id = 'a'\n[pear]\n");
  CHECK(tracker_refusal({}, config.variables()) ==
        "shoal-tracker: " + config.path() + ":2: there is no table [pear]; the tables are [tracker], [peer] and [peer.COMMAND]");
}

TEST_CASE("A configuration that is not TOML is refused with the line of the mistake, in one line") {
  const Config config("id = 'a'\nlog = = 'b'\n");
  const std::string line = peer_refusal({"ls"}, config.variables());
  CHECK(line.starts_with("shoal-peer: " + config.path() + ":2: "));
}

TEST_CASE("A value of the wrong kind in the configuration is refused with its line") {
  const Config date("\nwait = 1979-05-27\n");
  CHECK(peer_refusal({"ls"}, date.variables()).find(":2: 'wait' has a value of the wrong kind") != std::string::npos);
  const Config list("id = ['a', 'b']\n");
  CHECK(peer_refusal({"ls"}, list.variables()) == "shoal-peer: " + list.path() + ":1: id: has a list, and takes one value");
  const Config bad("limit-rate = 'fast'\n");
  CHECK(peer_refusal({"ls"}, bad.variables()).find(":1: limit-rate: 'fast' does not start with a number") != std::string::npos);
}

TEST_CASE("Whatever the words, a command line is understood or refused in one line") {
  const std::vector<std::string> words{"swarm", "get",   "ls",  "--json", "--expect", "--",       "-", "-o",   "=", "",
                                       "--=",   "--id=", "x\n", "[a]",    "-qv",      "--help=1", "/", "\xff", "4"};
  REQUIRE(rc::check("any arguments", [&](const std::vector<std::uint8_t>& picks) {
    std::vector<std::string> arguments;
    for (const auto pick : picks) arguments.push_back(words[pick % words.size()]);
    const auto parsed = parse_peer(inputs(arguments));
    if (parsed || parsed.error().exit == ExitCode::done) return;
    const std::string& line = parsed.error().err;
    RC_ASSERT(line.starts_with("shoal-peer: "));
    RC_ASSERT(std::count(line.begin(), line.end(), '\n') == 1);
  }));
}

// ---- help ---------------------------------------------------------------------------------------------------

TEST_CASE("Help goes to stdout with exit code 0, whatever else is on the line") {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"--help"}, {"-h"}, {"swarm", "--help"}, {"swarm", "-h", "--bogus"}, {"--help", "share"}}) {
    const auto parsed = parse_peer(inputs(arguments));
    REQUIRE(!parsed);
    CHECK(parsed.error().exit == ExitCode::done);
    CHECK(parsed.error().err.empty());
    CHECK(parsed.error().out.find("Exit codes:") != std::string::npos);
  }
}

TEST_CASE("A command's help has its own options, the common ones with their defaults, and an example") {
  const auto parsed = parse_peer(inputs({"swarm", "--help"}));
  REQUIRE(!parsed);
  for (const std::string_view part :
       {"Usage: shoal-peer swarm DIR [OPTION]...", "--expect N", "[127.0.0.1:5555]", "-q, --quiet", "Example:\n  shoal-peer swarm"})
    CHECK(parsed.error().out.find(part) != std::string::npos);
}

TEST_CASE("No line of the help is wider than a hundred columns") {
  for (const std::vector<std::string>& arguments :
       {std::vector<std::string>{"--help"}, {"swarm", "--help"}, {"get", "--help"}, {"find", "--help"}, {"topo", "--help"}}) {
    std::size_t widest = 0;
    std::size_t width = 0;
    const std::string text = parse_peer(inputs(arguments)).error().out;
    for (const char c : text) {
      width = c == '\n' ? 0 : width + 1;
      widest = std::max(widest, width);
    }
    CHECK(widest <= 100);
  }
}

TEST_CASE("Every example in the help is a command line that is understood") {
  PeerCommand command;
  for (const Command& each : peer_program(command).commands) {
    std::vector<std::string> arguments;
    std::string word;
    for (const char c : each.example + " ") {
      if (c != ' ')
        word += c;
      else
        arguments.push_back(std::exchange(word, {}));
    }
    arguments.erase(arguments.begin());
    for (std::string& argument : arguments)
      if (argument.starts_with("./") && each.operand == "DIR") argument = "/";  // a folder that is there
    CHECK(parse_peer(inputs(arguments)).has_value());
  }
}

TEST_CASE("The version is one line on stdout") {
  CHECK(parse_tracker(inputs({"--version"})).error().out == "shoal-tracker " SHOAL_VERSION "\n");
  CHECK(parse_peer(inputs({"ls", "--version"})).error().out == "shoal-peer " SHOAL_VERSION "\n");
}

TEST_CASE("A typing distance counts letters added, left out, changed and swapped") {
  CHECK(typing_distance("swarm", "swarm") == 0);
  CHECK(typing_distance("swrm", "swarm") == 1);
  CHECK(typing_distance("swarrm", "swarm") == 1);
  CHECK(typing_distance("swarn", "swarm") == 1);
  CHECK(typing_distance("sawrm", "swarm") == 1);
  CHECK(typing_distance("", "ls") == 2);
}

// ---- empty arguments --------------------------------------------------------------------------------------

TEST_CASE("An empty argument of a command means nothing, and is refused") {
  for (const std::string command : {"get", "find", "share", "swarm", "verify", "shell", "load", "timeline"}) {
    CHECK_FALSE(peer_refusal({command, ""}).empty());
    CHECK_FALSE(peer_refusal({command, "--", ""}).empty());
  }
  CHECK(peer_refusal({"get", "a", ""}).find("empty") != std::string::npos);
  CHECK(peer_refusal({"get", "", "a"}).find("empty") != std::string::npos);
}

TEST_CASE("An empty value of any option is refused, by name") {
  PeerCommand peer_command;
  const Program of_peer = peer_program(peer_command);
  const auto check = [](const std::vector<OptionGroup>& groups, const auto& refusal_of) {
    for (const OptionGroup& group : groups)
      for (const Option& option : group.options) {
        if (option.value.empty()) continue;
        INFO(option.name);
        CHECK(refusal_of("--" + option.name).find("--" + option.name) != std::string::npos);
      }
  };
  for (const Command& command : of_peer.commands) {
    std::vector<std::string> line{command.name};
    if (!command.operand.empty()) line.push_back(command.name == "load" ? "127.0.0.1:1" : ".");
    const auto refusal_of = [&](const std::string& option) {
      auto words = line;
      words.push_back(option);
      words.emplace_back();
      return peer_refusal(words);
    };
    check(of_peer.groups, refusal_of);
    check(command.groups, refusal_of);
  }
  TrackerCommand tracker_command;
  const Program of_tracker = tracker_program(tracker_command);
  const auto refusal_of = [](const std::string& option) { return tracker_refusal({option, ""}); };
  check(of_tracker.groups, refusal_of);
  check(of_tracker.commands.front().groups, refusal_of);
}

TEST_CASE("An empty variable is as good as none") {
  CHECK(peer({"get", "a"}, {{"SHOAL_OUT", ""}, {"SHOAL_INCLUDE", ""}, {"SHOAL_ID", ""}}).include.empty());
}
