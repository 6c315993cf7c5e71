module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <tl/expected.hpp>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

module shoal.peer;

import :node;
import :overlay;
import shoal.base;
import shoal.manifest;
import shoal.report;
import shoal.schedule;
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace shoal {
namespace {

constexpr Nanoseconds kForEver = std::chrono::hours(24 * 365);

class NodeControl final : public PeerControl {
 public:
  explicit NodeControl(Node& node) : node_(node) {}

  Task<bool> wait_until_ready() override {
    const auto is_ready = [this] { return node_.tracker != nullptr || (node_.overlay && node_.overlay->link_count() > 0); };
    const auto waited = co_await attempt(wait_for(node_, [&] { return is_ready() || node_.outcome; }, kForEver));
    co_return waited&& is_ready();
  }
  Task<Result<ListChange>> update_list() override { return attempt(shoal::update_list(node_)); }
  Task<Result<std::uint32_t>> load_of(Endpoint peer) override {
    if (peer == node_.listening) co_return shoal::load_of(node_);
    co_return co_await ask_load(node_.world, node_.options, std::move(peer));
  }
  Task<Result<LocateAnswer>> find(std::string pattern) override { return attempt(find_any(std::move(pattern))); }
  Task<Result<std::vector<Fetched>>> download(std::string name, bool from_one) override {
    return attempt(shoal::download(node_, std::move(name), from_one));
  }
  Task<Result<std::vector<Finding>>> list(std::string pattern) override {
    PeerOptions options = node_.options;
    options.wait = 0s;
    return find_files(node_.world, std::move(options), std::move(pattern));
  }
  Task<Result<std::vector<Choice>>> why(std::string name) override { return attempt(explain(node_, std::move(name))); }

  Task<Result<OverlaySearch>> search(std::string pattern, OnHit on_hit) override {
    return attempt_result(search_from(node_, std::move(pattern), std::move(on_hit)));
  }
  Task<Result<Topology>> topology() override { return attempt_result(topology_from(node_)); }

  PeerStatus status() override {
    PeerStatus status{.id = node_.options.id,
                      .address = node_.listening,
                      .tracker = node_.options.tracker,
                      .is_registered = node_.tracker != nullptr,
                      .epoch = node_.epoch,
                      .files = node_.own.size(),
                      .load = shoal::load_of(node_),
                      .neighbours = node_.remotes.size(),
                      .overlay_number = node_.overlay ? node_.overlay->number() : 0,
                      .overlay_links = node_.overlay ? node_.overlay->link_count() : 0,
                      .bytes_received = node_.down.total(),
                      .bytes_sent = node_.up.total()};
    for (const EntryPtr& entry : node_.own) status.bytes += entry->size;
    return status;
  }

  std::vector<PeerView> peers() override {
    std::vector<PeerView> views;
    for (const auto& [id, entry] : node_.roster) {
      if (id == node_.options.id) continue;
      PeerView view{entry, node_.by_id.contains(id), latency_to(entry), measured_rate(node_, id)};
      views.push_back(std::move(view));
    }
    return views;
  }

  std::vector<std::string> known_names() override {
    std::vector<std::string> names;
    for (const EntryPtr& entry : node_.own) names.push_back(entry->name);
    for (const auto& name : found_)
      if (!node_.own.contains(name)) names.push_back(name);
    return names;
  }

  Task<> let_finish(Nanoseconds patience) override {
    node_.is_interrupted = false;
    static_cast<void>(co_await attempt(idle(patience)));
  }

  void interrupt() override { node_.is_interrupted = true; }

 private:
  /// A command: what ends it is a value.
  template <class T>
  Task<Result<T>> attempt(Task<T> command) {
    node_.is_interrupted = false;
    try {
      co_return co_await std::move(command);
    } catch (const StepFailed& failed) {
      co_return Failure(failed.error());
    }
  }

  template <class T>
  Task<Result<T>> attempt_result(Task<Result<T>> command) {
    auto done = co_await attempt(std::move(command));
    if (!done) co_return Failure(done.error());
    co_return std::move(*done);
  }

  Task<LocateAnswer> find_any(std::string pattern) {
    LocateAnswer answer = co_await locate(node_, pattern);
    const bool is_incomplete = answer.via_overlay && answer.via_overlay->missing > 0;
    if (answer.files.empty() && !is_incomplete && answer.via_overlay)
      throw StepFailed(Error{make_error_code(Errc::not_found), nowhere_text(answer.via_overlay->asked), {}});
    if (answer.files.empty() && !is_incomplete)
      throw StepFailed(Error{make_error_code(Errc::not_found), fmt::format("no peer has '{}'", pattern), "ls shows what there is"});
    for (const LocatedFile& file : answer.files)
      if (found_.size() < kMostFound) found_.insert(file.entry.name);
    co_return answer;
  }

  Task<bool> idle(Nanoseconds patience) {
    co_return co_await wait_for(node_, [this] { return shoal::load_of(node_) == 0; }, patience);
  }

  std::optional<Nanoseconds> latency_to(const RosterEntry& entry) const {
    if (node_.options.latencies)
      return node_.options.latencies->find(party_of(node_), {entry.id, {entry.host, entry.port}}).value_or(node_.options.other_latency);
    const auto known = node_.by_id.find(entry.id);
    const auto round_trip = known == node_.by_id.end() ? std::nullopt : node_.remotes.at(known->second)->rate.round_trip();
    return round_trip ? std::optional(*round_trip / 2) : std::nullopt;
  }

  static constexpr std::size_t kMostFound = 10'000;
  Node& node_;
  std::set<std::string> found_;
};

Task<> drive_node(Node& node, Drive drive) {
  NodeControl control(node);
  const ExitCode exit = co_await drive(control);
  finish(node, exit);
}

}  // namespace

Task<Result<PeerOutcome>> run_catalogue(World& world, Report& report, Storage& storage, PeerOptions options, Drive drive, Signal& stop) {
  const auto begin = [drive = std::move(drive)](Node& node) { node.tasks.spawn(node.strand, "commands", drive_node(node, drive)); };
  return run_sharing(world, report, storage, std::move(options), begin, stop);
}

}  // namespace shoal
