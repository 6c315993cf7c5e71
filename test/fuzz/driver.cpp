// Runs a fuzz entry over inputs that are the same each time, where there is no libFuzzer.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

constexpr int kRuns = 4000;
constexpr std::size_t kMaxSize = 600;

/// Mostly zeros and small numbers: counts and lengths that could be meant get deeper than noise.
std::uint8_t next_byte(std::mt19937& random, unsigned noise) {
  const auto word = static_cast<unsigned>(random());
  if (word % 100 < noise) return static_cast<std::uint8_t>(word >> 8);
  return word % 3 == 0 ? static_cast<std::uint8_t>(word >> 8 & 0x3f) : std::uint8_t{0};
}

std::vector<std::uint8_t> make_input(std::mt19937& random) {
  std::vector<std::uint8_t> input(random() % kMaxSize);
  const auto noise = static_cast<unsigned>(random() % 101);
  for (auto& byte : input) byte = next_byte(random, noise);
  return input;
}

}  // namespace

int main() {
  std::mt19937 random(1);
  for (int run = 0; run < kRuns; ++run) {
    const auto input = make_input(random);
    LLVMFuzzerTestOneInput(input.data(), input.size());
  }
  std::printf("%d inputs\n", kRuns);
}
