#include "engine/kv/block_hasher.h"

// EVP, the interface that OpenSSL 3 wants used, allocates whenever a digest starts anew; these functions work
// on memory of the caller's.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include "base/check.h"

namespace spillway::kv {
namespace {

class Sha256 {
 public:
  Sha256() { SPILLWAY_CHECK(SHA256_Init(&context_) == 1); }

  void Add(const void* data, size_t size) { SPILLWAY_CHECK(SHA256_Update(&context_, data, size) == 1); }
  BlockHash Take() {
    BlockHash hash;
    SPILLWAY_CHECK(SHA256_Final(hash.data(), &context_) == 1);
    return hash;
  }

 private:
  SHA256_CTX context_;
};

}  // namespace

BlockHasher::BlockHasher(int32_t block_tokens) : block_tokens_(block_tokens) {
  SPILLWAY_CHECK(block_tokens > 0);
}

BlockHash BlockHasher::RootHash(absl::Span<const uint8_t> model_fingerprint,
                                absl::Span<const uint8_t> salt) const {
  // The length keeps (ab, c) and (a, bc) apart.
  const uint64_t fingerprint_bytes = model_fingerprint.size();
  Sha256 sha256;
  sha256.Add(&fingerprint_bytes, sizeof(fingerprint_bytes));
  sha256.Add(model_fingerprint.data(), model_fingerprint.size());
  sha256.Add(salt.data(), salt.size());
  return sha256.Take();
}

BlockHash BlockHasher::ChainHash(const BlockHash& parent, absl::Span<const text::TokenId> tokens) const {
  SPILLWAY_CHECK(tokens.size() == static_cast<size_t>(block_tokens_));
  Sha256 sha256;
  sha256.Add(parent.data(), parent.size());
  sha256.Add(tokens.data(), tokens.size() * sizeof(text::TokenId));
  return sha256.Take();
}

}  // namespace spillway::kv
