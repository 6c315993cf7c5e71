// What a run leaves out, which is said once each.
module;

#include <tl/expected.hpp>

#include <set>
#include <string>
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
    if (!own_.contains(message) && !others_.contains(message)) news.push_back(std::move(problem));
    own.insert(message);
  }
  own_ = std::move(own);
  return news;
}

bool LeftOut::add(const Error& problem) {
  std::string message = problem.message();
  if (own_.contains(message) || others_.size() >= kMostOthers) return false;
  return others_.insert(std::move(message)).second;
}

void leave_out(Node& node, const Error& problem) {
  if (node.left_out.add(problem)) node.report.warn(problem.message());
}

void leave_out_own(Node& node, std::vector<Error> problems) {
  for (const Error& problem : node.left_out.set_own(std::move(problems))) node.report.warn(problem.message());
}

}  // namespace shoal
