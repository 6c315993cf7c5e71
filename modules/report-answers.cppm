/// Inside shoal.report: stdout, and what could not be written.
module;

#include <atomic>
#include <cstdio>
#include <functional>
#include <mutex>
#include <string_view>
#include <utility>

module shoal.report:answers;

import shoal.base;

namespace shoal {

/// False, and errno, where not all of the text could be written.
using Writer = std::function<bool(std::FILE* stream, std::string_view text)>;

/// What could not be written. Any thread.
class Losses {
 public:
  /// A full disk tells more than anything else.
  void note(int error);
  ExitCode exit() const { return exit_; }

 private:
  std::atomic<ExitCode> exit_ = ExitCode::done;
};

/// Stdout, until something cannot be written to it. Any thread.
class Answers {
 public:
  Answers(std::FILE* out, Writer write, Losses& losses) : out_(out), write_(std::move(write)), losses_(losses) {}

  void write(std::string_view text);
  /// Why it cannot be written to, once.
  int take_untold();
  bool is_reader_gone() const { return is_reader_gone_; }

 private:
  std::mutex mutex_;
  std::FILE* out_;
  Writer write_;
  Losses& losses_;
  bool is_lost_ = false;
  std::atomic<bool> is_reader_gone_ = false;
  std::atomic<int> untold_ = 0;
};

}  // namespace shoal
