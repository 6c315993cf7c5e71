module;

#include <fmt/core.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <tl/expected.hpp>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

module shoal.world;

namespace asio = boost::asio;

namespace shoal {

void leave_to_exit(void* object) {
  static std::mutex mutex;
  static auto* const left = new std::vector<void*>;  // so that it is still referred to where leaks are looked for
  const std::lock_guard lock(mutex);
  left->push_back(object);
}

void Digester::hash_chunks(std::span<ChunkToHash> chunks) const { shoal::hash_chunks(chunks); }

Sha256Digest Digester::chunk_hash(std::span<const std::byte> chunk, std::uint64_t file_size) const {
  ChunkToHash only{chunk, file_size, {}};
  hash_chunks({&only, 1});
  return only.hash;
}

void Digester::update(Md5Stream& md5, std::uint64_t, std::span<const std::byte> bytes) const { md5.update(bytes); }

void Digester::update_together(std::span<const Md5Piece> pieces, std::span<const std::uint64_t>) const {
  Md5Stream::update_together(pieces);
}

std::vector<Md5Piece> Digester::update_small(std::span<const Md5Piece> pieces, bool are_last) const {
  if (!are_last) return Md5Stream::update_in_company(pieces);
  Md5Stream::update_together(pieces);
  return {};
}

Result<std::unique_ptr<FolderWatch>> Storage::watch(std::function<void(FolderChanges)>) {
  return fail(Errc::unsupported, "watching a folder");
}

const Digester& World::digester() const {
  static const Digester real;
  return real;
}

Result<std::unique_ptr<DatagramSocket>> World::open_datagrams(const Endpoint&, Executor) { return fail(Errc::unsupported, "datagrams"); }

Result<std::unique_ptr<DatagramSocket>> World::connect_datagrams(const Endpoint&, Executor) { return fail(Errc::unsupported, "datagrams"); }

Executor make_strand(World& world) {
  if (world.is_sequential()) return world.executor();
  return asio::make_strand(world.executor());
}

Task<> run_on(Executor executor, std::function<void()> work) {
  auto initiate = [&executor](auto handler, std::function<void()> job) {
    asio::post(executor, [handler = std::move(handler), job = std::move(job)]() mutable {
      std::exception_ptr failure;
      try {
        job();
      } catch (...) {
        failure = std::current_exception();
      }
      const auto home = asio::get_associated_executor(handler);
      asio::post(home, [handler = std::move(handler), failure]() mutable { std::move(handler)(failure); });
    });
  };
  const asio::use_awaitable_t<Executor> token;
  co_await asio::async_initiate<const asio::use_awaitable_t<Executor>, void(std::exception_ptr)>(initiate, token, std::move(work));
}

namespace {

/// What was said stays wrong however often it is said; or, as `refused`, it may be taken later.
Errc code_of(RefusalReason reason) {
  switch (reason) {
    case RefusalReason::bad_register: return Errc::usage;
    case RefusalReason::version: return Errc::unsupported_version;
    default: return Errc::refused;
  }
}

}  // namespace

Error unexpected_message(const Incoming& incoming, MessageType wanted) {
  if (const auto* message = std::get_if<Message>(&incoming)) {
    if (const auto* refusal = std::get_if<Refusal>(message)) return Error{make_error_code(code_of(refusal->reason)), refusal->text, {}};
    return Error{
        make_error_code(Errc::out_of_order), fmt::format("got {} where {} was due", name_of(type_of(*message)), name_of(wanted)), {}};
  }
  return Error{make_error_code(Errc::out_of_order), fmt::format("got a chunk where {} was due", name_of(wanted)), {}};
}

Task<Result<>> send(Link& link, Message message) {
  std::vector<Message> messages;
  messages.push_back(std::move(message));
  co_return co_await link.send(std::move(messages));
}

Task<Result<std::size_t>> Link::send_chunks(std::vector<OutgoingChunk> chunks) {
  std::size_t sent = 0;
  for (auto& chunk : chunks) {
    const auto result = co_await send_chunk(chunk.header, std::move(chunk.source), chunk.file_offset);
    if (!result && result.error().code == make_error_code(Errc::changed)) break;
    if (!result) co_return Failure(result.error());
    ++sent;
  }
  co_return sent;
}

Task<Result<>> Link::receive_all(std::vector<Incoming>& out, Nanoseconds idle) {
  out.clear();
  auto incoming = co_await receive(idle);
  if (!incoming) co_return Failure(std::move(incoming).error());
  out.push_back(std::move(*incoming));
  co_return Result<>{};
}

void Storage::confirm(const StoredFile&) {}

std::vector<Result<>> Storage::copy_all(std::span<const Copying> copies) {
  std::vector<Result<>> results;
  for (const auto& [from, to] : copies) results.push_back(copy(from, to));
  return results;
}

}  // namespace shoal
