// Searches through the overlay: of our own, of somebody who asks this node, and what this node has itself.
module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/this_coro.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

module shoal.peer;

import :node;
import :overlay;
import shoal.base;
import shoal.manifest;
import shoal.tree;
import shoal.wire;
import shoal.world;

namespace asio = boost::asio;
using namespace std::chrono_literals;

namespace shoal {

// ---- what this node has -------------------------------------------------------------------------------

SearchAnswer Overlay::own_node(std::uint64_t search) const {
  SearchAnswer answer{search, true, 0, 0, false, {}, {}};
  answer.found_nodes.push_back({tree_.key(), self_.id, self_.listening.host, self_.listening.port, tree_.neighbours()});
  return answer;
}

Task<> Overlay::look_up_one(Wanted wanted) {
  if (wanted.kind == SearchKind::nodes) {
    searches_.on_looked_up(wanted.search, own_node(wanted.search), now());
    co_return carry_out();
  }
  const auto is_wanted = [this, id = wanted.search] { return searches_.is_under_way(id); };
  const auto take_part = [this, id = wanted.search](SearchAnswer part) {
    for (Hit& hit : part.hits) {
      hit.id = self_.id;
      hit.host = self_.listening.host;
      hit.port = self_.listening.port;
    }
    searches_.on_looked_up(id, std::move(part), now());
    carry_out();
  };
  co_await look_up_(std::move(wanted.pattern), strand_, is_wanted, take_part);
}

/// One after the other, so that many searches cost what one costs at a time.
Task<> Overlay::look_up_in_turn() {
  for (;;) {
    while (to_look_up_.empty()) co_await has_to_look_up_.wait();
    Wanted wanted = std::move(to_look_up_.front());
    to_look_up_.pop_front();
    co_await look_up_one(std::move(wanted));
  }
}

// ---- whoever asks this node ---------------------------------------------------------------------------

std::pair<LinkIndex, Overlay::ClientPtr> Overlay::begin_search(Asker asker, const Search& search) {
  const LinkIndex link = tree_.new_link();
  const auto client = std::make_shared<Client>();
  clients_[link] = client;
  const auto branches = tree_.links();
  const auto begun = searches_.on_search(link, asker, search, branches, tree_.is_settled(), now());
  if (!begun) client->parts.push_back({search.id, true, 0, 1, false, {}, {}});
  carry_out();
  return {link, client};
}

void Overlay::end_client(LinkIndex link) {
  clients_.erase(link);
  searches_.on_closed(link);
  carry_out();
}

Task<Result<OverlaySearch>> Overlay::follow_search(Asker asker, Search search, std::function<Task<>(SearchAnswer)> on_part) {
  const auto [link, client] = co_await call_on(strand_, [&] { return begin_search(asker, search); });
  OverlaySearch outcome;
  std::exception_ptr failed;
  try {
    for (bool is_over = false; !is_over;) {
      auto parts = co_await call_on(strand_, [&, waiting = client] { return std::exchange(waiting->parts, {}); });
      if (parts.empty()) co_await client->came.wait();
      for (SearchAnswer& part : parts) {
        if (part.is_last) outcome = {part.nodes, part.missing, part.is_cut};
        is_over |= part.is_last;
        co_await on_part(std::move(part));
      }
    }
  } catch (...) {
    failed = std::current_exception();
  }
  co_await run_on(strand_, [&, ended = link] { end_client(ended); });
  if (failed) std::rethrow_exception(failed);
  co_return outcome;
}

Task<Result<OverlaySearch>> Overlay::search(SearchKind kind, std::string pattern, std::function<void(const SearchAnswer&)> on_answer) {
  const auto on_part = [on_answer = std::move(on_answer)](SearchAnswer part) -> Task<> {
    on_answer(part);
    co_return;
  };
  co_return co_await follow_search(Asker::self, new_search(world_, kind, std::move(pattern)), on_part);
}

Task<bool> Overlay::answer(Link& link, Search search) {
  search.hops = 0;
  const auto on_part = [&link](SearchAnswer part) -> Task<> { co_await step(shoal::send(link, std::move(part))); };
  const auto outcome = co_await follow_search(Asker::stranger, std::move(search), on_part);
  co_return outcome && outcome->asked > 0;
}

}  // namespace shoal
