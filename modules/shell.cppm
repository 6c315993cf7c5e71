/// The interactive peer: lines that a person or a script types, what they mean, and what is said back.
module;

#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

export module shoal.shell;

import shoal.base;
import shoal.peer;
import shoal.report;
import shoal.wire;
import shoal.world;

export namespace shoal {

// ---- what a line means: src/shell/commands.cpp --------------------------------------------------------

/// The words of a line: blanks part them; '…', "…" and \ quote. Fails with `usage` where a quote does not end.
Result<std::vector<std::string>> split_line(std::string_view line);
/// A word as it has to be typed to be one.
std::string quoted(std::string_view word);

enum class Operand : std::uint8_t { none, file, peer, pattern };

struct ShellCommand {
  std::string_view name;
  std::string_view operands;  ///< As its usage shows them.
  std::string_view help;
  std::size_t least = 0;  ///< So many operands, options not counted.
  std::size_t most = 0;
  Operand kind = Operand::none;
};
std::span<const ShellCommand> shell_commands();
std::string usage_of(const ShellCommand& command);

struct ShellLine {
  const ShellCommand* command = nullptr;
  std::vector<std::string> operands;
  bool from_one = false;
  bool via_overlay = false;
  bool as_dot = false;
};
/// Nothing for an empty line or a comment (`#`). Fails with `usage`, and what may have been meant.
Result<std::optional<ShellLine>> parse_line(std::string_view line);

/// What the word at the end of `line` may become.
struct Completion {
  std::size_t begin = 0;             ///< Where that word begins.
  std::vector<std::string> choices;  ///< Quoted where they have to be.
};
struct KnownWords {
  std::vector<std::string> files;
  std::vector<std::string> peers;  ///< Addresses.
};
Completion complete(std::string_view line, const KnownWords& known);
/// What the choices have in common.
std::string common_beginning(std::span<const std::string> choices);
/// One line that helps whoever has typed that much; may be empty.
std::string hint_for(std::string_view line);

// ---- where lines come from: src/shell/lines.cpp, editor.cpp -------------------------------------------

/// Lines of a terminal, edited, with a history and completion; plain lines of anything else. The reading is done by a thread of its own.
class Lines {
 public:
  virtual ~Lines() = default;
  virtual bool is_terminal() const = 0;
  /// The next line; nothing at the end. One caller.
  virtual Task<std::optional<std::string>> next(KnownWords known) = 0;
  /// Drops what was typed so far, and says `why` above the prompt. Any thread.
  virtual void abandon(std::string why) = 0;
  /// Writes so that a prompt stays whole: for ReportOptions::write. False, and errno, where it cannot. Any thread.
  virtual bool write(std::FILE* stream, std::string_view text) = 0;
};
/// `history_file` may be empty: then the history ends with the process.
std::unique_ptr<Lines> open_lines(const std::string& history_file);

// ---- the loop: src/shell/loop.cpp ---------------------------------------------------------------------

/// Ctrl-C: the first stops the command, or drops the line; a second one, with no new line between, stops the program. Any thread.
class Interrupts {
 public:
  Interrupts(Lines& lines, std::function<void()> stop) : lines_(lines), stop_(std::move(stop)) {}
  void on_signal(bool is_termination);
  bool is_stopping() const { return is_stopping_; }

  /// Lines are read from here on; before it, any signal stops the program.
  void set_ready();
  /// A command begins; null: it has ended, or a line is waited for.
  void set_running(PeerControl* control);

 private:
  Lines& lines_;
  std::function<void()> stop_;
  std::mutex mutex_;
  PeerControl* running_ = nullptr;
  bool is_ready_ = false;
  int presses_ = 0;
  std::atomic<bool> is_stopping_{false};
};

/// Does what the lines say until they end, or say so. The exit code is that of the last command that failed where no person sat there.
Task<ExitCode> run_shell(Report& report, PeerControl& control, Lines& lines, Interrupts& interrupts);

// ---- what is said, by the commands of shoal-peer as well: src/shell/answers.cpp, overlay.cpp ----------------------------------------

void print_located(Report& report, const LocateAnswer& answer);
void print_load(Report& report, const Endpoint& peer, std::uint32_t load);
void print_findings(Report& report, std::span<const Finding> findings);

/// What is still to be said of an answer after its files. Fails with `partial` or `not_found`, as conclude_search, where the overlay gave
/// it.
Result<> conclude_located(Report& report, const LocateAnswer& answer);

/// One file that a search through the overlay found.
void print_hit(Report& report, const Hit& hit);
/// The end of a search. Fails with `partial` where branches did not answer, and else with `not_found` where there were no hits.
Result<> conclude_search(Report& report, const OverlaySearch& search, std::uint64_t hits);
/// The tree, drawn or for Graphviz. Fails with `partial` where branches did not answer.
Result<> print_topology(Report& report, const Topology& topology, bool as_dot);

}  // namespace shoal
