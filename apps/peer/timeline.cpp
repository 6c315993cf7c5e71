#include <fmt/core.h>

#include <boost/asio/awaitable.hpp>
#include <nlohmann/json.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "peer/clock.hpp"

namespace shoal::apps {
namespace {

using Json = nlohmann::ordered_json;

struct Event {
  double at = 0;  ///< Swarm clock; of what came before the clock was known, the moment at which it was.
  std::string log;
  Json fields;
  std::size_t place = 0;  ///< In the order in which they were read.

  friend bool operator<(const Event& a, const Event& b) { return std::pair(a.at, a.place) < std::pair(b.at, b.place); }
};

struct Timeline {
  std::vector<Event> events;
  std::uint64_t skipped = 0;  ///< Lines that are no events.
};

bool is_event(const Json& line) {
  return line.is_object() && line.contains("event") && line["event"].is_string() && line.contains("t") && line["t"].is_number();
}

/// The peer's own name, as its log tells it.
std::string name_in(const Json& event) {
  const auto& kind = event["event"];
  const bool tells = (kind == "registered" || kind == "clock_joined") && event.contains("tracker");
  return tells && event.contains("peer") && event["peer"].is_string() ? event["peer"].get<std::string>() : std::string();
}

Result<> read_log(const std::string& path, Timeline& timeline) {
  std::ifstream file(path);
  if (!file) return fail_errno(fmt::format("cannot read the log '{}'", path), "name files that were written with --log");
  std::string name;
  const std::size_t first = timeline.events.size();
  for (std::string line; std::getline(file, line);) {
    Json event = Json::parse(line, nullptr, false);
    if (event.is_discarded() || !is_event(event)) {
      ++timeline.skipped;
      continue;
    }
    if (name.empty()) name = name_in(event);
    const double at = event["t"].get<double>();
    timeline.events.push_back({at, {}, std::move(event), timeline.events.size()});
  }
  if (name.empty()) name = std::filesystem::path(path).stem().string();
  double next = 0;
  for (std::size_t i = timeline.events.size(); i-- > first;) {
    Event& event = timeline.events[i];
    if (event.at == 0 && !event.fields.contains("bound")) event.at = next;
    next = event.at;
    event.log = name;
  }
  return {};
}

std::string text_of(const Event& event) {
  std::string text = fmt::format("{:12.6f}", event.at);
  if (const auto bound = event.fields.find("bound"); bound != event.fields.end() && bound->is_number())
    text += fmt::format(" ±{:.6f}", bound->get<double>());
  else
    text += "          ?";
  text += fmt::format("  {}  {}", event.log, event.fields["event"].get<std::string>());
  for (const auto& [key, value] : event.fields.items()) {
    if (key == "event" || key == "t" || key == "bound") continue;
    text += fmt::format(" {}={}", key,
                        value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  return text;
}

// ---- the picture --------------------------------------------------------------------------------------

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : printable(text)) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else
      out += c;
  }
  return out;
}

struct Transfer {
  std::string from;
  std::string to;
  double begin = 0;
  double end = 0;
};

std::vector<Transfer> transfers_in(const Timeline& timeline) {
  std::vector<Transfer> transfers;
  for (const Event& event : timeline.events) {
    const Json& fields = event.fields;
    if (fields["event"] != "chunk" || !fields.contains("from") || !fields["from"].is_string()) continue;
    const double seconds = fields.contains("seconds") && fields["seconds"].is_number() ? fields["seconds"].get<double>() : 0.0;
    transfers.push_back({fields["from"].get<std::string>(), event.log, event.at - seconds, event.at});
  }
  return transfers;
}

constexpr double kLeft = 160;
constexpr double kWidth = 1200;
constexpr double kLane = 60;
constexpr double kTop = 40;

/// A lane a peer, in the order of their names; a line from the lane of the source, when the chunk was asked for, to that of who got it.
std::string draw(const Timeline& timeline) {
  const auto transfers = transfers_in(timeline);
  std::map<std::string, double> lanes;
  for (const Event& event : timeline.events) lanes[event.log];
  for (const Transfer& transfer : transfers) lanes[transfer.from];
  double begin = 0;
  double end = 1e-6;
  if (!timeline.events.empty()) {
    begin = timeline.events.front().at;
    end = std::max(timeline.events.back().at, begin + 1e-6);
  }
  for (const Transfer& transfer : transfers) begin = std::min(begin, transfer.begin);
  const auto x_of = [&](double at) { return kLeft + (at - begin) / (end - begin) * kWidth; };
  const double height = kTop + kLane * static_cast<double>(lanes.size()) + 20;
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
      kLeft + kWidth + 40, height);
  double y = kTop + kLane / 2;
  for (auto& [name, lane] : lanes) {
    lane = y;
    svg += fmt::format("<text x=\"8\" y=\"{:.1f}\">{}</text><line x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"#ccc\"/>\n",
                       y + 4, escaped(fit_columns(name, 22)), kLeft, kLeft + kWidth, y, y);
    y += kLane;
  }
  for (int i = 0; i <= 10; ++i) {
    const double at = begin + (end - begin) * i / 10;
    svg += fmt::format("<text x=\"{:.1f}\" y=\"20\" text-anchor=\"middle\" fill=\"#666\">{:.3f} s</text>\n", x_of(at), at);
  }
  for (const Transfer& transfer : transfers) {
    const auto hue = static_cast<int>(lanes.at(transfer.from) * 37) % 360;
    svg +=
        fmt::format("<line x1=\"{:.2f}\" y1=\"{:.1f}\" x2=\"{:.2f}\" y2=\"{:.1f}\" stroke=\"hsl({},70%,40%)\" stroke-opacity=\"0.5\"/>\n",
                    x_of(transfer.begin), lanes.at(transfer.from), x_of(transfer.end), lanes.at(transfer.to), hue);
  }
  for (const Event& event : timeline.events) {
    const auto kind = event.fields["event"].get<std::string>();
    if (kind == "chunk" || kind == "hello") continue;
    svg += fmt::format("<circle cx=\"{:.2f}\" cy=\"{:.1f}\" r=\"3\" fill=\"#333\"><title>{}</title></circle>\n", x_of(event.at),
                       lanes.at(event.log), escaped(text_of(event)));
  }
  return svg + "</svg>\n";
}

Result<> write_picture(const std::string& path, const std::string& svg) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "wb"), std::fclose);
  const bool is_written = file && std::fwrite(svg.data(), 1, svg.size(), file.get()) == svg.size() && std::fflush(file.get()) == 0;
  if (!is_written) return fail_errno(fmt::format("cannot write the picture '{}'", path));
  return {};
}

void print_json(Report& report, const Timeline& timeline) {
  for (const Event& event : timeline.events) {
    Json line = event.fields;
    line["log"] = event.log;
    report.print_json(line.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
}

ExitCode end(Report& report, const Timeline& timeline, const Error* error) {
  if (error) report.error(*error);
  const bool is_full = error && exit_code_of(*error) == ExitCode::disk_full;
  const ExitCode exit = is_full ? ExitCode::disk_full : error ? ExitCode::usage : ExitCode::done;
  report.result(exit, {{"events", std::uint64_t{timeline.events.size()}}, {"skipped", timeline.skipped}});
  return exit;
}

}  // namespace

ExitCode run_timeline_command(const TimelineAction& action, Report& report, bool is_json) {
  Timeline timeline;
  for (const std::string& path : action.logs)
    if (const auto read = read_log(path, timeline); !read) return end(report, timeline, &read.error());
  std::sort(timeline.events.begin(), timeline.events.end());
  if (timeline.skipped > 0) report.warn(fmt::format("{} lines are no events, and left out", timeline.skipped));
  if (is_json) print_json(report, timeline);
  for (const Event& event : timeline.events) report.print(text_of(event));
  if (!action.svg.empty())
    if (const auto written = write_picture(action.svg, draw(timeline)); !written) return end(report, timeline, &written.error());
  return end(report, timeline, nullptr);
}

}  // namespace shoal::apps
