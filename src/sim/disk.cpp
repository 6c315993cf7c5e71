module;

#include <fmt/core.h>
#include <tl/expected.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

module shoal.sim;

import :internal;
import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.world;

namespace shoal::sim {
namespace {

Failure failed(std::errc code, std::string what) { return fail(std::make_error_code(code), std::move(what)); }

Result<> works(const Disk& disk, const std::string& what) {
  if (disk.is_broken) return failed(std::errc::io_error, what);
  return {};
}

/// Reads `out` from `offset` on, chunk by chunk.
template <class Read>
void read_by_chunk(std::uint64_t offset, std::span<std::byte> out, Read read) {
  while (!out.empty()) {
    const std::uint64_t chunk = offset / kChunkSize;
    const auto part = out.first(std::min<std::uint64_t>(out.size(), (chunk + 1) * kChunkSize - offset));
    read(static_cast<std::uint32_t>(chunk), offset, part);
    offset += part.size();
    out = out.subspan(part.size());
  }
}

Result<> read_partial(const Library& library, const PartialData& data, std::uint64_t offset, std::span<std::byte> out) {
  if (offset + out.size() > data.size) return fail(Errc::changed, "reading past the end");
  read_by_chunk(offset, out, [&](std::uint32_t chunk, std::uint64_t at, std::span<std::byte> part) {
    const ChunkState state = data.chunks[chunk];
    if (state == ChunkState::right) return library.fill(*data.content, at, part);
    const auto filler = state == ChunkState::absent ? std::byte{0} : std::byte{0xA5};
    std::ranges::fill(part.first(library.bytes() == Bytes::real ? part.size() : std::min<std::size_t>(part.size(), 32)), filler);
  });
  return {};
}

/// A file of the folder, or one that is being fetched.
class DiskSource final : public ChunkSource {
 public:
  DiskSource(const Library& library, std::shared_ptr<const Disk> disk, ContentPtr content)
      : library_(library), disk_(std::move(disk)), content_(std::move(content)) {}
  std::uint64_t size() const override { return content_->size; }
  Result<> read(std::uint64_t offset, std::span<std::byte> out) const override {
    if (offset + out.size() > content_->size) return fail(Errc::changed, "reading past the end");
    library_.fill(*content_, offset, out);
    return {};
  }
  Result<> check() const override { return works(*disk_, "cannot read"); }

 private:
  const Library& library_;
  std::shared_ptr<const Disk> disk_;
  ContentPtr content_;
};

class PartialSource final : public ChunkSource {
 public:
  PartialSource(const Library& library, std::shared_ptr<const Disk> disk, std::shared_ptr<const PartialData> data)
      : library_(library), disk_(std::move(disk)), data_(std::move(data)) {}
  std::uint64_t size() const override { return data_->size; }
  Result<> read(std::uint64_t offset, std::span<std::byte> out) const override { return read_partial(library_, *data_, offset, out); }
  Result<> check() const override {
    if (data_->is_changed) return fail(Errc::changed, "cannot read");
    return works(*disk_, "cannot read");
  }

 private:
  const Library& library_;
  std::shared_ptr<const Disk> disk_;
  std::shared_ptr<const PartialData> data_;
};

class SimPartial final : public PartialFile {
 public:
  SimPartial(const Library& library, std::shared_ptr<Disk> disk, std::shared_ptr<PartialData> data, std::shared_ptr<bool> is_fenced)
      : library_(library),
        disk_(std::move(disk)),
        data_(std::move(data)),
        is_fenced_(std::move(is_fenced)),
        source_(std::make_shared<PartialSource>(library, disk_, data_)) {}

  std::uint64_t size() const override { return data_->size; }
  Result<> write(std::uint64_t offset, std::span<const std::byte> bytes) override;
  Result<> read(std::uint64_t offset, std::span<std::byte> out) const override;
  std::vector<ByteRange> written() const override;
  std::shared_ptr<const ChunkSource> source() const override { return source_; }

  PartialData& data() { return *data_; }
  const std::shared_ptr<PartialData>& shared_data() { return data_; }

 private:
  bool is_right(std::uint32_t chunk, std::span<const std::byte> bytes) const;

  const Library& library_;
  std::shared_ptr<Disk> disk_;
  std::shared_ptr<PartialData> data_;
  std::shared_ptr<bool> is_fenced_;
  std::shared_ptr<const ChunkSource> source_;
};

Result<> SimPartial::read(std::uint64_t offset, std::span<std::byte> out) const {
  if (auto sound = works(*disk_, "cannot read"); !sound) return sound;
  return read_partial(library_, *data_, offset, out);
}

/// Byte by byte: what is told right here does not depend on digests, which the code that is tested goes by.
bool SimPartial::is_right(std::uint32_t chunk, std::span<const std::byte> bytes) const {
  if (!data_->content) return false;
  if (library_.bytes() == Bytes::marks) return library_.digester().chunk_hash(bytes, data_->size) == (*data_->content->chunks)[chunk];
  std::vector<std::byte> right(bytes.size());
  library_.fill(*data_->content, std::uint64_t{chunk} * kChunkSize, right);
  return std::ranges::equal(right, bytes);
}

Result<> SimPartial::write(std::uint64_t offset, std::span<const std::byte> bytes) {
  const auto chunk = static_cast<std::uint32_t>(offset / kChunkSize);
  if (offset % kChunkSize != 0 || bytes.size() != chunk_length(data_->size, ChunkIndex(chunk)))
    return fail(Errc::unsupported, "simulated files are written by whole chunks");
  if (*is_fenced_) return fail(Errc::interrupted, "writing after the end");
  if (auto sound = works(*disk_, "cannot write"); !sound) return sound;
  ChunkState& state = data_->chunks[chunk];
  if (state == ChunkState::absent) {
    if (disk_->used + bytes.size() > disk_->capacity) return failed(std::errc::no_space_on_device, "cannot write");
    disk_->used += bytes.size();
  }
  disk_->occupy(bytes.size());
  state = is_right(chunk, bytes) ? ChunkState::right : ChunkState::wrong;
  data_->is_synced[chunk] = false;
  return {};
}

std::vector<ByteRange> SimPartial::written() const {
  std::vector<ByteRange> ranges;
  for (std::uint32_t chunk = 0; chunk < data_->chunks.size(); ++chunk) {
    if (data_->chunks[chunk] == ChunkState::absent) continue;
    const std::uint64_t begin = std::uint64_t{chunk} * kChunkSize;
    const std::uint64_t end = begin + chunk_length(data_->size, ChunkIndex(chunk));
    if (!ranges.empty() && ranges.back().end == begin)
      ranges.back().end = end;
    else
      ranges.push_back({begin, end});
  }
  return ranges;
}

}  // namespace

void Disk::lose_power(Random& random) {
  for (const auto& [key, data] : partials)
    for (std::size_t chunk = 0; chunk < data->chunks.size(); ++chunk) {
      if (data->chunks[chunk] != ChunkState::right || data->is_synced[chunk]) continue;
      // A third is lost, and what a third of the rest holds is not what was written.
      const std::uint64_t fate = random.below(9);
      if (fate < 3)
        data->chunks[chunk] = ChunkState::absent;
      else if (fate < 5)
        data->chunks[chunk] = ChunkState::wrong;
      else
        data->is_synced[chunk] = true;
      const std::uint64_t bytes = chunk_length(data->size, ChunkIndex(static_cast<std::uint32_t>(chunk)));
      if (fate < 3) used -= bytes;
      if (fate < 5) lost += bytes;
    }
}

void Disk::edit(const std::string& name, bool is_truncated) {
  DiskFile& file = files.at(name);
  file.content = nullptr;
  file.entry.root.bytes.front() ^= 1;
  file.entry.md5.bytes.front() ^= 1;
  if (is_truncated) file.entry.size = 0;
  if (!file.written) return;
  file.written->is_changed = true;
  if (is_truncated) file.written->size = 0;
  std::ranges::fill(file.written->chunks, ChunkState::wrong);
}

void Disk::occupy(std::uint64_t bytes) {
  if (rate <= 0) return;
  busy_until = std::max(busy_until, loop.now()) + Nanoseconds(static_cast<std::int64_t>(static_cast<double>(bytes) / rate * 1e9));
}

std::map<std::string, DiskFile>::const_iterator Disk::find(const std::string& name) const {
  if (!folding.is_any()) return files.find(name);
  return std::ranges::find(files, fold_name(name, folding), [&](const auto& file) { return fold_name(file.first, folding); });
}

void Disk::publish(DiskFile file) {
  const std::string name = file.entry.name;
  if (const auto replaced = find(name); replaced != files.end() && replaced->first != name) files.erase(replaced);
  if (!file.is_right) wrong.push_back(name);
  files.insert_or_assign(name, std::move(file));
  if (on_published) on_published(name);
}

SimStorage::SimStorage(const Library& library, std::shared_ptr<Disk> disk) : library_(library), disk_(std::move(disk)) {}

Result<ScanReport> SimStorage::scan(const ScanOptions& options) {
  if (auto sound = works(*disk_, "cannot list the folder"); !sound) return Failure(sound.error());
  ScanReport report;
  for (const auto& [name, file] : disk_->files) {
    const auto is_match = [&](const std::string& pattern) { return matches(pattern, name); };
    if (!options.include.empty() && std::ranges::none_of(options.include, is_match)) continue;
    if (std::ranges::any_of(options.exclude, is_match)) continue;
    if (auto stored = digest(name)) report.files.push_back(std::move(*stored));
  }
  return report;
}

Result<StoredFile> SimStorage::digest(const std::string& name) {
  if (auto sound = works(*disk_, fmt::format("cannot digest {}", name)); !sound) return Failure(sound.error());
  const auto file = disk_->find(name);
  if (file == disk_->files.end()) return fail(Errc::not_found, fmt::format("cannot digest {}", name));
  const ContentPtr& content = file->second.content;
  return StoredFile{file->second.entry, content && content->chunks->size() > 1 ? content->chunks : nullptr};
}

Result<std::shared_ptr<const ChunkSource>> SimStorage::open(const FileEntry& entry) {
  if (auto sound = works(*disk_, fmt::format("cannot open {}", entry.name)); !sound) return Failure(sound.error());
  const auto file = disk_->find(entry.name);
  if (file == disk_->files.end() || !(file->second.entry == entry) || !file->second.content)
    return fail(Errc::changed, fmt::format("cannot open {}", entry.name));
  return std::make_shared<DiskSource>(library_, disk_, file->second.content);
}

Result<std::shared_ptr<PartialFile>> SimStorage::open_partial(const FileEntry& entry) {
  if (*is_fenced_) return fail(Errc::interrupted, "opening after the end");
  if (auto sound = works(*disk_, fmt::format("cannot write {}", entry.name)); !sound) return Failure(sound.error());
  auto& data = disk_->partials[{entry.root, entry.size}];
  if (!data) {
    data = std::make_shared<PartialData>();
    data->size = entry.size;
    data->content = library_.find(entry.root, entry.size);
    data->chunks.resize(chunk_count(entry.size));
    data->is_synced.resize(data->chunks.size());
  }
  return std::make_shared<SimPartial>(library_, disk_, data, is_fenced_);
}

Result<> SimStorage::publish_one(const Publication& file) {
  if (*is_fenced_) return fail(Errc::interrupted, "publishing after the end");
  if (auto sound = works(*disk_, fmt::format("cannot publish {}", file.entry.name)); !sound) return sound;
  auto* const partial = dynamic_cast<SimPartial*>(file.file.get());
  if (!partial) return fail(Errc::unsupported, "a partial file of another storage");
  const PartialData& data = partial->data();
  DiskFile published{file.entry, data.content, data.content != nullptr && file.entry.md5 == data.content->md5, partial->shared_data()};
  if (!std::ranges::all_of(data.chunks, [](ChunkState state) { return state == ChunkState::right; })) {
    published.is_right = false;
    published.content = nullptr;
  }
  disk_->publish(std::move(published));
  disk_->partials.erase({file.entry.root, file.entry.size});
  return {};
}

std::vector<Result<>> SimStorage::publish(std::span<const Publication> files) {
  std::vector<Result<>> results;
  for (const Publication& file : files) results.push_back(publish_one(file));
  return results;
}

Result<> SimStorage::copy(const StoredFile& from, const FileEntry& to) {
  if (*is_fenced_) return fail(Errc::interrupted, "copying after the end");
  if (auto sound = works(*disk_, fmt::format("cannot copy {}", from.entry.name)); !sound) return sound;
  const auto file = disk_->find(from.entry.name);
  if (file == disk_->files.end()) return fail(Errc::changed, fmt::format("cannot copy {}", from.entry.name));
  if (disk_->used + to.size > disk_->capacity) return failed(std::errc::no_space_on_device, fmt::format("cannot copy to {}", to.name));
  disk_->used += to.size;
  disk_->occupy(to.size);
  DiskFile copied = file->second;
  copied.entry = to;
  copied.written = nullptr;
  copied.is_right = copied.content && copied.content->root == to.root && copied.content->md5 == to.md5;
  disk_->publish(std::move(copied));
  return {};
}

bool SimStorage::exists(const std::string& name) const { return disk_->find(name) != disk_->files.end(); }

Result<> SimStorage::make_empty(const FileEntry& entry) {
  if (*is_fenced_) return fail(Errc::interrupted, "making a file after the end");
  if (auto sound = works(*disk_, fmt::format("cannot make {}", entry.name)); !sound) return sound;
  disk_->publish({entry, nullptr, true});
  return {};
}

std::size_t SimStorage::remove_stale_partials() { return 0; }

}  // namespace shoal::sim
