/// "Did you mean": the known word that a mistyped one is closest to.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace shoal::apps {

/// How many letters were added, left out, changed or swapped with their neighbour (Damerau and Levenshtein).
std::size_t typing_distance(std::string_view typed, std::string_view meant);
/// `did you mean PREFIXword?`, or nothing where no word is close.
std::string did_you_mean(std::string_view typed, const std::vector<std::string>& words, std::string_view prefix = {});

}  // namespace shoal::apps
