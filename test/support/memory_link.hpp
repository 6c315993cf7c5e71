// Links in memory, in pairs, which a test can stall and break; and a source whose bytes tell where they are from.
#pragma once

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

import shoal.base;
import shoal.wire;
import shoal.world;

namespace shoal::test {

/// What one side said and the other did not take yet.
struct MemoryPipe {
  struct Item {
    Incoming what;
    std::vector<std::byte> bytes;
  };
  std::deque<Item> items;
  std::size_t room = 4;  ///< So many items may wait before who sends has to.
  bool is_stalled = false;
  bool is_closed = false;  ///< What is in it can still be taken.
  bool is_broken = false;  ///< Nothing can.
  std::size_t chunks = 0;  ///< Frames with bytes, so far.
  std::vector<Message> said;
  Signal readable;
  Signal writable;

  void stall(bool is_on) {
    is_stalled = is_on;
    readable.notify();
  }
  void end(bool at_once) {
    is_closed = true;
    is_broken = is_broken || at_once;
    readable.notify();
    writable.notify();
  }
};
using MemoryPipePtr = std::shared_ptr<MemoryPipe>;

class MemoryLink final : public Link {
 public:
  MemoryLink(MemoryPipePtr in, MemoryPipePtr out, Executor strand) : in_(std::move(in)), out_(std::move(out)), strand_(std::move(strand)) {}
  ~MemoryLink() override { close(); }

  Task<Result<Incoming>> receive(Nanoseconds) override {
    while (!in_->is_broken && (in_->is_stalled || (in_->items.empty() && !in_->is_closed))) co_await in_->readable.wait();
    if (in_->is_broken || in_->items.empty()) co_return fail(Errc::closed, "cannot receive");
    auto item = std::move(in_->items.front());
    in_->items.pop_front();
    in_->writable.notify();
    bytes_ = std::move(item.bytes);
    co_return std::move(item.what);
  }
  Task<Result<>> receive_payload(std::span<std::byte> out) override {
    while (in_->is_stalled && !in_->is_broken) co_await in_->readable.wait();
    if (in_->is_broken) co_return fail(Errc::closed, "cannot receive");
    std::copy_n(bytes_.begin(), out.size(), out.begin());
    bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<std::ptrdiff_t>(out.size()));
    co_return Result<>{};
  }
  Task<Result<>> send(std::vector<Message> messages) override {
    for (Message& message : messages) {
      out_->said.push_back(message);
      if (auto sent = co_await put({std::move(message), {}}); !sent) co_return sent;
    }
    co_return Result<>{};
  }
  Result<bool> send_now(std::span<const Message> messages) override {
    if (out_->is_closed) return fail(Errc::closed, "cannot send");
    for (const Message& message : messages) out_->items.push_back({message, {}});
    out_->readable.notify();
    return true;
  }
  Task<Result<>> send_chunk(ChunkHeader header, std::shared_ptr<const ChunkSource> source, std::uint64_t file_offset) override {
    if (auto unchanged = source->check(); !unchanged) co_return unchanged;
    MemoryPipe::Item item{header, std::vector<std::byte>(header.length)};
    if (auto read = source->read(file_offset, item.bytes); !read) co_return read;
    ++out_->chunks;
    co_return co_await put(std::move(item));
  }
  void established() override {}
  void close() override {
    in_->end(true);
    out_->end(false);
  }
  Endpoint remote() const override { return {"memory", 1}; }
  Endpoint local() const override { return {"memory", 2}; }
  Executor executor() const override { return strand_; }
  bool is_closed() const { return out_->is_closed; }

 private:
  Task<Result<>> put(MemoryPipe::Item item) {
    while (!out_->is_closed && out_->items.size() >= out_->room) co_await out_->writable.wait();
    if (out_->is_closed) co_return fail(Errc::closed, "cannot send");
    out_->items.push_back(std::move(item));
    out_->readable.notify();
    co_return Result<>{};
  }

  MemoryPipePtr in_;
  MemoryPipePtr out_;
  Executor strand_;
  std::vector<std::byte> bytes_;
};

/// Both ends of a connection, and what is between them.
struct MemoryConnection {
  explicit MemoryConnection(const Executor& strand)
      : near(std::make_shared<MemoryLink>(back, forth, strand)), far(std::make_shared<MemoryLink>(forth, back, strand)) {}

  MemoryPipePtr forth = std::make_shared<MemoryPipe>();  ///< From near to far.
  MemoryPipePtr back = std::make_shared<MemoryPipe>();
  std::shared_ptr<MemoryLink> near;
  std::shared_ptr<MemoryLink> far;

  void cut() {
    forth->end(true);
    back->end(true);
  }
};

/// A file whose byte at an offset is known.
class PatternSource final : public ChunkSource {
 public:
  std::uint64_t size() const override { return std::uint64_t{1} << 40; }
  Result<> read(std::uint64_t offset, std::span<std::byte> out) const override {
    for (std::size_t i = 0; i < out.size(); ++i) out[i] = at(offset + i);
    return {};
  }
  Result<> check() const override {
    if (is_changed) return fail(Errc::changed, "a file");
    return {};
  }
  static std::byte at(std::uint64_t offset) { return static_cast<std::byte>((offset * 2654435761U) >> 13); }
  bool is_changed = false;
};

}  // namespace shoal::test
