// What commands say.
module;

#include <fmt/format.h>
#include <tl/expected.hpp>

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

module shoal.shell;

import :answers;
import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.peer;
import shoal.report;
import shoal.schedule;
import shoal.wire;

namespace shoal {
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

void print_change(Report& report, const ListChange& changed) {
  report.event("list", {{"added", std::uint64_t{changed.added}},
                        {"changed", std::uint64_t{changed.changed}},
                        {"removed", std::uint64_t{changed.removed}},
                        {"files", changed.files},
                        {"bytes", changed.bytes},
                        {"confirmed", changed.confirmed}});
  report.print(fmt::format("{} added, {} changed, {} removed; the tracker lists {} of {} files, {}", changed.added, changed.changed,
                           changed.removed, changed.confirmed, changed.files, format_bytes(changed.bytes)));
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

void print_peer(Report& report, const PeerView& view) {
  const std::string address = to_string({view.peer.host, view.peer.port});
  report.event("peer_view", {{"peer", view.peer.id},
                             {"address", address},
                             {"is_here", view.peer.is_here},
                             {"is_connected", view.is_connected},
                             {"latency_ms", milliseconds_or(view.latency, -1)},
                             {"rate", view.rate}});
  const std::string_view where = !view.peer.is_here ? "gone" : view.is_connected ? "connected" : "here";
  report.print(fmt::format("{:<16}  {:<21}  {:<9}  {}{}", view.peer.id, address, where, view.latency ? milliseconds(view.latency) : "-",
                           view.rate > 0 ? "  " + rate_text(view.rate) : std::string()));
}

namespace {

/// Which kernels digest here, and how fast: a line a digest.
std::vector<std::string> kernel_lines() {
  const KernelChoice& choice = kernels_in_use();
  return choice.is_measured ? describe(choice) : std::vector<std::string>{"not measured yet: nothing was digested"};
}

}  // namespace

void print_status(Report& report, const PeerStatus& status) {
  report.event("status", {{"peer", status.id},
                          {"address", to_string(status.address)},
                          {"tracker", to_string(status.tracker)},
                          {"is_registered", status.is_registered},
                          {"files", status.files},
                          {"bytes", status.bytes},
                          {"load", std::uint64_t{status.load}},
                          {"neighbours", std::uint64_t{status.neighbours}},
                          {"overlay", status.overlay_number == 0 ? std::string() : fmt::format("s{}", status.overlay_number)},
                          {"overlay_links", std::uint64_t{status.overlay_links}},
                          {"received", status.bytes_received},
                          {"sent", status.bytes_sent},
                          {"digests", fmt::format("{}", fmt::join(kernel_lines(), "; "))}});
  report.print(fmt::format("peer       {} at {}", status.id, to_string(status.address)));
  report.print(fmt::format("tracker    {}, {}", to_string(status.tracker), status.is_registered ? "registered" : "away; trying again"));
  if (status.overlay_number != 0)
    report.print(fmt::format("overlay    s{}, linked to {} {}", status.overlay_number, status.overlay_links,
                             status.overlay_links == 1 ? "node" : "nodes"));
  report.print(fmt::format("offers     {} files, {}", status.files, format_bytes(status.bytes)));
  report.print(fmt::format("load       {}", status.load));
  report.print(fmt::format("neighbours {}; {} received, {} sent", status.neighbours, format_bytes(status.bytes_received),
                           format_bytes(status.bytes_sent)));
  for (const std::string& line : kernel_lines()) report.print(fmt::format("digests    {}", line));
}

}  // namespace shoal
