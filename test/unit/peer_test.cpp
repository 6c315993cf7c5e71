#include <catch2/catch_test_macros.hpp>
#include <tl/expected.hpp>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>

import shoal.base;
import shoal.digest;
import shoal.manifest;
import shoal.peer;

using namespace shoal;
using namespace std::chrono_literals;

namespace {

FileEntry file(std::string name, std::uint8_t content) {
  FileEntry entry;
  entry.name = std::move(name);
  entry.size = 1000;
  entry.md5.bytes.fill(content);
  entry.root.bytes.fill(content);
  return entry;
}

FileEntry folder(std::string name) {
  FileEntry entry;
  entry.name = std::move(name);
  entry.kind = EntryKind::folder;
  return entry;
}

EntryPtr held(FileEntry entry) { return std::make_shared<const FileEntry>(std::move(entry)); }

/// Where it is to be kept; empty when it is not.
std::string name_for(Names& names, const std::string& owner, const FileEntry& entry) {
  const auto place = names.place(owner, entry);
  return place ? place->entry->name : "";
}

}  // namespace

TEST_CASE("The MD5 of the only file that is fetched waits for nothing") { CHECK(is_worth_a_worker({.contents = 1, .fetching = 1})); }

TEST_CASE("An MD5 waits for those of other files that are fetched") { CHECK_FALSE(is_worth_a_worker({.contents = 2, .fetching = 3})); }

TEST_CASE("The MD5s of all files that are fetched go side by side") { CHECK(is_worth_a_worker({.contents = 3, .fetching = 3})); }

TEST_CASE("Four MD5s wait for no more of them") { CHECK(is_worth_a_worker({.contents = 4, .fetching = 20})); }

TEST_CASE("A pressing MD5 waits for no others") { CHECK(is_worth_a_worker({.contents = 1, .fetching = 3, .is_one_pressing = true})); }

TEST_CASE("A second worker is for eight MD5s") {
  CHECK_FALSE(is_worth_a_worker({.contents = 7, .fetching = 7, .workers = 1, .is_one_pressing = true}));
  CHECK(is_worth_a_worker({.contents = 8, .fetching = 8, .workers = 1}));
}

TEST_CASE("An MD5 is pressing once it would end after the last chunk has come") {
  CHECK_FALSE(is_pressing(100, 500, 1000, 200ms, 0ms));  // 500 come in 200 ms, digesting takes 100 ms
  CHECK_FALSE(is_pressing(100, 750, 1000, 300ms, 0ms));
  CHECK(is_pressing(100, 800, 1000, 300ms, 0ms));
}

TEST_CASE("An MD5 for which all chunks are here may be a little late, for company") {
  CHECK_FALSE(is_pressing(1, 4, 4, 60s, 0ms));
  CHECK_FALSE(is_pressing(1, 4, 4, 60s, 98ms));
  CHECK(is_pressing(1, 4, 4, 60s, 100ms));
  CHECK(is_pressing(4, 4, 4, 60s, 97ms));
  CHECK(is_pressing(200, 1000, 1000, 60s, 0ms));
}

TEST_CASE("An MD5 is pressing when what it needs may leave memory") {
  CHECK_FALSE(is_pressing(2047, 2500, 9000, 20s, 0ms));
  CHECK(is_pressing(2048, 2500, 9000, 20s, 0ms));
}

TEST_CASE("An MD5 that is not behind is not pressing") { CHECK_FALSE(is_pressing(0, 1000, 1000, 1s, 0ms)); }

TEST_CASE("Where no MD5 waits there is no work") { CHECK_FALSE(is_worth_a_worker({.fetching = 3})); }

TEST_CASE("The first content of a name keeps it") {
  Names names;
  const auto place = names.place("mars", file("a", 1));
  REQUIRE(place);
  CHECK(place->entry->name == "a");
  CHECK_FALSE(place->is_conflict);
  CHECK_FALSE(place->is_newer);
}

TEST_CASE("A different content of that name tells its owner") {
  Names names;
  names.place("mars", file("dir/a.txt", 1));
  const auto place = names.place("venus", file("dir/a.txt", 2));
  REQUIRE(place);
  CHECK(place->entry->name == "dir/a (from venus).txt");
  CHECK(place->is_conflict);
}

TEST_CASE("The same content under one name is one file") {
  Names names;
  names.place("mars", file("a", 1));
  CHECK_FALSE(names.place("venus", file("a", 1)));
}

TEST_CASE("The same content under another name is another file") {
  Names names;
  names.place("mars", file("a", 1));
  CHECK(name_for(names, "venus", file("b", 1)) == "b");
}

TEST_CASE("A file of our own comes before all others") {
  Names names;
  names.add_own("me", held(file("a", 1)));
  CHECK(name_for(names, "mars", file("a", 2)) == "a (from mars)");
  CHECK_FALSE(names.place("venus", file("a", 1)));
}

TEST_CASE("A newer version by the same owner replaces the older one") {
  Names names;
  names.place("mars", file("a", 1));
  const auto place = names.place("mars", file("a", 2));
  REQUIRE(place);
  CHECK(place->entry->name == "a");
  CHECK(place->is_newer);
}

TEST_CASE("A newer version of a file that had to tell its owner replaces that one") {
  Names names;
  names.add_own("me", held(file("a", 1)));
  names.place("mars", file("a", 2));
  const auto place = names.place("mars", file("a", 3));
  REQUIRE(place);
  CHECK(place->entry->name == "a (from mars)");
  CHECK(place->is_newer);
}

TEST_CASE("What a returned peer had kept for another owner is no new file") {
  Names names;
  names.add_own("me", held(file("a", 1)));
  CHECK_FALSE(names.place("mars", file("a (from me)", 1)));
}

TEST_CASE("A file that only looks as if it was kept for another owner is a file") {
  Names names;
  names.add_own("me", held(file("a", 1)));
  CHECK(name_for(names, "mars", file("a (from me)", 2)) == "a (from me)");
}

TEST_CASE("A file that has the name which a conflict would take keeps it, and both are kept") {
  Names names;
  names.add_own("me", held(file("a", 1)));
  CHECK(name_for(names, "mars", file("a (from mars)", 2)) == "a (from mars)");
  CHECK(name_for(names, "mars", file("a", 3)) == "a (from mars 2)");
  CHECK(name_for(names, "mars", file("a", 4)) == "a (from mars 2)");
}

TEST_CASE("A file where others have a folder tells its owner") {
  Names names;
  names.place("mars", file("a/b", 1));
  CHECK(name_for(names, "venus", file("a", 2)) == "a (from venus)");
}

TEST_CASE("A file below what is a file here is kept in a folder that tells its owner") {
  Names names;
  names.place("mars", file("a", 1));
  CHECK(name_for(names, "venus", file("a/b/c", 2)) == "a (from venus)/b/c");
  CHECK(name_for(names, "venus", file("a/d", 3)) == "a (from venus)/d");
}

TEST_CASE("A folder that tells its owner is not put where there is a file") {
  Names names;
  names.place("mars", file("a", 1));
  names.place("mars", file("a (from venus)", 2));
  CHECK(name_for(names, "venus", file("a/b", 3)) == "a (from venus 2)/b");
}

TEST_CASE("A file below a deep file does not get a name that is too long") {
  Names names;
  std::string deep;
  for (int i = 0; i < 15; ++i) deep += std::string(255, 'd') + '/';
  names.place("mars", file(deep + std::string(250, 'f'), 1));
  const auto name = name_for(names, "venus", file(deep + std::string(250, 'f') + "/x", 2));
  CHECK(check_name(name).has_value());
}

TEST_CASE("A folder where there are files already is there") {
  Names names;
  names.place("mars", file("a/b", 1));
  CHECK_FALSE(names.place("venus", folder("a")));
}

TEST_CASE("A folder that several offer is made once") {
  Names names;
  CHECK(name_for(names, "mars", folder("a")) == "a");
  CHECK_FALSE(names.place("venus", folder("a")));
  CHECK(name_for(names, "venus", file("a/b", 1)) == "a/b");
}

TEST_CASE("A folder where there is a file tells its owner") {
  Names names;
  names.place("mars", file("a", 1));
  CHECK(name_for(names, "venus", folder("a")) == "a (from venus)");
}

TEST_CASE("A file of our own where others have a folder keeps its name, and what comes below it then tells its owner") {
  Names names;
  names.place("mars", file("a/b/c", 1));
  names.add_own("me", held(file("a", 2)));
  CHECK(name_for(names, "mars", file("a/b/d", 3)) == "a (from mars)/b/d");
}

TEST_CASE("A name is free for a folder once nothing is below it any more") {
  Names names;
  names.add_own("me", held(file("a/b/c", 1)));
  names.add_own("me", held(file("a/d", 2)));
  names.remove_own("a/b/c");
  CHECK_FALSE(names.place("mars", folder("a")));
  CHECK(name_for(names, "mars", file("a/b", 3)) == "a/b");
  names.remove_own("a/d");
  CHECK(name_for(names, "venus", file("a", 4)) == "a (from venus)");
  CHECK(name_for(names, "venus", file("a/d/e", 5)) == "a/d/e");
}

TEST_CASE("What is reserved is left alone") {
  Names names;
  names.reserve("a");
  CHECK(names.is_taken("a"));
  CHECK(name_for(names, "mars", file("a", 1)) == "a (from mars)");
  CHECK(name_for(names, "mars", file("a/b", 2)) == "a (from mars 2)/b");
}

TEST_CASE("No spelling is given that something in the folder has") {
  Names names;
  names.add_own("me", held(file("a", 1)));
  const std::set<std::string> there{"a", "a (from mars)", "a (from mars 2)", "b"};
  const auto is_there = [&](const std::string& name) { return there.contains(name); };
  CHECK(names.place("mars", file("a", 2), is_there)->entry->name == "a (from mars 3)");
  CHECK(names.place("mars", file("b", 3), is_there)->entry->name == "b (from mars)");
  CHECK(names.place("venus", file("c", 4), is_there)->entry->name == "c");
  CHECK((names.is_reserved("a (from mars 2)") && names.is_reserved("b") && !names.is_reserved("a")));
}

TEST_CASE("A file that is replaced by its owner's newer one is not in the way") {
  Names names;
  names.place("mars", file("a", 1));
  CHECK(names.place("mars", file("a", 2), [](const std::string&) { return true; })->is_newer);
}

TEST_CASE("The free name is the one that a place would be at") {
  Names names;
  CHECK(names.free_name("mars", file("a", 2)) == "a");
  names.add_own("me", held(file("a", 1)));
  CHECK(names.free_name("mars", file("a", 2)) == "a (from mars)");
  CHECK(names.free_name("mars", file("a/b", 2)) == "a (from mars)/b");
  CHECK_FALSE(names.is_taken("a (from mars)"));
}

TEST_CASE("There is no free name for what is here, or replaces what is") {
  Names names;
  names.add_own("me", held(file("a", 1)));
  names.add_own("me", held(file("a (from mars)", 2)));
  CHECK_FALSE(names.free_name("mars", file("a", 1)));
  CHECK_FALSE(names.free_name("mars", file("a", 2)));
  names.place("mars", file("b", 3));
  CHECK_FALSE(names.free_name("mars", file("b", 4)));
}

TEST_CASE("A name that was given up is free again") {
  Names names;
  names.add_own("me", held(file("a", 1)));
  names.remove_own("a");
  CHECK_FALSE(names.is_taken("a"));
  CHECK(name_for(names, "mars", file("a", 2)) == "a");
}

TEST_CASE("Only a file of our own can be given up") {
  Names names;
  names.place("mars", file("a", 1));
  names.remove_own("a");
  CHECK(names.is_taken("a"));
}

// ---- names that are one name in the folder ------------------------------------------------------------

namespace {

Names folding_names() {
  Names names;
  names.set_folding({.letter_case = true, .unicode_form = true});
  return names;
}

}  // namespace

TEST_CASE("A name that the folder takes for another is another content of that name") {
  Names names = folding_names();
  CHECK(name_for(names, "mars", file("README", 1)) == "README");
  CHECK(name_for(names, "mars", file("readme", 2)) == "readme (from mars)");
  CHECK(name_for(names, "venus", file("Readme", 3)) == "Readme (from venus)");
  CHECK(name_for(names, "mars", file("caf\u00e9", 4)) == "caf\u00e9");
  CHECK(name_for(names, "mars", file("cafe\u0301", 5)) == "cafe\u0301 (from mars)");
}

TEST_CASE("Conflict names are folded as well") {
  Names names = folding_names();
  names.add_own("me", held(file("a", 1)));
  CHECK(name_for(names, "mars", file("A", 2)) == "A (from mars)");
  CHECK(name_for(names, "Mars", file("a", 3)) == "a (from Mars 2)");
}

TEST_CASE("The same content under a name that the folder takes for it is one file") {
  Names names = folding_names();
  names.place("mars", file("README", 1));
  CHECK_FALSE(names.place("venus", file("readme", 1)));
}

TEST_CASE("Folders that the folder takes for one are one folder") {
  Names names = folding_names();
  CHECK(name_for(names, "mars", file("A/x", 1)) == "A/x");
  CHECK(name_for(names, "mars", file("a/y", 2)) == "a/y");
  CHECK(name_for(names, "mars", file("a/X", 3)) == "a/X (from mars)");
  CHECK(name_for(names, "mars", file("a", 4)) == "a (from mars)");
  CHECK_FALSE(names.place("mars", folder("a")));
}

TEST_CASE("A file is in the way of a folder that the folder takes for it") {
  Names names = folding_names();
  names.add_own("me", held(file("Data", 1)));
  CHECK(name_for(names, "mars", file("data/x", 2)) == "data (from mars)/x");
}

TEST_CASE("A newer content replaces the one of just that spelling") {
  Names names = folding_names();
  names.place("mars", file("README", 1));
  const auto place = names.place("mars", file("README", 2));
  REQUIRE(place);
  CHECK(place->is_newer);
  CHECK(place->entry->name == "README");
}

TEST_CASE("What is known already is folded when it is learnt how") {
  Names names;
  names.add_own("me", held(file("Sub/A", 1)));
  names.set_folding({.letter_case = true});
  CHECK(names.is_taken("sub/a"));
  CHECK(name_for(names, "mars", file("SUB/a", 2)) == "SUB/a (from mars)");
  names.remove_own("Sub/A");
  CHECK_FALSE(names.is_taken("sub/a"));
}

TEST_CASE("A file of ours that got another spelling stays taken when the old one is gone") {
  Names names = folding_names();
  names.add_own("me", held(file("README", 1)));
  names.add_own("me", held(file("readme", 1)));
  names.remove_own("README");
  CHECK(names.is_taken("readme"));
  CHECK(name_for(names, "mars", file("README", 2)) == "README (from mars)");
}

TEST_CASE("Where the folder folds nothing all spellings are files of their own") {
  Names names;
  CHECK(name_for(names, "mars", file("README", 1)) == "README");
  CHECK(name_for(names, "mars", file("readme", 2)) == "readme");
}

TEST_CASE("A content that can have no name any more is refused") {
  Names names;
  names.add_own("me", held(file("a", 1)));
  names.add_own("me", held(file("a (from mars)", 1)));
  for (int n = 2; n <= 1000; ++n) names.add_own("me", held(file("a (from mars " + std::to_string(n) + ")", 1)));
  const auto place = names.place("mars", file("a", 2));
  REQUIRE(place);
  CHECK(place->is_refused);
}
