#include <fcntl.h>
#include <poll.h>
#include <rapidcheck.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>
#include <catch2/catch_test_macros.hpp>
#include <nlohmann/json.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <memory>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

import shoal.base;
import shoal.report;

using namespace shoal;
using namespace std::chrono_literals;
using nlohmann::json;

namespace {

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, CloseFile>;

std::string content(const File& file) {
  std::fflush(file.get());
  std::string text(static_cast<std::size_t>(std::ftell(file.get())), '\0');
  std::rewind(file.get());
  text.resize(std::fread(text.data(), 1, text.size(), file.get()));
  return text;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::vector<json> events_of(const std::string& text) {
  std::vector<json> events;
  for (const std::string& line : lines_of(text)) events.push_back(json::parse(line));
  return events;
}

/// A Report whose streams are files and whose time stands still until it is moved.
struct Bench {
  File out{std::tmpfile()};
  File err{std::tmpfile()};
  Instant now{};
  ReportOptions options;

  explicit Bench(std::FILE* terminal = nullptr) {
    options.program = "shoal-test";
    options.out = out.get();
    options.err = terminal != nullptr ? terminal : err.get();
    options.now = [this] { return now; };
  }

  std::unique_ptr<Report> open() const { return Report::open(options).value(); }
};

class TemporaryLog {
 public:
  TemporaryLog() {
    std::string pattern = (std::filesystem::temp_directory_path() / "shoal-report-XXXXXX").string();
    const int descriptor = ::mkstemp(pattern.data());
    ::close(descriptor);
    path_ = pattern;
  }
  ~TemporaryLog() { std::filesystem::remove(path_); }

  const std::string& path() const { return path_; }
  std::string text() const {
    std::ostringstream all;
    all << std::ifstream(path_).rdbuf();
    return all.str();
  }

 private:
  std::string path_;
};

/// The two ends of a terminal of 60 columns and 10 rows.
class Terminal {
 public:
  Terminal() : master_(::posix_openpt(O_RDWR | O_NOCTTY)) {
    REQUIRE(master_ >= 0);
    REQUIRE(::grantpt(master_) == 0);
    REQUIRE(::unlockpt(master_) == 0);
    screen_ = File(std::fopen(::ptsname(master_), "w"));
    REQUIRE(screen_);
    winsize size{};
    size.ws_col = 60;
    size.ws_row = 10;
    REQUIRE(::ioctl(::fileno(screen_.get()), TIOCSWINSZ, &size) == 0);
  }
  ~Terminal() {
    screen_.reset();
    ::close(master_);
  }

  std::FILE* screen() const { return screen_.get(); }

  /// What was written since the last call. The kernel hands it over before a write returns.
  std::string seen() const {
    std::string text;
    pollfd waiting{master_, POLLIN, 0};
    while (::poll(&waiting, 1, 0) > 0 && (waiting.revents & POLLIN) != 0) {
      char buffer[4096];
      const auto got = ::read(master_, buffer, sizeof buffer);
      if (got <= 0) break;
      text.append(buffer, static_cast<std::size_t>(got));
    }
    return text;
  }

 private:
  int master_;
  File screen_;
};

ProgressLine line(std::string name, std::uint64_t done, std::uint64_t total, double rate = 1024.0 * 1024, std::uint32_t sources = 3) {
  return {std::move(name), done, total, rate, sources};
}

}  // namespace

// ---- events ---------------------------------------------------------------------------------------------

TEST_CASE("The first NDJSON line says hello with the schema, the program and the version") {
  Bench bench;
  bench.options.json = true;
  bench.open();
  CHECK(content(bench.out) == "{\"event\":\"hello\",\"schema\":1,\"program\":\"shoal-test\",\"version\":\"" SHOAL_VERSION "\",\"t\":0}\n");
}

TEST_CASE("An event is one line with its name, its time and its fields in their own types") {
  Bench bench;
  bench.options.json = true;
  bench.options.swarm_seconds = [] { return 1.25; };
  bench.open()->event(
      "file",
      {{"name", std::string("a b")}, {"bytes", std::uint64_t{1} << 63}, {"delta", std::int64_t{-4}}, {"rate", 0.5}, {"complete", true}});
  CHECK(lines_of(content(bench.out)).at(1) ==
        R"({"event":"file","t":1.25,"name":"a b","bytes":9223372036854775808,"delta":-4,"rate":0.5,"complete":true})");
}

TEST_CASE("The time of an event comes from the clock that was set last") {
  Bench bench;
  bench.options.json = true;
  const auto report = bench.open();
  report->event("before");
  report->set_clock([] { return 7.0000004; });
  report->event("after");
  const auto events = events_of(content(bench.out));
  CHECK(events.at(1)["t"] == 0.0);
  CHECK(events.at(2)["t"] == 7.0);
}

TEST_CASE("The result is the last line on stdout, whatever comes after it") {
  Bench bench;
  bench.options.json = true;
  const auto report = bench.open();
  report->result(ExitCode::partial, {{"seconds", 2.5}});
  report->event("late");
  report->result(ExitCode::done);
  CHECK(lines_of(content(bench.out)).back() == R"({"event":"result","t":0,"exit":23,"seconds":2.5})");
}

TEST_CASE("Bytes that are not UTF-8 become U+FFFD and the line stays valid JSON") {
  Bench bench;
  bench.options.json = true;
  bench.open()->event("file", {{"name", std::string("a\xff\xc3z\n")}});
  CHECK(events_of(content(bench.out)).at(1)["name"] == "a\xef\xbf\xbd\xef\xbf\xbdz\n");
}

TEST_CASE("Any text at all makes one line of valid JSON") {
  REQUIRE(rc::check("event with arbitrary bytes", [](const std::string& bytes) {
    Bench bench;
    bench.options.json = true;
    bench.open()->event(bytes, {{"name", bytes}});
    RC_ASSERT(events_of(content(bench.out)).size() == 2u);
  }));
}

TEST_CASE("Numbers that JSON cannot say become null, and a clock that fails reads 0") {
  Bench bench;
  bench.options.json = true;
  bench.options.swarm_seconds = [] { return std::numeric_limits<double>::quiet_NaN(); };
  bench.open()->event("odd", {{"rate", std::numeric_limits<double>::infinity()}});
  CHECK(lines_of(content(bench.out)).at(1) == R"({"event":"odd","t":0,"rate":null})");
}

TEST_CASE("Without --json nothing is written to stdout but what was asked for") {
  Bench bench;
  const auto report = bench.open();
  report->event("registered");
  report->print("a.bin  12 B");
  report->result(ExitCode::done);
  CHECK(content(bench.out) == "a.bin  12 B\n");
}

TEST_CASE("With --json what was asked for is not printed as text") {
  Bench bench;
  bench.options.json = true;
  bench.open()->print("a.bin  12 B");
  CHECK(events_of(content(bench.out)).size() == 1);
}

TEST_CASE("The log has the details that stdout does not") {
  Bench bench;
  const TemporaryLog log;
  bench.options.json = true;
  bench.options.log_file = log.path();
  const auto report = bench.open();
  report->detail("chunk", {{"index", std::uint64_t{3}}});
  report->flush();
  CHECK(events_of(log.text()).at(1)["event"] == "chunk");
  CHECK(events_of(content(bench.out)).size() == 1);
}

TEST_CASE("The log is appended to, and each run in it begins with hello") {
  Bench bench;
  const TemporaryLog log;
  bench.options.log_file = log.path();
  for (int run = 0; run < 2; ++run) bench.open()->result(ExitCode::done);
  std::vector<std::string> names;
  for (const json& event : events_of(log.text())) names.push_back(event["event"]);
  CHECK(names == std::vector<std::string>{"hello", "result", "hello", "result"});
}

TEST_CASE("A warning is in the log file at once") {
  Bench bench;
  const TemporaryLog log;
  bench.options.log_file = log.path();
  const auto report = bench.open();
  report->warn("peer 3 sent a wrong chunk");
  CHECK(events_of(log.text()).back()["message"] == "peer 3 sent a wrong chunk");
}

TEST_CASE("A log that cannot be opened is an error that names it") {
  Bench bench;
  bench.options.log_file = "/no/such/folder/events";
  const auto report = Report::open(bench.options);
  REQUIRE(!report);
  CHECK(report.error().message() ==
        "cannot open the log /no/such/folder/events: No such file or directory; give --log a file that can be written");
}

TEST_CASE("A log on a full disk is reported once and the run goes on", "[linux]") {
  if (!std::filesystem::exists("/dev/full")) SKIP("needs /dev/full");
  Bench bench;
  bench.options.log_file = "/dev/full";
  {
    const auto report = bench.open();
    for (int i = 0; i < 3; ++i) {
      report->detail("chunk");
      report->flush();
    }
  }
  const auto lines = lines_of(content(bench.err));
  REQUIRE(lines.size() == 1);
  CHECK(lines.front().starts_with("shoal-test: warning: the log is incomplete: "));
}

TEST_CASE("Lines that several threads write are all there and whole") {
  Bench bench;
  const TemporaryLog log;
  bench.options.json = true;
  bench.options.log_file = log.path();
  const auto report = bench.open();
  const auto work = [&report] {
    for (int i = 0; i < 200; ++i) {
      report->event("file", {{"name", std::string(40, 'n')}});
      report->note("x");
      report->progress({}, line("total", 1, 2));
      report->set_clock([] { return 1.0; });
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  report->result(ExitCode::done);
  CHECK(events_of(content(bench.out)).size() == 802);
  CHECK(content(bench.out) == log.text());
}

// ---- lines for a person -----------------------------------------------------------------------------------

TEST_CASE("Notes are for normal runs, details for verbose ones, warnings for all") {
  const auto said = [](Verbosity verbosity) {
    Bench bench;
    bench.options.verbosity = verbosity;
    const auto report = bench.open();
    report->note("note");
    report->debug("debug");
    report->warn("warn");
    return content(bench.err);
  };
  CHECK(said(Verbosity::quiet) == "shoal-test: warning: warn\n");
  CHECK(said(Verbosity::normal) == "note\nshoal-test: warning: warn\n");
  CHECK(said(Verbosity::verbose) == "note\ndebug\nshoal-test: warning: warn\n");
}

TEST_CASE("A failure is one line on stderr and an event with its exit code") {
  Bench bench;
  bench.options.json = true;
  bench.open()->error(Error{make_error_code(Errc::timed_out), "cannot reach the tracker\n127.0.0.1:5555", "start it"});
  CHECK(content(bench.err) == "shoal-test: cannot reach the tracker\\x0a127.0.0.1:5555: timed out; start it\n");
  CHECK(events_of(content(bench.out)).at(1)["exit"] == 6);
}

TEST_CASE("No control character of a name reaches the terminal") {
  Bench bench;
  const auto report = bench.open();
  report->note(
      "a\x1b[2Jb\r\xc2\x9b"
      "c\xe2\x80\xae"
      "d");
  CHECK(content(bench.err) == "a\\x1b[2Jb\\x0d\\x9bc\\u{202e}d\n");
}

TEST_CASE("Printable text is left as it is") {
  for (const std::string text : {"", "plain ~ text", "größe", "日本語.bin", "👩‍👩‍👧.png", "a\\x1b"})
    CHECK(printable(text) == text);
}

TEST_CASE("Nothing that is made printable has a control character, and it stays as it is the second time") {
  REQUIRE(rc::check("printable", [](const std::string& bytes) {
    const std::string once = printable(bytes);
    RC_ASSERT(std::none_of(once.begin(), once.end(), [](char c) { return (c >= 0 && c < 0x20) || c == 0x7f; }));
    RC_ASSERT(printable(once) == once);
  }));
}

// ---- progress ---------------------------------------------------------------------------------------------

TEST_CASE("Progress in words has percent, amounts, rate, remaining time and sources") {
  const ProgressLine total = line("total", 1288490188, 10490402406, 350.0 * 1024 * 1024);
  CHECK(progress_text(total) == "12.2% 1.20 GiB of 9.77 GiB, 350 MiB/s, ETA 26 s, 3 sources");
}

TEST_CASE("Progress in words does not say what it cannot know") {
  CHECK(progress_text(line("total", 0, 0, 0, 0)) == "0.0% 0 B of 0 B, 0 B/s, ETA 0 s, 0 sources");
  CHECK(progress_text(line("total", 1, 1024, std::numeric_limits<double>::quiet_NaN(), 1)) ==
        "0.0% 1 B of 1.00 KiB, 0 B/s, ETA --, 1 source");
  CHECK(progress_text(line("total", 0, ~std::uint64_t{0}, 1, 1)) == "0.0% 0 B of 16.0 EiB, 1 B/s, ETA --, 1 source");
}

TEST_CASE("100 percent is said only when everything is there") {
  CHECK(progress_text(line("total", 999999, 1000000)).starts_with("99.9%"));
  CHECK(progress_text(line("total", 1000000, 1000000)).starts_with("100.0%"));
}

TEST_CASE("Where stderr is no terminal, progress is a plain line every five seconds") {
  Bench bench;
  const auto report = bench.open();
  for (int tick = 0; tick <= 120; ++tick) {
    report->progress({line("a", 1, 2)}, line("total", static_cast<std::uint64_t>(tick), 1000));
    bench.now += 100ms;
  }
  const auto lines = lines_of(content(bench.err));
  REQUIRE(lines.size() == 2);
  CHECK(lines[0].starts_with("5.0%"));
  CHECK(lines[1].starts_with("10.0%"));
}

TEST_CASE("Progress is wanted only when a line is due") {
  Bench bench;
  const auto report = bench.open();
  CHECK_FALSE(report->wants_progress());
  bench.now += 5s;
  CHECK(report->wants_progress());
  report->progress({}, line("total", 1, 2));
  CHECK_FALSE(report->wants_progress());
}

TEST_CASE("With --quiet and with --json there is no progress") {
  for (const bool json_wanted : {false, true}) {
    Bench bench;
    bench.options.json = json_wanted;
    bench.options.verbosity = json_wanted ? Verbosity::normal : Verbosity::quiet;
    const auto report = bench.open();
    bench.now += 1h;
    CHECK_FALSE(report->wants_progress());
    report->progress({}, line("total", 1, 2));
    CHECK(content(bench.err).empty());
  }
}

TEST_CASE("On a terminal progress is redrawn in place, at most ten times a second") {
  const Terminal terminal;
  Bench bench(terminal.screen());
  bench.options.colour = Colour::never;
  const auto report = bench.open();
  report->progress({line("a.bin", 1, 4)}, line("total", 1, 4));
  const std::string first = terminal.seen();
  bench.now += 99ms;
  report->progress({line("a.bin", 2, 4)}, line("total", 2, 4));
  CHECK(terminal.seen().empty());
  bench.now += 1ms;
  report->progress({line("a.bin", 2, 4)}, line("total", 2, 4));
  const std::string second = terminal.seen();
  CHECK(lines_of(first).size() == 2);
  CHECK(first.find("25.0%") != std::string::npos);
  CHECK(second.starts_with("\x1b[2A\r\x1b[J"));
  CHECK(second.find("50.0%") != std::string::npos);
}

TEST_CASE("A line that comes while progress is drawn takes its place, and progress follows") {
  const Terminal terminal;
  Bench bench(terminal.screen());
  bench.options.colour = Colour::never;
  const auto report = bench.open();
  report->progress({}, line("total", 1, 4));
  const std::string drawn = terminal.seen();
  report->note("peer 2 left");
  CHECK(terminal.seen() == "\x1b[1A\r\x1b[Jpeer 2 left\r\n" + drawn);
}

TEST_CASE("At the end of progress the screen is as it was") {
  const Terminal terminal;
  Bench bench(terminal.screen());
  const auto report = bench.open();
  report->progress({}, line("total", 1, 4));
  terminal.seen();
  report->end_progress();
  CHECK(terminal.seen() == "\x1b[1A\r\x1b[J");
  report->note("done");
  CHECK(terminal.seen() == "done\r\n");
}

TEST_CASE("Colour is for terminals, and not with --no-color or NO_COLOR") {
  const auto warned = [](Colour colour) {
    const Terminal terminal;
    Bench bench(terminal.screen());
    bench.options.colour = colour;
    bench.open()->warn("w");
    return terminal.seen();
  };
  ::unsetenv("NO_COLOR");
  CHECK(warned(Colour::automatic) == "shoal-test: \x1b[33mwarning: \x1b[0mw\r\n");
  CHECK(warned(Colour::never) == "shoal-test: warning: w\r\n");
  ::setenv("NO_COLOR", "1", 1);
  CHECK(warned(Colour::automatic) == "shoal-test: warning: w\r\n");
  ::unsetenv("NO_COLOR");
}

TEST_CASE("The frame shows the first eight files that move, then the total") {
  std::vector<ProgressLine> files;
  for (int i = 0; i < 30; ++i) files.push_back(line("file" + std::to_string(i), 1, 4, i % 2 == 0 ? 0 : 5e6, i % 2 == 0 ? 0 : 1));
  const auto frame = progress_frame(files, line("total", 1, 4), {.columns = 100, .rows = 40});
  REQUIRE(frame.size() == 9);
  CHECK(frame[0].starts_with("file1 "));
  CHECK(frame[7].starts_with("file15 "));
  CHECK(frame[8].starts_with("total "));
}

TEST_CASE("A wide screen shows everything of a file") {
  const auto frame = progress_frame({}, line("a.bin", 1 << 20, 4 << 20), {.columns = 121, .rows = 40});
  CHECK(frame.front() ==
        "a.bin        [#######.....................]  25.0%   1.00 MiB/s  ETA 3 s           1.00 MiB of 4.00 MiB    3 sources");
}

TEST_CASE("No line of a frame is as wide as the screen or higher than it, whatever the names") {
  REQUIRE(rc::check("progress_frame fits", [](const std::vector<std::string>& names, const std::string& tail) {
    Screen screen;
    screen.columns = *rc::gen::inRange<std::size_t>(1, 200);
    screen.rows = *rc::gen::inRange<std::size_t>(1, 30);
    std::vector<ProgressLine> files;
    for (const std::string& name : names)
      files.push_back(line(name + "界é\xff" + tail, *rc::gen::arbitrary<std::uint64_t>(), *rc::gen::arbitrary<std::uint64_t>(),
                           *rc::gen::arbitrary<double>(), *rc::gen::arbitrary<std::uint32_t>()));
    const auto frame = progress_frame(files, line("total", 1, 4), screen);
    RC_ASSERT(frame.size() <= std::max<std::size_t>(1, screen.rows - 1));
    for (const std::string& drawn : frame) RC_ASSERT(columns_of(drawn) < screen.columns);
  }));
}

TEST_CASE("A name that is too wide loses its beginning, at a character") {
  CHECK(fit_columns("some/long/path/name.bin", 9) == "…name.bin");
  CHECK(fit_columns("ab日本語", 6) == "…本語");
  CHECK(fit_columns("äöü", 2) == "…ü");
  CHECK(fit_columns("xe\xcc\x81z", 2) == "…z");
  CHECK(fit_columns("abc", 3) == "abc");
  CHECK(fit_columns("abc", 1) == "…");
  CHECK(fit_columns("abc", 0).empty());
}

TEST_CASE("Fitted text is never wider than it may be, and still UTF-8") {
  REQUIRE(rc::check("fit_columns", [](const std::vector<std::uint8_t>& picks) {
    static constexpr std::string_view letters[] = {"a", "é", "日", "👩", "\xcc\x81", "\xe2\x80\x8d"};
    std::string text;
    for (const auto pick : picks) text += letters[pick % std::size(letters)];
    const auto columns = *rc::gen::inRange<std::size_t>(0, 40);
    const std::string fitted = fit_columns(text, columns);
    RC_ASSERT(columns_of(fitted) <= columns);
    RC_ASSERT(printable(fitted) == fitted);
  }));
}

// ---- what cannot be written -------------------------------------------------------------------------------

namespace {

File open_full() { return File(std::fopen("/dev/full", "w")); }

/// A pipe whose reader has gone.
File open_left() {
  ::signal(SIGPIPE, SIG_IGN);
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  ::close(ends[0]);
  return File(::fdopen(ends[1], "w"));
}

}  // namespace

TEST_CASE("Where all can be written a run ends as it came out") {
  Bench bench;
  const auto report = bench.open();
  report->print("all of it");
  CHECK(report->exit_with(ExitCode::done) == ExitCode::done);
  CHECK(report->exit_with(ExitCode::not_found) == ExitCode::not_found);
}

TEST_CASE("An answer that a full disk cannot take is said once, and the run ends so") {
  const File full = open_full();
  if (!full) SKIP("no /dev/full here");
  Bench bench;
  bench.options.out = full.get();
  SECTION("text") {
    const auto report = bench.open();
    report->print("one");
    report->print("two");
    CHECK(report->exit_with(ExitCode::done) == ExitCode::disk_full);
    CHECK(report->exit_with(ExitCode::checksum) == ExitCode::checksum);
  }
  SECTION("events") {
    bench.options.json = true;
    const auto report = bench.open();
    report->event("found");
    report->result(ExitCode::done);
    CHECK(report->exit_with(ExitCode::done) == ExitCode::disk_full);
  }
  SECTION("the result alone") {
    bench.options.json = true;
    bench.options.out = bench.out.get();
    bool is_full = false;
    bench.options.write = [&](std::FILE* stream, std::string_view text) {
      if (is_full && stream == bench.out.get()) return errno = ENOSPC, false;
      return std::fwrite(text.data(), 1, text.size(), stream) == text.size();
    };
    const auto report = bench.open();
    is_full = true;
    report->result(ExitCode::done);
    CHECK(report->exit_with(ExitCode::done) == ExitCode::disk_full);
  }
  const auto said = lines_of(content(bench.err));
  REQUIRE(said.size() == 1);
  CHECK(said.front() == "shoal-test: cannot write to stdout: No space left on device; what would stand there is lost");
}

TEST_CASE("A closed stdout is said, and the run ends with 1") {
  Bench bench;
  const File read_only(std::fopen("/dev/null", "r"));
  bench.options.out = read_only.get();
  const auto report = bench.open();
  report->print("one");
  CHECK(report->exit_with(ExitCode::done) == ExitCode::unknown);
  CHECK(lines_of(content(bench.err)).size() == 1);
}

TEST_CASE("That the reader of stdout has gone is said to nobody but whoever stops the run, and it ends with 1") {
  Bench bench;
  const File left = open_left();
  bench.options.out = left.get();
  bench.options.json = true;
  int told = 0;
  bench.options.on_reader_gone = [&] { ++told; };
  const auto report = bench.open();
  report->event("found");
  report->event("found");
  CHECK(told == 1);
  CHECK(content(bench.err).empty());
  CHECK(report->exit_with(ExitCode::done) == ExitCode::unknown);
  CHECK(report->exit_with(ExitCode::interrupted) == ExitCode::unknown);
  CHECK(report->exit_with(ExitCode::partial) == ExitCode::partial);
}

TEST_CASE("A log that a full disk cannot take is said once, and the result tells so") {
  if (!open_full()) SKIP("no /dev/full here");
  Bench bench;
  bench.options.log_file = "/dev/full";
  bench.options.json = true;
  const auto report = bench.open();
  for (int i = 0; i < 3; ++i) report->warn("something");
  report->result(ExitCode::done);
  CHECK(report->exit_with(ExitCode::done) == ExitCode::disk_full);
  const std::string said = content(bench.err);
  CHECK(said.find("the log is incomplete") != std::string::npos);
  CHECK(said.find("the log is incomplete") == said.rfind("the log is incomplete"));
  CHECK(events_of(content(bench.out)).back()["exit"] == 9);
}

TEST_CASE("A line that others cause is written once in ten seconds, with how many more there were") {
  Bench bench;
  const auto report = bench.open();
  for (int i = 0; i < 1235; ++i) report->warn_now_and_then("dropped", "10.0.0.9:" + std::to_string(i) + " dropped");
  report->warn_now_and_then("cut off", "s3 is cut off");
  CHECK(lines_of(content(bench.err)) ==
        std::vector<std::string>{"shoal-test: warning: 10.0.0.9:0 dropped", "shoal-test: warning: s3 is cut off"});
  bench.now += std::chrono::seconds(12);
  report->warn_now_and_then("dropped", "10.0.0.9:7 dropped");
  CHECK(lines_of(content(bench.err)).back() == "shoal-test: warning: 10.0.0.9:7 dropped (and 1,234 more like it in the last 12 s)");
  bench.now += std::chrono::seconds(11);
  report->warn_now_and_then("dropped", "10.0.0.9:8 dropped");
  CHECK(lines_of(content(bench.err)).back() == "shoal-test: warning: 10.0.0.9:8 dropped");
}

TEST_CASE("What was not written of a kind is told when another line comes, or at the end") {
  Bench bench;
  const auto report = bench.open();
  for (int i = 0; i < 3; ++i) report->note_now_and_then("a", "a" + std::to_string(i));
  bench.now += std::chrono::seconds(10);
  report->warn_now_and_then("b", "b");
  CHECK(lines_of(content(bench.err)) ==
        std::vector<std::string>{"a0", "shoal-test: warning: b", "a2 (and 1 more like it in the last 10 s)"});
  for (int i = 0; i < 3; ++i) report->warn_now_and_then("b", "b" + std::to_string(i));
  bench.now += std::chrono::milliseconds(2500);
  report->result(ExitCode::done);
  CHECK(lines_of(content(bench.err)).back() == "shoal-test: warning: b2 (and 2 more like it in the last 3 s)");
}

TEST_CASE("However many kinds of lines others find, no more than a few hundred are told apart") {
  Bench bench;
  const auto report = bench.open();
  for (int i = 0; i < 10'000; ++i) report->note_now_and_then("kind " + std::to_string(i), "line");
  CHECK(lines_of(content(bench.err)).size() == 256);
}

TEST_CASE("Events of the log that others cause say how many there were, and lines for those who want detail are for them alone") {
  const TemporaryLog log;
  Bench bench;
  bench.options.log_file = log.path();
  const auto report = bench.open();
  for (int i = 0; i < 3; ++i) report->detail_now_and_then("x", "stranger", {{"address", std::string("a")}});
  bench.now += std::chrono::seconds(10);
  report->detail_now_and_then("x", "stranger", {{"address", std::string("b")}});
  report->debug_now_and_then("x", "only with --verbose");
  report->flush();
  const auto events = events_of(log.text());
  REQUIRE(events.size() == 3);
  CHECK_FALSE(events[1].contains("more"));
  CHECK(events[2].at("more") == 2);
  CHECK(content(bench.err).empty());
}

TEST_CASE("A record that cannot be written is a warning, and the run does not end with 0") {
  Bench bench;
  const auto report = bench.open();
  const Error full{std::make_error_code(std::errc::no_space_on_device), "cannot write the table", {}};
  report->lose(full, "the table ends here");
  CHECK(report->exit_with(ExitCode::done) == ExitCode::disk_full);
  CHECK(content(bench.err).find("warning: the table ends here") != std::string::npos);
}
