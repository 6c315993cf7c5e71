/// Nodes of the overlay that were heard of, kept for later runs in a small file. Include this last: it imports modules.
#pragma once

#include <tl/expected.hpp>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

import shoal.base;

namespace shoal::apps {

inline constexpr std::size_t kMostNodes = 64;

/// The addresses in `file`, the newest first, at most kMostNodes; lines that are none are skipped. None where it cannot be read.
std::vector<Endpoint> read_nodes(const std::string& file);
/// Puts `nodes` in front of those that `file` has. It is written whole or not at all, whoever else writes it at the same time.
Result<void> keep_nodes(const std::string& file, std::span<const Endpoint> nodes);

}  // namespace shoal::apps
