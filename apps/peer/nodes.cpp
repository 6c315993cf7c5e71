// The file of nodes that were heard of: an address a line, the newest first.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>
#include <tl/expected.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "peer/nodes.hpp"

import shoal.base;

namespace shoal::apps {
namespace {

constexpr std::size_t kMostBytes = 64 * 1024;
constexpr std::size_t kMostHostBytes = 255;

class Fd {
 public:
  explicit Fd(int fd) : fd_(fd) {}
  ~Fd() {
    if (fd_ >= 0) ::close(fd_);
  }
  Fd(const Fd&) = delete;
  Fd& operator=(const Fd&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

/// Its beginning; empty where it cannot be read, or is no file.
std::string read_beginning(const std::string& file) {
  const Fd fd(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status{};
  if (fd.get() < 0 || ::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode)) return {};
  std::string text(kMostBytes, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const ssize_t n = ::read(fd.get(), text.data() + size, text.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    size += static_cast<std::size_t>(n);
  }
  text.resize(size);
  return text;
}

bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno != EINTR) return false;
    if (n > 0) text.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

/// Whether somebody can be asked there.
bool is_sound(const Endpoint& node) {
  const auto is_plain = [](char c) { return c > ' ' && c <= '~'; };
  return node.port != 0 && !node.host.empty() && node.host.size() <= kMostHostBytes && std::ranges::all_of(node.host, is_plain) &&
         !is_any_address(node.host);
}

void add(std::vector<Endpoint>& nodes, const Endpoint& node) {
  if (nodes.size() < kMostNodes && is_sound(node) && std::ranges::find(nodes, node) == nodes.end()) nodes.push_back(node);
}

}  // namespace

std::vector<Endpoint> read_nodes(const std::string& file) {
  const std::string text = file.empty() ? std::string() : read_beginning(file);
  std::vector<Endpoint> nodes;
  // What is behind the last end of a line may be cut.
  for (std::string_view rest = text; rest.find('\n') != std::string_view::npos; rest.remove_prefix(rest.find('\n') + 1))
    if (const auto node = parse_endpoint(rest.substr(0, rest.find('\n')))) add(nodes, *node);
  return nodes;
}

Result<void> keep_nodes(const std::string& file, std::span<const Endpoint> nodes) {
  if (file.empty()) return {};
  std::vector<Endpoint> all;
  for (const Endpoint& node : nodes) add(all, node);
  for (const Endpoint& node : read_nodes(file)) add(all, node);
  std::string text;
  for (const Endpoint& node : all) text += to_string(node) + "\n";

  std::error_code ignored;
  std::filesystem::create_directories(std::filesystem::path(file).parent_path(), ignored);
  const std::string fresh = fmt::format("{}.{:08x}", file, std::random_device{}());
  const Fd fd(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (fd.get() < 0) return fail_errno(fmt::format("cannot keep the nodes in {}", file));
  if (write_all(fd.get(), text) && std::rename(fresh.c_str(), file.c_str()) == 0) return {};
  const int error = errno;
  ::unlink(fresh.c_str());
  return fail(std::error_code(error, std::generic_category()), fmt::format("cannot keep the nodes in {}", file));
}

}  // namespace shoal::apps
