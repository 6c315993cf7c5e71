// The file of the overlay's nodes that were heard of.
#include <fmt/core.h>
#include <stdlib.h>
#include <catch2/catch_test_macros.hpp>
#include <tl/expected.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "peer/nodes.hpp"

import shoal.base;

using namespace shoal;
using namespace shoal::apps;

namespace {

using Nodes = std::vector<Endpoint>;

/// A folder of its own, in which there may be such a file.
class Folder {
 public:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "shoal-nodes-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
  }
  ~Folder() { std::filesystem::remove_all(folder_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::string file() const { return folder_ + "/shoal/nodes"; }
  void write(std::string_view text) const {
    std::filesystem::create_directories(folder_ + "/shoal");
    std::ofstream(file()) << text;
  }
  std::string text() const {
    std::ifstream stream(file());
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  std::size_t files() const { return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder_ + "/shoal"), {})); }

 private:
  std::string folder_;
};

Nodes some_nodes(std::size_t count, std::uint16_t first_port) {
  Nodes nodes;
  for (std::size_t i = 0; i < count; ++i) nodes.push_back({"10.0.0.1", static_cast<std::uint16_t>(first_port + i)});
  return nodes;
}

}  // namespace

TEST_CASE("Nodes that are kept are read again, an address a line") {
  const Folder folder;
  const Nodes nodes{{"10.0.0.1", 5000}, {"2001:db8::1", 6000}, {"rack7.example", 7000}};
  REQUIRE(keep_nodes(folder.file(), nodes).has_value());
  CHECK(read_nodes(folder.file()) == nodes);
  CHECK(folder.text() == "10.0.0.1:5000\n[2001:db8::1]:6000\nrack7.example:7000\n");
}

TEST_CASE("Newer nodes stand before older ones, each once, and nothing else is left there") {
  const Folder folder;
  folder.write("10.0.0.1:1\n10.0.0.1:2\n");
  REQUIRE(keep_nodes(folder.file(), Nodes{{"10.0.0.1", 3}, {"10.0.0.1", 2}}).has_value());
  CHECK(read_nodes(folder.file()) == Nodes{{"10.0.0.1", 3}, {"10.0.0.1", 2}, {"10.0.0.1", 1}});
  CHECK(folder.files() == 1);
}

TEST_CASE("No more nodes than 64 are kept, and the oldest make room") {
  const Folder folder;
  REQUIRE(keep_nodes(folder.file(), some_nodes(60, 100)).has_value());
  REQUIRE(keep_nodes(folder.file(), some_nodes(10, 1000)).has_value());
  const Nodes kept = read_nodes(folder.file());
  REQUIRE(kept.size() == kMostNodes);
  CHECK(kept.front().port == 1000);
  CHECK(kept.back().port == 100 + 53);
}

TEST_CASE("Lines that are no address of a node are skipped") {
  const Folder folder;
  folder.write("\n10.0.0.1\n10.0.0.1:0\n:5\n0.0.0.0:5\n[::]:5\n10.0.0.1:99999\na b:5\n\x1b[2J:5\n10.0.0.2:5\n" + std::string(300, 'h') +
               ":5\n10.0.0.3:5");
  CHECK(read_nodes(folder.file()) == Nodes{{"10.0.0.2", 5}});
}

TEST_CASE("Of a long file only the beginning is read") {
  const Folder folder;
  folder.write("10.0.0.1:5\n" + std::string(64 * 1024, 'x') + "\n10.0.0.2:5\n");
  CHECK(read_nodes(folder.file()) == Nodes{{"10.0.0.1", 5}});
}

TEST_CASE("A file that is not there has no nodes, and neither has a folder in its place") {
  const Folder folder;
  CHECK(read_nodes(folder.file()).empty());
  CHECK(read_nodes({}).empty());
  CHECK(keep_nodes({}, some_nodes(1, 1)).has_value());
  std::filesystem::create_directories(folder.file() + "/within");
  CHECK(read_nodes(folder.file()).empty());
  CHECK_FALSE(keep_nodes(folder.file(), some_nodes(1, 1)).has_value());
  CHECK(folder.files() == 1);
}
