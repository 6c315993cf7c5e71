module;

#include <fmt/format.h>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

module shoal.shell;

import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.peer;
import shoal.report;
import shoal.schedule;
import shoal.wire;
import shoal.world;

using namespace std::chrono_literals;

namespace shoal {

// ---- Ctrl-C -------------------------------------------------------------------------------------------

void Interrupts::on_signal(bool is_termination) {
  PeerControl* running = nullptr;
  int presses = 0;
  bool is_ready = false;
  {
    const std::lock_guard lock(mutex_);
    presses = ++presses_;
    running = running_;
    is_ready = is_ready_;
    if (!is_termination && presses == 1 && running) running->interrupt();
  }
  is_stopping_ = is_termination || presses > 1 || !is_ready;
  if (is_stopping_) return stop_();
  if (!running) lines_.abandon("Ctrl-C again, or exit, to leave");
}

void Interrupts::set_ready() {
  const std::lock_guard lock(mutex_);
  is_ready_ = true;
}

void Interrupts::set_running(PeerControl* control) {
  const std::lock_guard lock(mutex_);
  running_ = control;
  if (control) presses_ = 0;
}

// ---- what is said -------------------------------------------------------------------------------------

namespace {

std::string milliseconds(std::optional<Nanoseconds> latency) {
  return latency ? fmt::format("{:.1f} ms", Seconds(*latency).count() * 1000) : std::string("unreachable");
}

double milliseconds_or(std::optional<Nanoseconds> latency, double other) { return latency ? Seconds(*latency).count() * 1000 : other; }

std::string_view name_of(LatencyFrom from) {
  switch (from) {
    case LatencyFrom::self: return "self";
    case LatencyFrom::table: return "table";
    case LatencyFrom::assumed: return "assumed";
    case LatencyFrom::measured: return "measured";
    case LatencyFrom::nowhere: return "unreachable";
  }
  return "?";
}

std::string rate_text(double rate) { return rate > 0 ? format_bytes(static_cast<std::uint64_t>(rate)) + "/s" : std::string("-"); }

std::string score_text(const Candidate& candidate) {
  return candidate.latency ? fmt::format("{:.1f}", score_of(candidate)) : std::string("-");
}

std::string address_of(const Holder& holder) { return to_string({holder.host, holder.port}); }

/// `a (6.0 MiB), b (2.0 MiB)`
std::string sources_text(const std::map<std::string, std::uint64_t>& from) {
  std::string text;
  for (const auto& [peer, bytes] : from) text += fmt::format("{}{} ({})", text.empty() ? "" : ", ", peer, format_bytes(bytes));
  return text;
}

void print_source(Report& report, const LocatedFile& file, const LocatedSource& source) {
  const auto& [holder, candidate, latency_from] = source;
  report.event("source", {{"name", file.entry.name},
                          {"bytes", file.entry.size},
                          {"md5", to_hex(file.entry.md5)},
                          {"peer", holder.id},
                          {"address", address_of(holder)},
                          {"load", std::uint64_t{candidate.load}},
                          {"latency_ms", milliseconds_or(candidate.latency, -1)},
                          {"latency_from", std::string(name_of(latency_from))},
                          {"score", candidate.latency ? score_of(candidate) : -1.0},
                          {"rate", candidate.rate}});
  const std::string latency = latency_from == LatencyFrom::self ? "this peer" : milliseconds(candidate.latency);
  report.print(fmt::format("{:<21}  {:>10}  {}  load {:<2}  {:>11}  score {:<7}  {}  {}", address_of(holder), format_bytes(file.entry.size),
                           to_hex(file.entry.md5), candidate.load, latency, score_text(candidate), file.entry.name, holder.id));
}

}  // namespace

namespace {

void tell_found(Report& report, const FileEntry& entry, const std::string& holders) {
  report.event("found", {{"name", entry.name},
                         {"kind", std::string(entry.kind == EntryKind::folder ? "folder" : "file")},
                         {"bytes", entry.size},
                         {"md5", to_hex(entry.md5)},
                         {"root", to_hex(entry.root)},
                         {"holders", holders}});
}

}  // namespace

void print_located(Report& report, const LocateAnswer& answer) {
  for (const LocatedFile& file : answer.files) {
    std::string holders;
    for (const auto& source : file.sources)
      holders += fmt::format("{}{} ({})", holders.empty() ? "" : ", ", source.holder.id, address_of(source.holder));
    tell_found(report, file.entry, holders);
    for (const LocatedSource& source : file.sources) print_source(report, file, source);
  }
  for (const Holder& holder : answer.missing) {
    report.event("missing", {{"peer", holder.id}, {"address", address_of(holder)}});
    report.print(fmt::format("  {} ({}) does not answer", holder.id, address_of(holder)));
  }
  if (answer.silent > 0)
    report.note(fmt::format("{} of {} peers did not answer; they are down until they are heard of", answer.silent, answer.asked));
}

void print_load(Report& report, const Endpoint& peer, std::uint32_t load) {
  report.event("load", {{"address", to_string(peer)}, {"load", std::uint64_t{load}}});
  report.print(fmt::format("{}", load));
}

void print_findings(Report& report, std::span<const Finding> findings) {
  for (const Finding& finding : findings) {
    const FileEntry& entry = finding.entry;
    std::string holders;
    for (const auto& holder : finding.holders)
      holders += fmt::format("{}{} ({})", holders.empty() ? "" : ", ", holder.id, to_string({holder.host, holder.port}));
    if (holders.empty()) holders = "nobody has all of it";
    tell_found(report, entry, holders);
    if (entry.kind == EntryKind::folder)
      report.print(fmt::format("{:>10}  {:32}  {}/", "-", "", printable(entry.name)));
    else
      report.print(fmt::format("{:>10}  {}  {}  {}", format_bytes(entry.size), to_hex(entry.md5), printable(entry.name), holders));
  }
}

// ---- the commands -------------------------------------------------------------------------------------

namespace {

struct Shell {
  Report& report;
  PeerControl& control;
};

Task<Result<>> do_update(Shell shell) {
  const auto changed = co_await shell.control.update_list();
  if (!changed) co_return Failure(changed.error());
  shell.report.event("list", {{"added", std::uint64_t{changed->added}},
                              {"changed", std::uint64_t{changed->changed}},
                              {"removed", std::uint64_t{changed->removed}},
                              {"files", changed->files},
                              {"bytes", changed->bytes},
                              {"confirmed", changed->confirmed}});
  shell.report.print(fmt::format("{} added, {} changed, {} removed; the tracker lists {} of {} files, {}", changed->added, changed->changed,
                                 changed->removed, changed->confirmed, changed->files, format_bytes(changed->bytes)));
  co_return Result<>();
}

Result<Endpoint> peer_named(const std::vector<std::string>& operands) {
  if (operands.size() == 1) return parse_endpoint(operands.front());
  const bool is_bare_ipv6 = operands.front().find(':') != std::string::npos && !operands.front().starts_with('[');
  return parse_endpoint(fmt::format("{}{}{}:{}", is_bare_ipv6 ? "[" : "", operands.front(), is_bare_ipv6 ? "]" : "", operands.back()));
}

Task<Result<>> do_load(Shell shell, std::vector<std::string> operands) {
  const auto peer = peer_named(operands);
  if (!peer) co_return Failure(peer.error());
  const auto load = co_await shell.control.load_of(*peer);
  if (!load) co_return Failure(load.error());
  print_load(shell.report, *peer, *load);
  co_return Result<>();
}

Task<Result<>> do_find(Shell shell, std::string pattern) {
  const auto answer = co_await shell.control.find(std::move(pattern));
  if (!answer) co_return Failure(answer.error());
  print_located(shell.report, *answer);
  co_return Result<>();
}

void print_fetched(Report& report, const Fetched& fetched) {
  const double seconds = Seconds(fetched.taken).count();
  report.event("downloaded", {{"name", fetched.entry.name},
                              {"bytes", fetched.entry.size},
                              {"md5", to_hex(fetched.entry.md5)},
                              {"was_here", fetched.was_here},
                              {"seconds", seconds},
                              {"sources", sources_text(fetched.from)}});
  if (fetched.was_here) return report.print(fmt::format("{}: already here", fetched.entry.name));
  const std::string rate =
      seconds > 0 ? format_bytes(static_cast<std::uint64_t>(static_cast<double>(fetched.entry.size) / seconds)) : "0 B";
  const std::string from = fetched.from.empty() ? std::string() : " from " + sources_text(fetched.from);
  report.print(fmt::format("{}: {} in {:.3f} s ({}/s){}; MD5 {} confirmed", fetched.entry.name, format_bytes(fetched.entry.size), seconds,
                           rate, from, to_hex(fetched.entry.md5)));
}

Task<Result<>> do_download(Shell shell, std::string name, bool from_one) {
  const auto fetched = co_await shell.control.download(std::move(name), from_one);
  shell.report.end_progress();
  if (!fetched) co_return Failure(fetched.error());
  for (const Fetched& file : *fetched) print_fetched(shell.report, file);
  co_return Result<>();
}

Task<Result<>> do_list(Shell shell, std::string pattern) {
  const auto findings = co_await shell.control.list(pattern);
  if (!findings) co_return Failure(findings.error());
  if (findings->empty() && !pattern.empty()) co_return fail(Errc::not_found, fmt::format("nobody offers '{}'", pattern));
  print_findings(shell.report, *findings);
  co_return Result<>();
}

void print_choice(Report& report, const Choice& choice) {
  for (const LocatedSource& source : choice.file.sources) {
    const Candidate& candidate = source.candidate;
    const bool is_chosen = std::ranges::find(choice.chosen, source.holder.id) != choice.chosen.end();
    const auto came = choice.from.find(source.holder.id);
    const std::uint64_t bytes = came == choice.from.end() ? 0 : came->second;
    report.event("candidate", {{"name", choice.file.entry.name},
                               {"peer", source.holder.id},
                               {"address", address_of(source.holder)},
                               {"latency_ms", milliseconds_or(candidate.latency, -1)},
                               {"latency_from", std::string(name_of(source.latency_from))},
                               {"load", std::uint64_t{candidate.load}},
                               {"score", candidate.latency ? score_of(candidate) : -1.0},
                               {"rate", candidate.rate},
                               {"chosen", is_chosen},
                               {"bytes", bytes}});
    report.print(fmt::format("{} {:<16}  {:<21}  latency {:>11} ({})  load {:<2}  score {:<7}  rate {:<12}{}", is_chosen ? "*" : " ",
                             source.holder.id, address_of(source.holder), milliseconds(candidate.latency), name_of(source.latency_from),
                             candidate.load, score_text(candidate), rate_text(candidate.rate),
                             bytes > 0 ? "  sent " + format_bytes(bytes) : std::string()));
  }
  report.event("why", {{"name", choice.file.entry.name}, {"reason", choice.reason}});
  report.print(fmt::format("{}: {}{}", choice.file.entry.name, choice.from.empty() ? "would be fetched so, as " : "was fetched so, as ",
                           choice.reason));
}

Task<Result<>> do_why(Shell shell, std::string name) {
  const auto choices = co_await shell.control.why(std::move(name));
  if (!choices) co_return Failure(choices.error());
  for (const Choice& choice : *choices) print_choice(shell.report, choice);
  co_return Result<>();
}

Result<> do_peers(Shell shell) {
  for (const PeerView& view : shell.control.peers()) {
    const std::string address = to_string({view.peer.host, view.peer.port});
    shell.report.event("peer_view", {{"peer", view.peer.id},
                                     {"address", address},
                                     {"is_here", view.peer.is_here},
                                     {"is_connected", view.is_connected},
                                     {"latency_ms", milliseconds_or(view.latency, -1)},
                                     {"rate", view.rate}});
    const std::string_view where = !view.peer.is_here ? "gone" : view.is_connected ? "connected" : "here";
    shell.report.print(fmt::format("{:<16}  {:<21}  {:<9}  {}{}", view.peer.id, address, where,
                                   view.latency ? milliseconds(view.latency) : "-",
                                   view.rate > 0 ? "  " + rate_text(view.rate) : std::string()));
  }
  return {};
}

/// Which kernels digest here, and how fast: a line a digest.
std::vector<std::string> kernel_lines() {
  const KernelChoice& choice = kernels_in_use();
  return choice.is_measured ? describe(choice) : std::vector<std::string>{"not measured yet: nothing was digested"};
}

Result<> do_status(Shell shell) {
  const PeerStatus status = shell.control.status();
  shell.report.event("status", {{"peer", status.id},
                                {"address", to_string(status.address)},
                                {"tracker", to_string(status.tracker)},
                                {"is_registered", status.is_registered},
                                {"files", status.files},
                                {"bytes", status.bytes},
                                {"load", std::uint64_t{status.load}},
                                {"neighbours", std::uint64_t{status.neighbours}},
                                {"received", status.bytes_received},
                                {"sent", status.bytes_sent},
                                {"digests", fmt::format("{}", fmt::join(kernel_lines(), "; "))}});
  shell.report.print(fmt::format("peer       {} at {}", status.id, to_string(status.address)));
  shell.report.print(
      fmt::format("tracker    {}, {}", to_string(status.tracker), status.is_registered ? "registered" : "away; trying again"));
  shell.report.print(fmt::format("offers     {} files, {}", status.files, format_bytes(status.bytes)));
  shell.report.print(fmt::format("load       {}", status.load));
  shell.report.print(fmt::format("neighbours {}; {} received, {} sent", status.neighbours, format_bytes(status.bytes_received),
                                 format_bytes(status.bytes_sent)));
  for (const std::string& line : kernel_lines()) shell.report.print(fmt::format("digests    {}", line));
  return {};
}

Result<> do_help(Shell shell, const std::vector<std::string>& operands) {
  bool is_known = operands.empty();
  for (const ShellCommand& command : shell_commands()) {
    if (!operands.empty() && operands.front() != command.name) continue;
    is_known = true;
    shell.report.print(fmt::format("  {:<21}  {}", usage_of(command), command.help));
  }
  if (!is_known) return fail(Errc::usage, fmt::format("no command '{}'", operands.front()), "help lists all of them");
  return {};
}

Task<Result<>> perform(Shell shell, ShellLine line) {
  const std::string_view name = line.command->name;
  auto& operands = line.operands;
  if (name == "updatelist") co_return co_await do_update(shell);
  if (name == "getload") co_return co_await do_load(shell, std::move(operands));
  if (name == "find") co_return co_await do_find(shell, std::move(operands.front()));
  if (name == "download") co_return co_await do_download(shell, std::move(operands.front()), line.from_one);
  if (name == "ls") co_return co_await do_list(shell, operands.empty() ? std::string() : std::move(operands.front()));
  if (name == "why") co_return co_await do_why(shell, std::move(operands.front()));
  if (name == "peers") co_return do_peers(shell);
  if (name == "status") co_return do_status(shell);
  co_return do_help(shell, operands);
}

bool is_exit(const ShellLine& line) { return line.command->name == "exit" || line.command->name == "exit!"; }

KnownWords words_for(PeerControl& control, bool is_terminal) {
  if (!is_terminal) return {};
  KnownWords known{control.known_names(), {}};
  for (const PeerView& view : control.peers()) known.peers.push_back(to_string({view.peer.host, view.peer.port}));
  return known;
}

/// A command runs. However it ends, also where it is cancelled, nobody interrupts it after that.
class RunningCommand {
 public:
  RunningCommand(Interrupts& interrupts, PeerControl& control) : interrupts_(interrupts) { interrupts_.set_running(&control); }
  ~RunningCommand() { interrupts_.set_running(nullptr); }
  RunningCommand(const RunningCommand&) = delete;
  RunningCommand& operator=(const RunningCommand&) = delete;

 private:
  Interrupts& interrupts_;
};

/// One line; nothing when it says to leave.
Task<std::optional<ExitCode>> do_line(Shell shell, Interrupts& interrupts, std::string text) {
  auto line = parse_line(text);
  Result<> done;
  std::string name;
  if (!line) {
    done = Failure(std::move(line).error());
  } else if (!*line) {
    co_return ExitCode::done;
  } else {
    name = (*line)->command->name;
    const RunningCommand running(interrupts, shell.control);
    if (is_exit(**line)) {
      if (name == "exit") co_await shell.control.let_finish(2s);
      co_return std::nullopt;
    }
    done = co_await perform(shell, std::move(**line));
  }
  if (!done) shell.report.error(done.error());
  const ExitCode exit = done ? ExitCode::done : exit_code_of(done.error());
  shell.report.event("done", {{"command", name}, {"exit", static_cast<std::int64_t>(exit)}});
  co_return exit;
}

}  // namespace

Task<ExitCode> run_shell(Report& report, PeerControl& control, Lines& lines, Interrupts& interrupts) {
  const Shell shell{report, control};
  co_await control.wait_until_ready();
  interrupts.set_ready();
  report.event("ready", {{"peer", control.status().id}, {"address", to_string(control.status().address)}});
  if (lines.is_terminal()) report.note("ready; type help for what there is to type");
  ExitCode exit = ExitCode::done;
  for (;;) {
    auto text = co_await lines.next(words_for(control, lines.is_terminal()));
    if (!text) text = "exit";  // the end of the input
    const auto done = co_await do_line(shell, interrupts, std::move(*text));
    if (!done) co_return lines.is_terminal() ? ExitCode::done : exit;
    if (*done != ExitCode::done) exit = *done;
  }
}

}  // namespace shoal
