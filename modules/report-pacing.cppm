/// Inside shoal.report: lines that others cause, and may cause without end.
module;

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

module shoal.report:pacing;

import shoal.base;

namespace shoal {

/// Lets one of each kind pass in ten seconds, and counts the others. Any thread.
class Pacing {
 public:
  explicit Pacing(std::function<Instant()> now) : now_(std::move(now)) {}

  struct Passed {
    std::uint64_t more = 0;  ///< Of this kind, that did not pass since the last one that did, ...
    Nanoseconds since{0};    ///< ... which is so long ago.
  };
  /// Nothing where it is not to be written. More kinds than anybody means are one kind.
  std::optional<Passed> pass(std::string_view kind, std::string_view line);
  /// Of each kind of which some did not pass, the last, as it is to be written: where the time of the kind is over, or all is.
  std::vector<std::string> overdue(bool is_end);

 private:
  struct Kind {
    Instant passed;
    std::uint64_t more = 0;
    std::string last;  ///< Of these.
  };

  std::function<Instant()> now_;
  std::mutex mutex_;
  std::map<std::string, Kind, std::less<>> kinds_;
};

/// `line (and 1,234 more like it in the last 10 s)`.
std::string with_count(std::string_view line, const Pacing::Passed& passed);

}  // namespace shoal
