/// What proves that bytes are the right ones: MD5, SHA-256, and the Merkle tree of BitTorrent v2 (BEP 52).
/// Plain values and functions, no IO; each object belongs to one thread at a time.
module;

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

export module shoal.digest;

import shoal.base;
export import :kernels;

export namespace shoal {

/// N bytes of hash, as they stand on the wire.
template <std::size_t N, class Tag>
struct Digest {
  std::array<std::uint8_t, N> bytes{};

  friend constexpr auto operator<=>(const Digest&, const Digest&) = default;
};

using Md5Digest = Digest<16, struct Md5Tag>;        ///< RFC 1321; how people name and check a whole file.
using Sha256Digest = Digest<32, struct Sha256Tag>;  ///< FIPS 180-4; a node of a Merkle tree.

/// Lower-case hexadecimal, as `md5sum` prints it.
std::string to_hex(std::span<const std::uint8_t> bytes);
template <std::size_t N, class Tag>
std::string to_hex(const Digest<N, Tag>& digest) {
  return to_hex(std::span<const std::uint8_t>(digest.bytes));
}
/// Exactly 32 (MD5) or 64 (SHA-256) hexadecimal digits, upper or lower case; nothing for any other text.
std::optional<Md5Digest> parse_md5(std::string_view hex);
std::optional<Sha256Digest> parse_sha256(std::string_view hex);

Md5Digest md5(std::span<const std::byte> data);
Sha256Digest sha256(std::span<const std::byte> data);

/// A message among others, and where its digest goes: into no message's bytes.
struct Sha256Message {
  std::span<const std::byte> data;
  Sha256Digest* digest = nullptr;
};
/// Sets the digests of messages of any lengths. They go side by side where the processor can (x86 with AVX-512 or with instructions for
/// SHA-256) and the plan has it so, which is up to twice as fast as one after the other (docs/decisions/0024).
void sha256_together(std::span<const Sha256Message> messages);
void sha256_together(std::span<const Sha256Message> messages, const KernelPlan& plan);

struct Md5Piece;

/// As many streams at least advance at a time; where there are more than that, or than twice as many with AVX-512, they take turns.
inline constexpr std::size_t kMd5Lanes = 8;

/// MD5 of bytes that come piece by piece.
class Md5Stream {
 public:
  void update(std::span<const std::byte> data);
  /// Updates several streams, side by side in the lanes of vectors: eight take hardly longer than one. Each stream stands in one
  /// piece only. It pays most for pieces of one length, because a lane is idle once its piece is over.
  static void update_together(std::span<const Md5Piece> pieces);
  static void update_together(std::span<const Md5Piece> pieces, const KernelPlan& plan);
  /// The same while so many go on that they reach half of the rate of full lanes. Returns what is left, which costs less together with
  /// what comes next.
  static std::vector<Md5Piece> update_in_company(std::span<const Md5Piece> pieces);
  static std::vector<Md5Piece> update_in_company(std::span<const Md5Piece> pieces, const KernelPlan& plan);
  /// The digest of everything so far. The stream is spent: call nothing else on it.
  Md5Digest finish();

 private:
  static constexpr std::size_t kBlockSize = 64;
  class Lanes;

  /// Completes the block that has begun, as far as `data` reaches. Returns the rest of it.
  std::span<const std::byte> complete_block(std::span<const std::byte> data);
  /// Keeps less than a block until more comes.
  void begin_block(std::span<const std::byte> rest);

  std::array<std::uint32_t, 4> state_{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476};
  std::uint64_t length_ = 0;
  std::array<std::byte, kBlockSize> block_{};  ///< Its first length_ % kBlockSize bytes count.
};

/// What a stream is to be updated with.
struct Md5Piece {
  Md5Stream* stream = nullptr;
  std::span<const std::byte> data;
};

// ---- the Merkle tree of a file (BEP 52, "pieces root") ------------------------------------------------
//
// Leaves are SHA-256 over 16 KiB of the file (the last one over what is left); the tree is binary, and leaf hashes
// past the end are 32 zero bytes. A chunk's hash is the root of the subtree over its 16 leaves. A file of at
// most one chunk has a tree just wide enough for its own leaves. The root of an empty file, for which BEP 52 has
// none, is 32 zero bytes here.

/// How many chunks a file of `size` bytes has; none for an empty file.
std::uint64_t chunk_count(std::uint64_t size);
/// How many bytes chunk `index` of a file of `size` bytes has; 0 past the end.
std::uint32_t chunk_length(std::uint64_t size, ChunkIndex index);

/// The hash of one chunk of a file of `file_size` bytes. `chunk` is all of that chunk's bytes, 1 to kChunkSize.
Sha256Digest chunk_hash(std::span<const std::byte> chunk, std::uint64_t file_size);

/// A chunk of a file of `file_size` bytes, and what it hashes to.
struct ChunkToHash {
  std::span<const std::byte> chunk;  ///< All of that chunk's bytes, 1 to kChunkSize.
  std::uint64_t file_size = 0;
  Sha256Digest hash{};
};
/// Sets the hashes of chunks, of one file or of several. All their leaves go side by side, so that many small chunks are
/// faster than one by one.
void hash_chunks(std::span<ChunkToHash> chunks);

/// The root over all chunk hashes of a file, in order. For one chunk it is that chunk's hash; for none, zeros.
Sha256Digest merkle_root(std::span<const Sha256Digest> chunk_hashes);

/// Chunk hashes travel in aligned spans of this many, each with a proof that it belongs to the root.
inline constexpr std::uint32_t kSpanChunks = 1024;

/// How many spans the chunk hashes of a file of `chunks` chunks fall into.
std::uint32_t span_count(std::uint64_t chunks);

/// Some consecutive chunk hashes of a file, and what it takes to check them against its root.
struct HashSpan {
  std::uint32_t index = 0;           ///< Holds chunks [index * kSpanChunks, ...).
  std::vector<Sha256Digest> hashes;  ///< kSpanChunks of them, fewer only in the last span.
  std::vector<Sha256Digest> proof;   ///< The sibling at each level on the way up, lowest first. Empty for a single span.
};

/// Cuts span `index` out of all chunk hashes of a file, with its proof. `index` must be below span_count.
/// Costs a pass over all chunk hashes.
HashSpan make_span(std::span<const Sha256Digest> chunk_hashes, std::uint32_t index);

/// Whether `span` has the right number of hashes and they, with the proof, lead to `root`, for a file of
/// `file_size` bytes. Made for untrusted input: any HashSpan may be passed.
bool span_is_valid(const HashSpan& span, const Sha256Digest& root, std::uint64_t file_size);

/// Everything that identifies the content of a file.
struct FileDigest {
  std::uint64_t size = 0;
  Md5Digest md5;
  Sha256Digest root;
  std::vector<Sha256Digest> chunks;

  friend bool operator==(const FileDigest&, const FileDigest&) = default;
};

/// Digests a file in one pass, from the front to the end, in pieces of any length. The size must be known in
/// advance, because the shape of a small tree depends on it.
class FileHasher {
 public:
  explicit FileHasher(std::uint64_t size);
  ~FileHasher();
  FileHasher(FileHasher&&) noexcept;
  FileHasher& operator=(FileHasher&&) noexcept;

  /// Fails with `changed` when more than `size` bytes come.
  Result<> update(std::span<const std::byte> data);
  /// Fails with `changed` when fewer than `size` bytes came. The hasher is spent.
  Result<FileDigest> finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace shoal

template <std::size_t N, class Tag>
struct std::hash<shoal::Digest<N, Tag>> {
  /// Digests are uniform already, so their first bytes serve.
  std::size_t operator()(const shoal::Digest<N, Tag>& digest) const noexcept {
    std::size_t value = 0;
    for (std::size_t i = 0; i < sizeof value; ++i) value = value << 8 | digest.bytes[i];
    return value;
  }
};
