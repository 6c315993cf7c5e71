// A line on a terminal, edited with libedit.
module;

#include <histedit.h>
#include <langinfo.h>
#include <unistd.h>

#include <algorithm>
#include <clocale>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <cwchar>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

module shoal.shell;

import :lines;
import shoal.report;

namespace shoal {
namespace {

constexpr int kHistoryLines = 1000;
constexpr std::size_t kMostShown = 60;
constexpr const char* kPrompt = "shoal> ";

/// What is typed are names, which are UTF-8 whatever the locale says: without this, libedit takes them apart byte by byte.
void take_text_as_utf8() {
  std::setlocale(LC_CTYPE, "");
  for (const char* const name : {"C.UTF-8", "en_US.UTF-8", "UTF-8"}) {
    if (std::string_view(::nl_langinfo(CODESET)) == "UTF-8") return;
    std::setlocale(LC_CTYPE, name);
  }
}

void write_whole(std::FILE* stream, std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stream);
  std::fflush(stream);
}

class Editor final : public LineReader {
 public:
  Editor(LineHost& host, const std::string& history_file)
      : host_(host), history_file_(history_file), history_(::history_init(), ::history_end) {
    take_text_as_utf8();
    editor_.reset(::el_init("shoal-peer", stdin, stderr, stderr));
    ::el_set(editor_.get(), EL_CLIENTDATA, this);
    ::el_set(editor_.get(), EL_PROMPT, &Editor::prompt);
    ::el_set(editor_.get(), EL_EDITOR, "emacs");
    ::el_set(editor_.get(), EL_SIGNAL, 0);
    ::el_set(editor_.get(), EL_GETCFN, &Editor::next_character);
    // The narrow call leaks its copies of both texts.
    ::el_wset(editor_.get(), EL_ADDFN, L"shoal-complete", L"complete the word", &Editor::on_tab);
    ::el_set(editor_.get(), EL_BIND, "^I", "shoal-complete", nullptr);
    ::el_set(editor_.get(), EL_BIND, "^R", "em-inc-search-prev", nullptr);
    ::history(history_.get(), &event_, H_SETSIZE, kHistoryLines);
    ::history(history_.get(), &event_, H_SETUNIQUE, 1);
    ::el_set(editor_.get(), EL_HIST, ::history, history_.get());
    load_history();
  }

  std::optional<std::string> read() override {
    int count = 0;
    const char* const text = ::el_gets(editor_.get(), &count);
    if (text == nullptr || count <= 0) {
      if (!is_closing_) write_whole(stderr, "\n");
      return std::nullopt;
    }
    std::string line(text, static_cast<std::size_t>(count));
    while (line.ends_with('\n') || line.ends_with('\r')) line.pop_back();
    if (line.find_first_not_of(" \t") != std::string::npos) remember(line);
    return line;
  }
  bool is_terminal() const override { return true; }

 private:
  static Editor& self_of(EditLine* editor) {
    void* self = nullptr;
    ::el_get(editor, EL_CLIENTDATA, &self);
    return *static_cast<Editor*>(self);
  }

  static char* prompt(EditLine*) { return const_cast<char*>(kPrompt); }

  // ---- history

  void load_history() {
    if (history_file_.empty()) return;
    std::error_code ignored;
    std::filesystem::create_directories(std::filesystem::path(history_file_).parent_path(), ignored);
    ::history(history_.get(), &event_, H_LOAD, history_file_.c_str());
  }

  void remember(const std::string& line) {
    ::history(history_.get(), &event_, H_ENTER, line.c_str());
    if (!history_file_.empty()) ::history(history_.get(), &event_, H_SAVE, history_file_.c_str());
  }

  // ---- characters

  static int next_character(EditLine* editor, wchar_t* out) { return self_of(editor).read_character(out); }

  /// 1 with a character, 0 at the end. What others have to say meanwhile goes above the prompt.
  int read_character(wchar_t* out) {
    std::mbstate_t state{};
    for (;;) {
      const auto woken = host_.pipe().wait(STDIN_FILENO);
      if (woken == WakePipe::Woken::failed) return 0;
      if (woken == WakePipe::Woken::wake) {
        if (!look_away()) return 0;
        continue;
      }
      char byte = 0;
      if (::read(STDIN_FILENO, &byte, 1) != 1) return 0;
      const std::size_t used = std::mbrtowc(out, &byte, 1, &state);
      if (used == static_cast<std::size_t>(-2)) continue;  // the rest of it is to come
      if (used == static_cast<std::size_t>(-1)) *out = L'?';
      return 1;
    }
  }

  /// False when it is to close.
  bool look_away() {
    const Interruption interruption = host_.take_interruption();
    is_closing_ = interruption.is_closing;
    if (!interruption.texts.empty() || is_closing_) write_whole(stderr, "\r\x1b[K");
    for (const auto& [stream, text] : interruption.texts) write_whole(stream, text);
    if (is_closing_) return false;
    if (interruption.is_line_dropped) {
      const LineInfo* const line = ::el_line(editor_.get());
      ::el_cursor(editor_.get(), static_cast<int>(line->lastchar - line->cursor));
      ::el_deletestr(editor_.get(), static_cast<int>(line->lastchar - line->buffer));
    }
    if (!interruption.texts.empty() || interruption.is_line_dropped) ::el_set(editor_.get(), EL_REFRESH);
    return true;
  }

  // ---- completion

  static unsigned char on_tab(EditLine* editor, wint_t) { return self_of(editor).complete_word(); }

  unsigned char complete_word() {
    const LineInfo* const info = ::el_line(editor_.get());
    const std::string line(info->buffer, static_cast<std::size_t>(info->cursor - info->buffer));
    std::size_t begin = 0;
    const auto choices = host_.choices_for(line, begin);
    if (choices.empty()) return show(shell_hint(line));
    const std::string common = choices.size() == 1 ? choices.front() + ' ' : shell_common(choices);
    const std::string typed = line.substr(begin);
    if (common == typed || (choices.size() > 1 && common.size() <= typed.size())) return show(listed(choices));
    ::el_deletestr(editor_.get(), static_cast<int>(characters_in(typed)));
    if (::el_insertstr(editor_.get(), common.c_str()) != 0) return CC_ERROR;
    return CC_REFRESH;
  }

  static std::size_t characters_in(std::string_view text) {
    return static_cast<std::size_t>(std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
  }

  static std::string listed(const std::vector<std::string>& choices) {
    std::string text;
    for (std::size_t i = 0; i < choices.size() && i < kMostShown; ++i) text += (text.empty() ? "" : "  ") + choices[i];
    if (choices.size() > kMostShown) text += "  ...";
    return text;
  }

  /// A line between the one that is being typed and itself.
  static unsigned char show(const std::string& text) {
    if (text.empty()) return CC_ERROR;
    write_whole(stderr, "\n" + printable(text) + "\n");
    return CC_REDISPLAY;
  }

  struct End {
    void operator()(EditLine* editor) const { ::el_end(editor); }
  };

  LineHost& host_;
  std::string history_file_;
  HistEvent event_{};
  std::unique_ptr<History, void (*)(History*)> history_;
  std::unique_ptr<EditLine, End> editor_;
  bool is_closing_ = false;
};

}  // namespace

std::unique_ptr<LineReader> make_editor(LineHost& host, const std::string& history_file) {
  return std::make_unique<Editor>(host, history_file);
}

}  // namespace shoal
