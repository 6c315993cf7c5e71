// The times of the digest kernels in their file: kept for one program on one processor, and measured anew whenever the file is not exactly
// that.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <catch2/catch_test_macros.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

import shoal.base;
import shoal.digest;
import shoal.store;

using namespace shoal;
namespace fs = std::filesystem;

namespace {

/// A folder of its own for one test, with the file in a folder of it that does not exist yet.
class Kept {
 public:
  Kept() {
    std::string name = (fs::temp_directory_path() / "shoal-kernels-XXXXXX").string();
    if (!::mkdtemp(name.data())) throw std::runtime_error("no scratch folder");
    root_ = name;
    times_.md5.front() = 1234.5;
  }
  ~Kept() {
    std::error_code ignored;
    fs::remove_all(root_, ignored);
  }
  Kept(const Kept&) = delete;
  Kept& operator=(const Kept&) = delete;

  fs::path file() const { return root_ / "cache" / "kernels"; }
  const KernelTimes& times() const { return times_; }

  /// Whether they had to be measured.
  bool measures(const KernelKey& key = {"1.0", "a processor"}) const {
    bool is_measured = false;
    const KernelTimes found = kept_kernel_times(file().string(), key, [&] {
      is_measured = true;
      return times_;
    });
    CHECK(found == times_);
    return is_measured;
  }

  std::string text() const {
    std::ifstream in(file(), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void set_text(const std::string& text) const { std::ofstream(file(), std::ios::binary | std::ios::trunc) << text; }

 private:
  fs::path root_;
  KernelTimes times_ = standard_kernel_times();
};

}  // namespace

TEST_CASE("kernels are timed at the first start alone") {
  const Kept kept;
  CHECK(kept.measures());
  CHECK_FALSE(kept.measures());
}

TEST_CASE("times of another version, and of another processor, do not count, and are replaced") {
  const Kept kept;
  CHECK(kept.measures({"1.0", "a processor"}));
  CHECK(kept.measures({"1.1", "a processor"}));
  CHECK_FALSE(kept.measures({"1.1", "a processor"}));
  CHECK(kept.measures({"1.1", "another"}));
  CHECK_FALSE(kept.measures({"1.1", "another"}));
  CHECK(kept.measures({"1.0", "a processor"}));
}

TEST_CASE("a processor without a name has its times kept, too") {
  const Kept kept;
  CHECK(kept.measures({"1.0", ""}));
  CHECK_FALSE(kept.measures({"1.0", ""}));
}

TEST_CASE("any byte of the times that is damaged has them measured anew") {
  const Kept kept;
  CHECK(kept.measures());
  const std::string right = kept.text();
  REQUIRE(right.size() > 100);
  for (std::size_t at = 0; at < right.size(); at += 3) {
    std::string wrong = right;
    wrong[at] = static_cast<char>(wrong[at] ^ 1);
    kept.set_text(wrong);
    CAPTURE(at);
    CHECK(kept.measures());
    CHECK(kept.text() == right);
  }
}

TEST_CASE("times that are cut off, empty, too long or something else are measured anew") {
  const Kept kept;
  CHECK(kept.measures());
  const std::string right = kept.text();
  for (const std::string& wrong : {std::string(), right.substr(0, right.size() / 2), right.substr(0, right.size() - 1), right + "1\n",
                                   std::string(1'000'000, 'x'), std::string(50, '\0')}) {
    kept.set_text(wrong);
    CHECK(kept.measures());
    CHECK_FALSE(kept.measures());
  }
}

TEST_CASE("a folder or a FIFO in the place of the times is let be") {
  const Kept kept;
  fs::create_directories(kept.file() / "folder");
  CHECK(kept.measures());
  CHECK(fs::is_directory(kept.file()));
  fs::remove_all(kept.file());
  REQUIRE(::mkfifo(kept.file().c_str(), 0600) == 0);
  CHECK(kept.measures());
}

TEST_CASE("where times cannot be written they are measured each time, silently") {
  const Kept kept;
  std::ofstream(kept.file().parent_path()) << "a file where the folder would be";
  CHECK(kept.measures());
  CHECK(kept.measures());
  int measured = 0;
  const auto measure = [&] { return ++measured, kept.times(); };
  CHECK(kept_kernel_times("", {}, measure) == kept.times());
  CHECK(kept_kernel_times("", {}, measure) == kept.times());
  CHECK(measured == 2);
}

TEST_CASE("unsound times are not kept") {
  const Kept kept;
  CHECK(kept_kernel_times(kept.file().string(), {"1.0", "a processor"}, [] { return KernelTimes{}; }) == KernelTimes{});
  CHECK_FALSE(fs::exists(kept.file()));
  CHECK(kept.measures());
}

TEST_CASE("many that start at once all get sound times, and leave one whole file") {
  const Kept kept;
  std::vector<KernelTimes> found(8);
  {
    std::vector<std::jthread> starts;
    for (KernelTimes& of : found)
      starts.emplace_back([&] {
        for (int i = 0; i < 20; ++i)
          of = kept_kernel_times(kept.file().string(), {i % 2 == 0 ? "1.0" : "1.1", "a processor"}, [&] { return kept.times(); });
      });
  }
  for (const KernelTimes& of : found) CHECK(of == kept.times());
  CHECK(kept.measures({"2.0", "a processor"}));
  CHECK_FALSE(kept.measures({"2.0", "a processor"}));
  CHECK(std::distance(fs::directory_iterator(kept.file().parent_path()), fs::directory_iterator()) == 1);
}

TEST_CASE("kernels are timed by the system's clock where nothing else is said") { CHECK(are_sound(kept_kernel_times(""))); }
