// BlockHasher: names a block by its content and everything before it. Hashes are chained SHA-256 of (parent
// hash, tokens), the first parent being (model fingerprint, salt), so that equal hashes mean equal contents.
//
// Thread-compatible: whoever hashes on a thread of its own has a hasher of its own. After construction
// nothing here allocates memory.
#ifndef SPILLWAY_ENGINE_KV_BLOCK_HASHER_H_
#define SPILLWAY_ENGINE_KV_BLOCK_HASHER_H_

#include <array>
#include <cstdint>
#include <memory>

#include "absl/types/span.h"
#include "engine/text/vocabulary.h"

namespace spillway::kv {

using BlockHash = std::array<uint8_t, 32>;

class BlockHasher {
 public:
  explicit BlockHasher(int32_t block_tokens);
  ~BlockHasher();
  BlockHasher(const BlockHasher&) = delete;
  BlockHasher& operator=(const BlockHasher&) = delete;

  // The parent hash of a sequence's first block.
  BlockHash RootHash(absl::Span<const uint8_t> model_fingerprint, absl::Span<const uint8_t> salt);
  // REQUIRES: tokens.size() == block_tokens.
  BlockHash ChainHash(const BlockHash& parent, absl::Span<const text::TokenId> tokens);

 private:
  class Sha256;

  const int32_t block_tokens_;
  std::unique_ptr<Sha256> sha256_;
};

}  // namespace spillway::kv

#endif  // SPILLWAY_ENGINE_KV_BLOCK_HASHER_H_
