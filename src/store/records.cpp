module;

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>
#include <tl/expected.hpp>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <utility>

module shoal.store;

import :internal;
import shoal.base;
import shoal.world;

namespace shoal {
namespace {

/// The bytes that were there when it was made.
class RecordSource final : public ChunkSource {
 public:
  RecordSource(std::shared_ptr<const Fd> fd, std::string path, std::uint64_t size)
      : fd_(std::move(fd)), path_(std::move(path)), size_(size) {}

  std::uint64_t size() const override { return size_; }
  Result<> read(std::uint64_t offset, std::span<std::byte> out) const override {
    const std::int64_t n = read_fully(fd_->get(), offset, out);
    if (n < 0) return io_failure("read", path_);
    if (static_cast<std::size_t>(n) < out.size()) return fail(Errc::changed, "read " + path_);
    return {};
  }
  Result<> check() const override {
    struct stat status{};
    if (::fstat(fd_->get(), &status) != 0) return io_failure("read", path_);
    if (static_cast<std::uint64_t>(status.st_size) < size_) return fail(Errc::changed, "read " + path_);
    return {};
  }
  int descriptor() const override { return fd_->get(); }

 private:
  std::shared_ptr<const Fd> fd_;
  std::string path_;
  std::uint64_t size_;
};

class DiskRecord final : public RecordFile {
 public:
  DiskRecord(Fd fd, std::string path) : fd_(std::make_shared<Fd>(std::move(fd))), path_(std::move(path)) {}

  Result<> append(std::span<const std::byte> bytes) override {
    if (!write_fully(fd_->get(), size_, bytes)) {
      const int error = errno;
      static_cast<void>(::ftruncate(fd_->get(), static_cast<off_t>(size_)) == 0);  // whole rows only
      return io_failure(error, "write", path_);
    }
    size_ += bytes.size();
    return {};
  }
  Result<std::shared_ptr<const ChunkSource>> source() const override { return std::make_shared<RecordSource>(fd_, path_, size_); }

 private:
  std::shared_ptr<Fd> fd_;
  std::string path_;
  std::uint64_t size_ = 0;
};

class DiskRecords final : public RecordFolder {
 public:
  explicit DiskRecords(std::string folder) : folder_(std::move(folder)) {}

  Result<std::unique_ptr<RecordFile>> create(const std::string& name) override {
    const std::string path = path_of(name);
    Fd fd(open_new(path));
    if (!fd && errno == ENOENT) {
      std::error_code error;
      std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
      if (error) return fail(error, fmt::format("cannot make the folder of {}", path), "choose another with --out");
      fd = Fd(open_new(path));
    }
    if (!fd) return io_failure("make", path);
    return std::make_unique<DiskRecord>(std::move(fd), path);
  }
  Result<> rename(const std::string& from, const std::string& to) override {
    if (std::rename(path_of(from).c_str(), path_of(to).c_str()) != 0) return io_failure("rename", path_of(from));
    return {};
  }
  void remove(const std::string& name) override { ::unlink(path_of(name).c_str()); }

 private:
  std::string path_of(const std::string& name) const { return folder_ + "/" + name; }
  static int open_new(const std::string& path) { return ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666); }

  std::string folder_;
};

}  // namespace

std::unique_ptr<RecordFolder> open_records(std::string folder) { return std::make_unique<DiskRecords>(std::move(folder)); }

Result<std::unique_ptr<RecordFolder>> make_records(std::string folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (!error && !std::filesystem::is_directory(folder, error)) error = std::make_error_code(std::errc::not_a_directory);
  if (!error && ::access(folder.c_str(), W_OK | X_OK) != 0) error = std::error_code(errno, std::generic_category());
  if (error)
    return fail(Errc::usage, fmt::format("cannot write to the folder {}: {}", folder, error.message()), "choose another with --out");
  return open_records(std::move(folder));
}

}  // namespace shoal
