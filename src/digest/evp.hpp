// How this room calls OpenSSL. EVP fetches an algorithm by name at each use unless it is given a fetched one, and that costs
// more than hashing a small message does: so each algorithm is fetched once, and a context hashes many messages.
#pragma once

#include <openssl/evp.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <stdexcept>
#include <string>

namespace shoal::evp {

/// An algorithm that stays fetched for as long as the process lives.
inline const EVP_MD* fetch(const char* name) {
  const EVP_MD* const algorithm = EVP_MD_fetch(nullptr, name, nullptr);
  if (algorithm == nullptr) throw std::runtime_error(std::string("OpenSSL offers no ") + name);
  return algorithm;
}

inline const EVP_MD* sha256_algorithm() {
  static const EVP_MD* const algorithm = fetch("SHA256");
  return algorithm;
}

/// Hashes one message after another. OpenSSL refuses a fetched algorithm only when memory has run out.
template <std::size_t N>
class Hasher {
 public:
  explicit Hasher(const EVP_MD* algorithm) : algorithm_(algorithm), context_(EVP_MD_CTX_new()) {
    if (!context_) throw std::bad_alloc();
    start();
  }

  void update(std::span<const std::byte> data) {
    if (EVP_DigestUpdate(context_.get(), data.data(), data.size()) != 1) throw std::bad_alloc();
  }

  /// The digest of the message so far; the next update begins a new message.
  std::array<std::uint8_t, N> finish() {
    std::array<std::uint8_t, N> digest;
    if (EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr) != 1) throw std::bad_alloc();
    start();
    return digest;
  }

 private:
  struct Free {
    void operator()(EVP_MD_CTX* context) const noexcept { EVP_MD_CTX_free(context); }
  };

  void start() {
    if (EVP_DigestInit_ex2(context_.get(), algorithm_, nullptr) != 1) throw std::bad_alloc();
  }

  const EVP_MD* algorithm_;
  std::unique_ptr<EVP_MD_CTX, Free> context_;
};

using Sha256 = Hasher<32>;

/// This thread's own context, for messages that are hashed in one go.
inline Sha256& thread_sha256() {
  thread_local Sha256 hasher(sha256_algorithm());
  return hasher;
}

}  // namespace shoal::evp
