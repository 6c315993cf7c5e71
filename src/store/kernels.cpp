// The times of the digest kernels, kept in a small file for this processor, so that they are measured once and not at each start.
module;

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <tl/expected.hpp>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <functional>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

module shoal.store;

import :internal;
import shoal.base;
import shoal.digest;

namespace shoal {
namespace {

constexpr std::size_t kMostBytes = 16 * 1024;
constexpr std::string_view kFormat = "shoal kernels 1";
constexpr double kUnit = 1000;  ///< Times are kept in picoseconds for a KiB.

/// What tells processors apart where they say no name of their own.
std::string system_name() {
  std::ifstream file("/proc/cpuinfo");
  std::string parts;
  for (std::string line; parts.size() < 200 && std::getline(file, line);)
    if (line.starts_with("CPU implementer") || line.starts_with("CPU part") || line.starts_with("CPU variant") || line.empty())
      parts += line + ' ';
  utsname system{};
  if (::uname(&system) == 0) parts += system.machine;
  std::ranges::replace_if(parts, [](char each) { return each < ' ' || each > '~'; }, ' ');
  return parts;
}

/// All that has to be the same for the times to be of use.
std::string header_of(std::string_view version, std::string_view processor) {
  std::string header = fmt::format("{}\nversion {}\nprocessor {}\n", kFormat, version, processor.empty() ? system_name() : processor);
  for (const Kernel& kernel : md5_kernels()) header += fmt::format("md5 {} {}\n", kernel.name, kernel.lanes);
  for (const Kernel& kernel : sha256_kernels()) header += fmt::format("sha256 {} {}\n", kernel.name, kernel.lanes);
  return header;
}

std::string check_of(std::string_view text) { return to_hex(sha256(std::as_bytes(std::span(text)))); }

std::string text_of(std::string_view header, const KernelTimes& times) {
  std::string text(header);
  for (const auto& of : {times.md5, times.sha256})
    for (const double time : of) text += fmt::format("{:.0f}\n", time * kUnit);
  return text + check_of(text) + "\n";
}

std::optional<double> take_number(std::string_view& text) {
  const std::size_t end = text.find('\n');
  if (end == std::string_view::npos) return std::nullopt;
  std::uint64_t value = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + end, value);
  if (error != std::errc{} || stop != text.data() + end) return std::nullopt;
  text.remove_prefix(end + 1);
  return static_cast<double>(value) / kUnit;
}

std::optional<KernelTimes> times_in(std::string_view text, std::string_view header) {
  constexpr std::size_t kCheck = 2 * sizeof(Sha256Digest) + 1;
  if (!text.starts_with(header) || text.size() < header.size() + kCheck) return std::nullopt;
  const std::string_view checked = text.substr(0, text.size() - kCheck);
  if (text.substr(checked.size()) != check_of(checked) + "\n") return std::nullopt;
  std::string_view numbers = checked.substr(header.size());
  KernelTimes times;
  for (std::size_t i = 0; i < md5_kernels().size() + sha256_kernels().size(); ++i) {
    const auto time = take_number(numbers);
    if (!time) return std::nullopt;
    (i < md5_kernels().size() ? times.md5 : times.sha256).push_back(*time);
  }
  if (!numbers.empty() || !are_sound(times)) return std::nullopt;
  return times;
}

/// Empty where it cannot be read, or is no such file.
std::string read_small(const std::string& file) {
  const Fd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status{};
  if (!fd || ::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode)) return {};
  std::string text(kMostBytes, '\0');
  const std::int64_t n = read_fully(fd.get(), 0, std::as_writable_bytes(std::span(text)));
  text.resize(n > 0 && static_cast<std::size_t>(n) < kMostBytes ? static_cast<std::size_t>(n) : 0);
  return text;
}

/// Whole or not at all, whoever else writes it at the same time. That it cannot be written is no harm.
void write_small(const std::string& file, std::string_view text) {
  make_folders_of(file);
  const std::string fresh = fmt::format("{}.{:08x}", file, std::random_device{}());
  bool is_written = false;
  {
    const Fd fd(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!fd) return;
    is_written = write_fully(fd.get(), 0, std::as_bytes(std::span(text)));
  }
  if (!is_written || std::rename(fresh.c_str(), file.c_str()) != 0) ::unlink(fresh.c_str());
}

Nanoseconds steady_now() { return std::chrono::steady_clock::now().time_since_epoch(); }

}  // namespace

KernelTimes kept_kernel_times(const std::string& file, const KernelKey& key, const std::function<KernelTimes()>& measure) {
  const std::string header = header_of(key.version, key.processor);
  if (const auto kept = file.empty() ? std::nullopt : times_in(read_small(file), header)) return *kept;
  KernelTimes times = measure ? measure() : measure_kernels(steady_now);
  if (!file.empty() && are_sound(times)) write_small(file, text_of(header, times));
  return times;
}

}  // namespace shoal
