/// A folder for records in memory. Include this after the headers of libraries; import shoal.base and shoal.world before it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace shoal::test {

class MemoryRecords final : public RecordFolder {
 public:
  /// From now on nothing more can be written.
  void fill() { is_full_ = true; }
  bool has(const std::string& name) const { return files_.contains(name); }
  std::string text(const std::string& name) const {
    const auto file = files_.find(name);
    return file == files_.end() ? std::string() : std::string(file->second->begin(), file->second->end());
  }
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const auto& [name, text] : files_) names.push_back(name);
    return names;
  }

  Result<std::unique_ptr<RecordFile>> create(const std::string& name) override {
    if (is_full_) return full();
    files_[name] = std::make_shared<Text>();
    return std::make_unique<File>(*this, files_[name]);
  }
  Result<> rename(const std::string& from, const std::string& to) override {
    const auto file = files_.find(from);
    if (file == files_.end()) return fail(std::make_error_code(std::errc::no_such_file_or_directory), "rename " + from);
    files_[to] = std::exchange(file->second, nullptr);
    files_.erase(from);
    return {};
  }
  void remove(const std::string& name) override { files_.erase(name); }

 private:
  using Text = std::vector<char>;

  static Failure full() { return fail(std::make_error_code(std::errc::no_space_on_device), "write a record"); }

  class Source final : public ChunkSource {
   public:
    explicit Source(std::shared_ptr<const Text> text) : text_(std::move(text)), size_(text_->size()) {}
    std::uint64_t size() const override { return size_; }
    Result<> read(std::uint64_t offset, std::span<std::byte> out) const override {
      if (offset + out.size() > size_) return fail(Errc::changed, "read a record");
      for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<std::byte>((*text_)[static_cast<std::size_t>(offset) + i]);
      return {};
    }
    Result<> check() const override { return {}; }

   private:
    std::shared_ptr<const Text> text_;
    std::uint64_t size_;
  };

  class File final : public RecordFile {
   public:
    File(MemoryRecords& folder, std::shared_ptr<Text> text) : folder_(folder), text_(std::move(text)) {}
    Result<> append(std::span<const std::byte> bytes) override {
      if (folder_.is_full_) return full();
      for (const std::byte byte : bytes) text_->push_back(static_cast<char>(byte));
      return {};
    }
    Result<std::shared_ptr<const ChunkSource>> source() const override { return std::make_shared<Source>(text_); }

   private:
    MemoryRecords& folder_;
    std::shared_ptr<Text> text_;
  };

  std::map<std::string, std::shared_ptr<Text>> files_;
  bool is_full_ = false;
};

}  // namespace shoal::test
