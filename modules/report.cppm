/// What a person or a program learns of a run: the event log, NDJSON, progress, one line a failure.
/// May be used from any thread, concurrently: each line is written whole.
module;

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

export module shoal.report;

import shoal.base;

export namespace shoal {

/// Writes all of it, however often a signal comes in between, also to a stream that its owner has made not to block. False, and errno,
/// where it cannot be. Waits for as long as nobody reads.
bool write_whole(std::FILE* stream, std::string_view text);

/// A field of an event, named neither `event` nor `t`. Text must be UTF-8; other bytes are replaced by U+FFFD.
using FieldValue = std::variant<std::int64_t, std::uint64_t, double, bool, std::string>;
using Fields = std::vector<std::pair<std::string_view, FieldValue>>;

enum class Colour { automatic, never };
enum class Verbosity { quiet, normal, verbose };

struct ReportOptions {
  Verbosity verbosity = Verbosity::normal;
  bool json = false;                  ///< NDJSON to stdout, a line an event.
  Colour colour = Colour::automatic;  ///< `automatic` looks at NO_COLOR and whether stderr is a terminal.
  std::string log_file;               ///< The event log, NDJSON; none when empty. Appended to.
  std::string program;                ///< `shoal-peer`, in front of failures.
  /// The common clock, for `t`; 0 until there is one. Called under a lock: it must not call the Report.
  std::function<double()> swarm_seconds;

  std::function<Instant()> now;  ///< What paces the progress display; the steady clock when empty.
  std::FILE* out = nullptr;      ///< Where NDJSON and answers go; stdout when null. Not closed.
  std::FILE* err = nullptr;      ///< Where a person reads along; stderr when null. Not closed.
  /// Writes whole lines to one of these, so that they do not run into a prompt; plain writing when empty. False, and errno, where it
  /// cannot. Called under a lock: it must not call the Report.
  std::function<bool(std::FILE* stream, std::string_view text)> write;
  /// Hears, once, that whoever read `out` has gone. Any thread. May be empty.
  std::function<void()> on_reader_gone;
};

/// One file or total in the progress display.
struct ProgressLine {
  std::string name;
  std::uint64_t done = 0;
  std::uint64_t total = 0;
  double rate = 0;            ///< Bytes a second.
  std::uint32_t sources = 0;  ///< Neighbours that it comes from now.
};

class Report {
 public:
  /// Writes the `hello` event. Fails with the path when the log cannot be opened: a usage error.
  static Result<std::unique_ptr<Report>> open(ReportOptions options);
  ~Report();

  /// Sets the clock that stamps `t` once there is one. `bound` says how far it may be off now, in seconds, for the field of that name;
  /// below 0 while that is not known. Both are called under a lock: they must not call the Report.
  void set_clock(std::function<double()> swarm_seconds, std::function<double()> bound = {});

  /// An event: to the log always, to stdout with --json. `{"event":name,"t":seconds,"bound":seconds,...}`.
  void event(std::string_view name, const Fields& fields = {});
  /// An event for the log alone, not for stdout: a chunk, a message.
  void detail(std::string_view name, const Fields& fields = {});
  /// Whether an event, or a detail, is written anywhere. What comes by the ten thousand a second is spared the making of its fields.
  bool wants_events() const;
  bool wants_details() const;

  /// A line for a person on stderr: not with --quiet.
  void note(std::string_view line);
  /// A line with more detail: only with --verbose.
  void debug(std::string_view line);
  bool wants_debug() const;
  /// Something is wrong but work goes on; on stderr always, and in the log.
  void warn(std::string_view line);
  /// The same for lines, and for events of the log, that whoever connects may cause without end: of each kind there is one in ten seconds,
  /// with how many more there were since the last one, as text or as the field `more`. A kind is what happened, not to whom.
  void debug_now_and_then(std::string_view kind, std::string_view line);
  void note_now_and_then(std::string_view kind, std::string_view line);
  void warn_now_and_then(std::string_view kind, std::string_view line);
  void detail_now_and_then(std::string_view kind, std::string_view name, Fields fields);
  /// The one line a failure; on stderr always, and in the log.
  void error(const Error& error);
  /// What the user asked for (a list, a total), on stdout, not with --json.
  void print(std::string_view line);
  /// A line of NDJSON that was made elsewhere, for stdout alone.
  void print_json(std::string_view line);
  /// Something that was asked for cannot be written: a warning, and the run does not end with 0.
  void lose(const Error& error, std::string_view line);

  /// Draws progress: on a terminal the lines and the total in place, at most ten times a second; else one plain
  /// line every five seconds. `files` may be long: the first that move are shown. No-op with --quiet and --json.
  void progress(const std::vector<ProgressLine>& files, const ProgressLine& total);
  /// Wipes what progress drew, before the last lines.
  void end_progress();
  /// Whether a call to progress now would draw anything; saves the work of making the lines.
  bool wants_progress() const;

  /// Writes the closing `result` event with `exit` and the given fields. Nothing follows it on stdout with --json.
  void result(ExitCode exit, Fields fields = {});
  void flush();
  /// What a run ends with that came to `exit`. What could not be written to stdout, to the log or to a record is lost, which was said once
  /// on stderr: then it is not 0, but the code of a full disk, or `unknown`. A reader of stdout who has gone is no news to anybody: that
  /// is said nowhere, and an interruption that followed from it is `unknown` as well.
  ExitCode exit_with(ExitCode exit) const;

 private:
  struct State;
  void tell_overdue(bool is_end);
  explicit Report(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// ---- "did you mean" -----------------------------------------------------------------------------------

/// How many letters were added, left out, changed or swapped with their neighbour (Damerau and Levenshtein).
std::size_t typing_distance(std::string_view typed, std::string_view meant);
/// `did you mean PREFIXword?` for the known word that a mistyped one is closest to, or nothing where no word is close.
std::string did_you_mean(std::string_view typed, const std::vector<std::string>& words, std::string_view prefix = {});

// ---- text for a terminal ------------------------------------------------------------------------------

/// One line that is safe on a terminal: control and direction-changing characters are escaped (`\x1b`,
/// `\u{202e}`), and bytes that are not UTF-8 become U+FFFD. Text that comes back unchanged is printable.
std::string printable(std::string_view text);
/// How many columns `text` takes: wide East Asian characters and emoji take two, combining marks none.
std::size_t columns_of(std::string_view text);
/// `text` within `columns`: the end of a name tells most, so what is cut is the beginning, at a character: `…end.txt`.
std::string fit_columns(std::string_view text, std::size_t columns);

/// `12.3% 1.20 GiB of 9.77 GiB, 350 MiB/s, ETA 25 s, 3 sources`.
std::string progress_text(const ProgressLine& line);

struct Screen {
  std::size_t columns = 80;
  std::size_t rows = 24;
  bool has_colour = false;
};

/// What a terminal shows: the first eight of `files` that move, as far as the screen is high enough, then the total.
/// Each line is narrower than the screen.
std::vector<std::string> progress_frame(const std::vector<ProgressLine>& files, const ProgressLine& total, const Screen& screen);

}  // namespace shoal
