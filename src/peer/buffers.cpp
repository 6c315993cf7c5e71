module;

#include <boost/asio/any_io_executor.hpp>
#include <tl/expected.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

module shoal.peer;

import :node;
import shoal.base;
import shoal.world;

namespace shoal {

BufferPool::Bytes BufferPool::take() {
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      Bytes bytes = std::move(free_.back());
      free_.pop_back();
      return bytes;
    }
  }
  return std::make_unique_for_overwrite<std::byte[]>(kChunkSize);
}

void BufferPool::give_back(Bytes bytes) {
  const std::lock_guard lock(mutex_);
  free_.push_back(std::move(bytes));
}

ChunkBuffer::ChunkBuffer(std::shared_ptr<BufferPool> pool, std::uint32_t size, Budget::Share share)
    : size_(size), share_(std::move(share)) {
  if (size == kChunkSize) {
    pool_ = std::move(pool);
    bytes_ = pool_->take();
  } else {
    bytes_ = std::make_unique_for_overwrite<std::byte[]>(size);
  }
}

ChunkBuffer& ChunkBuffer::operator=(ChunkBuffer&& other) noexcept {
  if (this == &other) return *this;
  release();
  pool_ = std::move(other.pool_);
  bytes_ = std::move(other.bytes_);
  size_ = std::exchange(other.size_, 0);
  share_ = std::move(other.share_);
  return *this;
}

void ChunkBuffer::release() {
  if (pool_ && bytes_) pool_->give_back(std::move(bytes_));
  pool_.reset();
}

bool Inbox::put(Received received) {
  const std::lock_guard lock(mutex_);
  received_.push_back(std::move(received));
  return received_.size() == 1;
}

std::vector<Received> Inbox::take() {
  const std::lock_guard lock(mutex_);
  return std::exchange(received_, {});
}

}  // namespace shoal
