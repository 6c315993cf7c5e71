module;

#include <fmt/core.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <nlohmann/json.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

module shoal.report;

import :answers;
import :pacing;
import shoal.base;

namespace shoal {
namespace {

constexpr Nanoseconds kDrawEvery = Milliseconds(100);
constexpr Nanoseconds kPlainLineEvery = std::chrono::seconds(5);

Instant steady_now() { return Instant(std::chrono::duration_cast<Nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())); }

Writer writer_of(const ReportOptions& options) { return options.write ? options.write : write_whole; }

/// Calls `work` every second, on a thread of its own, until destroyed.
class EverySecond {
 public:
  explicit EverySecond(std::function<void()> work) : work_(std::move(work)), thread_([this] { run(); }) {}

  ~EverySecond() {
    {
      const std::lock_guard lock(mutex_);
      is_stopping_ = true;
    }
    stopping_.notify_one();
    thread_.join();
  }

 private:
  void run() {
    std::unique_lock lock(mutex_);
    while (!stopping_.wait_for(lock, std::chrono::seconds(1), [this] { return is_stopping_; })) work_();
  }

  std::function<void()> work_;
  std::mutex mutex_;
  std::condition_variable stopping_;
  bool is_stopping_ = false;
  std::thread thread_;
};

// ---- events ---------------------------------------------------------------------------------------------

bool needs_no_escape(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f && c != '"' && c != '\\'; });
}

// Chunks come by the ten thousand a second: what is plain is written as it stands, the rest by the JSON library.
void append_json(std::string& out, std::string_view text) {
  if (needs_no_escape(text))
    fmt::format_to(std::back_inserter(out), "\"{}\"", text);
  else
    out += nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

void append_json(std::string& out, double number) {
  if (std::isfinite(number))
    fmt::format_to(std::back_inserter(out), "{}", number);
  else
    out += "null";
}

template <class Number>
  requires std::is_integral_v<Number>
void append_json(std::string& out, Number number) {
  fmt::format_to(std::back_inserter(out), "{}", number);
}

/// `,"name":value` for each field: what comes after `{"event":"...","t":0`.
std::string json_members(const Fields& fields) {
  std::string members;
  for (const auto& [name, value] : fields) {
    members += ',';
    append_json(members, name);
    members += ':';
    std::visit([&](const auto& held) { append_json(members, held); }, value);
  }
  return members;
}

/// Microseconds are enough, and keep the lines short.
double rounded(double seconds) { return std::isfinite(seconds) ? std::round(seconds * 1e6) / 1e6 : 0.0; }

std::string event_line(std::string_view name, double seconds, double bound, std::string_view members) {
  std::string line = "{\"event\":";
  append_json(line, name);
  line += ",\"t\":";
  append_json(line, rounded(seconds));
  if (bound >= 0) {
    line += ",\"bound\":";
    append_json(line, std::ceil(bound * 1e6) / 1e6);
  }
  line += members;
  line += '}';
  return line;
}

/// Events as NDJSON, to the log and to stdout, in one order. Any thread may write.
class EventStream {
 public:
  enum class Reach { log_only, everywhere };

  EventStream(Answers& answers, bool is_json_wanted, std::function<double()> clock)
      : answers_(answers), is_json_wanted_(is_json_wanted), clock_(std::move(clock)) {}

  Result<void> open_log(const std::string& path, const std::function<void(std::string_view)>& on_failure) {
    // spdlog creates missing folders and retries; a path that cannot be opened should say so, at once, with errno.
    std::FILE* const probe = std::fopen(path.c_str(), "ab");
    if (probe == nullptr) return fail_errno(fmt::format("cannot open the log {}", path), "give --log a file that can be written");
    std::fclose(probe);
    try {
      log_ = std::make_unique<spdlog::logger>("events", std::make_shared<spdlog::sinks::basic_file_sink_mt>(path));
    } catch (const spdlog::spdlog_ex& problem) {
      return fail(std::make_error_code(std::errc::io_error), fmt::format("cannot open the log {} ({})", path, problem.what()));
    }
    log_->set_pattern("%v");
    log_->flush_on(spdlog::level::warn);
    log_->set_error_handler([this, on_failure](const std::string& problem) {
      if (!has_failed_.exchange(true)) on_failure(problem);
    });
    flusher_ = std::make_unique<EverySecond>([this] { log_->flush(); });
    return {};
  }

  void set_clock(std::function<double()> clock, std::function<double()> bound) {
    const std::lock_guard lock(mutex_);
    clock_ = std::move(clock);
    bound_ = std::move(bound);
  }

  void hello(std::string_view program) {
    const Fields fields{
        {"schema", std::int64_t{1}}, {"program", std::string(program)}, {"version", std::string(SHOAL_VERSION)}, {"t", std::int64_t{0}}};
    const std::string line = "{\"event\":\"hello\"" + json_members(fields) + "}";
    const std::lock_guard lock(mutex_);
    emit(line, Reach::everywhere, spdlog::level::info);
  }

  void write(std::string_view name, const Fields& fields, Reach reach, spdlog::level::level_enum level = spdlog::level::info) {
    if (!is_read(reach)) return;
    const std::string members = json_members(fields);
    const std::lock_guard lock(mutex_);
    emit(event_line(name, seconds(), bound(), members), reach, level);
  }

  bool is_read(Reach reach) const { return log_ || (reach == Reach::everywhere && is_json_wanted_); }

  /// The last line on stdout.
  void close(const Fields& fields) {
    const std::string members = json_members(fields);
    const std::lock_guard lock(mutex_);
    if (std::exchange(is_closed_, true)) return;
    emit(event_line("result", seconds(), bound(), members), Reach::everywhere, spdlog::level::info);
    is_json_wanted_ = false;
  }

  void flush() {
    if (log_) log_->flush();
  }

 private:
  double seconds() const { return clock_ ? clock_() : 0.0; }
  double bound() const { return bound_ ? bound_() : -1.0; }

  void emit(const std::string& line, Reach reach, spdlog::level::level_enum level) {
    if (log_) log_->log(level, spdlog::string_view_t(line.data(), line.size()));
    if (reach == Reach::everywhere && is_json_wanted_) answers_.write(line + "\n");
  }

  std::mutex mutex_;
  Answers& answers_;
  std::atomic<bool> is_json_wanted_;  ///< Not after the result.
  std::function<double()> clock_;
  std::function<double()> bound_;
  bool is_closed_ = false;
  std::unique_ptr<spdlog::logger> log_;
  std::atomic<bool> has_failed_ = false;
  std::unique_ptr<EverySecond> flusher_;
};

// ---- what a person sees -----------------------------------------------------------------------------------

bool is_terminal(std::FILE* stream) { return ::isatty(::fileno(stream)) == 1; }

bool is_set(const char* variable) {
  const char* const value = std::getenv(variable);
  return value != nullptr && *value != '\0';
}

/// Lines and progress on one terminal or file. Any thread may write.
class Display {
 public:
  Display(const ReportOptions& options, Answers& answers, std::FILE* err)
      : answers_(answers),
        err_(err),
        write_(writer_of(options)),
        now_(options.now ? options.now : steady_now),
        is_terminal_(is_terminal(err)),
        has_colour_(is_terminal_ && options.colour == Colour::automatic && !is_set("NO_COLOR")),
        is_progress_wanted_(options.verbosity != Verbosity::quiet && !options.json),
        next_progress_(is_terminal_ ? now_() : now_() + kPlainLineEvery) {}

  bool has_colour() const { return has_colour_; }
  bool wants_progress() const { return is_progress_wanted_ && now_() >= next_progress_.load(std::memory_order_relaxed); }

  /// A line in the place of the progress, which moves down.
  void say(std::string_view line) {
    const std::lock_guard lock(mutex_);
    write_(err_, wiping() + std::string(line) + "\n" + drawing());
  }
  void answer(std::string_view line) {
    const std::lock_guard lock(mutex_);
    if (!frame_.empty()) write_(err_, wiping());
    answers_.write(std::string(line) + "\n");
    if (!frame_.empty()) write_(err_, drawing());
  }

  void progress(const std::vector<ProgressLine>& files, const ProgressLine& total) {
    const std::lock_guard lock(mutex_);
    if (!wants_progress()) return;
    next_progress_ = now_() + (is_terminal_ ? kDrawEvery : kPlainLineEvery);
    if (!is_terminal_) return static_cast<void>(write_(err_, progress_text(total) + "\n"));
    const std::string wipe = wiping();
    frame_ = progress_frame(files, total, screen());
    write_(err_, wipe + drawing());
  }

  void end_progress() {
    const std::lock_guard lock(mutex_);
    if (frame_.empty()) return;
    write_(err_, wiping());
    frame_.clear();
  }

 private:
  /// From below the frame up to where it begins, and nothing after that.
  std::string wiping() const { return frame_.empty() ? std::string{} : fmt::format("\x1b[{}A\r\x1b[J", frame_.size()); }

  std::string drawing() const {
    std::string text;
    for (const std::string& line : frame_) text += line + "\n";
    return text;
  }

  Screen screen() const {
    Screen screen{.columns = 80, .rows = 24, .has_colour = has_colour_};
    winsize size{};
    if (::ioctl(::fileno(err_), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
      screen.columns = size.ws_col;
      screen.rows = size.ws_row > 0 ? size.ws_row : screen.rows;
    }
    return screen;
  }

  Answers& answers_;
  std::FILE* err_;
  Writer write_;
  std::function<Instant()> now_;
  bool is_terminal_;
  bool has_colour_;
  bool is_progress_wanted_;
  std::atomic<Instant> next_progress_;
  std::mutex mutex_;
  std::vector<std::string> frame_;  ///< What is drawn now.
};

}  // namespace

// ---- the room's door --------------------------------------------------------------------------------------

struct Report::State {
  explicit State(ReportOptions given)
      : options(std::move(given)),
        answers(options.out != nullptr ? options.out : stdout, writer_of(options), losses),
        display(options, answers, options.err != nullptr ? options.err : stderr),
        debugs(options.now ? options.now : steady_now),
        notes(options.now ? options.now : steady_now),
        warnings(options.now ? options.now : steady_now),
        details(options.now ? options.now : steady_now),
        events(answers, options.json, options.swarm_seconds) {}

  std::string painted(std::string_view text, std::string_view colour) const {
    return display.has_colour() ? fmt::format("\x1b[{}m{}\x1b[0m", colour, text) : std::string(text);
  }

  /// `shoal-peer: `, where there is a program to name.
  std::string prefix() const { return options.program.empty() ? std::string{} : options.program + ": "; }

  void say_wrong(const Error& error) { display.say(prefix() + painted(printable(error.message()), "31")); }

  /// An event, to the log and to stdout; a loss that comes of it is told.
  void write(std::string_view name, const Fields& fields, EventStream::Reach reach, spdlog::level::level_enum level = spdlog::level::info) {
    events.write(name, fields, reach, level);
    tell_of_loss();
  }

  void tell_of_loss() {
    const int error = answers.take_untold();
    if (error == 0) return;
    if (error == EPIPE) return options.on_reader_gone ? options.on_reader_gone() : void();
    say_wrong({std::error_code(error, std::generic_category()), "cannot write to stdout", "what would stand there is lost"});
  }

  ReportOptions options;
  Losses losses;
  Answers answers;
  Display display;
  Pacing debugs;
  Pacing notes;
  Pacing warnings;
  Pacing details;
  EventStream events;
};

Report::Report(std::unique_ptr<State> state) : state_(std::move(state)) {}

Report::~Report() {
  end_progress();
  tell_overdue(true);
  flush();
}

Result<std::unique_ptr<Report>> Report::open(ReportOptions options) {
  auto state = std::make_unique<State>(std::move(options));
  State& s = *state;
  if (!s.options.log_file.empty()) {
    const auto opened = s.events.open_log(s.options.log_file, [&s](std::string_view problem) {
      const bool is_full = problem.find(std::generic_category().message(ENOSPC)) != std::string_view::npos;
      s.losses.note(is_full ? ENOSPC : EIO);
      s.display.say(s.prefix() + s.painted("warning: ", "33") + "the log is incomplete: " + printable(problem));
    });
    if (!opened) return Failure(opened.error());
  }
  s.events.hello(s.options.program);
  s.tell_of_loss();
  return std::unique_ptr<Report>(new Report(std::move(state)));
}

void Report::set_clock(std::function<double()> swarm_seconds, std::function<double()> bound) {
  state_->events.set_clock(std::move(swarm_seconds), std::move(bound));
}

void Report::event(std::string_view name, const Fields& fields) { state_->write(name, fields, EventStream::Reach::everywhere); }

void Report::detail(std::string_view name, const Fields& fields) { state_->events.write(name, fields, EventStream::Reach::log_only); }

bool Report::wants_events() const { return state_->events.is_read(EventStream::Reach::everywhere); }

bool Report::wants_details() const { return state_->events.is_read(EventStream::Reach::log_only); }

bool Report::wants_debug() const { return state_->options.verbosity == Verbosity::verbose; }

void Report::note(std::string_view line) {
  if (state_->options.verbosity != Verbosity::quiet) state_->display.say(printable(line));
}

void Report::debug(std::string_view line) {
  if (wants_debug()) state_->display.say(printable(line));
}

void Report::warn(std::string_view line) {
  state_->display.say(state_->prefix() + state_->painted("warning: ", "33") + printable(line));
  state_->write("warning", {{"message", std::string(line)}}, EventStream::Reach::everywhere, spdlog::level::warn);
}

void Report::debug_now_and_then(std::string_view kind, std::string_view line) {
  if (!wants_debug()) return;
  if (const auto passed = state_->debugs.pass(kind, line)) debug(with_count(line, *passed));
  tell_overdue(false);
}

void Report::note_now_and_then(std::string_view kind, std::string_view line) {
  if (const auto passed = state_->notes.pass(kind, line)) note(with_count(line, *passed));
  tell_overdue(false);
}

void Report::warn_now_and_then(std::string_view kind, std::string_view line) {
  if (const auto passed = state_->warnings.pass(kind, line)) warn(with_count(line, *passed));
  tell_overdue(false);
}

void Report::detail_now_and_then(std::string_view kind, std::string_view name, Fields fields) {
  const auto passed = state_->details.pass(kind, {});
  if (!passed) return;
  if (passed->more > 0) fields.emplace_back("more", passed->more);
  detail(name, fields);
}

void Report::tell_overdue(bool is_end) {
  for (const std::string& line : state_->debugs.overdue(is_end)) debug(line);
  for (const std::string& line : state_->notes.overdue(is_end)) note(line);
  for (const std::string& line : state_->warnings.overdue(is_end)) warn(line);
}

void Report::error(const Error& error) {
  const std::string message = error.message();
  state_->say_wrong(error);
  const auto exit = static_cast<std::int64_t>(exit_code_of(error));
  state_->write("error", {{"message", message}, {"exit", exit}}, EventStream::Reach::everywhere, spdlog::level::err);
}

void Report::print(std::string_view line) {
  if (state_->options.json) return;
  state_->display.answer(printable(line));
  state_->tell_of_loss();
}

void Report::print_json(std::string_view line) {
  state_->answers.write(std::string(line) + "\n");
  state_->tell_of_loss();
}

void Report::lose(const Error& error, std::string_view line) {
  state_->losses.note(exit_code_of(error) == ExitCode::disk_full ? ENOSPC : EIO);
  warn(line);
}

ExitCode Report::exit_with(ExitCode exit) const {
  const bool is_cut_off = exit == ExitCode::interrupted && state_->answers.is_reader_gone();
  return exit == ExitCode::done || is_cut_off ? state_->losses.exit() : exit;
}

void Report::progress(const std::vector<ProgressLine>& files, const ProgressLine& total) { state_->display.progress(files, total); }

void Report::end_progress() { state_->display.end_progress(); }

bool Report::wants_progress() const { return state_->display.wants_progress(); }

void Report::result(ExitCode exit, Fields fields) {
  end_progress();
  tell_overdue(true);
  flush();  // what the log cannot take shows by now
  fields.insert(fields.begin(), {"exit", static_cast<std::int64_t>(exit_with(exit))});
  state_->events.close(fields);
  state_->tell_of_loss();
  flush();
}

void Report::flush() { state_->events.flush(); }

}  // namespace shoal
