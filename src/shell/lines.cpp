module;

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <boost/asio/awaitable.hpp>

#include <array>
#include <cerrno>
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

module shoal.shell;

import :lines;
import shoal.base;
import shoal.report;
import shoal.world;

namespace shoal {

// ---- waking -------------------------------------------------------------------------------------------

WakePipe::WakePipe() {
  if (::pipe(ends_) != 0) return;
  for (const int end : ends_) {
    ::fcntl(end, F_SETFD, FD_CLOEXEC);
    ::fcntl(end, F_SETFL, O_NONBLOCK);
  }
}

WakePipe::~WakePipe() {
  for (const int end : ends_)
    if (end >= 0) ::close(end);
}

void WakePipe::wake() {
  const char byte = 0;
  static_cast<void>(::write(ends_[1], &byte, 1) == 1);  // a full pipe wakes as well
}

WakePipe::Woken WakePipe::wait(int fd) {
  for (;;) {
    std::array<pollfd, 2> waits{{{fd, POLLIN, 0}, {ends_[0], POLLIN, 0}}};
    if (::poll(waits.data(), waits.size(), -1) < 0) {
      if (errno == EINTR) continue;
      return Woken::failed;
    }
    if (waits[1].revents != 0) {
      std::array<char, 64> bytes{};
      while (::read(ends_[0], bytes.data(), bytes.size()) > 0) {
      }
      return Woken::wake;
    }
    if (waits[0].revents != 0) return Woken::input;
  }
}

// ---- plain lines --------------------------------------------------------------------------------------

namespace {

class PlainReader final : public LineReader {
 public:
  explicit PlainReader(LineHost& host) : host_(host) {}

  std::optional<std::string> read() override {
    for (;;) {
      if (const auto end = bytes_.find('\n'); end != std::string::npos) return take(end, end + 1);
      if (is_at_end_) return bytes_.empty() ? std::nullopt : take(bytes_.size(), bytes_.size());
      switch (host_.pipe().wait(STDIN_FILENO)) {
        case WakePipe::Woken::input: fill(); break;
        case WakePipe::Woken::wake:
          if (host_.take_interruption().is_closing) return std::nullopt;
          break;
        case WakePipe::Woken::failed: return std::nullopt;
      }
    }
  }
  bool is_terminal() const override { return false; }

 private:
  std::optional<std::string> take(std::size_t end, std::size_t next) {
    std::string line = bytes_.substr(0, end);
    bytes_.erase(0, next);
    return line;
  }

  void fill() {
    constexpr std::size_t kLongestLine = 64 * 1024;
    std::array<char, 4096> more{};
    const auto count = ::read(STDIN_FILENO, more.data(), more.size());
    if (count > 0) bytes_.append(more.data(), static_cast<std::size_t>(count));
    is_at_end_ = count == 0 || (count < 0 && errno != EINTR && errno != EAGAIN) || bytes_.size() > kLongestLine;
  }

  LineHost& host_;
  std::string bytes_;
  bool is_at_end_ = false;
};

/// The thread that reads, and those who wait for it.
class ThreadedLines final : public Lines, private LineHost {
 public:
  explicit ThreadedLines(const std::string& history_file) {
    const bool is_terminal = ::isatty(STDIN_FILENO) == 1 && ::isatty(STDERR_FILENO) == 1;
    reader_ = is_terminal ? make_editor(*this, history_file) : make_plain_reader(*this);
    thread_ = std::thread([this] { run(); });
  }

  ~ThreadedLines() override {
    {
      const std::lock_guard lock(mutex_);
      interruption_.is_closing = true;
    }
    asked_.notify_one();
    pipe_.wake();
    thread_.join();
  }

  bool is_terminal() const override { return reader_->is_terminal(); }

  Task<std::optional<std::string>> next(KnownWords known) override {
    {
      const std::lock_guard lock(mutex_);
      known_ = std::move(known);
      is_asked_ = is_reading_ = true;
    }
    asked_.notify_one();
    co_await answered_.wait();
    const std::lock_guard lock(mutex_);
    co_return std::move(line_);
  }

  void abandon(std::string why) override {
    if (!is_terminal()) return;
    {
      const std::lock_guard lock(mutex_);
      if (!is_reading_) return;
      interruption_.is_line_dropped = true;
      interruption_.texts.emplace_back(stderr, "^C " + why + "\n");
    }
    pipe_.wake();
  }

  bool write(std::FILE* stream, std::string_view text) override {
    {
      const std::lock_guard lock(mutex_);
      const bool is_in_the_way = is_reading_ && reader_ && reader_->is_terminal() && ::isatty(::fileno(stream)) == 1;
      if (!is_in_the_way) return write_whole(stream, text);
      interruption_.texts.emplace_back(stream, std::string(text));
    }
    pipe_.wake();
    return true;
  }

 private:
  void run() {
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        asked_.wait(lock, [this] { return is_asked_ || interruption_.is_closing; });
        if (interruption_.is_closing) return;
        is_asked_ = false;
      }
      auto line = reader_->read();
      {
        const std::lock_guard lock(mutex_);
        line_ = std::move(line);
        is_reading_ = false;
        for (const auto& [stream, text] : std::exchange(interruption_.texts, {})) write_whole(stream, text);
      }
      answered_.notify();
    }
  }

  Interruption take_interruption() override {
    const std::lock_guard lock(mutex_);
    Interruption taken = std::exchange(interruption_, {});
    interruption_.is_closing = taken.is_closing;
    return taken;
  }

  std::vector<std::string> choices_for(std::string_view line, std::size_t& begin) override {
    const std::lock_guard lock(mutex_);
    Completion completion = complete(line, known_);
    begin = completion.begin;
    return std::move(completion.choices);
  }

  WakePipe& pipe() override { return pipe_; }

  WakePipe pipe_;
  std::mutex mutex_;
  std::condition_variable asked_;
  bool is_asked_ = false;
  bool is_reading_ = false;  ///< A line is being waited for.
  KnownWords known_;
  std::optional<std::string> line_;
  Interruption interruption_;
  Signal answered_;
  std::unique_ptr<LineReader> reader_;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<LineReader> make_plain_reader(LineHost& host) { return std::make_unique<PlainReader>(host); }

std::string shell_hint(std::string_view line) { return hint_for(line); }
std::string shell_common(const std::vector<std::string>& choices) { return common_beginning(choices); }

std::unique_ptr<Lines> open_lines(const std::string& history_file) { return std::make_unique<ThreadedLines>(history_file); }

}  // namespace shoal
