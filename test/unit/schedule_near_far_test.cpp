#include <catch2/catch_test_macros.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

import shoal.base;
import shoal.schedule;

using namespace shoal;
using namespace std::chrono_literals;

namespace {

std::vector<std::uint64_t> keys_of(const std::vector<std::string>& names) {
  std::vector<std::uint64_t> keys;
  for (const auto& name : names) keys.push_back(key_of(name));
  return keys;
}

/// Who brings a chunk, where all of `names` know each other.
std::vector<std::string> bringers(std::uint64_t chunk, const std::vector<std::string>& names) {
  std::vector<std::string> found;
  for (const auto& name : names) {
    std::vector<std::string> others;
    for (const auto& other : names)
      if (other != name) others.push_back(other);
    if (is_ours_to_bring(chunk, key_of(name), keys_of(others))) found.push_back(name);
  }
  return found;
}

const Instant kBegin{1h};

SourceRate rate_of(double bytes_per_second, Nanoseconds round_trip) {
  SourceRate rate;
  Instant now = kBegin;
  for (int i = 0; i < 20; ++i) {
    const Nanoseconds takes(static_cast<std::int64_t>(kChunkSize / bytes_per_second * 1e9));
    rate.on_request(now, kChunkSize);
    rate.on_answer(now, now + takes, kChunkSize);
    now += takes;
  }
  rate.on_round_trip(now, round_trip);
  return rate;
}

}  // namespace

TEST_CASE("Where all are about equally near, or all are near enough, nobody is far") {
  CHECK_FALSE(is_far(1ms, 100us));
  CHECK_FALSE(is_far(49ms, 100us));
  CHECK_FALSE(is_far(200ms, 200ms));
  CHECK_FALSE(is_far(200ms, 30ms));
  CHECK(is_far(50ms, 5ms));
  CHECK(is_far(200ms, 1ms));
}

TEST_CASE("A chunk is brought by one of those that know each other, and each has about the same share") {
  const std::vector<std::string> names{"mercury", "venus", "earth", "mars"};
  std::map<std::string, int> shares;
  for (std::uint64_t chunk = 0; chunk < 4000; ++chunk) {
    const auto found = bringers(chunk, names);
    REQUIRE(found.size() == 1);
    ++shares[found.front()];
  }
  for (const auto& name : names) {
    CAPTURE(name);
    CHECK(shares[name] > 850);
    CHECK(shares[name] < 1150);
  }
}

TEST_CASE("Who goes leaves its share to the others, and theirs is as it was") {
  for (std::uint64_t chunk = 0; chunk < 1000; ++chunk) {
    const auto before = bringers(chunk, {"mercury", "venus", "earth", "mars"}).front();
    const auto after = bringers(chunk, {"mercury", "venus", "earth"}).front();
    if (before != "mars") CHECK(after == before);
  }
}

TEST_CASE("Who is alone brings everything") {
  for (std::uint64_t chunk = 0; chunk < 100; ++chunk) CHECK(is_ours_to_bring(chunk, key_of("mars"), {}));
}

TEST_CASE("Who is near is asked rather than who is far, but not where that takes twice as long") {
  const SourceRate far = rate_of(10e6, 100ms);
  CHECK(is_better_near(SourceRate{}, far, kChunkSize));
  CHECK(is_better_near(rate_of(10e6, 1ms), far, kChunkSize));
  CHECK(is_better_near(rate_of(4e6, 1ms), far, kChunkSize));
  CHECK_FALSE(is_better_near(rate_of(100e3, 1ms), far, kChunkSize));
}

TEST_CASE(
    "The others' shares are touched when nothing of ours was left, and nothing new came near, for a second; it is looked for now and "
    "then") {
  Crossing crossing;
  CHECK(crossing.may_look(kBegin));
  CHECK_FALSE(crossing.may_bring_others(kBegin + 1h));
  crossing.on_nothing(kBegin, 1h);
  CHECK_FALSE(crossing.may_look(kBegin + 5ms));
  CHECK(crossing.may_look(kBegin + 10ms));
  crossing.on_nothing(kBegin + 500ms, 1h);
  CHECK_FALSE(crossing.may_bring_others(kBegin + 999ms));
  CHECK(crossing.may_bring_others(kBegin + 1s));
  crossing.on_news(kBegin + 900ms);
  CHECK_FALSE(crossing.may_bring_others(kBegin + 1899ms));
  CHECK(crossing.may_bring_others(kBegin + 1900ms));
  crossing.on_found();
  CHECK_FALSE(crossing.may_bring_others(kBegin + 1h));
}

TEST_CASE("Others that bring little keep nobody for longer than twice what it would take it alone, or ten seconds") {
  const auto held = [](Nanoseconds alone) {
    Crossing crossing;
    crossing.on_nothing(kBegin, alone);
    Nanoseconds time{0};
    for (; time < 1min && !crossing.may_bring_others(kBegin + time); time += 100ms) crossing.on_news(kBegin + time);
    return time;
  };
  CHECK(held(0s) == 1s);
  CHECK(held(2s) == 4s);
  CHECK(held(1h) == 10s);
}

TEST_CASE("A pick with a condition finds the first that meets it, from where it begins, the rarest first") {
  Picker picker;
  picker.add_file(300);
  const Source source = picker.add_source();
  const Source other = picker.add_source();
  for (std::uint32_t slot = 0; slot < 300; ++slot) {
    picker.want(Slot(slot));
    picker.source_has(source, Slot(slot));
  }
  const auto all = [](Slot) { return true; };
  const auto tens = [](Slot slot) { return slot.value % 10 == 5; };
  CHECK(picker.pick_where(source, Slot(0), all) == Slot(0));
  CHECK(picker.pick_where(source, Slot(0), tens) == Slot(5));
  CHECK(picker.pick_where(source, Slot(128), tens) == Slot(135));
  CHECK(picker.pick_where(source, Slot(0), [](Slot slot) { return slot.value == 299; }) == Slot(299));
  CHECK(picker.pick_where(source, Slot(256), [](Slot slot) { return slot.value == 3; }) == Slot(3));
  CHECK_FALSE(picker.pick_where(source, Slot(0), [](Slot) { return false; }));
  CHECK_FALSE(picker.pick_where(other, Slot(0), all));
  picker.begin(Slot(5));
  picker.set_have(Slot(15));
  CHECK(picker.pick_where(source, Slot(0), tens) == Slot(25));
}

TEST_CASE("A pick with a condition that nothing meets looks at 4096 slots, however many there are") {
  Picker picker;
  picker.add_file(20'000);
  const Source source = picker.add_source();
  for (std::uint32_t slot = 0; slot < 20'000; ++slot) {
    picker.want(Slot(slot));
    picker.source_has(source, Slot(slot));
  }
  std::size_t looks = 0;
  CHECK_FALSE(picker.pick_where(source, Slot(0), [&](Slot) { return ++looks, false; }));
  CHECK(looks == 4096);
}
