#include <catch2/catch_test_macros.hpp>

#include <openssl/evp.h>
#include <rapidcheck.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <tl/expected.hpp>

import shoal.base;
import shoal.digest;

using namespace shoal;

namespace {

using Bytes = std::vector<std::byte>;
using Hashes = std::vector<Sha256Digest>;

/// A size near one that matters, or any below five chunks.
std::size_t any_file_size() {
  const auto edge = *rc::gen::element<std::size_t>(0, kLeafSize, 2 * kLeafSize, kChunkSize, 2 * kChunkSize, 4 * kChunkSize);
  return *rc::gen::oneOf(rc::gen::inRange<std::size_t>(edge == 0 ? 0 : edge - 2, edge + 3),
                         rc::gen::inRange<std::size_t>(0, 5 * kChunkSize));
}

Bytes made_up_file(std::size_t size) {
  Bytes file(size);
  auto state = *rc::gen::arbitrary<std::uint32_t>();
  for (auto& byte : file) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<std::byte>(state >> 24);
  }
  return file;
}

/// To be used in turn; at least one of them is not 0.
std::vector<std::size_t> any_piece_lengths() {
  const auto length = rc::gen::element<std::size_t>(0, 1, 63, 64, kLeafSize - 1, kLeafSize, kLeafSize + 1, kChunkSize, 3 * kChunkSize + 1);
  auto lengths = *rc::gen::container<std::vector<std::size_t>>(length);
  lengths.push_back(*rc::gen::inRange<std::size_t>(1000, 2 * kChunkSize));
  return lengths;
}

FileDigest digest_in_one_piece(const Bytes& file) {
  FileHasher hasher(file.size());
  RC_ASSERT(hasher.update(file).has_value());
  return hasher.finish().value();
}

/// Distinct hashes that cost nothing to make: nobody looks into a chunk's hash.
Hashes made_up_hashes(std::size_t count) {
  const auto seed = *rc::gen::arbitrary<std::uint64_t>();
  Hashes hashes(count);
  for (std::uint64_t i = 0; i < count; ++i) {
    std::memcpy(hashes[i].bytes.data(), &seed, sizeof seed);
    std::memcpy(hashes[i].bytes.data() + sizeof seed, &i, sizeof i);
  }
  return hashes;
}

std::size_t any_chunk_count() {
  return *rc::gen::oneOf(rc::gen::inRange<std::size_t>(1, 40), rc::gen::element<std::size_t>(1023, 1024, 1025, 2048, 2049, 3072, 4097),
                         rc::gen::inRange<std::size_t>(1000, 6000));
}

/// One span of a made-up file, with what it takes to check it.
struct Sample {
  std::uint64_t file_size = 0;
  Sha256Digest root;
  HashSpan span;

  bool is_valid() const { return span_is_valid(span, root, file_size); }
};

Sample any_sample() {
  const Hashes hashes = made_up_hashes(any_chunk_count());
  const auto index = *rc::gen::inRange<std::uint32_t>(0, span_count(hashes.size()));
  return {hashes.size() * std::uint64_t{kChunkSize}, merkle_root(hashes), make_span(hashes, index)};
}

Md5Digest md5_of_openssl(const Bytes& bytes) {
  Md5Digest digest;
  RC_ASSERT(EVP_Digest(bytes.data(), bytes.size(), digest.bytes.data(), nullptr, EVP_md5(), nullptr) == 1);
  return digest;
}

std::size_t any_piece_length() {
  return *rc::gen::oneOf(rc::gen::inRange<std::size_t>(0, 3), rc::gen::inRange<std::size_t>(54, 67), rc::gen::inRange<std::size_t>(0, 300),
                         rc::gen::inRange<std::size_t>(0, 9000), rc::gen::element<std::size_t>(64, 128, 4096, 65536));
}

/// A stream, and all that it was given.
struct Followed {
  Md5Stream stream;
  Bytes bytes;
};

/// Gives some of the streams a new piece each, all at once.
void advance_any(std::vector<Followed>& streams) {
  std::vector<Bytes> data;
  std::vector<Md5Piece> pieces;
  data.reserve(streams.size());
  for (Followed& followed : streams) {
    if (*rc::gen::weightedElement<bool>({{1, true}, {4, false}})) continue;
    data.push_back(made_up_file(any_piece_length()));
    followed.bytes.insert(followed.bytes.end(), data.back().begin(), data.back().end());
    pieces.push_back({&followed.stream, data.back()});
  }
  if (*rc::gen::arbitrary<bool>()) pieces = Md5Stream::update_in_company(pieces);
  Md5Stream::update_together(pieces);
}

void flip_any_bit(Sha256Digest& digest) {
  const auto bit = *rc::gen::inRange<std::size_t>(0, 256);
  digest.bytes[bit / 8] = static_cast<std::uint8_t>(digest.bytes[bit / 8] ^ 1u << bit % 8);
}

}  // namespace

TEST_CASE("A file has one digest, whatever the lengths of the pieces it comes in") {
  REQUIRE(rc::check("pieces of any length", [] {
    const Bytes file = made_up_file(any_file_size());
    FileHasher hasher(file.size());
    const auto lengths = any_piece_lengths();
    std::span<const std::byte> rest = file;
    for (std::size_t i = 0; !rest.empty(); ++i) {
      const auto piece = rest.first(std::min(rest.size(), lengths[i % lengths.size()]));
      RC_ASSERT(hasher.update(piece).has_value());
      rest = rest.subspan(piece.size());
    }
    RC_ASSERT(hasher.finish().value() == digest_in_one_piece(file));
  }));
}

TEST_CASE("The MD5 of any bytes is what OpenSSL says") {
  REQUIRE(rc::check("any length", [] {
    const Bytes bytes = made_up_file(any_piece_length());
    RC_ASSERT(md5(bytes) == md5_of_openssl(bytes));
  }));
}

TEST_CASE("Messages that are hashed side by side have the SHA-256s that they would have alone") {
  REQUIRE(rc::check("any number of any lengths", [] {
    const Bytes bytes = made_up_file(65536);
    std::vector<Sha256Digest> digests(*rc::gen::inRange<std::size_t>(0, 60));
    std::vector<Sha256Message> messages;
    for (Sha256Digest& digest : digests) {
      const auto data = std::span(bytes).first(any_piece_length());
      messages.push_back({data.subspan(std::min<std::size_t>(data.size(), *rc::gen::inRange(0, 3))), &digest});
    }
    sha256_together(messages);
    for (const Sha256Message& message : messages) RC_ASSERT(*message.digest == sha256(message.data));
  }));
}

TEST_CASE("Streams that advance together have the MD5s that they would have alone") {
  REQUIRE(rc::check("any number of streams, pieces of any length", [] {
    std::vector<Followed> streams(*rc::gen::inRange<std::size_t>(1, 3 * kMd5Lanes));
    const int steps = *rc::gen::inRange(0, 6);
    for (int i = 0; i < steps; ++i) advance_any(streams);
    for (Followed& followed : streams) RC_ASSERT(followed.stream.finish() == md5_of_openssl(followed.bytes));
  }));
}

TEST_CASE("A flipped bit anywhere in a file changes its chunk, its root and its MD5") {
  REQUIRE(rc::check("any bit of any file", [] {
    Bytes file = made_up_file(any_file_size() + 1);
    const FileDigest before = digest_in_one_piece(file);
    const auto at = *rc::gen::inRange<std::size_t>(0, file.size());
    file[at] ^= static_cast<std::byte>(1u << *rc::gen::inRange(0, 8));
    const FileDigest after = digest_in_one_piece(file);
    RC_ASSERT(before.root != after.root);
    RC_ASSERT(before.md5 != after.md5);
    RC_ASSERT(before.chunks[at / kChunkSize] != after.chunks[at / kChunkSize]);
  }));
}

TEST_CASE("Hexadecimal is read back as it was written") {
  REQUIRE(rc::check("any digest", [] {
    const auto text = *rc::gen::arbitrary<std::string>();
    const Sha256Digest digest = sha256(std::as_bytes(std::span(text)));
    RC_ASSERT(parse_sha256(to_hex(digest)) == digest);
  }));
}

TEST_CASE("Every span that is made is valid") {
  REQUIRE(rc::check("any span of any file", [] { RC_ASSERT(any_sample().is_valid()); }));
}

TEST_CASE("A flipped bit in any hash of a span is refused") {
  REQUIRE(rc::check("any hash", [] {
    Sample sample = any_sample();
    flip_any_bit(sample.span.hashes[*rc::gen::inRange<std::size_t>(0, sample.span.hashes.size())]);
    RC_ASSERT_FALSE(sample.is_valid());
  }));
}

TEST_CASE("A flipped bit in any proof of a span is refused") {
  REQUIRE(rc::check("any proof", [] {
    Sample sample = any_sample();
    RC_PRE(!sample.span.proof.empty());
    flip_any_bit(sample.span.proof[*rc::gen::inRange<std::size_t>(0, sample.span.proof.size())]);
    RC_ASSERT_FALSE(sample.is_valid());
  }));
}

TEST_CASE("A flipped bit in the root refuses every span") {
  REQUIRE(rc::check("any root", [] {
    Sample sample = any_sample();
    flip_any_bit(sample.root);
    RC_ASSERT_FALSE(sample.is_valid());
  }));
}

TEST_CASE("A span with too many or too few hashes or proofs is refused") {
  REQUIRE(rc::check("any other count", [] {
    Sample sample = any_sample();
    auto& list = *rc::gen::arbitrary<bool>() ? sample.span.hashes : sample.span.proof;
    const auto count = *rc::gen::oneOf(rc::gen::inRange<std::size_t>(0, 1030), rc::gen::just(list.size() + 1));
    RC_PRE(count != list.size());
    list.resize(count);
    RC_ASSERT_FALSE(sample.is_valid());
  }));
}

TEST_CASE("A span is valid at its own place only") {
  REQUIRE(rc::check("any other index", [] {
    Sample sample = any_sample();
    const auto index = *rc::gen::oneOf(rc::gen::inRange<std::uint32_t>(0, 8), rc::gen::arbitrary<std::uint32_t>());
    RC_PRE(index != sample.span.index);
    sample.span.index = index;
    RC_ASSERT_FALSE(sample.is_valid());
  }));
}
