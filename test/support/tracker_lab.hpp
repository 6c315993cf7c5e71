/// A tracker in virtual time, and connections that say to it what a test has them say. Include this after the headers of libraries; import
/// the rooms that it uses before it.
#pragma once

#include <catch2/catch_test_macros.hpp>

#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "memory_records.hpp"

namespace shoal::test {

constexpr std::uint16_t kPort = 5555;
constexpr std::uint16_t kNodePort = 4000;
constexpr Nanoseconds kPatience = std::chrono::seconds(60);

/// A report whose events and lines a test can read.
struct HeardReport {
  HeardReport() : out(std::tmpfile(), std::fclose), err(std::tmpfile(), std::fclose) {
    ReportOptions options;
    options.json = true;
    options.program = "test";
    options.out = out.get();
    options.err = err.get();
    report = std::move(*Report::open(std::move(options)));
  }
  static std::string text_of(std::FILE* file) {
    std::fflush(file);
    std::string text(static_cast<std::size_t>(std::ftell(file)), '\0');
    std::rewind(file);
    text.resize(std::fread(text.data(), 1, text.size(), file));
    return text;
  }

  std::unique_ptr<std::FILE, int (*)(std::FILE*)> out;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> err;
  std::unique_ptr<Report> report;
};

/// A connection with the tracker.
struct Client {
  sim::HostId host;
  Hello hello;
  Outbox outbox;                ///< What a test has it say.
  bool is_reading = true;       ///< Else it takes nothing after the welcome.
  std::vector<Message> heard;   ///< Since the welcome.
  std::vector<Nanoseconds> at;  ///< When.
  bool is_over = false;

  template <class M>
  std::vector<M> all() const {
    std::vector<M> found;
    for (const Message& message : heard)
      if (const auto* wanted = std::get_if<M>(&message)) found.push_back(*wanted);
    return found;
  }
  template <class M>
  M last() const {
    const auto found = all<M>();
    REQUIRE_FALSE(found.empty());
    return found.back();
  }
  std::uint32_t number() const { return last<OverlayPlace>().number; }
  std::vector<OverlayNode> listed() const {
    std::vector<OverlayNode> nodes;
    for (OverlayNodes& part : all<OverlayNodes>()) std::ranges::move(part.nodes, std::back_inserter(nodes));
    return nodes;
  }
};

inline Task<> write_for(Client& client, std::shared_ptr<Link> link) {
  for (;;) co_await step(link->send(co_await client.outbox.take(kControlLimit)));
}

inline Task<> run_client(Client& client, World& world, Endpoint tracker, Signal& stop) {
  TaskGroup tasks([](const std::string&, const Error&) {});
  const Executor strand = make_strand(world);
  const std::shared_ptr<Link> link = unwrap(co_await world.connect(std::move(tracker), strand, kPatience));
  try {
    co_await step(send(*link, client.hello));
    co_await step(receive<Welcome>(*link, kPatience));
    link->established();
    tasks.spawn(strand, "writer", write_for(client, link));
    if (!client.is_reading) co_await stop.wait();
    for (;;) {
      const Incoming incoming = co_await step(link->receive(std::chrono::hours(1)));
      client.heard.push_back(std::get<Message>(incoming));
      client.at.push_back(world.now().time_since_epoch());
    }
  } catch (const StepFailed&) {
    client.is_over = true;
  }
  tasks.cancel();
  co_await tasks.join();
}

/// A tracker, and whoever talks to it, each on a machine of its own.
struct Lab {
  explicit Lab(TrackerOptions o = {}) : options(std::move(o)), simulation({}), tracker(simulation.add_host({})) {
    options.listen = {"0.0.0.0", kPort};
    options.records = records;
  }

  void start() {
    simulation.start(tracker, [this](World& world, Storage&, Signal& stop) { return run_tracker_of(*this, world, stop); });
    pass(std::chrono::milliseconds(100));
  }
  static Task<> run_tracker_of(Lab& lab, World& world, Signal& stop) {
    unwrap(co_await run_tracker(world, *lab.heard.report, lab.options, stop));
  }
  void pass(Nanoseconds time) {
    simulation.run([] { return false; }, {time});
  }
  bool comes(const std::function<bool()>& goal, Nanoseconds time = std::chrono::seconds(30)) {
    return simulation.run(goal, {time}) == sim::Ending::reached;
  }

  /// Says `first` after the greeting.
  Client& add(std::string id, Message first, std::uint64_t instance = 0, bool is_reading = true) {
    clients.push_back(std::make_unique<Client>());
    Client& client = *clients.back();
    client.host = simulation.add_host({});
    client.hello.id = std::move(id);
    client.hello.instance = instance != 0 ? instance : clients.size();
    client.is_reading = is_reading;
    client.outbox.push(std::move(first));
    simulation.start(client.host, [this, &client](World& world, Storage&, Signal& stop) {
      return run_client(client, world, {simulation.address_of(tracker), kPort}, stop);
    });
    return client;
  }
  /// The same; the answer is there.
  Client& connect(std::string id, Message first, std::uint64_t instance = 0, bool is_reading = true) {
    Client& client = add(std::move(id), std::move(first), instance, is_reading);
    pass(std::chrono::milliseconds(100));
    return client;
  }
  /// A node; its nonce tells it apart.
  Client& join(std::string id, std::uint64_t nonce, std::uint32_t number = 0, bool is_linked = false) {
    return connect(std::move(id), OverlayJoin{{number, nonce}, {}, kNodePort, 2, is_linked});
  }
  void say(Client& client, Message message) {
    client.outbox.push(std::move(message));
    pass(std::chrono::milliseconds(100));
  }
  void leave(Client& client) {
    say(client, Leave{});
    pass(std::chrono::milliseconds(100));
  }

  TrackerOptions options;
  HeardReport heard;
  std::shared_ptr<MemoryRecords> records = std::make_shared<MemoryRecords>();
  std::vector<std::unique_ptr<Client>> clients;
  sim::Simulation simulation;
  sim::HostId tracker;
};

struct StartedLab : Lab {
  explicit StartedLab(TrackerOptions o = {}) : Lab(std::move(o)) { start(); }
};

}  // namespace shoal::test
