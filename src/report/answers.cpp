// Stdout, and what could not be written.
module;

#include <poll.h>
#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <functional>
#include <mutex>
#include <string_view>

module shoal.report;

import :answers;
import shoal.base;

namespace shoal {

bool write_whole(std::FILE* stream, std::string_view text) {
  if (std::fflush(stream) != 0) return false;
  const int fd = ::fileno(stream);
  if (fd < 0) return std::fwrite(text.data(), 1, text.size(), stream) == text.size() && std::fflush(stream) == 0;  // it is in memory
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written >= 0) {
      text.remove_prefix(static_cast<std::size_t>(written));
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      pollfd room{.fd = fd, .events = POLLOUT, .revents = 0};
      ::poll(&room, 1, -1);
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

void Losses::note(int error) {
  const bool is_full = error == ENOSPC || error == EDQUOT;
  ExitCode none = ExitCode::done;
  if (is_full)
    exit_ = ExitCode::disk_full;
  else
    exit_.compare_exchange_strong(none, ExitCode::unknown);
}

void Answers::write(std::string_view text) {
  const std::lock_guard lock(mutex_);
  if (is_lost_ || write_(out_, text)) return;
  is_lost_ = true;
  untold_ = errno;
  is_reader_gone_ = errno == EPIPE;
  losses_.note(errno);
}

int Answers::take_untold() { return untold_.load(std::memory_order_relaxed) == 0 ? 0 : untold_.exchange(0); }

}  // namespace shoal
