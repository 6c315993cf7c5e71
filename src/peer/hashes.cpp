module;

#include <fmt/core.h>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

module shoal.peer;

import :node;
import shoal.base;
import shoal.digest;
import shoal.schedule;
import shoal.wire;
import shoal.world;

namespace shoal {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t kSpansAtOnce = 32;
constexpr Nanoseconds kPatience = 5s;

/// Somebody who can be expected to have the hashes: best who has all of the content.
Remote* source_of_hashes(Node& node, const Content& content) {
  std::vector<Remote*> whole;
  std::vector<Remote*> some;
  for (const auto& [source, remote] : node.remotes) {
    if (remote->complete.contains(content.index))
      whole.push_back(remote.get());
    else if (remote->handle_of.contains(content.index))
      some.push_back(remote.get());
  }
  auto& candidates = whole.empty() ? some : whole;
  return candidates.empty() ? nullptr : candidates[node.world.random() % candidates.size()];
}

Task<> send_hashes(Node& node, Source source, std::uint32_t handle, std::uint32_t index, ChunkHashes hashes) {
  const HashSpan span = co_await offload(node.world, [&] { return make_span(*hashes, index); });
  if (Remote* remote = find_remote(node, source)) tell(*remote, HashReply{handle, index, span.hashes, span.proof});
}

}  // namespace

/// Asks for the spans that are missing and not asked for, a few at a time. Called again as answers come, and by the clock.
void ask_for_hashes(Node& node, Content& content) {
  const std::vector<bool>& spans = content.several->spans;
  const Instant now = node.world.now();
  std::size_t under_way = 0;
  for (std::uint32_t span = 0; span < spans.size() && under_way < kSpansAtOnce; ++span) {
    if (spans[span]) continue;
    ++under_way;
    const auto asked = node.hash_requests.find({content.index, span});
    if (asked != node.hash_requests.end() && now - asked->second.at < kPatience) continue;
    Remote* remote = source_of_hashes(node, content);
    if (!remote) return;
    node.hash_requests[{content.index, span}] = {now, remote->source};
    tell(*remote, HashRequest{remote->handle_of.at(content.index), span});
  }
}

void on_hash_request(Node& node, Remote& remote, const HashRequest& request) {
  const Content* content = find_content(node, ContentIndex(request.handle));
  if (!content || !content->hashes || request.span >= span_count(content->chunks))
    return tell(remote, HashReply{request.handle, request.span, {}, {}});
  node.tasks.spawn(node.strand, "hashes", send_hashes(node, remote.source, request.handle, request.span, content->hashes));
}

Result<> on_hash_reply(Node& node, Remote& remote, const HashReply& reply) {
  const auto index = content_for(remote, reply.handle);
  if (!index) return {};
  Content& content = *find_content(node, *index);
  if (node.hash_requests.erase({*index, reply.span}) == 0 || content.stage != Stage::opening || content.hashes) return {};
  if (reply.hashes.empty()) {
    remote.complete.erase(*index);  // it cannot help with hashes; ask somebody else first
    return {};
  }
  auto& gathered = content.several->gathered;
  auto& spans = content.several->spans;
  if (reply.span >= spans.size() || spans[reply.span]) return {};
  if (!span_is_valid({reply.span, reply.hashes, reply.proof}, content.root, content.size))
    return fail(Errc::wrong_digest, "chunk hashes that do not lead to the root");
  std::ranges::copy(reply.hashes, gathered.begin() + std::ptrdiff_t{reply.span} * kSpanChunks);
  spans[reply.span] = true;
  if (std::ranges::all_of(spans, [](bool is_here) { return is_here; }))
    on_hashes_complete(node, content);
  else
    ask_for_hashes(node, content);
  return {};
}

}  // namespace shoal
