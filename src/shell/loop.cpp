// What is done with the lines, one after the other.
module;

#include <fmt/core.h>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

module shoal.shell;

import :answers;
import shoal.base;
import shoal.peer;
import shoal.report;
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

// ---- the commands -------------------------------------------------------------------------------------

namespace {

struct Shell {
  Report& report;
  PeerControl& control;
};

Task<Result<>> do_update(Shell shell) {
  const auto changed = co_await shell.control.update_list();
  if (!changed) co_return Failure(changed.error());
  print_change(shell.report, *changed);
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
  co_return conclude_located(shell.report, *answer);
}

Task<Result<>> do_search(Shell shell, std::string pattern) {
  std::uint64_t hits = 0;
  const auto on_hit = [&](const Hit& hit) {
    ++hits;
    print_hit(shell.report, hit);
  };
  const auto search = co_await shell.control.search(std::move(pattern), on_hit);
  if (!search) co_return Failure(search.error());
  co_return conclude_search(shell.report, *search, hits);
}

Task<Result<>> do_topology(Shell shell, bool as_dot) {
  const auto topology = co_await shell.control.topology();
  if (!topology) co_return Failure(topology.error());
  co_return print_topology(shell.report, *topology, as_dot);
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

Task<Result<>> do_why(Shell shell, std::string name) {
  const auto choices = co_await shell.control.why(std::move(name));
  if (!choices) co_return Failure(choices.error());
  for (const Choice& choice : *choices) print_choice(shell.report, choice);
  co_return Result<>();
}

Result<> do_peers(Shell shell) {
  for (const PeerView& view : shell.control.peers()) print_peer(shell.report, view);
  return {};
}

Result<> do_status(Shell shell) {
  print_status(shell.report, shell.control.status());
  return {};
}

Result<> do_help(Shell shell, const std::vector<std::string>& operands) {
  bool is_known = operands.empty();
  for (const ShellCommand& command : shell_commands()) {
    if (!operands.empty() && operands.front() != command.name) continue;
    is_known = true;
    shell.report.print(fmt::format("  {:<28}  {}", usage_of(command), command.help));
  }
  if (!is_known) return fail(Errc::usage, fmt::format("no command '{}'", operands.front()), "help lists all of them");
  return {};
}

Task<Result<>> perform(Shell shell, ShellLine line) {
  const std::string_view name = line.command->name;
  auto& operands = line.operands;
  if (name == "updatelist") co_return co_await do_update(shell);
  if (name == "getload") co_return co_await do_load(shell, std::move(operands));
  if (name == "find" && line.via_overlay) co_return co_await do_search(shell, std::move(operands.front()));
  if (name == "find") co_return co_await do_find(shell, std::move(operands.front()));
  if (name == "topo") co_return co_await do_topology(shell, line.as_dot);
  if (name == "download") co_return co_await do_download(shell, std::move(operands.front()), line.from_one);
  if (name == "ls") co_return co_await do_list(shell, operands.empty() ? std::string() : std::move(operands.front()));
  if (name == "why") co_return co_await do_why(shell, std::move(operands.front()));
  if (name == "peers") co_return do_peers(shell);
  if (name == "status") co_return do_status(shell);
  co_return do_help(shell, operands);
}

bool is_exit(std::string_view name) { return name == "exit" || name == "stop" || name == "exit!"; }

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
    if (is_exit(name)) {
      if (name != "exit!") co_await shell.control.let_finish(2s);
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
  if (!co_await control.wait_until_ready()) co_return ExitCode::interrupted;
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
