/// What the scheduler costs a chunk. Run: bin/schedule_benchmark
#include <benchmark/benchmark.h>

#include <cstdint>
#include <random>

import shoal.base;
import shoal.schedule;

using namespace shoal;

namespace {

/// Everything is wanted; each source has about half of it, at random.
Picker half_full_picker(std::uint32_t slots, std::uint32_t sources, std::mt19937_64& words) {
  Picker picker;
  picker.add_file(slots);
  for (std::uint32_t slot = 0; slot < slots; ++slot) picker.want(Slot(slot));
  for (std::uint32_t count = 0; count < sources; ++count) {
    const Source source = picker.add_source();
    for (std::uint32_t slot = 0; slot < slots; ++slot)
      if (words() % 2 == 0) picker.source_has(source, Slot(slot));
  }
  return picker;
}

void pick_and_end(benchmark::State& state) {
  std::mt19937_64 words(1);
  const auto sources = static_cast<std::uint32_t>(state.range(1));
  Picker picker = half_full_picker(static_cast<std::uint32_t>(state.range(0)), sources, words);
  const Random random = [&] { return words(); };
  std::uint32_t turn = 0;
  for (auto _ : state) {
    const auto slot = picker.pick(Source(turn++ % sources), random, false);
    picker.begin(*slot);
    picker.end(*slot);
  }
}
BENCHMARK(pick_and_end)->Args({8'000, 4})->Args({100'000, 32})->Args({1'000'000, 128});

void pick_of_nothing(benchmark::State& state) {
  std::mt19937_64 words(1);
  Picker picker = half_full_picker(100'000, 32, words);
  const Source empty = picker.add_source();
  const Random random = [&] { return words(); };
  for (auto _ : state) benchmark::DoNotOptimize(picker.pick(empty, random, false));
}
BENCHMARK(pick_of_nothing);

void have_told_and_taken_back(benchmark::State& state) {
  std::mt19937_64 words(1);
  constexpr std::uint32_t slots = 100'000;
  Picker picker = half_full_picker(slots, 31, words);
  const Source source = picker.add_source();
  for (auto _ : state) {
    const Slot slot(static_cast<std::uint32_t>(words() % slots));
    picker.source_has(source, slot);
    picker.source_lost(source, slot);
  }
}
BENCHMARK(have_told_and_taken_back);

void upload_queue_serves_and_is_asked_again(benchmark::State& state) {
  std::mt19937_64 words(1);
  const auto neighbours = static_cast<std::uint32_t>(state.range(0));
  UploadQueue queue;
  const auto ask = [&](Source to) { queue.add(to, Slot(static_cast<std::uint32_t>(words() % 100'000))); };
  for (std::uint32_t each = 0; each < neighbours * 64; ++each) ask(Source(each % neighbours));
  const auto everyone = [](Source) { return true; };
  const auto availability = [](Slot slot) { return slot.value % 17; };
  for (auto _ : state) ask(queue.next(everyone, availability)->to);
}
BENCHMARK(upload_queue_serves_and_is_asked_again)->Arg(4)->Arg(32)->Arg(128);

}  // namespace

BENCHMARK_MAIN();
