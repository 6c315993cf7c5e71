// Which kernel digests how many streams: plans from given times, the measurement by a clock that the test turns, and every kernel's
// digests, whether this processor would take it or not.
#include <openssl/evp.h>
#include <catch2/catch_test_macros.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <set>
#include <span>
#include <string_view>
#include <vector>

import shoal.base;
import shoal.digest;

using namespace shoal;

namespace {

using Bytes = std::vector<std::byte>;

std::size_t index_of(const std::vector<Kernel>& kernels, std::string_view name) {
  const auto at = std::ranges::find(kernels, name, &Kernel::name);
  REQUIRE(at != kernels.end());
  return static_cast<std::size_t>(at - kernels.begin());
}

/// A plan that takes one kernel for any number of streams.
KernelPlan plan_of_only(const std::vector<Kernel>& kernels, std::size_t kernel) {
  std::vector<double> times(kernels.size(), 1e6);
  times[kernel] = 1;
  return {kernels, times};
}

std::vector<Bytes> messages_of_any_length(std::size_t count, std::mt19937& random) {
  std::vector<Bytes> messages(count);
  for (Bytes& message : messages) {
    message.resize(random() % 3 == 0 ? random() % 200 : random() % 9000);
    std::ranges::generate(message, [&] { return static_cast<std::byte>(random()); });
  }
  return messages;
}

template <class Digest>
Digest digest_of_openssl(const Bytes& message, const EVP_MD* algorithm) {
  Digest digest;
  REQUIRE(EVP_Digest(message.data(), message.size(), digest.bytes.data(), nullptr, algorithm, nullptr) == 1);
  return digest;
}

/// Streams that get their messages in two pieces each, side by side.
bool gives_right_md5s(const KernelPlan& plan, const std::vector<Bytes>& messages, std::mt19937& random) {
  std::vector<Md5Stream> streams(messages.size());
  std::vector<Md5Piece> first;
  std::vector<Md5Piece> second;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const std::span<const std::byte> message = messages[i];
    const std::size_t cut = random() % (message.size() + 1);
    first.push_back({&streams[i], message.first(cut)});
    second.push_back({&streams[i], message.subspan(cut)});
  }
  Md5Stream::update_together(Md5Stream::update_in_company(first, plan), plan);
  Md5Stream::update_together(second, plan);
  for (std::size_t i = 0; i < messages.size(); ++i)
    if (streams[i].finish() != digest_of_openssl<Md5Digest>(messages[i], EVP_md5())) return false;
  return true;
}

bool gives_right_sha256s(const KernelPlan& plan, const std::vector<Bytes>& messages) {
  std::vector<Sha256Digest> digests(messages.size());
  std::vector<Sha256Message> all;
  for (std::size_t i = 0; i < messages.size(); ++i) all.push_back({messages[i], &digests[i]});
  sha256_together(all, plan);
  for (std::size_t i = 0; i < messages.size(); ++i)
    if (digests[i] != digest_of_openssl<Sha256Digest>(messages[i], EVP_sha256())) return false;
  return true;
}

/// Each kernel alone, with any number of messages: fewer than lanes, as many, and more, which wait.
void check_each(const std::vector<Kernel>& kernels, std::mt19937& random,
                const std::function<bool(const KernelPlan&, const std::vector<Bytes>&)>& is_right) {
  for (std::size_t kernel = 0; kernel < kernels.size(); ++kernel)
    for (std::size_t count = 0; count <= 35; ++count) {
      CAPTURE(kernels[kernel].name, count);
      CHECK(is_right(plan_of_only(kernels, kernel), messages_of_any_length(count, random)));
    }
}

std::vector<Kernel> three_kernels() { return {{"one", 1}, {"two", 2}, {"eight", 8}}; }

}  // namespace

// ---- every kernel -------------------------------------------------------------------------------------

TEST_CASE("Every MD5 kernel gives what OpenSSL gives, for any number of streams") {
  std::mt19937 random(33);
  check_each(md5_kernels(), random, [&](const KernelPlan& plan, const auto& messages) { return gives_right_md5s(plan, messages, random); });
}

TEST_CASE("Every SHA-256 kernel gives what OpenSSL gives, for any number of messages") {
  std::mt19937 random(34);
  check_each(sha256_kernels(), random, gives_right_sha256s);
}

TEST_CASE("Any times give right digests") {
  const auto md5s = md5_kernels();
  const auto sha256s = sha256_kernels();
  std::mt19937 random(35);
  const auto any_times = [&](std::size_t count) {
    std::vector<double> times(count);
    std::ranges::generate(times, [&] { return 100.0 + random() % 4000; });
    return times;
  };
  for (int i = 0; i < 60; ++i) {
    const auto messages = messages_of_any_length(random() % 40, random);
    CHECK(gives_right_md5s({md5s, any_times(md5s.size())}, messages, random));
    CHECK(gives_right_sha256s({sha256s, any_times(sha256s.size())}, messages));
  }
}

TEST_CASE("Kernels have names of their own, and one takes a single stream") {
  for (const auto& kernels : {md5_kernels(), sha256_kernels()}) {
    std::set<std::string_view> names;
    for (const Kernel& kernel : kernels) names.insert(kernel.name);
    CHECK(names.size() == kernels.size());
    CHECK(std::ranges::count(kernels, 1U, &Kernel::lanes) >= 1);
    CHECK(std::ranges::all_of(kernels, [](const Kernel& kernel) { return kernel.lanes <= KernelPlan::kMostStreams; }));
  }
}

// ---- plans --------------------------------------------------------------------------------------------

TEST_CASE("A stream alone goes by the fastest kernel for one") {
  const KernelPlan plan({{"slow", 1}, {"fast", 1}, {"lanes", 4}}, {3, 1, 2});
  CHECK(plan.kernel_for(1) == 1);
  CHECK(plan.time_for(1) == 1);
}

TEST_CASE("Lanes are taken from as many streams on as make them the fastest") {
  const KernelPlan plan(three_kernels(), {10, 14, 45});
  CHECK(plan.kernel_for(1) == 0);
  CHECK(plan.kernel_for(2) == 1);
  CHECK(plan.time_for(5) == 38);  // two, two and one
  CHECK(plan.kernel_for(6) == 1);
  CHECK(plan.time_for(6) == 42);
  CHECK(plan.kernel_for(7) == 2);
  CHECK(plan.time_for(7) == 45);
  CHECK(plan.time_for(12) == 45 + 28);  // eight in lanes, and twice two
  CHECK(plan.time_for(16) == 90);
}

TEST_CASE("Where lanes gain nothing, no stream waits for others") {
  const Md5Pace pace = [] {
    KernelTimes times = standard_kernel_times();
    times.md5.assign(times.md5.size(), 1e6);
    times.md5[index_of(md5_kernels(), "openssl")] = 1000;
    return KernelChoice(times, true).pace;
  }();
  for (std::size_t fetching = 1; fetching <= 16; ++fetching) CHECK(pace.enough[fetching] == 1);
  CHECK(pace.chunk_time == std::chrono::microseconds(512));
}

TEST_CASE("Where lanes gain much, streams wait for others") {
  KernelTimes times = standard_kernel_times();
  times.md5.assign(times.md5.size(), 1e6);
  times.md5[index_of(md5_kernels(), "scalar")] = 1900;
  times.md5[index_of(md5_kernels(), "vector4-x2")] = 2000;
  const Md5Pace pace = KernelChoice(times, true).pace;
  CHECK(pace.enough[2] == 2);
  CHECK(pace.enough[4] == 3);
  CHECK(pace.enough[8] == 5);
}

TEST_CASE("What was not measured changes nothing") {
  const Md5Pace pace = KernelChoice(standard_kernel_times()).pace;
  CHECK(pace.together == 8);
  CHECK(pace.enough[3] == 3);
  CHECK(pace.enough[16] == 4);
  CHECK(pace.chunk_time == std::chrono::milliseconds(1));
}

// ---- measuring ----------------------------------------------------------------------------------------

TEST_CASE("A kernel's best slice counts, so that what disturbs others does not decide") {
  // Each reading is later than the one before: by 10 us mostly, by 10 ms where something else had the processor.
  Nanoseconds now{0};
  int readings = 0;
  const auto times = measure_kernels([&] {
    now += ++readings % 7 < 4 ? std::chrono::milliseconds(10) : std::chrono::microseconds(10);
    return now;
  });
  CHECK(are_sound(times));
  for (const double time : times.md5) CHECK(time == 1250);  // ns for a KiB, of 8 in 10 us
  for (const double time : times.sha256) CHECK(time == 1250);
}

TEST_CASE("A clock that stands still, or runs backwards, gives no sound times") {
  CHECK_FALSE(are_sound(measure_kernels([] { return Nanoseconds(5); })));
  Nanoseconds now{0};
  CHECK_FALSE(are_sound(measure_kernels([&] { return now -= Nanoseconds(100); })));
}

TEST_CASE("Times that cannot be are not sound") {
  CHECK(are_sound(standard_kernel_times()));
  for (const double wrong : {0.0, -1.0, 1e12, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    KernelTimes times = standard_kernel_times();
    times.md5.back() = wrong;
    CHECK_FALSE(are_sound(times));
  }
  KernelTimes fewer = standard_kernel_times();
  fewer.sha256.pop_back();
  CHECK_FALSE(are_sound(fewer));
  CHECK_FALSE(are_sound({}));
}

TEST_CASE("The kernels are chosen when first a chunk is digested, once, and small messages ask for nothing") {
  int asked = 0;
  KernelTimes times = standard_kernel_times();
  times.md5.assign(times.md5.size(), 1e6);
  const std::size_t openssl = index_of(md5_kernels(), "openssl");
  times.md5[openssl] = 700;
  choose_kernels_by([&] {
    ++asked;
    return times;
  });
  const Bytes chunk(kChunkSize, std::byte{7});
  (void)md5(std::span(chunk).first(1000));
  CHECK(asked == 0);
  CHECK(md5(chunk) == digest_of_openssl<Md5Digest>(chunk, EVP_md5()));
  (void)chunk_hash(chunk, chunk.size());
  CHECK(asked == 1);
  CHECK(kernels_in_use().is_measured);
  CHECK(kernels_in_use().md5.kernel_for(16) == openssl);

  choose_kernels_by([] { return KernelTimes{}; });  // unsound: what there was stays
  (void)md5(chunk);
  CHECK(kernels_in_use().times == times);
  choose_kernels_by([] { return standard_kernel_times(); });
  (void)md5(chunk);
}
