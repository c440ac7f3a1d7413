#include "engine/kv/block_hasher.h"

#include <openssl/evp.h>

#include "base/check.h"

namespace spillway::kv {

// SHA-256 over one context that is made once: starting a digest anew in it allocates nothing.
class BlockHasher::Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new()) {
    SPILLWAY_CHECK(context_ != nullptr && EVP_DigestInit_ex(context_, EVP_sha256(), nullptr) == 1);
  }
  ~Sha256() { EVP_MD_CTX_free(context_); }
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Start() { SPILLWAY_CHECK(EVP_DigestInit_ex(context_, nullptr, nullptr) == 1); }
  void Add(const void* data, size_t size) { SPILLWAY_CHECK(EVP_DigestUpdate(context_, data, size) == 1); }
  BlockHash Take() {
    BlockHash hash;
    unsigned int size = 0;
    SPILLWAY_CHECK(EVP_DigestFinal_ex(context_, hash.data(), &size) == 1 && size == hash.size());
    return hash;
  }

 private:
  EVP_MD_CTX* const context_;
};

BlockHasher::BlockHasher(int32_t block_tokens)
    : block_tokens_(block_tokens), sha256_(std::make_unique<Sha256>()) {}

BlockHasher::~BlockHasher() = default;

BlockHash BlockHasher::RootHash(absl::Span<const uint8_t> model_fingerprint, absl::Span<const uint8_t> salt) {
  // The length keeps (ab, c) and (a, bc) apart.
  const uint64_t fingerprint_bytes = model_fingerprint.size();
  sha256_->Start();
  sha256_->Add(&fingerprint_bytes, sizeof(fingerprint_bytes));
  sha256_->Add(model_fingerprint.data(), model_fingerprint.size());
  sha256_->Add(salt.data(), salt.size());
  return sha256_->Take();
}

BlockHash BlockHasher::ChainHash(const BlockHash& parent, absl::Span<const text::TokenId> tokens) {
  SPILLWAY_CHECK(tokens.size() == static_cast<size_t>(block_tokens_));
  sha256_->Start();
  sha256_->Add(parent.data(), parent.size());
  sha256_->Add(tokens.data(), tokens.size() * sizeof(text::TokenId));
  return sha256_->Take();
}

}  // namespace spillway::kv
