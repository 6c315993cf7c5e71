#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_set>
#include <utility>

#include <tl/expected.hpp>

import shoal.base;

using namespace shoal;
using namespace std::chrono_literals;

namespace {

std::string message_of(const std::string& what) { return Error{Errc::not_found, what, {}}.message(); }

ExitCode exit_code(std::error_code code) { return exit_code_of(Error{code, {}, {}}); }

/// What a user would write for the same endpoint, or "refused".
std::string endpoint_of(std::string_view text, std::uint16_t default_port = 0) {
  const auto endpoint = parse_endpoint(text, default_port);
  return endpoint ? to_string(*endpoint) : "refused";
}

class OtherCategory final : public std::error_category {
 public:
  const char* name() const noexcept override { return "other"; }
  std::string message(int) const override { return "other"; }
};

}  // namespace

// ---- errors -------------------------------------------------------------------------------------------

TEST_CASE("An error says what was tried, why it failed and what to do") {
  const Error error{std::make_error_code(std::errc::permission_denied), "cannot open /data/x", "check its mode"};
  CHECK(error.message() == "cannot open /data/x: Permission denied; check its mode");
}

TEST_CASE("An error without advice or without a context leaves no dangling marks") {
  CHECK(Error{Errc::not_found, "cannot find 'x'", {}}.message() == "cannot find 'x': not found");
  CHECK(Error{Errc::not_found, {}, {}}.message() == "not found");
  CHECK(Error{Errc::not_found, "not found anywhere", {}}.message() == "not found anywhere");
  CHECK(Error{Errc::not_found, "'x': not found anywhere", {}}.message() == "'x': not found anywhere");
  CHECK(Error{Errc::not_found, "cannot find 'not found'", {}}.message() == "cannot find 'not found': not found");
  CHECK(Error{{}, "cannot find 'x'", {}}.message() == "cannot find 'x'");
}

TEST_CASE("An error message is one line whatever a name holds") {
  CHECK(message_of("a\nb") == "a\\x0ab: not found");
  CHECK(message_of("\x1b[31m\t\x7f") == "\\x1b[31m\\x09\\x7f: not found");
  CHECK(message_of(std::string("a\0b", 3)) == "a\\x00b: not found");
}

TEST_CASE("An error message escapes the control characters that Unicode has beyond ASCII") {
  CHECK(message_of("a\u0085b\u009b") == "a\\xc2\\x85b\\xc2\\x9b: not found");
  CHECK(message_of("\u2028\u2029") == "\\xe2\\x80\\xa8\\xe2\\x80\\xa9: not found");
  CHECK(message_of("\u061c\u200e\u202e\u2066") == "\\xd8\\x9c\\xe2\\x80\\x8e\\xe2\\x80\\xae\\xe2\\x81\\xa6: not found");
}

TEST_CASE("An error message leaves ordinary text as it is") {
  CHECK(message_of("naïve ü \u00a0 日本 \u2014 \u2030 \u2065 😀") == "naïve ü \u00a0 日本 \u2014 \u2030 \u2065 😀: not found");
  CHECK(message_of("cut \xe2\x80") == "cut \xe2\x80: not found");
}

TEST_CASE("Every reason has a text of its own") {
  std::unordered_set<std::string> texts;
  constexpr int last = static_cast<int>(Errc::unsupported);
  for (int i = 1; i <= last; ++i) texts.insert(shoal_category().message(i));
  CHECK((texts.size() == last && !texts.contains(shoal_category().message(last + 1))));
}

TEST_CASE("fail_errno carries the error of the last system call") {
  errno = ENOENT;
  const Result<> result = fail_errno("cannot open x");
  CHECK(result.error().code == std::errc::no_such_file_or_directory);
}

TEST_CASE("A failed step keeps its error") {
  const StepFailed failure(Error{Errc::closed, "peer mars", "wait"});
  CHECK((failure.error().code == Errc::closed && std::string_view(failure.what()) == "peer mars: connection closed; wait"));
}

TEST_CASE("Each failure has the exit code that docs/cli.md gives it") {
  const auto [code, expected] = GENERATE(table<Errc, ExitCode>({
      {Errc::usage, ExitCode::usage},
      {Errc::not_found, ExitCode::not_found},
      {Errc::closed, ExitCode::network},
      {Errc::timed_out, ExitCode::network},
      {Errc::malformed, ExitCode::network},
      {Errc::refused, ExitCode::network},
      {Errc::interrupted, ExitCode::interrupted},
      {Errc::partial, ExitCode::partial},
      {Errc::wrong_digest, ExitCode::checksum},
      {Errc::nobody, ExitCode::network},
      {Errc::unsupported, ExitCode::unknown},
  }));
  CHECK(exit_code(make_error_code(code)) == expected);
}

TEST_CASE("A failure of the system has the exit code of its kind") {
  CHECK(exit_code(std::make_error_code(std::errc::no_space_on_device)) == ExitCode::disk_full);
  CHECK(exit_code({EDQUOT, std::system_category()}) == ExitCode::disk_full);
  CHECK(exit_code({ECONNREFUSED, std::system_category()}) == ExitCode::network);
  CHECK(exit_code(std::make_error_code(std::errc::permission_denied)) == ExitCode::unknown);
}

TEST_CASE("A number that means a full disk elsewhere means nothing in another category") {
  const OtherCategory other;
  CHECK(exit_code({EDQUOT, other}) == ExitCode::unknown);
}

// ---- bytes --------------------------------------------------------------------------------------------

TEST_CASE("Sizes are read with units that are powers of 1024") {
  const auto [text, expected] = GENERATE(table<std::string_view, std::uint64_t>({
      {"0", 0},
      {"1000", 1000},
      {"512B", 512},
      {"1K", 1024},
      {"1k", 1024},
      {"64KiB", 65536},
      {"1.5M", 1572864},
      {"128MB", 134217728},
      {"2G", 2147483648},
      {"0.5T", 549755813888},
  }));
  CHECK(parse_bytes(text).value() == expected);
}

TEST_CASE("What is no size is refused as wrong usage") {
  const auto text = GENERATE(as<std::string_view>{}, "", "K", "-1", "1X", "1KB2", "1 K", " 1", "1iB", "1e3", "0x10", "nan", "inf",
                             "99999999999999999999", "9000000000T", "1K\n");
  CHECK(parse_bytes(text).error().code == Errc::usage);
}

TEST_CASE("Sizes are shown with three significant digits") {
  const auto [bytes, expected] = GENERATE(table<std::uint64_t, std::string>({
      {0, "0 B"},
      {1023, "1023 B"},
      {kKiB, "1.00 KiB"},
      {kKiB + 512, "1.50 KiB"},
      {12 * kMiB, "12.0 MiB"},
      {128 * kMiB, "128 MiB"},
      {999 * kKiB, "999 KiB"},
      {1000 * kKiB, "0.977 MiB"},
      {kGiB * 3 / 2, "1.50 GiB"},
      {1024 * kGiB, "1.00 TiB"},
      {std::numeric_limits<std::uint64_t>::max(), "16.0 EiB"},
  }));
  CHECK(format_bytes(bytes) == expected);
}

// ---- places -------------------------------------------------------------------------------------------

TEST_CASE("An endpoint is a host and a port, IPv6 in brackets") {
  CHECK(parse_endpoint("127.0.0.1:5555").value() == Endpoint{"127.0.0.1", 5555});
  CHECK(parse_endpoint("rack7.example:1").value() == Endpoint{"rack7.example", 1});
  CHECK(parse_endpoint("[::1]:65535").value() == Endpoint{"::1", 65535});
  CHECK(parse_endpoint("[fe80::1%eth0]:0").value() == Endpoint{"fe80::1%eth0", 0});
}

TEST_CASE("The port may be left out where there is a default") {
  CHECK(endpoint_of("mars", 5555) == "mars:5555");
  CHECK(endpoint_of("[::1]", 5555) == "[::1]:5555");
  CHECK(endpoint_of("mars:1", 5555) == "mars:1");
  CHECK(endpoint_of("mars") == "refused");
}

TEST_CASE("What is no endpoint is refused") {
  const auto text = GENERATE(as<std::string_view>{}, "", ":", ":5555", "mars:", "mars:x", "mars:65536", "mars:-1", "mars:+1", "mars: 1",
                             "mars:1x", "::1", "::1:5555", "[::1", "[]:1", "[::1]5555", "[::1]x:1", "[::1]:", "mars:1:2");
  CHECK(endpoint_of(text, 5555) == "refused");
}

TEST_CASE("An endpoint is written as it is read") {
  const auto text = GENERATE(as<std::string>{}, "127.0.0.1:5555", "[::1]:5555", "[2001:db8::7]:80", "rack7.example:0");
  CHECK(endpoint_of(text) == text);
}

TEST_CASE("Loopback is this machine alone") {
  const auto host = GENERATE(as<std::string_view>{}, "localhost", "127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1");
  CHECK(is_loopback(host));
}

TEST_CASE("A host that only looks like loopback is not") {
  const auto host = GENERATE(as<std::string_view>{}, "", "0.0.0.0", "::", "::2", "128.0.0.1", "127", "127.evil.example",
                             "127.0.0.1.evil.example", "localhost.example", "::ffff:10.0.0.1");
  CHECK_FALSE(is_loopback(host));
}

TEST_CASE("No host, and the unspecified address of either family, stand for all addresses of a machine") {
  for (const auto host : {"", "0.0.0.0", "::", "::ffff:0.0.0.0"}) CHECK(is_any_address(host));
  for (const auto host : {"127.0.0.1", "::1", "10.0.0.1", "0.0.0.1", "localhost"}) CHECK_FALSE(is_any_address(host));
}

TEST_CASE("A zone is taken off and put on link-local addresses alone") {
  CHECK(without_zone("fe80::1%eth0") == "fe80::1");
  CHECK(without_zone("febf::1%eth0.7") == "febf::1");
  for (const std::string host : {"10.0.0.1", "::1", "2001:db8::1", "rack1", "odd%name", "fec0::1%eth0", "fe80", ""})
    CHECK(without_zone(host) == host);

  CHECK(with_zone_of("fe80::1", "fe80::2%lan7") == "fe80::1%lan7");
  CHECK(with_zone_of("fe80::1%eth0", "fe80::2%lan7") == "fe80::1%eth0");
  CHECK(with_zone_of("fe80::1", "10.0.0.2") == "fe80::1");
  for (const std::string host : {"10.0.0.1", "2001:db8::1", "rack1", ""}) CHECK(with_zone_of(host, "fe80::2%lan7") == host);
}

// ---- time ---------------------------------------------------------------------------------------------

TEST_CASE("Durations are read with their unit, and a bare number is seconds") {
  const auto [text, expected] = GENERATE(table<std::string_view, Nanoseconds>({
      {"0", 0s},
      {"3", 3s},
      {"1.5s", 1500ms},
      {"10ms", 10ms},
      {"250us", 250us},
      {"7ns", 7ns},
      {"5m", 5min},
      {"5min", 5min},
      {"2h", 2h},
  }));
  CHECK(parse_duration(text).value() == expected);
}

TEST_CASE("What is no duration is refused as wrong usage") {
  const auto text =
      GENERATE(as<std::string_view>{}, "", "s", "-1s", "1d", "1 s", "1ss", "1e3", "nan", "9999999h", "99999999999999999999ns");
  CHECK(parse_duration(text).error().code == Errc::usage);
}

TEST_CASE("Durations are shown in the unit that a person would use") {
  const auto [duration, expected] = GENERATE(table<Nanoseconds, std::string>({
      {0ns, "0 ms"},
      {350ms, "350 ms"},
      {999400us, "999 ms"},
      {999600us, "1.0 s"},
      {12340ms, "12.3 s"},
      {59960ms, "1 min 00 s"},
      {245s, "4 min 05 s"},
      {3599600ms, "1 h 00 min"},
      {3h + 7min, "3 h 07 min"},
  }));
  CHECK(format_duration(duration) == expected);
}

// ---- indices ------------------------------------------------------------------------------------------

TEST_CASE("Indices of one kind compare and hash by their value") {
  const std::unordered_set<ChunkIndex> chunks{ChunkIndex{1}, ChunkIndex{2}, ChunkIndex{1}};
  CHECK((chunks.size() == 2 && ChunkIndex{1} < ChunkIndex{2}));
}
