#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

import shoal.base;
import shoal.schedule;

using namespace shoal;
using namespace std::chrono_literals;

namespace {

Random seeded(std::uint64_t seed = 1) {
  return [words = std::mt19937_64(seed)]() mutable { return words(); };
}

/// A row a source and a column a chunk, `x` where the source has the chunk. Every chunk is wanted.
Picker picture(const std::vector<std::string_view>& rows) {
  Picker picker;
  picker.add_file(rows.front().size());
  for (std::uint32_t slot = 0; slot < rows.front().size(); ++slot) picker.want(Slot(slot));
  for (const std::string_view row : rows) {
    const Source source = picker.add_source();
    for (std::uint32_t slot = 0; slot < row.size(); ++slot)
      if (row[slot] == 'x') picker.source_has(source, Slot(slot));
  }
  return picker;
}

std::optional<Slot> lowest_pick(const Picker& picker, Source source) { return picker.pick(source, seeded(), true); }

SourceRate after_steady_answers(Nanoseconds apart, int answers, std::uint64_t bytes = kChunkSize) {
  SourceRate source;
  Instant now{};
  source.on_request(now, bytes);
  for (int answer = 0; answer < answers; ++answer) {
    source.on_request(now, bytes);
    source.on_answer(now, now + apart, bytes);
    now += apart;
  }
  return source;
}

std::uint32_t nobody_has(Slot) { return 0; }
bool everyone(Source) { return true; }

std::optional<std::pair<std::uint32_t, std::uint32_t>> serve(UploadQueue& queue) {
  const auto serve = queue.next(everyone, nobody_has);
  if (!serve) return std::nullopt;
  return std::pair(serve->to.value, serve->slot.value);
}

}  // namespace

// ---- slot sets ----------------------------------------------------------------------------------------

TEST_CASE("a slot set says whether an insert was news") {
  SlotSet set;
  set.resize(70);
  CHECK(std::pair(set.insert(Slot(69)), set.insert(Slot(69))) == std::pair(true, false));
}

TEST_CASE("a slot set forgets the slots past a new end") {
  SlotSet set;
  set.resize(70);
  set.insert(Slot(68));
  set.resize(66);
  set.resize(70);
  CHECK(set.count() == 0);
}

TEST_CASE("a slot past the end is not in the set") {
  SlotSet set;
  set.resize(3);
  CHECK_FALSE(set.has(Slot(1000)));
}

// ---- the picker ---------------------------------------------------------------------------------------

TEST_CASE("the rarest chunk that the source has is picked") {
  const Picker picker = picture({"xxx.x", "xx.xx", "xxx.x"});
  CHECK(lowest_pick(picker, Source(1)) == Slot(3));
}

TEST_CASE("among equally rare chunks the lowest is picked in order") {
  const Picker picker = picture({"..xxx", "xxxxx"});
  CHECK(lowest_pick(picker, Source(0)) == Slot(2));
}

namespace {

/// The highest slot that many draws bring, of a file of which its source has everything and we miss the last `missing` chunks.
std::uint32_t highest_pick(std::uint32_t chunks, std::uint32_t missing) {
  Picker picker = picture({std::string(chunks, 'x')});
  for (std::uint32_t slot = 0; slot < chunks - missing; ++slot) picker.set_have(Slot(slot));
  std::uint32_t highest = 0;
  const Random random = seeded();
  for (int draw = 0; draw < 10'000; ++draw) highest = std::max(highest, picker.pick(Source(0), random, false).value().value);
  return highest;
}

}  // namespace

TEST_CASE("equally rare chunks are drawn among the first 128 of a large file") { CHECK(highest_pick(1000, 1000) == 127); }

TEST_CASE("equally rare chunks are drawn among as many as the way to far neighbours asks for") {
  Picker picker = picture({std::string(1000, 'x')});
  const Random last = [] { return ~std::uint64_t{0}; };
  CHECK(picker.pick(Source(0), last, false, 500) == Slot(499));
  CHECK(picker.pick(Source(0), last, false, 5000) == Slot(999));
  CHECK(picker.pick(Source(0), last, false, 5) == Slot(127));
}

TEST_CASE("equally rare chunks are drawn among the first quarter of a small file") { CHECK(highest_pick(400, 400) == 99); }

TEST_CASE("equally rare chunks are drawn at last among the first half of what is missing") { CHECK(highest_pick(1000, 40) == 979); }

TEST_CASE("the last chunks are drawn among all of them") { CHECK(highest_pick(1000, 8) == 999); }

namespace {

/// A source of files of these lengths in chunks, of which every `step`th chunk is wanted.
Picker source_of(const std::vector<std::uint32_t>& files, std::uint32_t step = 1) {
  Picker picker;
  for (const std::uint32_t chunks : files) picker.add_file(chunks);
  const Source source = picker.add_source();
  for (std::uint32_t slot = 0; slot < picker.slots(); ++slot) {
    if (slot % step == 0) picker.want(Slot(slot));
    picker.source_has(source, Slot(slot));
  }
  return picker;
}

/// How many of 10,000 draws fell into each `width` slots.
std::map<std::uint32_t, int> draws_by(const Picker& picker, std::uint32_t width) {
  std::map<std::uint32_t, int> hits;
  const Random random = seeded();
  for (int draw = 0; draw < 10'000; ++draw) ++hits[picker.pick(Source(0), random, false).value().value / width];
  return hits;
}

}  // namespace

TEST_CASE("large files go side by side, each from its front") {
  const auto hits = draws_by(source_of({1280, 1280, 1280}), 128);
  REQUIRE(hits.size() == 3);  // the first 128 of each
  for (const std::uint32_t front : {0u, 10u, 20u}) CHECK(hits.at(front) > 3000);
}

TEST_CASE("of many large files four go side by side, and then the next") {
  Picker picker = source_of({256, 256, 256, 256, 256, 256});
  const auto files = [&] {
    std::vector<std::uint32_t> found;
    for (const auto& [file, count] : draws_by(picker, 256)) found.push_back(file);
    return found;
  };
  CHECK(files() == std::vector<std::uint32_t>{0, 1, 2, 3});
  for (std::uint32_t slot = 0; slot < 256; ++slot) picker.set_have(Slot(slot));
  CHECK(files() == std::vector<std::uint32_t>{1, 2, 3, 4});
}

TEST_CASE("small files go along with the large ones that follow") {
  const auto hits = draws_by(source_of({100, 1280, 1280}), 100);
  CHECK(hits.at(0) > 2000);
}

TEST_CASE("smaller files go one after another") {
  const auto hits = draws_by(source_of({255, 255, 255}), 128);
  CHECK(hits.size() == 1);
}

TEST_CASE("the front of a large file is found wherever it lies and whatever is missing before it") {
  const auto hits = draws_by(source_of({5001, 4500}, 6), 1);  // blocks of 4,096 slots and words of 64 apart
  CHECK(hits.size() == 2 * 128);
  for (const auto& [slot, count] : hits) CHECK((slot <= 127 * 6 || (slot >= 5004 && slot <= 5004 + 127 * 6)));
}

TEST_CASE("picks that begin elsewhere go on from there, and come to the rest last") {
  Picker picker = source_of(std::vector<std::uint32_t>(2000, 1));
  const Random words = [word = std::uint64_t{1500}]() mutable { return word; };  // of 2000 slots it draws 1500
  picker.begin_elsewhere(Source(0), words);
  auto hits = draws_by(picker, 1);
  CHECK(hits.begin()->first == 1500);
  CHECK(hits.rbegin()->first == 1627);
  for (std::uint32_t slot = 1500; slot < 2000; ++slot) picker.set_have(Slot(slot));
  hits = draws_by(picker, 1);
  CHECK(hits.begin()->first == 0);
  CHECK(hits.rbegin()->first == 127);
}

TEST_CASE("picks begin elsewhere among the rarest alone, and large files still go along") {
  Picker picker = source_of({1000, 1280, 1280});
  const Source other = picker.add_source();
  for (std::uint32_t slot = 0; slot < 900; ++slot) picker.source_has(other, Slot(slot));
  picker.begin_elsewhere(Source(0), [] { return std::uint64_t{50}; });
  const auto hits = draws_by(picker, 1);
  CHECK(hits.begin()->first == 950);
  CHECK(hits.contains(1000));
  CHECK(hits.contains(2280));
  CHECK(hits.rbegin()->first < 2280 + 128);
}

TEST_CASE("picks in order begin at the lowest, wherever others do") {
  Picker picker = source_of({1000});
  picker.begin_elsewhere(Source(0), [] { return std::uint64_t{500}; });
  CHECK(lowest_pick(picker, Source(0)) == Slot(0));
}

TEST_CASE("picks of a source that has nothing we need begin where they did") {
  Picker picker = source_of({1000});
  picker.begin_elsewhere(picker.add_source(), seeded());
  CHECK(draws_by(picker, 1).begin()->first == 0);
}

TEST_CASE("nothing is picked of a source that has nothing we need") {
  Picker picker = picture({"xx..", "xxxx"});
  picker.set_have(Slot(0));
  picker.set_have(Slot(1));
  CHECK(lowest_pick(picker, Source(0)) == std::nullopt);
}

TEST_CASE("a chunk in flight is not picked again") {
  Picker picker = picture({"xx"});
  picker.begin(Slot(0));
  CHECK(lowest_pick(picker, Source(0)) == Slot(1));
}

TEST_CASE("a chunk that was asked for in vain is picked again") {
  Picker picker = picture({"xx"});
  picker.begin(Slot(0));
  picker.end(Slot(0));
  CHECK(lowest_pick(picker, Source(0)) == Slot(0));
}

TEST_CASE("a chunk asked for twice stays in flight until both requests have ended") {
  Picker picker = picture({"x"});
  picker.begin(Slot(0));
  picker.begin(Slot(0));
  picker.end(Slot(0));
  CHECK(lowest_pick(picker, Source(0)) == std::nullopt);
}

TEST_CASE("a chunk that nobody wants is not picked") {
  Picker picker = picture({"xx"});
  picker.unwant(Slot(0));
  CHECK(lowest_pick(picker, Source(0)) == Slot(1));
}

TEST_CASE("a chunk that was lost is picked again") {
  Picker picker = picture({"x"});
  picker.set_have(Slot(0));
  picker.clear_have(Slot(0));
  CHECK(lowest_pick(picker, Source(0)) == Slot(0));
}

TEST_CASE("a HAVE that is told twice counts once") {
  Picker picker = picture({"x"});
  const bool is_news = picker.source_has(Source(0), Slot(0));
  CHECK(std::pair(is_news, picker.availability(Slot(0))) == std::pair(false, 1u));
}

TEST_CASE("a chunk that was lost twice is uncounted once") {
  Picker picker = picture({"x", "x"});
  picker.source_lost(Source(0), Slot(0));
  picker.source_lost(Source(0), Slot(0));
  CHECK(picker.availability(Slot(0)) == 1);
}

TEST_CASE("what a source had is uncounted when it leaves") {
  Picker picker = picture({"xx.", ".xx"});
  picker.remove_source(Source(0));
  CHECK(std::vector{picker.availability(Slot(0)), picker.availability(Slot(1)), picker.availability(Slot(2))} ==
        std::vector<std::uint32_t>{0, 1, 1});
}

TEST_CASE("a source number that is used again starts with nothing") {
  Picker picker = picture({"xx"});
  picker.remove_source(Source(0));
  const Source again = picker.add_source();
  CHECK(std::pair(again, picker.knows(again, Slot(0))) == std::pair(Source(0), false));
}

TEST_CASE("a source stays interesting while all that we miss of it is in flight") {
  Picker picker = picture({"x."});
  picker.begin(Slot(0));
  CHECK(picker.is_interesting(Source(0)));
}

TEST_CASE("a source with nothing that we miss is not interesting") {
  Picker picker = picture({"x."});
  picker.set_have(Slot(0));
  CHECK_FALSE(picker.is_interesting(Source(0)));
}

TEST_CASE("only what is wanted and not had is missing") {
  Picker picker = picture({"xxxx"});
  picker.set_have(Slot(0));
  picker.unwant(Slot(1));
  CHECK(picker.missing() == 2);
}

TEST_CASE("a file takes the slots after those of the files before it") {
  Picker picker;
  picker.add_file(3);
  picker.add_file(0);
  CHECK(picker.add_file(5) == Slot(3));
}

TEST_CASE("a file that is added later is picked from a source that we knew before") {
  Picker picker = picture({"x"});
  picker.set_have(Slot(0));
  const Slot later = picker.add_file(10000);
  const Slot last(later.value + 9999);
  picker.want(last);
  picker.source_has(Source(0), last);
  CHECK(lowest_pick(picker, Source(0)) == last);
}

TEST_CASE("fifty thousand files of one chunk are added one by one") {
  Picker picker;
  const Source source = picker.add_source();
  for (std::uint32_t file = 0; file < 50000; ++file) {
    const Slot slot = picker.add_file(1);
    picker.want(slot);
    picker.source_has(source, slot);
  }
  CHECK(picker.missing() == 50000);
}

// ---- the window ---------------------------------------------------------------------------------------

TEST_CASE("there is no rate before the first answer") { CHECK(SourceRate{}.rate() == 0); }

TEST_CASE("the window is two chunks before there is a rate") { CHECK(SourceRate{}.window() == 2 * kChunkSize); }

TEST_CASE("one of many sources that are near is asked for one chunk at a time") {
  SourceRate near;
  near.on_round_trip(Instant{}, 1ms);
  CHECK(near.window(Company::many) == kChunkSize);
  CHECK(near.window() == 2 * kChunkSize);
}

TEST_CASE("before there is a rate, a source is asked for more the farther it is, and may take several round trips") {
  const auto at = [](Nanoseconds round_trip) {
    SourceRate far;
    far.on_round_trip(Instant{}, round_trip);
    return far;
  };
  CHECK(at(5ms).window() == 2 * kChunkSize);
  CHECK(at(20ms).window() == 8 * kChunkSize);
  CHECK(at(40ms).window() == 16 * std::uint64_t{kChunkSize});
  CHECK(at(600ms).window() == 16 * std::uint64_t{kChunkSize});
  CHECK(at(200ms).window(Company::many) == at(200ms).window());
  CHECK(at(200ms).expected(kChunkSize) == 2s);
}

TEST_CASE("a fast source has a window for its rate, however many others there are") {
  const SourceRate fast = after_steady_answers(20us, 2000);
  CHECK(fast.window(Company::many) == 64 * std::uint64_t{kChunkSize});
}

TEST_CASE("an answer is expected within a second before there is a rate") { CHECK(SourceRate{}.expected(kChunkSize) == 1s); }

TEST_CASE("steady answers give their rate") { CHECK(after_steady_answers(10ms, 500).rate() == Catch::Approx(kChunkSize / 0.010)); }

TEST_CASE("answers that each take seconds give their rate") {
  CHECK(after_steady_answers(3s, 20).rate() == Catch::Approx(kChunkSize / 3.0));
}

TEST_CASE("small answers that keep a chunk under way give their rate") {
  SourceRate source;
  Instant now{};
  source.on_request(now, kChunkSize);
  for (int answer = 0; answer < 1000; ++answer) {
    source.on_request(now, 1000);
    source.on_answer(now, now + 1ms, 1000);
    now += 1ms;
  }
  CHECK(source.rate() == Catch::Approx(1e6));
}

TEST_CASE("the rate follows a change within about a second of being busy") {
  SourceRate source = after_steady_answers(10ms, 500);
  Instant now = Instant{} + 5s;
  for (int answer = 0; answer < 40; ++answer) {
    source.on_request(now, kChunkSize);
    source.on_answer(now, now + 100ms, kChunkSize);
    now += 100ms;
  }
  CHECK(source.rate() < 1.25 * kChunkSize / 0.100);
}

TEST_CASE("idle time does not lower the rate") {
  SourceRate source;
  for (int busy = 0; busy < 20; ++busy) {
    const Instant now = Instant{} + busy * 60s;
    source.on_request(now, kChunkSize);
    source.on_answer(now, now + 10ms, kChunkSize);
  }
  CHECK(source.rate() == Catch::Approx(kChunkSize / 0.010));
}

TEST_CASE("a burst of answers at one instant counts for the time before it") {
  SourceRate source = after_steady_answers(10ms, 500);
  Instant now = Instant{} + 5s;
  for (int burst = 0; burst < 50; ++burst) {
    for (int answer = 0; answer < 10; ++answer) source.on_request(now, kChunkSize);
    for (int answer = 0; answer < 10; ++answer) source.on_answer(now, now + 100ms, kChunkSize);
    now += 100ms;
  }
  CHECK(source.rate() == Catch::Approx(kChunkSize / 0.010).epsilon(0.12));
}

TEST_CASE("one tiny file does not spoil a rate") {
  SourceRate source = after_steady_answers(10ms, 500);
  source.on_answer(Instant{}, Instant{} + 5010ms, kChunkSize);
  const double before = source.rate();
  source.on_request(Instant{} + 6s, 10);
  source.on_answer(Instant{} + 6s, Instant{} + 6500ms, 10);
  CHECK(source.rate() == before);
}

TEST_CASE("a first tiny file gives way to the first chunk") {
  SourceRate source;
  source.on_request(Instant{}, 10);
  source.on_answer(Instant{}, Instant{} + 50ms, 10);
  source.on_request(Instant{} + 1s, kChunkSize);
  source.on_answer(Instant{} + 1s, Instant{} + 1010ms, kChunkSize);
  CHECK(source.rate() == Catch::Approx(kChunkSize / 0.010));
}

TEST_CASE("a request that is given up after a stall lowers the rate") {
  SourceRate source = after_steady_answers(10ms, 500);
  source.on_dropped(Instant{} + 10s, kChunkSize);
  CHECK(source.rate() < 0.2 * kChunkSize / 0.010);
}

TEST_CASE("the window holds what arrives in a round trip and 8 ms, and the chunk on the wire") {
  SourceRate source = after_steady_answers(1ms, 2000);
  source.on_round_trip(Instant{}, 500us);
  CHECK(source.window() == 10 * kChunkSize);
}

TEST_CASE("the window is never more than 64 chunks") { CHECK(after_steady_answers(20us, 2000).window() == 64 * std::uint64_t{kChunkSize}); }

/// A source at the other end of a long line, which is always asked for as much as its window has room for.
class LongLine {
 public:
  LongLine(Nanoseconds round_trip, Nanoseconds a_chunk, Company company = Company::few)
      : round_trip_(round_trip), a_chunk_(a_chunk), company_(company) {}

  void take(Nanoseconds a_chunk) { a_chunk_ = a_chunk; }

  /// Returns how many chunks came.
  int run(Nanoseconds time) {
    int came = 0;
    for (const Instant end = now + time; now < end; ++came) {
      if (now >= next_ping_) {
        source.on_round_trip(now, round_trip_);
        next_ping_ = now + 4s;
      }
      for (; source.has_room(kChunkSize, company_); source.on_request(now, kChunkSize)) {
        free_at_ = std::max(free_at_, now + round_trip_) + a_chunk_;
        on_wire_.emplace_back(now, free_at_);
      }
      now = on_wire_.front().second;
      source.on_answer(on_wire_.front().first, now, kChunkSize);
      on_wire_.pop_front();
    }
    return came;
  }

  SourceRate source;
  Instant now{};

 private:
  Nanoseconds round_trip_;
  Nanoseconds a_chunk_;
  Company company_;
  Instant next_ping_{};
  Instant free_at_{};
  std::deque<std::pair<Instant, Instant>> on_wire_;  ///< When asked, when here.
};

TEST_CASE("the window grows until it fills a long link") {
  LongLine line(100ms, 21ms);  // 100 Mbit
  line.run(3s);
  CHECK(line.source.rate() == Catch::Approx(kChunkSize / 0.021).epsilon(0.02));
}

TEST_CASE("the window fills a line of a gigabit within eight round trips, however long it is") {
  for (const Nanoseconds round_trip : {Nanoseconds(40ms), Nanoseconds(200ms), Nanoseconds(600ms)}) {
    LongLine line(round_trip, 2097us);
    line.run(8 * round_trip);
    const int whole = static_cast<int>(1s / 2097us);
    CHECK(line.run(1s) >= whole * 98 / 100);
  }
}

TEST_CASE("the window of a long line holds two round trips at its rate, and 8 ms") {
  LongLine line(100ms, 10ms);
  line.run(5s);
  CHECK(line.source.window() == 21 * std::uint64_t{kChunkSize});
}

TEST_CASE("the window of the only neighbour at the end of a long line holds four round trips at its rate, and four chunks") {
  LongLine line(100ms, 10ms, Company::alone);
  line.run(5s);
  CHECK(line.source.window(Company::alone) == 45 * std::uint64_t{kChunkSize});
}

TEST_CASE("until what was asked for at first is here, a far source is asked for no less, however slowly it begins") {
  SourceRate source;
  source.on_round_trip(Instant{}, 100ms);
  for (int i = 0; i < 16; ++i) source.on_request(Instant{}, kChunkSize);
  for (int i = 1; i < 16; ++i) {
    source.on_answer(Instant{}, Instant{} + i * 300ms, kChunkSize);
    source.on_request(Instant{} + i * 300ms, kChunkSize);
    CHECK(source.window() == 16 * std::uint64_t{kChunkSize});
  }
  source.on_answer(Instant{}, Instant{} + 16 * 300ms, kChunkSize);
  CHECK(source.window() <= 3 * kChunkSize);
}

TEST_CASE("while the rate doubles each round trip, the window holds what comes in the next, and two round trips when it has been found") {
  constexpr Nanoseconds kTrip = 100ms;
  SourceRate source;
  source.on_round_trip(Instant{}, kTrip);
  std::multimap<Instant, bool> events;  // a request, or the answer to one
  std::vector<int> in_a_trip = {8, 16, 32, 64, 128, 128, 128, 128, 128, 128};
  Instant begun{kTrip};
  for (const int chunks : in_a_trip) {
    for (int i = 0; i < chunks; ++i) {
      events.emplace(begun + i * kTrip / chunks, true);
      events.emplace(begun + i * kTrip / chunks - kTrip, false);
    }
    begun += kTrip;
  }
  std::vector<std::uint64_t> windows;  // at the end of each round trip
  for (const auto& [at, is_answer] : events) {
    while (at >= Instant{} + static_cast<int>(windows.size() + 1) * kTrip) windows.push_back(source.window() / kChunkSize);
    if (is_answer)
      source.on_answer(at - kTrip, at, kChunkSize);
    else
      source.on_request(at, kChunkSize);
  }
  for (std::size_t trip = 2; trip <= 4; ++trip) CHECK(windows[trip] >= static_cast<std::uint64_t>(in_a_trip[trip]));
  CHECK(windows.back() >= 2 * 128);
  CHECK(windows.back() <= 2 * 128 + 16);
}

TEST_CASE("the window follows a line that becomes slower, and one that becomes faster, within a few round trips") {
  LongLine line(100ms, 10ms);
  line.run(5s);
  line.take(40ms);
  line.run(5s);
  CHECK(line.source.window() <= 7 * std::uint64_t{kChunkSize});
  line.take(5ms);
  line.run(2s);
  CHECK(line.run(1s) >= 195);
}

TEST_CASE("a slow source that is far is not asked for more than two chunks for ever") {
  LongLine line(50ms, 500ms);
  line.run(20s);
  CHECK(line.source.window() == 2 * kChunkSize);
}

TEST_CASE("the window of a long line is never more than a neighbour lets wait") {
  LongLine line(600ms, 20us);
  line.run(30s);
  CHECK(line.source.window() == UploadQueue::kMaxWaiting * std::uint64_t{kChunkSize});
}

TEST_CASE("a round trip is forgotten after 20 seconds") {
  SourceRate source;
  source.on_round_trip(Instant{} + 0s, 1ms);
  source.on_round_trip(Instant{} + 9s, 50ms);
  source.on_round_trip(Instant{} + 12s, 60ms);
  CHECK(source.round_trip() == 1ms);
  source.on_round_trip(Instant{} + 23s, 70ms);
  CHECK(source.round_trip() == 60ms);
}

TEST_CASE("a round trip that was measured before a long silence does not count after it") {
  SourceRate source;
  source.on_round_trip(Instant{}, 1ms);
  source.on_round_trip(Instant{} + 60s, 50ms);
  CHECK(source.round_trip() == 50ms);
}

TEST_CASE("what is on its way from a source that is near counts as nothing") { CHECK(after_steady_answers(1ms, 2000).under_way() == 0); }

TEST_CASE("what is on its way from a source that is far is its rate, for a round trip") {
  LongLine line(100ms, 10ms);
  line.run(5s);
  CHECK(line.source.under_way() == Catch::Approx(10.0 * kChunkSize).epsilon(0.05));
}

TEST_CASE("a source with nothing outstanding has room for any request") { CHECK(SourceRate{}.has_room(100 * std::uint64_t{kChunkSize})); }

TEST_CASE("a full window has no room") {
  SourceRate source;
  source.on_request(Instant{}, kChunkSize);
  const bool has_room_for_second = source.has_room(kChunkSize);
  source.on_request(Instant{}, kChunkSize);
  CHECK(std::pair(has_room_for_second, source.has_room(1)) == std::pair(true, false));
}

TEST_CASE("an answer is expected after all that is outstanding, and a round trip") {
  SourceRate source = after_steady_answers(10ms, 500);
  source.on_round_trip(Instant{}, 2ms);
  const auto expected = std::chrono::duration<double, std::milli>(source.expected(kChunkSize));
  CHECK(expected.count() == Catch::Approx(22.0));
}

TEST_CASE("patience is at least two seconds") { CHECK(after_steady_answers(10ms, 500).patience(kChunkSize) == 2s); }

TEST_CASE("patience with a slow source is three times what is expected") {
  const SourceRate source = after_steady_answers(3s, 20);
  CHECK(source.patience(kChunkSize) == 3 * source.expected(kChunkSize));
}

// ---- the endgame --------------------------------------------------------------------------------------

namespace {

const Instant kNow = Instant{} + 100s;

std::optional<Slot> duplicated(const std::vector<InFlight>& in_flight, Nanoseconds idle_expected, std::uint32_t copies = 1,
                               bool idle_has = true) {
  const auto picked =
      pick_duplicate(in_flight, Source(9), kNow, idle_expected, [&](Slot) { return idle_has; }, [&](Slot) { return copies; });
  return picked ? std::optional(picked->slot) : std::nullopt;
}

}  // namespace

TEST_CASE("the request with the most time left is duplicated") {
  CHECK(duplicated({{Slot(1), Source(1), kNow + 3s}, {Slot(2), Source(2), kNow + 9s}, {Slot(3), Source(3), kNow + 5s}}, 1s) == Slot(2));
}

TEST_CASE("no request is duplicated that the idle source would not halve") {
  CHECK(duplicated({{Slot(1), Source(1), kNow + 2s}}, 1s) == std::nullopt);
}

TEST_CASE("a request that is long late is duplicated") { CHECK(duplicated({{Slot(1), Source(1), kNow - 3s}}, 1s) == Slot(1)); }

TEST_CASE("a third copy is never asked for") { CHECK(duplicated({{Slot(1), Source(1), kNow + 9s}}, 1s, 2) == std::nullopt); }

TEST_CASE("a source does not duplicate its own request") { CHECK(duplicated({{Slot(1), Source(9), kNow + 9s}}, 1s) == std::nullopt); }

TEST_CASE("a source does not duplicate what it lacks") {
  CHECK(duplicated({{Slot(1), Source(1), kNow + 9s}}, 1s, 1, false) == std::nullopt);
}

namespace {

SourceRate owing(std::uint64_t chunks, SourceRate source = {}) {
  for (; chunks > 0; --chunks) source.on_request(Instant{} + 1s, kChunkSize);
  return source;
}

std::uint64_t unlucky() { return 1; }  // with two choices or more

}  // namespace

TEST_CASE("a newcomer that owes two chunks less is asked instead") { CHECK(should_ask_instead(owing(3), owing(1), 2, unlucky)); }

TEST_CASE("a newcomer that owes one chunk less is not asked instead") { CHECK_FALSE(should_ask_instead(owing(2), owing(1), 2, unlucky)); }

TEST_CASE("a newcomer that is much slower is not asked instead") {
  const SourceRate slow = owing(1, after_steady_answers(1s, 100));
  CHECK_FALSE(should_ask_instead(owing(8, after_steady_answers(1ms, 100)), slow, 2, unlucky));
}

TEST_CASE("of those that wait one in so many turns to a newcomer of whom nothing is asked as now have the chunk") {
  std::uint64_t word = 0;
  std::size_t turned = 0;
  for (int i = 0; i < 300; ++i) turned += should_ask_instead(owing(1), SourceRate{}, 3, [&word] { return word++; }) ? 1 : 0;
  CHECK(turned == 100);
}

// ---- uploads ------------------------------------------------------------------------------------------

TEST_CASE("a chunk that was never sent is served before an older request for one that was") {
  UploadQueue queue;
  queue.add(Source(0), Slot(1));
  serve(queue);
  queue.add(Source(1), Slot(1));
  queue.add(Source(2), Slot(2));
  CHECK(serve(queue) == std::pair(2u, 2u));
}

TEST_CASE("of chunks that were never sent the rarest is served") {
  UploadQueue queue;
  for (std::uint32_t slot = 0; slot < 3; ++slot) queue.add(Source(slot), Slot(slot));
  const auto served = queue.next(everyone, [](Slot slot) { return slot == Slot(1) ? 1u : 5u; });
  REQUIRE(served.has_value());
  CHECK(served->slot == Slot(1));
}

TEST_CASE("of common chunks the oldest request is served, however many have them") {
  UploadQueue queue;
  for (std::uint32_t slot = 0; slot < 3; ++slot) queue.add(Source(slot), Slot(slot));
  const auto served = queue.next(everyone, [](Slot slot) { return 20 - 9 * slot.value; });
  REQUIRE(served.has_value());
  CHECK(served->slot == Slot(0));
}

TEST_CASE("of equally rare chunks the oldest request is served") {
  UploadQueue queue;
  queue.add(Source(5), Slot(9));
  queue.add(Source(1), Slot(2));
  CHECK(serve(queue) == std::pair(5u, 9u));
}

namespace {

/// Who is served second where source 0 asked first, for two chunks, and then source 1.
Source served_second(const std::function<std::uint32_t(Slot)>& availability) {
  UploadQueue queue;
  queue.add(Source(0), Slot(0));
  queue.add(Source(0), Slot(1));
  queue.add(Source(1), Slot(2));
  queue.next(everyone, availability);
  return queue.next(everyone, availability).value().to;
}

}  // namespace

TEST_CASE("what nobody has goes to the neighbour that was given the least") { CHECK(served_second(nobody_has) == Source(1)); }

TEST_CASE("of what one neighbour has the oldest request is served, whoever was given more") {
  CHECK(served_second([](Slot) { return 1u; }) == Source(0));
}

TEST_CASE("a request for a chunk that became common meanwhile moves back") {
  UploadQueue queue;
  queue.add(Source(0), Slot(0));
  queue.add(Source(0), Slot(1));
  queue.add(Source(0), Slot(2));
  queue.next(everyone, nobody_has);
  const auto served = queue.next(everyone, [](Slot slot) { return slot == Slot(1) ? 7u : 1u; });
  REQUIRE(served.has_value());
  CHECK(served->slot == Slot(2));
}

TEST_CASE("a cancelled request is not served") {
  UploadQueue queue;
  queue.add(Source(0), Slot(1));
  queue.cancel(Source(0), Slot(1));
  CHECK(serve(queue) == std::nullopt);
}

TEST_CASE("a request that was served can no longer be cancelled") {
  UploadQueue queue;
  queue.add(Source(0), Slot(1));
  serve(queue);
  CHECK_FALSE(queue.cancel(Source(0), Slot(1)));
}

TEST_CASE("a neighbour that is not ready waits") {
  UploadQueue queue;
  queue.add(Source(0), Slot(0));
  queue.add(Source(1), Slot(1));
  const auto served = queue.next([](Source to) { return to == Source(1); }, nobody_has);
  REQUIRE(served.has_value());
  CHECK(served->to == Source(1));
}

TEST_CASE("the requests of a neighbour that left are dropped") {
  UploadQueue queue;
  queue.add(Source(0), Slot(0));
  queue.add(Source(0), Slot(1));
  queue.add(Source(1), Slot(1));
  queue.remove(Source(0));
  CHECK(std::pair(queue.waiting(), queue.waiting(Source(0))) == std::pair(std::size_t{1}, std::size_t{0}));
}

TEST_CASE("asking again is no news") {
  UploadQueue queue;
  const bool first = queue.add(Source(0), Slot(0));
  const bool second = queue.add(Source(0), Slot(0));
  CHECK(std::pair(first && second, queue.waiting()) == std::pair(true, std::size_t{1}));
}

TEST_CASE("a neighbour's requests beyond the limit are refused") {
  UploadQueue queue;
  for (std::uint32_t slot = 0; slot < UploadQueue::kMaxWaiting; ++slot) queue.add(Source(0), Slot(slot));
  CHECK_FALSE(queue.add(Source(0), Slot(UploadQueue::kMaxWaiting)));
}

TEST_CASE("a chunk that did not get through counts as never sent") {
  UploadQueue queue;
  queue.add(Source(0), Slot(1));
  serve(queue);
  queue.add(Source(1), Slot(1));
  queue.add(Source(2), Slot(2));
  queue.unsend(Slot(1));
  CHECK(serve(queue) == std::pair(1u, 1u));
}

TEST_CASE("what was never sent cannot be unsent") {
  UploadQueue queue;
  queue.unsend(Slot(7));
  CHECK(queue.times_sent(Slot(7)) == 0);
}

// ---- choosing a source --------------------------------------------------------------------------------

TEST_CASE("the source that would be done first is best") {
  const std::vector<SourceScore> sources{{Source(0), 10e6, 5'000'000, 0, 0}, {Source(1), 2e6, 0, 0, 0}};
  CHECK(best_source(sources, 100'000) == 1u);
}

TEST_CASE("a source with a rate is preferred to one without") {
  const std::vector<SourceScore> sources{{Source(0), 0, 0, 1, 0}, {Source(1), 1e3, 0, 500, 9}};
  CHECK(best_source(sources, 100'000) == 1u);
}

TEST_CASE("without rates the latency and ten times the load decide") {
  const std::vector<SourceScore> sources{{Source(0), 0, 0, 5, 3}, {Source(1), 0, 0, 30, 0}, {Source(2), 0, 0, 21, 1}};
  CHECK(best_source(sources, 100'000) == 1u);
}

TEST_CASE("there is no best of no sources") { CHECK(best_source({}, 1) == std::nullopt); }

// ---- bounds -------------------------------------------------------------------------------------------

TEST_CASE("one source is bound by its upload") {
  const std::vector<BoundPeer> peers{{1000, 0, 10, 0}, {0, 1000, 100, 100}, {0, 1000, 100, 100}};
  CHECK(lower_bound(peers) == Seconds(100));
}

TEST_CASE("a slow receiver is bound by its download") {
  const std::vector<BoundPeer> peers{{1000, 0, 1000, 0}, {0, 1000, 1000, 5}};
  CHECK(lower_bound(peers) == Seconds(200));
}

TEST_CASE("a swarm is bound by the sum of its uploads") {
  const std::vector<BoundPeer> peers{{1000, 0, 20, 0}, {0, 1000, 5, 0}, {0, 1000, 5, 0}, {0, 1000, 10, 0}};
  CHECK(lower_bound(peers) == Seconds(75));
}

TEST_CASE("one unlimited upload lifts the bound of the sum") {
  const std::vector<BoundPeer> peers{{1000, 0, 20, 0}, {0, 1000, 0, 0}, {0, 1000, 1, 0}, {0, 1000, 1, 0}};
  CHECK(lower_bound(peers) == Seconds(50));
}

TEST_CASE("without any rate there is no bound") { CHECK(lower_bound(std::vector<BoundPeer>{{1000, 0, 0, 0}}) == std::nullopt); }

TEST_CASE("twice the bound is 50 percent of it") { CHECK(percent_of_bound(Seconds(5), Seconds(10)) == Catch::Approx(50.0)); }

TEST_CASE("no time at all is no percentage") { CHECK(percent_of_bound(Seconds(5), Seconds(0)) == 0); }

// ---- first copies -------------------------------------------------------------------------------------

TEST_CASE("a first copy is promised to one neighbour at a time") {
  FirstCopies copies;
  REQUIRE(copies.promise(Slot(7), Source(1), Instant(0ms)));
  CHECK_FALSE(copies.promise(Slot(7), Source(2), Instant(10ms)));
}

TEST_CASE("the uplink is shared by three neighbours that are near, six that are far, and 24 that are very far") {
  const auto at_a_time = [](Nanoseconds round_trip) { return kUplinkShares / upload_shares(round_trip, Seconds(0.01)); };
  CHECK(at_a_time(0ms) == 3);
  CHECK(at_a_time(4999us) == 3);
  CHECK(at_a_time(5ms) == 6);
  CHECK(at_a_time(99ms) == 6);
  CHECK(at_a_time(100ms) == 24);
  CHECK(at_a_time(600ms) == 24);
}

TEST_CASE("nobody counts as far whom an upload takes more than 16 round trips to reach") {
  CHECK(kUplinkShares / upload_shares(40ms, Seconds(0.64)) == 6);
  CHECK(kUplinkShares / upload_shares(40ms, Seconds(0.65)) == 3);
  CHECK(kUplinkShares / upload_shares(200ms, Seconds(3.3)) == 3);
}

TEST_CASE("a promise to a neighbour that is far holds two round trips longer") {
  FirstCopies copies;
  REQUIRE(copies.promise(Slot(7), Source(1), Instant(0ms), 600ms));
  CHECK_FALSE(copies.promise(Slot(7), Source(2), Instant(FirstCopies::kPatience + 1199ms)));
  CHECK(copies.promise(Slot(7), Source(2), Instant(FirstCopies::kPatience + 1200ms)));
}

TEST_CASE("whoever a first copy is promised to may ask for it again") {
  FirstCopies copies;
  REQUIRE(copies.promise(Slot(7), Source(1), Instant(0ms)));
  CHECK(copies.promise(Slot(7), Source(1), Instant(10ms)));
}

TEST_CASE("a promise that does not come true holds nobody up for longer than its time") {
  FirstCopies copies;
  REQUIRE(copies.promise(Slot(7), Source(1), Instant(0ms)));
  CHECK(copies.promise(Slot(7), Source(2), Instant(FirstCopies::kPatience)));
}

TEST_CASE("a promise to a neighbour that says it is farther than anybody holds two seconds longer, and no more") {
  FirstCopies copies;
  REQUIRE(copies.promise(Slot(7), Source(1), Instant(0ms), 10min));
  CHECK_FALSE(copies.promise(Slot(7), Source(2), Instant(FirstCopies::kPatience + 1999ms)));
  CHECK(copies.promise(Slot(7), Source(2), Instant(FirstCopies::kPatience + 2s)));
}

TEST_CASE("a promise counts from when the chunk goes out first") {
  FirstCopies copies;
  REQUIRE(copies.promise(Slot(7), Source(1), Instant(0ms)));
  REQUIRE(copies.serve(Slot(7), Source(1), Instant(900ms)));
  CHECK_FALSE(copies.promise(Slot(7), Source(2), Instant(FirstCopies::kPatience)));
  REQUIRE(copies.serve(Slot(7), Source(1), Instant(1800ms)));  // once more is not its first copy
  CHECK(copies.promise(Slot(7), Source(2), Instant(1900ms)));
}

TEST_CASE("who asks again, or takes back and asks again, has what it was promised for no longer") {
  FirstCopies copies;
  REQUIRE(copies.promise(Slot(7), Source(1), Instant(0ms)));
  const bool takes_back = GENERATE(false, true);
  if (takes_back) copies.withdraw(Slot(7), Source(1));
  CHECK(copies.promise(Slot(7), Source(1), Instant(900ms)));
  CHECK(copies.promise(Slot(7), Source(2), Instant(FirstCopies::kPatience)));
  CHECK_FALSE(copies.promise(Slot(7), Source(1), Instant(FirstCopies::kPatience)));
}

TEST_CASE("a chunk that is promised and not wanted any more is promised to nobody") {
  FirstCopies copies;
  REQUIRE(copies.promise(Slot(7), Source(1), Instant(0ms)));
  CHECK(copies.is_promised(Slot(7)));
  copies.withdraw(Slot(7), Source(1));
  CHECK_FALSE(copies.is_promised(Slot(7)));
}

TEST_CASE("a first copy is free for others when the one it was promised to has gone or wants it no more, or somebody has it") {
  FirstCopies copies;
  REQUIRE(copies.promise(Slot(7), Source(1), Instant(0ms)));
  SECTION("gone") { copies.remove(Source(1)); }
  SECTION("not wanted") { copies.withdraw(Slot(7), Source(1)); }
  SECTION("had") { copies.keep(Slot(7)); }
  CHECK(copies.promise(Slot(7), Source(2), Instant(10ms)));
}

TEST_CASE("another neighbour that goes, or wants a first copy no more, breaks no promise") {
  FirstCopies copies;
  REQUIRE(copies.promise(Slot(7), Source(1), Instant(0ms)));
  copies.remove(Source(2));
  copies.withdraw(Slot(7), Source(3));
  CHECK_FALSE(copies.promise(Slot(7), Source(2), Instant(10ms)));
}

// ---- what only we have --------------------------------------------------------------------------------

TEST_CASE("what we have and nobody else does is found in order, within the limits") {
  Picker picker = picture({"x..x.", "..x.."});
  for (const std::uint32_t slot : {0U, 1U, 3U, 4U}) picker.set_have(Slot(slot));
  CHECK(picker.next_alone(Slot(0), Slot(5)) == Slot(1));
  CHECK(picker.next_alone(Slot(2), Slot(5)) == Slot(4));
  CHECK(picker.next_alone(Slot(2), Slot(4)) == std::nullopt);
}

TEST_CASE("what somebody else has got is not ours alone, until the last who has it is gone") {
  Picker picker = picture({".", "."});
  picker.set_have(Slot(0));
  CHECK(picker.next_alone(Slot(0), Slot(1)) == Slot(0));
  picker.source_has(Source(0), Slot(0));
  picker.source_has(Source(1), Slot(0));
  CHECK(picker.next_alone(Slot(0), Slot(1)) == std::nullopt);
  picker.source_lost(Source(0), Slot(0));
  CHECK(picker.next_alone(Slot(0), Slot(1)) == std::nullopt);
  picker.remove_source(Source(1));
  CHECK(picker.next_alone(Slot(0), Slot(1)) == Slot(0));
  picker.clear_have(Slot(0));
  CHECK(picker.next_alone(Slot(0), Slot(1)) == std::nullopt);
}

TEST_CASE("what only we have is found beyond the first word of slots") {
  Picker picker;
  picker.add_file(200);
  picker.set_have(Slot(130));
  CHECK(picker.next_alone(Slot(0), Slot(200)) == Slot(130));
  CHECK(picker.next_alone(Slot(130), Slot(200)) == Slot(130));
  CHECK(picker.next_alone(Slot(131), Slot(200)) == std::nullopt);
}

TEST_CASE("nobody waits longer than 30 s for a source that has fallen silent") {
  SourceRate source = after_steady_answers(10ms, 10);
  const Instant now{std::chrono::hours(1)};
  source.on_request(now, kChunkSize);
  source.on_answer(now, now + 20min, 1);  // a byte in 20 minutes
  source.on_request(now + 20min, kChunkSize);
  source.on_answer(now + 20min, now + 40min, 1);
  CHECK(source.expected(kChunkSize) > 60s);
  CHECK(source.patience(kChunkSize) == 30s);
}
