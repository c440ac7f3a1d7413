// BlockHasher: names a block by its content and everything before it. Hashes are chained SHA-256 of (parent
// hash, tokens), the first parent being (model fingerprint, salt), so that equal hashes mean equal contents.
//
// A value; thread-safe. Nothing here allocates memory.
#ifndef SPILLWAY_ENGINE_KV_BLOCK_HASHER_H_
#define SPILLWAY_ENGINE_KV_BLOCK_HASHER_H_

#include <array>
#include <cstdint>

#include "absl/types/span.h"
#include "engine/text/vocabulary.h"

namespace spillway::kv {

using BlockHash = std::array<uint8_t, 32>;

class BlockHasher {
 public:
  explicit BlockHasher(int32_t block_tokens);

  // The parent hash of a sequence's first block.
  BlockHash RootHash(absl::Span<const uint8_t> model_fingerprint, absl::Span<const uint8_t> salt) const;
  // REQUIRES: tokens.size() == block_tokens.
  BlockHash ChainHash(const BlockHash& parent, absl::Span<const text::TokenId> tokens) const;

 private:
  const int32_t block_tokens_;
};

}  // namespace spillway::kv

#endif  // SPILLWAY_ENGINE_KV_BLOCK_HASHER_H_
