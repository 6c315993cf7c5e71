// Stdout, and what could not be written.
module;

#include <atomic>
#include <cerrno>
#include <functional>
#include <mutex>
#include <string_view>

module shoal.report;

import :answers;
import shoal.base;

namespace shoal {

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
