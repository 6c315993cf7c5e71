module;

#include <cerrno>
#include <cstdio>
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
      case Errc::partial: return "not everything could be done";
      case Errc::unsupported: return "not supported on this system";
    }
    return "unknown error";
  }
};

bool is_control(unsigned char c) { return c < 0x20 || c == 0x7f; }

std::string escape_controls(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    if (!is_control(static_cast<unsigned char>(c))) {
      out += c;
      continue;
    }
    char hex[8];
    std::snprintf(hex, sizeof hex, "\\x%02x", static_cast<unsigned>(static_cast<unsigned char>(c)));
    out += hex;
  }
  return out;
}

}  // namespace

const std::error_category& shoal_category() noexcept {
  static const Category category;
  return category;
}

std::error_code make_error_code(Errc code) noexcept { return {static_cast<int>(code), shoal_category()}; }

std::string Error::message() const {
  std::string line = what;
  if (code) line += (line.empty() ? "" : ": ") + code.message();
  if (!advice.empty()) line += "; " + advice;
  return escape_controls(line);
}

Failure fail(std::error_code code, std::string what, std::string advice) {
  return Failure(Error{code, std::move(what), std::move(advice)});
}

Failure fail(Errc code, std::string what, std::string advice) {
  return fail(make_error_code(code), std::move(what), std::move(advice));
}

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
  if (code == std::errc::no_space_on_device || code.value() == EDQUOT) return ExitCode::disk_full;
  for (const auto network : {std::errc::connection_refused, std::errc::connection_reset, std::errc::host_unreachable,
                             std::errc::network_unreachable, std::errc::timed_out, std::errc::address_in_use,
                             std::errc::address_not_available, std::errc::connection_aborted, std::errc::broken_pipe,
                             std::errc::network_down, std::errc::not_connected})
    if (code == network) return ExitCode::network;
  return ExitCode::unknown;
}

}  // namespace shoal
