/// Inside shoal.shell: how lines are read, on a thread of their own.
module;

#include <boost/asio/awaitable.hpp>

#include <condition_variable>
#include <cstddef>
#include <cstdio>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

module shoal.shell:lines;

import shoal.base;
import shoal.world;

namespace shoal {

/// Wakes a thread that waits for input.
class WakePipe {
 public:
  WakePipe();
  ~WakePipe();
  WakePipe(const WakePipe&) = delete;
  WakePipe& operator=(const WakePipe&) = delete;

  void wake();
  enum class Woken { input, wake, failed };
  /// Waits until `fd` can be read, or somebody wakes. Takes the waking.
  Woken wait(int fd);

 private:
  int ends_[2] = {-1, -1};
};

/// What is said while somebody types, and other reasons to look away from the keyboard. Any thread.
struct Interruption {
  std::vector<std::pair<std::FILE*, std::string>> texts;
  bool is_line_dropped = false;
  bool is_closing = false;
};

/// Reads one line after the other. On the reading thread.
class LineReader {
 public:
  virtual ~LineReader() = default;
  /// Nothing at the end, and when it is to close.
  virtual std::optional<std::string> read() = 0;
  virtual bool is_terminal() const = 0;
};

/// What a reader sees of the other threads.
class LineHost {
 public:
  virtual ~LineHost() = default;
  virtual Interruption take_interruption() = 0;
  /// What the word at the end of `line` may become, as the words are known now.
  virtual std::vector<std::string> choices_for(std::string_view line, std::size_t& begin) = 0;
  virtual WakePipe& pipe() = 0;
};

std::unique_ptr<LineReader> make_plain_reader(LineHost& host);
/// With editing; for a terminal.
std::unique_ptr<LineReader> make_editor(LineHost& host, const std::string& history_file);
std::string shell_hint(std::string_view line);
std::string shell_common(const std::vector<std::string>& choices);

}  // namespace shoal
