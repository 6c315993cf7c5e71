module;

#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <tl/expected.hpp>

module shoal.base;

namespace shoal {
namespace {

class Category final : public std::error_category {
 public:
  const char* name() const noexcept override { return "shoal"; }

  std::string message(int value) const override {
    switch (static_cast<Errc>(value)) {
      case Errc::usage: return "not a valid argument";
      case Errc::not_found: return "not found";
      case Errc::malformed: return "malformed data";
      case Errc::too_large: return "over the limit";
      case Errc::out_of_order: return "not expected at this step";
      case Errc::unsupported_version: return "no common protocol version";
      case Errc::refused: return "refused";
      case Errc::unsafe_name: return "unsafe file name";
      case Errc::wrong_digest: return "checksum mismatch";
      case Errc::changed: return "the file changed";
      case Errc::closed: return "connection closed";
      case Errc::timed_out: return "timed out";
      case Errc::interrupted: return "interrupted";
      case Errc::nobody: return "nobody to ask";
      case Errc::partial: return "incomplete";
      case Errc::unsupported: return "not supported on this system";
    }
    return "unknown error";
  }
};

/// How many bytes at the begin of `text` are a character that could forge a line or turn it around: C0, DEL, C1, the line
/// separators and the bidirectional controls, in UTF-8. 0 when it begins with any other.
std::size_t control_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  const auto between = [](unsigned value, unsigned first, unsigned last) { return value >= first && value <= last; };
  if (byte(0) < 0x20 || byte(0) == 0x7f) return 1;
  if (byte(0) == 0xc2 && between(byte(1), 0x80, 0x9f)) return 2;  // U+0080..9F
  if (byte(0) == 0xd8 && byte(1) == 0x9c) return 2;               // U+061C
  if (byte(0) != 0xe2) return 0;
  if (byte(1) == 0x80 && (between(byte(2), 0x8e, 0x8f) || between(byte(2), 0xa8, 0xae))) return 3;  // U+200E, 2028..
  return byte(1) == 0x81 && between(byte(2), 0xa6, 0xa9) ? 3 : 0;                                   // U+2066..2069
}

std::string escape_controls(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const std::size_t control = control_length(text);
    for (const char c : text.substr(0, control)) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    if (control == 0) out += text.front();
    text.remove_prefix(std::max<std::size_t>(control, 1));
  }
  return out;
}

}  // namespace

const std::error_category& shoal_category() noexcept {
  static const Category category;
  return category;
}

std::error_code make_error_code(Errc code) noexcept { return {static_cast<int>(code), shoal_category()}; }

namespace {

/// At its beginning, or behind a `: `.
bool says(std::string_view line, std::string_view why) {
  for (std::size_t at = 0; at != std::string_view::npos;) {
    if (line.substr(at).starts_with(why)) return true;
    const std::size_t next = line.find(": ", at);
    at = next == std::string_view::npos ? next : next + 2;
  }
  return false;
}

}  // namespace

std::string Error::message() const {
  std::string line = what;
  const std::string why = code ? code.message() : std::string();
  if (!why.empty() && !says(line, why)) line += (line.empty() ? "" : ": ") + why;  // it may say so itself
  if (!advice.empty()) line += "; " + advice;
  return escape_controls(line);
}

Failure fail(std::error_code code, std::string what, std::string advice) {
  return Failure(Error{code, std::move(what), std::move(advice)});
}

Failure fail(Errc code, std::string what, std::string advice) { return fail(make_error_code(code), std::move(what), std::move(advice)); }

Failure fail_errno(std::string what, std::string advice) {
  return fail(std::error_code(errno, std::generic_category()), std::move(what), std::move(advice));
}

StepFailed::StepFailed(Error error) : std::runtime_error(error.message()), error_(std::move(error)) {}

namespace {

ExitCode exit_code_of_ours(Errc code) noexcept {
  switch (code) {
    case Errc::usage: return ExitCode::usage;
    case Errc::not_found: return ExitCode::not_found;
    case Errc::malformed:
    case Errc::too_large:
    case Errc::out_of_order:
    case Errc::unsupported_version:
    case Errc::refused:
    case Errc::closed:
    case Errc::nobody:
    case Errc::timed_out: return ExitCode::network;
    case Errc::interrupted: return ExitCode::interrupted;
    case Errc::partial: return ExitCode::partial;
    case Errc::wrong_digest: return ExitCode::checksum;
    case Errc::unsafe_name:
    case Errc::changed:
    case Errc::unsupported: return ExitCode::unknown;
  }
  return ExitCode::unknown;
}

}  // namespace

ExitCode exit_code_of(const Error& error) noexcept {
  const std::error_code& code = error.code;
  if (code.category() == shoal_category()) return exit_code_of_ours(static_cast<Errc>(code.value()));
  const bool is_errno = code.category() == std::generic_category() || code.category() == std::system_category();
  if (code == std::errc::no_space_on_device || (is_errno && code.value() == EDQUOT)) return ExitCode::disk_full;
  for (const auto network :
       {std::errc::connection_refused, std::errc::connection_reset, std::errc::host_unreachable, std::errc::network_unreachable,
        std::errc::timed_out, std::errc::address_in_use, std::errc::address_not_available, std::errc::connection_aborted,
        std::errc::broken_pipe, std::errc::network_down, std::errc::not_connected})
    if (code == network) return ExitCode::network;
  return ExitCode::unknown;
}

}  // namespace shoal
