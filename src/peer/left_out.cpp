// What a run leaves out, which is said once each.
module;

#include <tl/expected.hpp>

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

module shoal.peer;

import :node;
import shoal.base;
import shoal.report;

namespace shoal {

std::vector<Error> LeftOut::set_own(std::vector<Error> problems) {
  std::set<std::string> own;
  std::vector<Error> news;
  for (Error& problem : problems) {
    const std::string message = problem.message();
    if (!is_told(message)) news.push_back(std::move(problem));
    own.insert(message);
  }
  own_ = std::move(own);
  files_.clear();
  return news;
}

bool LeftOut::is_told(const std::string& message) const {
  return own_.contains(message) || others_.contains(message) ||
         std::ranges::any_of(files_, [&](const auto& file) { return file.second == message; });
}

bool LeftOut::add_file(const std::string& name, const Error& problem) {
  std::string message = problem.message();
  const bool is_news = !is_told(message);
  files_.insert_or_assign(name, std::move(message));
  return is_news;
}

bool LeftOut::add(const Error& problem) {
  std::string message = problem.message();
  if (is_told(message) || others_.size() >= kMostOthers) return false;
  return others_.insert(std::move(message)).second;
}

bool is_no_file(const Error& why) {
  return why.code == make_error_code(Errc::not_found) || why.code == std::errc::too_many_symbolic_link_levels ||
         why.code == std::errc::is_a_directory;
}

void leave_out(Node& node, const Error& problem) {
  if (node.left_out.add(problem)) node.report.warn(problem.message());
}

void leave_out_file(Node& node, const std::string& name, const Error& problem) {
  if (node.left_out.add_file(name, problem)) node.report.warn(problem.message());
}

void leave_out_own(Node& node, std::vector<Error> problems) {
  for (const Error& problem : node.left_out.set_own(std::move(problems))) node.report.warn(problem.message());
}

}  // namespace shoal
