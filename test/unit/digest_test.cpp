#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <limits>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/core.h>
#include <tl/expected.hpp>

import shoal.base;
import shoal.digest;

using namespace shoal;

namespace {

using Bytes = std::vector<std::byte>;
using Hashes = std::vector<Sha256Digest>;

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

/// The content of the files that test/data/make_v2_torrents.py makes.
Bytes content(std::size_t size) {
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 251);
  return bytes;
}

FileDigest digest_of(const Bytes& file) {
  FileHasher hasher(file.size());
  REQUIRE(hasher.update(file));
  return hasher.finish().value();
}

Sha256Digest hash_pair(const Sha256Digest& left, const Sha256Digest& right) {
  Bytes both;
  for (const auto& half : {left, right})
    for (const std::uint8_t byte : half.bytes) both.push_back(static_cast<std::byte>(byte));
  return sha256(both);
}

/// The root as BEP 52 words it: pad the leaf hashes with zeros to a power of two, then hash pairs.
Sha256Digest plain_root(Hashes nodes) {
  nodes.resize(std::bit_ceil(nodes.size()));
  while (nodes.size() > 1) {
    for (std::size_t i = 0; i < nodes.size() / 2; ++i) nodes[i] = hash_pair(nodes[2 * i], nodes[2 * i + 1]);
    nodes.resize(nodes.size() / 2);
  }
  return nodes.front();
}

Hashes leaf_hashes(std::span<const std::byte> file) {
  Hashes leaves;
  for (; !file.empty(); file = file.subspan(std::min<std::size_t>(file.size(), kLeafSize)))
    leaves.push_back(sha256(file.first(std::min<std::size_t>(file.size(), kLeafSize))));
  return leaves;
}

/// The hash of a chunk as BEP 52 words it.
Sha256Digest plain_chunk_hash(const ChunkToHash& chunk) {
  Hashes leaves = leaf_hashes(chunk.chunk);
  if (chunk.file_size > kChunkSize) leaves.resize(kChunkSize / kLeafSize);
  return plain_root(leaves);
}

/// Of chunks: those of one to sixteen whole leaves, a byte less, and a byte more.
std::vector<std::size_t> sizes_around_leaves() {
  std::vector<std::size_t> sizes{1};
  for (std::size_t size = kLeafSize; size <= kChunkSize; size += kLeafSize)
    for (const std::size_t near : {size - 1, size, size + 1})
      if (near <= kChunkSize) sizes.push_back(near);
  return sizes;
}

/// The hash that stands above 16 leaves past the end.
Sha256Digest empty_chunk() { return plain_root(Hashes(16)); }

/// `count` hashes that stand for those of chunks.
Hashes made_up_hashes(std::size_t count) {
  Hashes hashes(count);
  for (std::size_t i = 0; i < count; ++i) hashes[i] = sha256(bytes_of(fmt::format("chunk {}", i)));
  return hashes;
}

std::uint64_t size_of_chunks(std::uint64_t chunks) { return chunks * kChunkSize; }

/// The hashes that libtorrent stored: v2_trees.torrent has a file for each size, named by it.
class Torrent {
 public:
  Torrent() {
    std::ifstream file(SHOAL_TEST_DATA "/v2_trees.torrent", std::ios::binary);
    text_.assign(std::istreambuf_iterator<char>(file), {});
  }

  std::string pieces_root(std::size_t size) const {
    return std::string(after(fmt::format("6:lengthi{}e11:pieces root32:", size)).substr(0, 32));
  }

  /// Bencoded as a dictionary from root to the piece hashes, joined.
  std::string piece_layer(std::size_t size) const {
    const std::size_t length = (size + kChunkSize - 1) / kChunkSize * 32;
    return std::string(after(fmt::format("32:{}{}:", pieces_root(size), length)).substr(0, length));
  }

 private:
  std::string_view after(const std::string& key) const {
    const auto at = text_.find(key);
    if (at == std::string::npos) throw std::runtime_error("v2_trees.torrent lacks " + key);
    return std::string_view(text_).substr(at + key.size());
  }

  std::string text_;
};

std::string raw(const Sha256Digest& digest) { return {digest.bytes.begin(), digest.bytes.end()}; }

std::string raw(const Hashes& hashes) {
  std::string joined;
  for (const auto& hash : hashes) joined += raw(hash);
  return joined;
}

}  // namespace

// ---- hexadecimal --------------------------------------------------------------------------------------

TEST_CASE("Digests are written in lower-case hexadecimal") {
  Md5Digest digest;
  digest.bytes[0] = 0xab;
  digest.bytes[15] = 0x0f;
  CHECK(to_hex(digest) == "ab00000000000000000000000000000f");
}

TEST_CASE("Digests are read in either case") {
  CHECK(parse_md5("D41D8CD98F00B204e9800998ecf8427e") == md5({}));
  CHECK(parse_sha256(to_hex(sha256({}))) == sha256({}));
}

TEST_CASE("What is no digest is not read as one") {
  const auto text = GENERATE(as<std::string>{}, "", "d41d8cd98f00b204e9800998ecf8427", "d41d8cd98f00b204e9800998ecf8427e0",
                             "d41d8cd98f00b204e9800998ecf8427g", " 41d8cd98f00b204e9800998ecf8427e", "0xd41d8cd98f00b204e9800998ecf84",
                             "d41d8cd98f00b204e9800998ecf842\xc3\xa9");
  CHECK((parse_md5(text) == std::nullopt && parse_sha256(text) == std::nullopt));
}

// ---- MD5 and SHA-256 ----------------------------------------------------------------------------------

TEST_CASE("MD5 gives what RFC 1321 lists") {
  const auto [text, expected] = GENERATE(table<std::string, std::string>({
      {"", "d41d8cd98f00b204e9800998ecf8427e"},
      {"a", "0cc175b9c0f1b6a831c399e269772661"},
      {"abc", "900150983cd24fb0d6963f7d28e17f72"},
      {"message digest", "f96b697d7cb7938d525a2f31aaf161d0"},
      {"abcdefghijklmnopqrstuvwxyz", "c3fcd3d76192e4007dfb496cca67e13b"},
      {"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", "d174ab98d277d9f5a5611c2c9f419d9f"},
      {"12345678901234567890123456789012345678901234567890123456789012345678901234567890", "57edf4a22be3c955ac49da2e2107b67a"},
  }));
  CHECK(to_hex(md5(bytes_of(text))) == expected);
}

TEST_CASE("SHA-256 gives what FIPS 180-4 lists") {
  const auto [text, expected] = GENERATE(table<std::string, std::string>({
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {std::string(1'000'000, 'a'), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
  }));
  CHECK(to_hex(sha256(bytes_of(text))) == expected);
}

TEST_CASE("A stream gives the MD5 of its pieces joined") {
  Md5Stream stream;
  for (const std::string_view piece : {"message", "", " ", "digest"}) stream.update(bytes_of(piece));
  CHECK(to_hex(stream.finish()) == "f96b697d7cb7938d525a2f31aaf161d0");
}

TEST_CASE("A stream can be moved in the middle of its message") {
  Md5Stream first;
  first.update(bytes_of("message "));
  Md5Stream second = std::move(first);
  second.update(bytes_of("digest"));
  CHECK(to_hex(second.finish()) == "f96b697d7cb7938d525a2f31aaf161d0");
}

TEST_CASE("More streams than there are lanes advance together, with pieces of any length") {
  std::vector<Md5Stream> streams(2 * kMd5Lanes + 3);
  std::vector<Bytes> data;
  std::vector<Md5Piece> pieces;
  for (std::size_t i = 0; i < streams.size(); ++i) data.push_back(content(i * 100));
  for (std::size_t i = 0; i < streams.size(); ++i) pieces.push_back({&streams[i], data[i]});
  Md5Stream::update_together(pieces);
  for (std::size_t i = 0; i < streams.size(); ++i) CHECK(streams[i].finish() == md5(data[i]));
}

TEST_CASE("A stream without company is left, and goes on with what comes next") {
  const Bytes longest = content(kChunkSize);
  const Bytes other = content(kLeafSize / 2);
  constexpr std::size_t kOthers = (kMd5Lanes - 1) * (2 * kMd5Lanes - 1);  // fill the lanes beside it whether there are 8 or 16
  std::vector<Md5Stream> streams(1 + kOthers);
  std::vector<Md5Piece> pieces{{&streams.front(), longest}};
  for (Md5Stream& stream : std::span(streams).subspan(1)) pieces.push_back({&stream, other});
  const auto left = Md5Stream::update_in_company(pieces);
  REQUIRE(left.size() == 1);
  CHECK(left.front().stream == &streams.front());
  CHECK(left.front().data.size() < longest.size());
  CHECK(left.front().data.size() >= longest.size() / 2);
  Md5Stream next;
  Md5Stream::update_together(std::vector<Md5Piece>{left.front(), {&next, other}});
  CHECK(streams.front().finish() == md5(longest));
  CHECK(next.finish() == md5(other));
  for (Md5Stream& stream : std::span(streams).subspan(1)) CHECK(stream.finish() == md5(other));
}

TEST_CASE("Threads hash without disturbing each other") {
  const Bytes file = content(3 * kChunkSize);
  const FileDigest expected = digest_of(file);
  std::vector<FileDigest> results(4);
  {
    std::vector<std::jthread> threads;
    for (auto& result : results)
      threads.emplace_back([&file, &result] {
        FileHasher hasher(file.size());
        if (hasher.update(file)) result = hasher.finish().value();
      });
  }
  CHECK(std::count(results.begin(), results.end(), expected) == 4);
}

// ---- chunks -------------------------------------------------------------------------------------------

TEST_CASE("A file is cut into chunks of 256 KiB") {
  const auto [size, expected] = GENERATE(table<std::uint64_t, std::uint64_t>({
      {0, 0},
      {1, 1},
      {kChunkSize - 1, 1},
      {kChunkSize, 1},
      {kChunkSize + 1, 2},
      {10 * kChunkSize, 10},
      {std::numeric_limits<std::uint64_t>::max(), std::uint64_t{1} << 46},
  }));
  CHECK(chunk_count(size) == expected);
}

TEST_CASE("Only the last chunk is shorter, and none is past the end") {
  const std::uint64_t size = 2 * kChunkSize + 5;
  CHECK(chunk_length(size, ChunkIndex{0}) == kChunkSize);
  CHECK(chunk_length(size, ChunkIndex{1}) == kChunkSize);
  CHECK(chunk_length(size, ChunkIndex{2}) == 5);
  CHECK(chunk_length(size, ChunkIndex{3}) == 0);
  CHECK(chunk_length(0, ChunkIndex{0}) == 0);
  CHECK(chunk_length(size, ChunkIndex{std::numeric_limits<std::uint32_t>::max()}) == 0);
}

TEST_CASE("An empty file has no chunks and a root of zeros") {
  const FileDigest digest = digest_of({});
  CHECK(digest == FileDigest{0, parse_md5("d41d8cd98f00b204e9800998ecf8427e").value(), Sha256Digest{}, {}});
}

TEST_CASE("The root of a file is the one that BEP 52 describes") {
  const std::size_t size = GENERATE(1u, kLeafSize - 1, kLeafSize, kLeafSize + 1, 3 * kLeafSize, kChunkSize - 1, kChunkSize, kChunkSize + 1,
                                    2 * kChunkSize, 3 * kChunkSize, 5 * kChunkSize + 7 * kLeafSize + 1);
  const Bytes file = content(size);
  Hashes leaves = leaf_hashes(file);
  if (size > kChunkSize) leaves.resize(std::bit_ceil(leaves.size()));
  CHECK(digest_of(file).root == plain_root(leaves));
}

TEST_CASE("A chunk hashes alone as it does within its file") {
  const std::size_t size = GENERATE(1u, kLeafSize, kLeafSize + 1, kChunkSize, kChunkSize + 1, 3 * kChunkSize + kLeafSize + 1);
  const Bytes file = content(size);
  Hashes alone;
  for (std::size_t begin = 0; begin < size; begin += kChunkSize)
    alone.push_back(chunk_hash(std::span(file).subspan(begin, std::min<std::size_t>(kChunkSize, size - begin)), size));
  CHECK(alone == digest_of(file).chunks);
}

TEST_CASE("Chunks hash together as they do alone") {
  const Bytes file = content(kChunkSize + 1);
  std::vector<ChunkToHash> chunks;
  Hashes expected;
  for (const std::size_t size : sizes_around_leaves()) {
    for (const std::uint64_t file_size : {std::uint64_t{size}, std::uint64_t{kChunkSize} + size}) {
      chunks.push_back({std::span(file).subspan(chunks.size() % 2, size), file_size, {}});
      expected.push_back(plain_chunk_hash(chunks.back()));
      CHECK(chunk_hash(chunks.back().chunk, file_size) == expected.back());
    }
  }
  hash_chunks(chunks);
  CHECK(std::ranges::equal(chunks, expected, {}, &ChunkToHash::hash));
}

TEST_CASE("A chunk may be hashed twice at once, and none, too") {
  const Bytes file = content(3 * kLeafSize + 1);
  std::vector<ChunkToHash> chunks(2, {file, file.size(), {}});
  hash_chunks(chunks);
  CHECK((chunks[0].hash == plain_chunk_hash(chunks[0]) && chunks[1].hash == chunks[0].hash));
  hash_chunks({});
}

TEST_CASE("Any number of small chunks is hashed at once") {
  const Bytes file = content(100 * 40);
  for (std::size_t count = 1; count <= 40; ++count) {
    std::vector<ChunkToHash> chunks;
    for (std::size_t i = 0; i < count; ++i) chunks.push_back({std::span(file).subspan(i, 100 * (count - i)), 100 * (count - i), {}});
    hash_chunks(chunks);
    CHECK(std::ranges::all_of(chunks, [](const ChunkToHash& chunk) { return chunk.hash == sha256(chunk.chunk); }));
  }
}

TEST_CASE("The root of a file of one chunk is that chunk's hash") {
  const FileDigest digest = digest_of(content(100'000));
  CHECK((digest.chunks.size() == 1 && digest.root == digest.chunks.front()));
}

TEST_CASE("The last chunk of several is as wide as the others") {
  const Bytes file = content(kChunkSize + 1);
  Hashes leaves = leaf_hashes(std::span(file).subspan(kChunkSize));
  leaves.resize(16);
  CHECK(digest_of(file).chunks.back() == plain_root(leaves));
}

TEST_CASE("Chunk hashes past the end are those of chunks without leaves") {
  const std::size_t count = GENERATE(1u, 2u, 3u, 5u, 8u, 1023u, 1025u, 3000u);
  Hashes padded = made_up_hashes(count);
  padded.resize(std::bit_ceil(count), empty_chunk());
  CHECK(merkle_root(made_up_hashes(count)) == plain_root(padded));
}

TEST_CASE("Roots and chunk hashes are those that libtorrent writes into a v2 torrent") {
  const std::size_t size =
      GENERATE(1u, 16'383u, 16'384u, 16'385u, 49'152u, 100'000u, 262'143u, 262'144u, 262'145u, 524'288u, 1'000'000u, 3'145'733u);
  const Torrent torrent;
  const FileDigest digest = digest_of(content(size));
  CHECK(raw(digest.root) == torrent.pieces_root(size));
  if (size > kChunkSize) CHECK(raw(digest.chunks) == torrent.piece_layer(size));
}

// ---- the hasher ---------------------------------------------------------------------------------------

TEST_CASE("The hasher gives the MD5 of the whole file") {
  const Bytes file = content(kChunkSize + 12'345);
  CHECK((digest_of(file).md5 == md5(file) && digest_of(file).size == file.size()));
}

TEST_CASE("A file that ends early has changed") {
  FileHasher hasher(100);
  REQUIRE(hasher.update(content(99)));
  CHECK(hasher.finish().error().code == Errc::changed);
}

TEST_CASE("A file that goes on has changed") {
  FileHasher hasher(100);
  REQUIRE(hasher.update(content(100)));
  CHECK(hasher.update(content(1)).error().code == Errc::changed);
  CHECK(hasher.finish().error().code == Errc::changed);
}

TEST_CASE("A hasher for an enormous file takes no memory in advance") {
  FileHasher hasher(std::numeric_limits<std::uint64_t>::max());
  CHECK(hasher.update(content(kLeafSize)));
}

// ---- spans of chunk hashes ----------------------------------------------------------------------------

TEST_CASE("Chunk hashes fall into spans of 1024") {
  const auto [chunks, expected] = GENERATE(table<std::uint64_t, std::uint32_t>({
      {0, 0},
      {1, 1},
      {1024, 1},
      {1025, 2},
      {2048, 2},
      {2049, 3},
      {0xffffffff, 0x400000},
  }));
  CHECK(span_count(chunks) == expected);
}

TEST_CASE("A file of one span needs no proof") {
  const std::size_t chunks = GENERATE(1u, 2u, 1000u, 1024u);
  const Hashes hashes = made_up_hashes(chunks);
  const HashSpan span = make_span(hashes, 0);
  CHECK((span.hashes == hashes && span.proof.empty()));
}

TEST_CASE("The proof of a span is a sibling a level") {
  const Hashes hashes = made_up_hashes(2049);  // three spans, under a root two levels up
  const HashSpan span = make_span(hashes, 2);
  Hashes whole = hashes;
  whole.resize(4096, empty_chunk());
  const Hashes siblings{plain_root(Hashes(1024, empty_chunk())), plain_root(Hashes(whole.begin(), whole.begin() + 2048))};
  CHECK((span.hashes.size() == 1 && span.proof == siblings));
}

TEST_CASE("Every span of a file is valid under its root") {
  const std::size_t chunks = GENERATE(1u, 2u, 3u, 1023u, 1024u, 1025u, 2048u, 2049u, 5000u);
  const Hashes hashes = made_up_hashes(chunks);
  const Sha256Digest root = merkle_root(hashes);
  std::uint32_t valid = 0;
  for (std::uint32_t i = 0; i < span_count(chunks); ++i) valid += span_is_valid(make_span(hashes, i), root, size_of_chunks(chunks)) ? 1 : 0;
  CHECK(valid == span_count(chunks));
}

TEST_CASE("A span is refused at another place than its own") {
  const Hashes hashes = made_up_hashes(4096);
  HashSpan span = make_span(hashes, 1);
  span.index = GENERATE(0u, 2u, 3u, 4u, 5u, 0xffffffffu);
  CHECK_FALSE(span_is_valid(span, merkle_root(hashes), size_of_chunks(4096)));
}

TEST_CASE("A span is refused for a file of another shape") {
  const Hashes hashes = made_up_hashes(1025);
  const HashSpan span = make_span(hashes, 1);
  const std::uint64_t size = GENERATE(std::uint64_t{0}, std::uint64_t{1}, size_of_chunks(1024), size_of_chunks(1026), size_of_chunks(2049),
                                      std::numeric_limits<std::uint64_t>::max());
  CHECK_FALSE(span_is_valid(span, merkle_root(hashes), size));
}

TEST_CASE("An empty file has no valid span") { CHECK_FALSE(span_is_valid(HashSpan{}, Sha256Digest{}, 0)); }
