#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <tl/expected.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <map>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.store;
import shoal.world;

using namespace shoal;
namespace fs = std::filesystem;

namespace {

constexpr std::int64_t kMay2020 = 1'588'291'200'123'456'789;

/// An empty folder of its own for one test.
class Scratch {
 public:
  Scratch() {
    const char* const wish = std::getenv("TMPDIR");
    const std::string base = wish ? wish : fs::exists("/dev/shm") ? "/dev/shm" : "/tmp";
    std::string name = base + "/shoal-store-XXXXXX";
    if (!::mkdtemp(name.data())) throw std::runtime_error("no scratch folder");
    root = name;
    fs::create_directory(folder());
  }
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(root, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  fs::path folder() const { return root / "shared"; }
  fs::path cache() const { return root / "cache" / "digests.db"; }
  StoreOptions options() const { return {folder().string(), cache().string(), 2, false, {}}; }

  fs::path root;
};

void write_file(const fs::path& path, std::string_view content) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << content;
}

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Bytes that differ everywhere.
std::string pattern(std::size_t size, unsigned seed = 1) {
  std::string text(size, '\0');
  std::uint32_t state = seed * 2654435761U + 1;
  for (char& c : text) {
    state = state * 1664525U + 1013904223U;
    c = static_cast<char>(state >> 24);
  }
  return text;
}

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

void must(const Result<>& result) {
  if (!result) throw std::runtime_error(result.error().message());
}

std::unique_ptr<Storage> opened(const StoreOptions& options) {
  auto store = open_store(options);
  if (!store) throw std::runtime_error(store.error().message());
  return std::move(*store);
}

ScanReport scanned(Storage& store, const ScanOptions& options = {}) {
  auto report = store.scan(options);
  if (!report) throw std::runtime_error(report.error().message());
  return std::move(*report);
}

std::vector<std::string> names_of(const ScanReport& report) {
  std::vector<std::string> names;
  for (const StoredFile& file : report.files) names.push_back(file.entry.name);
  return names;
}

FileEntry entry_for(std::string name, std::string_view content, bool executable = false) {
  FileHasher hasher(content.size());
  must(hasher.update(bytes_of(content)));
  const FileDigest digest = hasher.finish().value();
  return {std::move(name), EntryKind::file, content.size(), kMay2020, executable, digest.md5, digest.root};
}

ChunkHashes chunks_for(std::string_view content) {
  FileHasher hasher(content.size());
  must(hasher.update(bytes_of(content)));
  auto digest = hasher.finish().value();
  if (digest.chunks.size() < 2) return nullptr;
  return std::make_shared<const std::vector<Sha256Digest>>(digest.chunks);
}

Publication fetched(Storage& store, const FileEntry& entry, std::string_view content) {
  auto partial = store.open_partial(entry);
  if (!partial) throw std::runtime_error(partial.error().message());
  must((*partial)->write(0, bytes_of(content)));
  return {*partial, entry, chunks_for(content)};
}

Result<> publish_one(Storage& store, const FileEntry& entry, std::string_view content) {
  const Publication publication = fetched(store, entry, content);
  return store.publish({&publication, 1}).front();
}

std::string content_of(const ChunkSource& source) {
  std::string text(source.size(), '\0');
  must(source.read(0, std::as_writable_bytes(std::span(text))));
  return text;
}

struct stat status_of(const fs::path& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) throw std::runtime_error("no " + path.string());
  return status;
}

timespec modified(const struct stat& status) {
#ifdef __APPLE__
  return status.st_mtimespec;
#else
  return status.st_mtim;
#endif
}

void set_times(const fs::path& path, const struct stat& like) {
  const timespec times[2] = {modified(like), modified(like)};
  if (::utimensat(AT_FDCWD, path.c_str(), times, 0) != 0) throw std::runtime_error("cannot set times");
}

std::vector<std::string> partials_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.path().filename().string().starts_with(".shoal-")) names.push_back(entry.path().filename().string());
  return names;
}

/// Lets this process have only so many, until destroyed.
class FewDescriptors {
 public:
  explicit FewDescriptors(rlim_t most) {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    rlimit less = before_;
    less.rlim_cur = most;
    ::setrlimit(RLIMIT_NOFILE, &less);
  }
  ~FewDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }
  FewDescriptors(const FewDescriptors&) = delete;
  FewDescriptors& operator=(const FewDescriptors&) = delete;

 private:
  rlimit before_{};
};

}  // namespace

// ---- opening --------------------------------------------------------------------------------------------

TEST_CASE("a missing folder is a usage error that names it") {
  const Scratch scratch;
  const auto store = open_store({(scratch.root / "absent").string(), "", 1, false, {}});
  REQUIRE(!store);
  CHECK((exit_code_of(store.error()) == ExitCode::usage && store.error().message().find("/absent") != std::string::npos));
}

TEST_CASE("a file in place of the folder is a usage error") {
  const Scratch scratch;
  write_file(scratch.root / "file", "x");
  const auto store = open_store({(scratch.root / "file").string(), "", 1, false, {}});
  CHECK((!store && exit_code_of(store.error()) == ExitCode::usage));
}

TEST_CASE("a missing folder is made where that was asked for") {
  const Scratch scratch;
  const auto store = open_store({(scratch.root / "a" / "b" / "c/").string(), "", 1, true, {}});
  CHECK((store && fs::is_directory(scratch.root / "a" / "b" / "c")));
}

// ---- scanning -------------------------------------------------------------------------------------------

TEST_CASE("a scan finds each file with its digests, in the order of the names") {
  const Scratch scratch;
  const std::string large = pattern(3 * kChunkSize + 5);
  write_file(scratch.folder() / "b.bin", large);
  write_file(scratch.folder() / "a" / "tiny", "hello");
  const auto report = scanned(*opened(scratch.options()));
  REQUIRE(names_of(report) == std::vector<std::string>{"a/tiny", "b.bin"});
  auto wanted = entry_for("b.bin", large);
  wanted.mtime_ns = report.files[1].entry.mtime_ns;
  CHECK(report.files[1].entry == wanted);
  CHECK(*report.files[1].chunks == *chunks_for(large));
  CHECK(report.files[0].chunks == nullptr);
}

TEST_CASE("files of all sizes are digested rightly, whether alone or side by side") {
  const Scratch scratch;
  std::vector<FileEntry> wanted;
  for (unsigned i = 0; i < 120; ++i) {
    const std::size_t around = i % 10 * kChunkSize / 5 + i * i;  // to nearly two chunks
    const std::string content = pattern(around, i);
    wanted.push_back(entry_for(fmt::format("f{:03}", i), content));
    write_file(scratch.folder() / wanted.back().name, content);
  }
  const auto report = scanned(*opened(scratch.options()));
  REQUIRE(report.files.size() == wanted.size());
  const auto is_same = [](const StoredFile& file, const FileEntry& entry) {
    return file.entry.root == entry.root && file.entry.md5 == entry.md5 && (file.chunks != nullptr) == (entry.size > kChunkSize);
  };
  CHECK(std::ranges::equal(report.files, wanted, is_same));
}

TEST_CASE("a second scan digests nothing and finds the same") {
  const Scratch scratch;
  write_file(scratch.folder() / "large", pattern(5 * kChunkSize));
  write_file(scratch.folder() / "small", "abc");
  const auto first = scanned(*opened(scratch.options()));
  const auto second = scanned(*opened(scratch.options()));
  CHECK((first.bytes_hashed == 5 * kChunkSize + 3 && second.bytes_hashed == 0));
  REQUIRE(second.files.size() == 2);
  CHECK((second.files[0].entry == first.files[0].entry && second.files[1].entry == first.files[1].entry));
  CHECK(*second.files[0].chunks == *first.files[0].chunks);
}

TEST_CASE("a changed file alone is digested again") {
  const Scratch scratch;
  write_file(scratch.folder() / "stays", "stays");
  write_file(scratch.folder() / "moves", "before");
  scanned(*opened(scratch.options()));
  write_file(scratch.folder() / "moves", "after!");
  const auto report = scanned(*opened(scratch.options()));
  CHECK((report.bytes_hashed == 6 && report.files[0].entry.md5 == md5(bytes_of("after!"))));
}

TEST_CASE("a change that hides behind the old modification time is noticed") {
  const Scratch scratch;
  const auto path = scratch.folder() / "file";
  write_file(path, "before");
  scanned(*opened(scratch.options()));
  const auto old = status_of(path);
  std::fstream(path, std::ios::in | std::ios::out | std::ios::binary) << "after!";
  set_times(path, old);
  CHECK(scanned(*opened(scratch.options())).files[0].entry.md5 == md5(bytes_of("after!")));
}

TEST_CASE("names with spaces, UTF-8 and 255 bytes are found") {
  const Scratch scratch;
  const std::vector<std::string> names{"a b  c", std::string(255, 'n'), "\xc3\xa4\xe6\x97\xa5\xf0\x9f\x90\x9f.txt"};
  for (const auto& name : names) write_file(scratch.folder() / name, name);
  CHECK(names_of(scanned(*opened(scratch.options()))) == names);
}

TEST_CASE("symbolic links are skipped and listed") {
  const Scratch scratch;
  write_file(scratch.root / "outside" / "secret", "secret");
  write_file(scratch.folder() / "file", "x");
  fs::create_symlink("file", scratch.folder() / "to_file");
  fs::create_directory_symlink(scratch.root / "outside", scratch.folder() / "to_folder");
  const auto report = scanned(*opened(scratch.options()));
  CHECK(names_of(report) == std::vector<std::string>{"file"});
  CHECK(report.symlinks == std::vector<std::string>{"to_file", "to_folder"});
}

TEST_CASE("a FIFO, a socket and a name that cannot travel are problems, and nothing waits for them") {
  const Scratch scratch;
  REQUIRE(::mkfifo((scratch.folder() / "fifo").c_str(), 0600) == 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string path = (scratch.folder() / "socket").string();
  REQUIRE(path.size() < sizeof address.sun_path);
  std::ranges::copy(path, address.sun_path);
  const int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
  REQUIRE(::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  ::close(socket);
  write_file(scratch.folder() / "new\nline", "x");
  const auto report = scanned(*opened(scratch.options()));
  CHECK((report.files.empty() && report.problems.size() == 3));
}

TEST_CASE("an unreadable file is a problem, and the others are found") {
  const Scratch scratch;
  write_file(scratch.folder() / "closed", "x");
  write_file(scratch.folder() / "open", "x");
  fs::permissions(scratch.folder() / "closed", fs::perms::none);
  const bool is_root = ::geteuid() == 0;  // who could read it all the same
  if (is_root) {
    fs::permissions(scratch.root, fs::perms{0755});
    REQUIRE(::seteuid(65534) == 0);
  }
  const auto store = open_store({scratch.folder().string(), "", 2, false, {}});
  const auto report = store ? (*store)->scan({}) : Result<ScanReport>(Failure(store.error()));
  if (is_root) REQUIRE(::seteuid(0) == 0);
  REQUIRE(report);
  CHECK((names_of(*report) == std::vector<std::string>{"open"} && report->problems.size() == 1));
  CHECK(report->problems.at(0).message().find("/closed'") != std::string::npos);
}

TEST_CASE("a file that changes while it is digested") {
  const Scratch scratch;
  const auto path = scratch.folder() / "file";
  write_file(path, pattern(kMiB));
  int changes_left = 0;
  ScanOptions options;
  // A scan asks whether to stop as it reads, so this writes in the middle of the file's digesting.
  options.should_stop = [&] {
    if (changes_left-- > 0) std::ofstream(path, std::ios::app) << "more";
    return false;
  };
  SECTION("now and then is digested as it is in the end") {
    changes_left = 3;
    const auto report = scanned(*opened(scratch.options()), options);
    CHECK((report.problems.empty() && report.files.at(0).entry.md5 == md5(bytes_of(read_file(path)))));
  }
  SECTION("all the time is a problem") {
    changes_left = 1'000'000;
    const auto report = scanned(*opened(scratch.options()), options);
    CHECK((report.files.empty() && report.problems.size() == 1 && report.problems[0].code == Errc::changed));
  }
}

TEST_CASE("empty folders and empty files are entries, and our own partial files are not") {
  const Scratch scratch;
  fs::create_directories(scratch.folder() / "full" / "empty");
  write_file(scratch.folder() / "full" / "nothing", "");
  write_file(scratch.folder() / "fetching" / ".shoal-0123456789abcdef0123456789abcdef.part", "x");
  const auto report = scanned(*opened(scratch.options()));
  REQUIRE(names_of(report) == std::vector<std::string>{"fetching", "full/empty", "full/nothing"});
  CHECK((report.files[1].entry.kind == EntryKind::folder && report.files[1].entry.mtime_ns > 0 && report.files[1].entry.size == 0));
  CHECK((report.files[2].entry.kind == EntryKind::file && report.files[2].entry.md5 == md5({})));
}

TEST_CASE("every entry that a scan finds is one that may travel") {
  const Scratch scratch;
  fs::create_directories(scratch.folder() / "empty");
  write_file(scratch.folder() / "nothing", "");
  write_file(scratch.folder() / "something", "x");
  const auto report = scanned(*opened(scratch.options()));
  CHECK(std::ranges::all_of(report.files, [](const StoredFile& file) { return check_entry(file.entry).has_value(); }));
}

TEST_CASE("the executable bit is the owner's") {
  const Scratch scratch;
  write_file(scratch.folder() / "run", "x");
  write_file(scratch.folder() / "stay", "x");
  fs::permissions(scratch.folder() / "run", fs::perms::owner_all);
  fs::permissions(scratch.folder() / "stay", fs::perms::owner_read | fs::perms::group_exec | fs::perms::others_exec);
  const auto report = scanned(*opened(scratch.options()));
  CHECK((report.files[0].entry.executable && !report.files[1].entry.executable));
}

TEST_CASE("patterns choose the files, and an excluded folder is left out whole") {
  const Scratch scratch;
  for (const auto* name : {"a.txt", "a.bin", "sub/b.txt", "build/c.txt", "none/d.bin"}) write_file(scratch.folder() / name, "x");
  ScanOptions options;
  options.include = {"*.txt"};
  options.exclude = {"build"};
  CHECK(names_of(scanned(*opened(scratch.options()), options)) == std::vector<std::string>{"a.txt", "sub/b.txt"});
}

TEST_CASE("a scan that is asked to stop fails as interrupted") {
  const Scratch scratch;
  write_file(scratch.folder() / "file", pattern(kMiB));
  ScanOptions options;
  options.should_stop = [] { return true; };
  const auto report = opened(scratch.options())->scan(options);
  CHECK((!report && report.error().code == Errc::interrupted));
}

TEST_CASE("progress ends with everything done") {
  const Scratch scratch;
  write_file(scratch.folder() / "a", pattern(kMiB));
  write_file(scratch.folder() / "b", "x");
  fs::create_directory(scratch.folder() / "c");
  ScanProgress last;
  ScanOptions options;
  options.progress = [&](const ScanProgress& progress) { last = progress; };
  scanned(*opened(scratch.options()), options);
  CHECK((last.files_done == 3 && last.bytes_done == kMiB + 1 && last.bytes_total == kMiB + 1));
}

TEST_CASE("2,000 small files are found, digested once, and then remembered") {
  const Scratch scratch;
  for (int i = 0; i < 2000; ++i)
    write_file(scratch.folder() / fmt::format("d{}", i % 20) / fmt::format("f{}", i), fmt::format("content {}", i));
  const auto first = scanned(*opened(scratch.options()));
  const auto second = scanned(*opened(scratch.options()));
  CHECK((first.files.size() == 2000 && first.bytes_hashed > 0 && second.bytes_hashed == 0));
  CHECK(std::ranges::equal(first.files, second.files, {}, &StoredFile::entry, &StoredFile::entry));
}

TEST_CASE("removed files are forgotten and what is left is still remembered") {
  const Scratch scratch;
  write_file(scratch.folder() / "goes", "goes");
  write_file(scratch.folder() / "stays", "stays");
  scanned(*opened(scratch.options()));
  fs::remove(scratch.folder() / "goes");
  scanned(*opened(scratch.options()));
  const auto report = scanned(*opened(scratch.options()));
  CHECK((names_of(report) == std::vector<std::string>{"stays"} && report.bytes_hashed == 0));
}

TEST_CASE("several stores share one cache file at once") {
  const Scratch scratch;
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 100; ++j) write_file(scratch.root / fmt::format("peer{}", i) / fmt::format("f{}", j), fmt::format("{} {}", i, j));
  std::atomic<int> warnings = 0;
  const auto scan_all = [&] {
    std::atomic<std::uint64_t> hashed = 0;
    std::vector<std::jthread> peers;
    for (int i = 0; i < 4; ++i)
      peers.emplace_back([&, i] {
        StoreOptions options{(scratch.root / fmt::format("peer{}", i)).string(), scratch.cache().string(), 2, false, {}};
        options.warn = [&](const Error&) { ++warnings; };
        hashed += scanned(*opened(options)).bytes_hashed;
      });
    peers.clear();
    return hashed.load();
  };
  const auto first = scan_all();
  const auto second = scan_all();
  CHECK((first > 0 && second == 0 && warnings == 0));
}

TEST_CASE("a cache file that is no database is told of once, left alone, and does no harm") {
  const Scratch scratch;
  const std::string garbage = pattern(10'000);
  write_file(scratch.cache(), garbage);
  write_file(scratch.folder() / "file", "x");
  int warnings = 0;
  auto options = scratch.options();
  options.warn = [&](const Error& error) { warnings += error.message().find("digests.db") != std::string::npos; };
  const auto store = opened(options);
  CHECK(scanned(*store).files.size() == 1);
  CHECK(scanned(*store).bytes_hashed == 1);
  CHECK((warnings == 1 && read_file(scratch.cache()) == garbage));
}

TEST_CASE("a cache in an impossible place does no harm") {
  const Scratch scratch;
  write_file(scratch.root / "cache", "a file where a folder should be");
  write_file(scratch.folder() / "file", "x");
  CHECK(scanned(*opened(scratch.options())).files.size() == 1);
}

TEST_CASE("without a cache every scan digests") {
  const Scratch scratch;
  write_file(scratch.folder() / "file", "x");
  auto options = scratch.options();
  options.cache_file.clear();
  scanned(*opened(options));
  CHECK(scanned(*opened(options)).bytes_hashed == 1);
}

// ---- single files ---------------------------------------------------------------------------------------

TEST_CASE("digesting a file that is gone says so") {
  const Scratch scratch;
  const auto digest = opened(scratch.options())->digest("gone");
  CHECK((!digest && digest.error().code == Errc::not_found));
}

TEST_CASE("a scanned file is served, also through the descriptor") {
  const Scratch scratch;
  const std::string content = pattern(kChunkSize + 1);
  write_file(scratch.folder() / "a" / "file", content);
  const auto store = opened(scratch.options());
  const auto source = store->open(scanned(*store).files[0].entry);
  REQUIRE(source);
  CHECK((content_of(**source) == content && (*source)->check() && (*source)->descriptor() >= 0));
}

TEST_CASE("a file that changed is not served under its old digests") {
  const Scratch scratch;
  const auto path = scratch.folder() / "file";
  write_file(path, "before");
  const auto store = opened(scratch.options());
  const auto entry = scanned(*store).files[0].entry;
  const auto source = store->open(entry).value();
  const auto old = status_of(path);

  SECTION("when it was written in place, and its time set back") {
    std::fstream(path, std::ios::in | std::ios::out | std::ios::binary) << "after!";
    set_times(path, old);
  }
  SECTION("when it grew") { std::ofstream(path, std::ios::app) << "more"; }
  SECTION("when it was truncated") { fs::resize_file(path, 2); }
  SECTION("when another file took its name") {
    write_file(scratch.folder() / "other", "after!");
    fs::rename(scratch.folder() / "other", path);
  }
  SECTION("when it was removed") { fs::remove(path); }

  const auto again = store->open(entry);
  REQUIRE(!again);
  CHECK(again.error().code == Errc::changed);
  CHECK((!source->check() && source->check().error().code == Errc::changed));
}

TEST_CASE("a file is not served under the name of a folder that was seen to be renamed") {
  const Scratch scratch;
  write_file(scratch.folder() / "folder/file", "content");
  const auto store = opened(scratch.options());
  const auto entry = scanned(*store).files[0].entry;
  const auto source = store->open(entry).value();
  std::promise<void> has_seen;
  std::atomic<bool> is_told{false};
  const auto watch = store->watch([&](const FolderChanges&) {
    if (!is_told.exchange(true)) has_seen.set_value();
  });
  REQUIRE(watch);
  fs::rename(scratch.folder() / "folder", scratch.folder() / "other");
  REQUIRE(has_seen.get_future().wait_for(std::chrono::seconds(30)) == std::future_status::ready);
  CHECK(!store->open(entry));
}

TEST_CASE("a changed file is served again once it is digested again") {
  const Scratch scratch;
  write_file(scratch.folder() / "file", "before");
  const auto store = opened(scratch.options());
  const auto old = scanned(*store).files[0].entry;
  write_file(scratch.folder() / "file", "after!");
  const auto now = store->digest("file");
  REQUIRE(now);
  CHECK((now->entry.md5 == md5(bytes_of("after!")) && store->open(now->entry) && !store->open(old)));
}

TEST_CASE("a read past the end of a file that shrank fails as changed") {
  const Scratch scratch;
  write_file(scratch.folder() / "file", pattern(10'000));
  const auto store = opened(scratch.options());
  const auto source = store->open(scanned(*store).files[0].entry).value();
  fs::resize_file(scratch.folder() / "file", 5'000);
  std::vector<std::byte> buffer(1'000);
  const auto read = source->read(4'500, buffer);
  CHECK((!read && read.error().code == Errc::changed));
}

TEST_CASE("a file behind a link that took its folder's place is not served") {
  const Scratch scratch;
  write_file(scratch.folder() / "sub" / "file", "inside");
  const auto store = opened(scratch.options());
  const auto entry = scanned(*store).files[0].entry;
  fs::rename(scratch.folder() / "sub", scratch.root / "moved");
  fs::create_directory_symlink(scratch.root / "moved", scratch.folder() / "sub");
  CHECK(!store->open(entry));
}

TEST_CASE("many more files than descriptors may be opened one after the other") {
  const FewDescriptors few(512);
  const Scratch scratch;
  for (int i = 0; i < 600; ++i) write_file(scratch.folder() / fmt::format("f{}", i), fmt::format("{}", i));
  const auto store = opened(scratch.options());
  const auto report = scanned(*store);
  int highest = 0;
  for (const auto& file : report.files) highest = std::max(highest, store->open(file.entry).value()->descriptor());
  CHECK(highest < 300);
}

// ---- partial files --------------------------------------------------------------------------------------

TEST_CASE("a partial file keeps its data over a restart, and says where") {
  const Scratch scratch;
  const std::string content = pattern(8 * kChunkSize);
  const auto entry = entry_for("deep/in/file", content);
  {
    const auto store = opened(scratch.options());
    const auto partial = store->open_partial(entry).value();
    CHECK(partial->written().empty());
    must(partial->write(2 * kChunkSize, bytes_of(content).subspan(2 * kChunkSize, kChunkSize)));
  }
  const auto store = opened(scratch.options());
  const auto partial = store->open_partial(entry).value();
  const auto written = partial->written();
  REQUIRE(!written.empty());
  CHECK((written.front().begin <= 2 * kChunkSize && written.back().end >= 3 * kChunkSize && written.back().end <= entry.size));
  std::string back(kChunkSize, '\0');
  must(partial->read(2 * kChunkSize, std::as_writable_bytes(std::span(back))));
  CHECK(back == content.substr(2 * kChunkSize, kChunkSize));
}

TEST_CASE("a partial file of a wrong size gets its right size") {
  const Scratch scratch;
  const std::string content = pattern(kChunkSize);
  const auto entry = entry_for("file", content);
  opened(scratch.options())->open_partial(entry).value();
  const auto part = scratch.folder() / partials_in(scratch.folder()).at(0);
  SECTION("when it is too short") { fs::resize_file(part, 10); }
  SECTION("when it is too long") { fs::resize_file(part, 3 * kChunkSize); }
  const auto store = opened(scratch.options());
  REQUIRE(publish_one(*store, entry, content));
  CHECK(read_file(scratch.folder() / "file") == content);
}

TEST_CASE("a partial file lies beside its target under a name of ours, and is read while it grows") {
  const Scratch scratch;
  const std::string content = pattern(1000);
  const auto store = opened(scratch.options());
  const auto partial = store->open_partial(entry_for(std::string(255, 'n'), content)).value();
  must(partial->write(0, bytes_of(content)));
  CHECK((content_of(*partial->source()) == content && partial->source()->check()));
  const auto names = partials_in(scratch.folder());
  CHECK((names.size() == 1 && names[0].size() == 7 + 32 + 5 && names[0].ends_with(".part")));
}

TEST_CASE("a write outside of a partial file is refused") {
  const Scratch scratch;
  const auto partial = opened(scratch.options())->open_partial(entry_for("file", "12345")).value();
  CHECK((!partial->write(3, bytes_of("abc")) && partial->write(2, bytes_of("abc"))));
}

TEST_CASE("a parent that is a symbolic link is refused") {
  const Scratch scratch;
  fs::create_directory(scratch.root / "outside");
  fs::create_directory_symlink(scratch.root / "outside", scratch.folder() / "link");
  const auto store = opened(scratch.options());
  CHECK(!store->open_partial(entry_for("link/file", "x")));
  CHECK(!store->open_partial(entry_for("link/sub/file", "x")));
  CHECK(fs::is_empty(scratch.root / "outside"));
}

TEST_CASE("a name that leaves the folder is refused everywhere") {
  const Scratch scratch;
  const auto store = opened(scratch.options());
  auto entry = entry_for("../escaped", "x");
  CHECK((!store->open_partial(entry) && !store->digest("../escaped") && !store->make_empty(entry)));
}

TEST_CASE("a file in place of a parent folder is refused") {
  const Scratch scratch;
  write_file(scratch.folder() / "file", "x");
  const auto partial = opened(scratch.options())->open_partial(entry_for("file/below", "x"));
  CHECK((!partial && partial.error().message().find("/file'") != std::string::npos));
}

TEST_CASE("files that a scan digests side by side have the digests that each has alone") {
  const Scratch scratch;
  const std::vector<std::size_t> sizes{1,       5000,           kChunkSize, kChunkSize + 1, 2 * kChunkSize, 3 * kChunkSize + 77,
                                       700'000, 5 * kChunkSize, 9 * kMiB};
  for (const std::size_t size : sizes)
    for (const char* const which : {"a", "b"}) write_file(scratch.folder() / (std::to_string(size) + which), which + pattern(size - 1));
  StoreOptions options = scratch.options();
  options.threads = GENERATE(1U, 2U, 16U);
  options.cache_file.clear();
  const auto store = opened(options);
  const auto scanned = store->scan({}).value();
  REQUIRE(scanned.files.size() == 2 * sizes.size());
  for (const StoredFile& file : scanned.files) {
    const StoredFile alone = store->digest(file.entry.name).value();
    CAPTURE(file.entry.name);
    CHECK(file.entry == alone.entry);
    CHECK((file.chunks == nullptr) == (alone.chunks == nullptr));
    if (file.chunks && alone.chunks) CHECK(*file.chunks == *alone.chunks);
  }
}

TEST_CASE("only partial files that nobody opened in this run are stale") {
  const Scratch scratch;
  {
    const auto earlier = opened(scratch.options());
    earlier->open_partial(entry_for("a/old", "old")).value();
    earlier->open_partial(entry_for("b/kept", "kept")).value();
  }
  write_file(scratch.folder() / ".shoal-notes", "not ours");
  const auto store = opened(scratch.options());
  ScanOptions options;
  SECTION("without a scan") {}
  SECTION("after a scan") { store->scan({}).value(); }
  SECTION("after a scan of some of it") {
    options.exclude = {"a/"};
    store->scan(options).value();
  }
  store->open_partial(entry_for("b/kept", "kept")).value();
  CHECK(store->remove_stale_partials() == 1);
  CHECK(partials_in(scratch.folder()).size() == 2);
}

TEST_CASE("a partial file in a folder with the longest path is stale like any other") {
  const Scratch scratch;
  std::string folder;
  for (int i = 0; i < 16; ++i) folder += std::string(253, 'd') + '/';
  const auto entry = entry_for(folder + "x", "old");
  REQUIRE(check_name(entry.name).has_value());
  opened(scratch.options())->open_partial(entry).value();
  const auto store = opened(scratch.options());
  CHECK(store->remove_stale_partials() == 1);
  CHECK(store->remove_stale_partials() == 0);
}

TEST_CASE("what a probe has left is stale once it is old, and nothing else of such a name is") {
  const Scratch scratch;
  const auto path = [&](const std::string& end) { return scratch.folder() / (".shoal-probe-" + end); };
  for (const char* const name : {"old", "new"}) write_file(path(name), "");
  write_file(path("full"), "not ours");
  fs::create_directories(path("folder"));
  for (const char* const name : {"old", "full"}) fs::last_write_time(path(name), fs::file_time_type::clock::now() - std::chrono::hours(1));
  const auto store = opened(scratch.options());
  const bool is_scanned = GENERATE(false, true);
  const auto problems = is_scanned ? store->scan({}).value().problems.size() : 1;
  CHECK(problems == 1);  // the folder
  CHECK(store->remove_stale_partials() == 1);
  CHECK((!fs::exists(path("old")) && fs::exists(path("new")) && fs::exists(path("full")) && fs::exists(path("folder"))));
}

// ---- publication ----------------------------------------------------------------------------------------

TEST_CASE("a published file has its content, time and mode, and no partial file is left") {
  const Scratch scratch;
  const std::string content = pattern(2 * kChunkSize);
  const auto store = opened(scratch.options());
  const mode_t mask = ::umask(027);
  const auto plain = publish_one(*store, entry_for("a/plain", content), content);
  const auto program = publish_one(*store, entry_for("a/program", content, true), content);
  ::umask(mask);
  REQUIRE((plain && program));
  CHECK((read_file(scratch.folder() / "a/plain") == content && partials_in(scratch.folder()).empty()));
  const auto status = status_of(scratch.folder() / "a/plain");
  CHECK((status.st_mode & 0777) == 0640);
  CHECK((status_of(scratch.folder() / "a/program").st_mode & 0777) == 0750);
  CHECK((modified(status).tv_sec == kMay2020 / 1'000'000'000 && modified(status).tv_nsec == kMay2020 % 1'000'000'000));
}

TEST_CASE("a partial file that was begun without the executable bit gets it") {
  const Scratch scratch;
  opened(scratch.options())->open_partial(entry_for("file", "content")).value();
  const auto store = opened(scratch.options());
  REQUIRE(publish_one(*store, entry_for("file", "content", true), "content"));
  const auto mode = status_of(scratch.folder() / "file").st_mode & 0777;
  CHECK(((mode & 0100) != 0 && (mode & 0222) == (mode & 0200)));
}

TEST_CASE("a time before 1970 is kept") {
  const Scratch scratch;
  const auto store = opened(scratch.options());
  auto entry = entry_for("old", "x");
  entry.mtime_ns = -1;
  REQUIRE(publish_one(*store, entry, "x"));
  CHECK(scanned(*store).files[0].entry.mtime_ns == -1);
}

TEST_CASE("a restart digests nothing of what was published") {
  const Scratch scratch;
  {
    const auto store = opened(scratch.options());
    must(publish_one(*store, entry_for("large", pattern(3 * kChunkSize)), pattern(3 * kChunkSize)));
    must(publish_one(*store, entry_for("small", "abc"), "abc"));
  }
  const auto report = scanned(*opened(scratch.options()));
  REQUIRE(report.files.size() == 2);
  CHECK((report.bytes_hashed == 0 && report.files[0].entry == entry_for("large", pattern(3 * kChunkSize))));
}

TEST_CASE("what is published before its MD5 is confirmed is digested after a restart, and is what it is") {
  const Scratch scratch;
  const std::string content = pattern(3 * kChunkSize);
  FileEntry wrong = entry_for("large", content);
  wrong.md5 = md5(bytes_of("something else"));
  {
    const auto store = opened(scratch.options());
    Publication publication = fetched(*store, wrong, content);
    publication.is_confirmed = false;
    must(store->publish({&publication, 1}).front());
  }
  const auto report = scanned(*opened(scratch.options()));
  REQUIRE(report.files.size() == 1);
  CHECK(report.bytes_hashed == content.size());
  CHECK(report.files[0].entry == entry_for("large", content));
}

TEST_CASE("what is confirmed after it was published is remembered, unless it was changed meanwhile") {
  const Scratch scratch;
  const std::string content = pattern(3 * kChunkSize);
  {
    const auto store = opened(scratch.options());
    for (const char* const name : {"confirmed", "changed"}) {
      Publication publication = fetched(*store, entry_for(name, content), content);
      publication.is_confirmed = false;
      must(store->publish({&publication, 1}).front());
    }
    write_file(scratch.folder() / "changed", "short");
    for (const char* const name : {"confirmed", "changed", "never published"})
      store->confirm({entry_for(name, content), chunks_for(content)});
    store->finish();
  }
  const auto report = scanned(*opened(scratch.options()));
  REQUIRE(report.files.size() == 2);
  CHECK(report.bytes_hashed == 5);
  CHECK(report.files[1].entry == entry_for("confirmed", content));
}

TEST_CASE("what is published now and then is remembered at once") {
  const Scratch scratch;
  const auto store = opened(scratch.options());
  must(publish_one(*store, entry_for("file", "content"), "content"));
  CHECK(scanned(*opened(scratch.options())).bytes_hashed == 0);  // another process, so to speak
}

TEST_CASE("what a kill took of the digests is digested again") {
  const Scratch scratch;
  const auto store = opened(scratch.options());
  for (int i = 0; i < 20; ++i) must(publish_one(*store, entry_for(fmt::format("f{}", i), "content"), "content"));
  const auto after = opened(scratch.options());  // the first one still keeps the last digests to itself
  const auto report = scanned(*after);
  const auto is_right = [](const StoredFile& file) { return file.entry.root == sha256(bytes_of("content")); };
  CHECK((report.files.size() == 20 && std::ranges::all_of(report.files, is_right)));
}

TEST_CASE("a file that is published twice in a row is remembered as it is") {
  const Scratch scratch;
  {
    const auto store = opened(scratch.options());
    must(publish_one(*store, entry_for("other", "content"), "content"));
    must(publish_one(*store, entry_for("file", "before"), "before"));
    must(publish_one(*store, entry_for("file", "after"), "after"));
  }
  const auto report = scanned(*opened(scratch.options()));
  CHECK((report.bytes_hashed == 0 && report.files[0].entry == entry_for("file", "after")));
}

TEST_CASE("a large group is published together, and each file gets its own result") {
  const Scratch scratch;
  const auto store = opened(scratch.options());
  std::vector<Publication> group;
  for (int i = 0; i < 40; ++i) {
    const std::string content = fmt::format("content {}", i);
    group.push_back(fetched(*store, entry_for(fmt::format("d{}/f{}", i % 10, i), content), content));
  }
  fs::create_directories(scratch.folder() / "d3" / "f13");
  const auto results = store->publish(group);
  const auto published = std::ranges::count_if(results, [](const auto& result) { return result.has_value(); });
  REQUIRE(results.size() == 40);
  CHECK((published == 39 && !results[13] && results[13].error().code == std::errc::is_a_directory));
  CHECK(read_file(scratch.folder() / "d9" / "f39") == "content 39");
}

TEST_CASE("an existing file is replaced, and who has it open keeps the old one whole") {
  const Scratch scratch;
  write_file(scratch.folder() / "file", "the old content");
  std::ifstream reader(scratch.folder() / "file");
  const auto store = opened(scratch.options());
  REQUIRE(store->digest("file"));
  REQUIRE(publish_one(*store, entry_for("file", "new"), "new"));
  const std::string old{std::istreambuf_iterator<char>(reader), {}};
  CHECK((old == "the old content" && read_file(scratch.folder() / "file") == "new"));
}

TEST_CASE("what was published is replaced by what is newer, also in one group") {
  const Scratch scratch;
  const auto store = opened(scratch.options());
  REQUIRE(publish_one(*store, entry_for("file", "first"), "first"));
  const std::vector<Publication> group{fetched(*store, entry_for("file", "second"), "second"),
                                       fetched(*store, entry_for("file", "third"), "third")};
  for (const auto& result : store->publish(group)) CHECK(result);
  CHECK(read_file(scratch.folder() / "file") == "third");
}

TEST_CASE("a file that nobody knows of, or that was changed since, is left as it is") {
  const Scratch scratch;
  const auto store = opened(scratch.options());
  const auto is_left_alone = [&](const std::string& name) {
    const auto published = publish_one(*store, entry_for(name, "new"), "new");
    return !published && published.error().code == std::errc::file_exists && read_file(scratch.folder() / name) == "the user's own";
  };
  write_file(scratch.folder() / "unknown", "the user's own");
  CHECK(is_left_alone("unknown"));
  REQUIRE(publish_one(*store, entry_for("published", "fetched"), "fetched"));
  write_file(scratch.folder() / "published", "the user's own");
  CHECK(is_left_alone("published"));
  fs::create_symlink("unknown", scratch.folder() / "link");
  CHECK(is_left_alone("link"));
  CHECK(fs::is_symlink(scratch.folder() / "link"));
}

TEST_CASE("a file may be published under another name than it was fetched for") {
  const Scratch scratch;
  const auto store = opened(scratch.options());
  auto publication = fetched(*store, entry_for("a/file", "content"), "content");
  publication.entry.name = "b/file (from mars)";
  REQUIRE(store->publish({&publication, 1}).front());
  CHECK((read_file(scratch.folder() / "b/file (from mars)") == "content" && !store->exists("a/file")));
}

TEST_CASE("a file moves into a folder that was removed a moment ago: it is made anew") {
  const Scratch scratch;
  const auto store = opened(scratch.options());
  auto publication = fetched(*store, entry_for("a/file", "content"), "content");
  must(store->open_partial(entry_for("b/other", "other")).map([](const auto&) {}));
  fs::remove_all(scratch.folder() / "b");
  publication.entry.name = "b/file";
  REQUIRE(store->publish({&publication, 1}).front());
  CHECK(read_file(scratch.folder() / "b/file") == "content");
}

TEST_CASE("a published file is served, by the source from before and by a new one") {
  const Scratch scratch;
  const auto store = opened(scratch.options());
  const auto entry = entry_for("file", "content");
  const auto publication = fetched(*store, entry, "content");
  const auto before = publication.file->source();
  REQUIRE(store->publish({&publication, 1}).front());
  CHECK((content_of(*before) == "content" && before->check()));
  CHECK(content_of(*store->open(entry).value()) == "content");
}

TEST_CASE("a published file takes no more writes, and a later change of it is noticed") {
  const Scratch scratch;
  const auto store = opened(scratch.options());
  const auto publication = fetched(*store, entry_for("file", "content"), "content");
  REQUIRE(store->publish({&publication, 1}).front());
  CHECK(!publication.file->write(0, bytes_of("C")));
  std::ofstream(scratch.folder() / "file", std::ios::app) << "more";
  CHECK(!publication.file->source()->check());
}

TEST_CASE("a copy has the content, time and mode of its entry") {
  const Scratch scratch;
  const std::string content = pattern(2 * kChunkSize + 9);
  write_file(scratch.folder() / "from", content);
  const auto store = opened(scratch.options());
  const auto from = scanned(*store).files[0];
  const auto to = entry_for("sub/to", content, true);
  REQUIRE(store->copy(from, to));
  CHECK((read_file(scratch.folder() / "sub/to") == content && store->open(to)));
  CHECK(scanned(*opened(scratch.options())).files[1].entry == to);
}

TEST_CASE("a copy of a file that is not what it was is never published") {
  const Scratch scratch;
  write_file(scratch.folder() / "from", "before");
  const auto store = opened(scratch.options());
  const auto from = scanned(*store).files[0];
  std::string now;
  SECTION("when its bytes differ") { now = "after!"; }
  SECTION("when it shrank") { now = "bef"; }
  write_file(scratch.folder() / "from", now);
  const auto copied = store->copy(from, entry_for("to", "before"));
  CHECK((!copied && copied.error().code == Errc::changed));
  CHECK((!store->exists("to") && partials_in(scratch.folder()).empty()));
}

TEST_CASE("a copy of several chunks is the same, and one of which the last chunk changed is refused") {
  const Scratch scratch;
  const std::string content = pattern(2 * kChunkSize + 7);
  write_file(scratch.folder() / "from", content);
  const auto store = opened(scratch.options());
  const auto from = scanned(*store).files[0];
  REQUIRE(store->copy(from, entry_for("same", content)));
  std::string changed = content;
  changed.back() ^= 1;
  write_file(scratch.folder() / "from", changed);
  const auto copied = store->copy(from, entry_for("to", content));
  CHECK((read_file(scratch.folder() / "same") == content && !copied && !store->exists("to")));
}

TEST_CASE("of several copies, those that cannot be made do not keep back the others") {
  const Scratch scratch;
  write_file(scratch.folder() / "from", "content");
  fs::create_directories(scratch.folder() / "taken/by a folder");
  const auto store = opened(scratch.options());
  const auto from = scanned(*store).files[0];
  const std::vector<Copying> copies{{from, entry_for("a", "content")},
                                    {from, entry_for("wrong", "another")},
                                    {from, entry_for("taken", "content")},
                                    {from, entry_for("b/c", "content")}};
  const auto results = store->copy_all(copies);
  CHECK((results.size() == 4 && results[0] && !results[1] && !results[2] && results[3]));
  CHECK((read_file(scratch.folder() / "a") == "content" && read_file(scratch.folder() / "b/c") == "content"));
  CHECK(partials_in(scratch.folder()).empty());
}

TEST_CASE("a file goes beneath the folder that has its name now, also when that was replaced a moment ago") {
  const Scratch scratch;
  const auto store = opened(scratch.options());
  const auto first = fetched(*store, entry_for("sub/a", "one"), "one");
  REQUIRE(store->publish({&first, 1}).front());
  SECTION("when it was removed") { fs::remove_all(scratch.folder() / "sub"); }
  SECTION("when it was removed and made again") {
    fs::remove_all(scratch.folder() / "sub");
    fs::create_directory(scratch.folder() / "sub");
  }
  const auto second = fetched(*store, entry_for("sub/b", "two"), "two");
  REQUIRE(store->publish({&second, 1}).front());
  CHECK(read_file(scratch.folder() / "sub/b") == "two");
}

TEST_CASE("an empty file and an empty folder are made with their times") {
  const Scratch scratch;
  const auto store = opened(scratch.options());
  const auto file = entry_for("a/nothing", "", true);
  const FileEntry folder{"a/b/c", EntryKind::folder, 0, kMay2020, false, {}, {}};
  REQUIRE((store->make_empty(file) && store->make_empty(folder)));
  const auto report = scanned(*opened(scratch.options()));
  REQUIRE(report.files.size() == 2);
  CHECK((report.files[0].entry == folder && report.files[1].entry == file));
}

TEST_CASE("an empty file is opened like any other") {
  const Scratch scratch;
  const auto store = opened(scratch.options());
  const auto entry = entry_for("nothing", "");
  REQUIRE(store->make_empty(entry));
  CHECK(content_of(*store->open(entry).value()).empty());
}

TEST_CASE("a folder that is there already is no failure, and a file there is one") {
  const Scratch scratch;
  fs::create_directory(scratch.folder() / "folder");
  write_file(scratch.folder() / "file", "x");
  const auto store = opened(scratch.options());
  CHECK(store->make_empty({"folder", EntryKind::folder, 0, kMay2020, false, {}, {}}));
  CHECK(!store->make_empty({"file", EntryKind::folder, 0, kMay2020, false, {}, {}}));
}

TEST_CASE("what is made in a folder that was missing a moment ago exists soon") {
  const Scratch scratch;
  const auto store = opened(scratch.options());
  REQUIRE_FALSE(store->exists("a/b/one"));
  REQUIRE_FALSE(store->exists("a/b/two"));
  write_file(scratch.folder() / "a/b/two", "x");
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (!store->exists("a/b/two") && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  CHECK((store->exists("a/b/two") && !store->exists("a/b/one")));
}

TEST_CASE("whatever has a name exists") {
  const Scratch scratch;
  fs::create_symlink("nowhere", scratch.folder() / "link");
  fs::create_directory(scratch.folder() / "folder");
  const auto store = opened(scratch.options());
  CHECK((store->exists("link") && store->exists("folder") && !store->exists("nowhere")));
}

TEST_CASE("a full disk is told as such, names the file, and keeps what was fetched") {
#ifdef __linux__
  const Scratch scratch;
  if (::geteuid() != 0 || ::mount("tmpfs", scratch.folder().c_str(), "tmpfs", 0, "size=1m") != 0)
    SKIP("only root can mount a small file system");
  {
    const auto store = opened(scratch.options());
    const std::string content = pattern(4 * kMiB);
    const auto partial = store->open_partial(entry_for("file", content)).value();
    Result<> written;
    for (std::uint64_t at = 0; written && at < content.size(); at += kChunkSize)
      written = partial->write(at, bytes_of(content).subspan(at, kChunkSize));
    const bool is_told = !written && exit_code_of(written.error()) == ExitCode::disk_full &&
                         written.error().message().find(scratch.folder().string()) != std::string::npos;
    std::string begin(kChunkSize, '\0');
    const bool is_kept = partial->read(0, std::as_writable_bytes(std::span(begin))) && content.starts_with(begin);
    CHECK((is_told && is_kept));
  }
  ::umount2(scratch.folder().c_str(), MNT_DETACH);
#else
  SKIP("needs a small file system of its own");
#endif
}

// ---- verification ---------------------------------------------------------------------------------------

TEST_CASE("verification tells what is right, corrupted, changed and unknown") {
  const Scratch scratch;
  for (const auto* name : {"changed", "corrupted", "right", "touched"}) write_file(scratch.folder() / name, "content");
  scanned(*opened(scratch.options()));
  const auto old = status_of(scratch.folder() / "corrupted");
  std::fstream(scratch.folder() / "corrupted", std::ios::in | std::ios::out | std::ios::binary) << "CONTENT";
  set_times(scratch.folder() / "corrupted", old);
  write_file(scratch.folder() / "changed", "another content");
  fs::last_write_time(scratch.folder() / "touched", fs::file_time_type::clock::now());
  write_file(scratch.folder() / "unknown", "content");

  const auto report = verify(scratch.options(), {});
  REQUIRE(report);
  std::map<std::string, Verdict> verdicts;
  for (const auto& file : report->files) verdicts[file.name] = file.verdict;
  CHECK(verdicts == std::map<std::string, Verdict>{{"changed", Verdict::changed},
                                                   {"corrupted", Verdict::corrupted},
                                                   {"right", Verdict::ok},
                                                   {"touched", Verdict::ok},
                                                   {"unknown", Verdict::unknown}});
  CHECK((report->files[1].md5 == md5(bytes_of("CONTENT")) && report->files[1].recorded.value() == md5(bytes_of("content"))));
  CHECK(report->bytes_hashed == 4 * 7 + 15);
}

TEST_CASE("verification of a missing folder is a usage error") {
  const Scratch scratch;
  const auto report = verify({(scratch.root / "absent").string(), "", 1, false, {}}, {});
  CHECK((!report && exit_code_of(report.error()) == ExitCode::usage));
}

TEST_CASE("the default cache file lies in the user's cache folder") {
  ::setenv("XDG_CACHE_HOME", "/some/cache", 1);
  const std::string chosen = default_cache_file();
  ::unsetenv("XDG_CACHE_HOME");
  ::setenv("HOME", "/home/somebody", 1);
  CHECK((chosen == "/some/cache/shoal/digests.db" && default_cache_file() == "/home/somebody/.cache/shoal/digests.db"));
}

TEST_CASE("Verifying ends and finds every file, whatever empty ones are among them") {
  const std::size_t empty_files = GENERATE(1, 2, 17, 400);
  Scratch scratch;
  for (std::size_t i = 0; i < empty_files; ++i) write_file(scratch.folder() / fmt::format("empty/{}", i), "");
  fs::create_directories(scratch.folder() / "nothing" / "in here");
  const auto contents = GENERATE(std::vector<std::size_t>{}, std::vector<std::size_t>{1}, std::vector<std::size_t>{kChunkSize},
                                 std::vector<std::size_t>{kChunkSize, kChunkSize + 1, 3 * kChunkSize, 1, 9 * kMiB});
  for (std::size_t i = 0; i < contents.size(); ++i)
    write_file(scratch.folder() / fmt::format("{}", i), pattern(contents[i], static_cast<unsigned>(i)));
  scanned(*opened(scratch.options()));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  ScanOptions options;
  options.should_stop = [&] { return std::chrono::steady_clock::now() > deadline; };
  const auto report = verify(scratch.options(), options);
  REQUIRE(report);
  CHECK(report->problems.empty());
  CHECK(report->files.size() == empty_files + contents.size());
  CHECK(std::ranges::none_of(report->files, [](const VerifiedFile& file) { return file.verdict == Verdict::corrupted; }));
  const auto empty = std::ranges::find(report->files, "empty/0", &VerifiedFile::name);
  REQUIRE(empty != report->files.end());
  CHECK(empty->md5 == md5({}));
}

// ---- names that are one name ------------------------------------------------------------------------------

TEST_CASE("A folder of an ordinary file system folds no names, and trying it leaves nothing behind") {
  const Scratch scratch;
  const auto store = opened(scratch.options());
  std::vector<std::thread> others;
  for (int i = 0; i < 4; ++i)
    others.emplace_back([&] {
      for (int n = 0; n < 20; ++n) opened(scratch.options())->folding();
    });
  const bool is_any = store->folding().is_any();
  for (std::thread& other : others) other.join();
  write_file(scratch.folder() / "a", "lower");
  CHECK(is_any == fs::exists(scratch.folder() / "A"));
  fs::remove(scratch.folder() / "a");
  CHECK(fs::is_empty(scratch.folder()));
}

TEST_CASE("A folder that cannot be tried folds nothing until it can") {
  const Scratch scratch;
  const auto store = opened(scratch.options());
  fs::remove(scratch.folder());
  CHECK_FALSE(store->folding().is_any());
}

TEST_CASE("What cannot travel is a problem, each by its name, and nothing else is") {
  const Scratch scratch;
  write_file(scratch.folder() / "good.txt", "x");
  write_file(scratch.folder() / ".shoal-notes", "x");
  write_file(scratch.folder() / ".shoal-0123456789abcdef0123456789abcdef.part", "x");
  write_file(scratch.folder() / ".shoal-probe-0123", "");
  write_file(scratch.folder() / "sub" / "bad\nname", "x");
  write_file(scratch.folder() / "no\xffutf8", "x");
  REQUIRE(::mkfifo((scratch.folder() / "pipe").c_str(), 0600) == 0);
  ScanOptions options;
  SECTION("all of it") {
    const auto report = scanned(*opened(scratch.options()), options);
    CHECK(names_of(report) == std::vector<std::string>{"good.txt"});
    CHECK(report.problems.size() == 4);
    for (const std::string part : {".shoal-notes", "bad", "utf8", "pipe"})
      CHECK(std::ranges::count_if(report.problems,
                                  [&](const Error& problem) { return problem.message().find(part) != std::string::npos; }) == 1);
  }
  SECTION("only what was asked for") {
    options.include = {"*.txt"};
    CHECK(scanned(*opened(scratch.options()), options).problems.empty());
  }
  SECTION("not what was excluded") {
    options.exclude = {"pipe", ".shoal-*", "*utf8", "sub/"};
    CHECK(scanned(*opened(scratch.options()), options).problems.empty());
  }
}

TEST_CASE("A pipe in the place of a file is no file that is still changing") {
  const Scratch scratch;
  const auto store = opened(scratch.options());
  REQUIRE(::mkfifo((scratch.folder() / "pipe").c_str(), 0600) == 0);
  const auto digested = store->digest("pipe");
  REQUIRE_FALSE(digested);
  CHECK(digested.error().code == Errc::unsupported);
}
