// SequenceCache: one sequence's share of the KV cache - its block table, how much of it is computed, and the
// chained hashes under which its full blocks are found again.
//
// A sequence may give its blocks up (preemption) and acquire others later; the hashes stay, so that it finds
// what is still cached. Full published blocks are shared and never written; every block that will be written
// is the sequence's own.
//
// Step thread only. Between Acquire and Release nothing here allocates memory.
#ifndef SPILLWAY_SCHEDULER_SEQUENCE_CACHE_H_
#define SPILLWAY_SCHEDULER_SEQUENCE_CACHE_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/kv/block_hasher.h"
#include "engine/kv/block_store.h"
#include "engine/kv/geometry.h"
#include "engine/text/vocabulary.h"

namespace spillway::scheduler {

// What every sequence's cache lives in.
struct CacheRoom {
  kv::BlockStore& blocks;
  kv::BlockHasher& hasher;
  int32_t block_tokens;
  bool shares_prefixes = true;  // between requests; one finds its own blocks again in any case

  int64_t blocks_for(int64_t n_tokens) const { return (n_tokens + block_tokens - 1) / block_tokens; }
};

class SequenceCache {
 public:
  // `prompt_hashes` are those of the prompt's full blocks, `root` the parent of the first. All outlive this.
  SequenceCache(const CacheRoom& room, const kv::BlockHash& root,
                const std::vector<kv::BlockHash>& prompt_hashes);
  ~SequenceCache();  // REQUIRES: released
  SequenceCache(const SequenceCache&) = delete;
  SequenceCache& operator=(const SequenceCache&) = delete;

  absl::Span<const kv::BlockId> blocks() const { return blocks_; }
  // Tokens whose K and V are in the blocks: the first rows need not be computed.
  int32_t computed_tokens() const { return computed_tokens_; }
  int32_t full_blocks() const { return computed_tokens_ / room_.block_tokens; }
  absl::Span<const kv::BlockId> full_block_ids() const {
    return blocks().first(static_cast<size_t>(full_blocks()));
  }

  // Takes published blocks that hold the first of `n_tokens` tokens (never the last token: it is computed
  // anew, for its logits), and free ones for the rest and for growing to `room_tokens`. False: there are too
  // few, and nothing was taken. `most_tokens` is what the sequence may ever hold.
  bool Acquire(int32_t n_tokens, int32_t room_tokens, int32_t most_tokens);
  // Takes only the published blocks that Acquire would find, until Release. Returns the pool's slots that are
  // missing for the rest beside those that are available now; 0 or less: none.
  int64_t HoldFound(int32_t n_tokens, int32_t room_tokens);

  // Replaces own blocks that are still to be computed by ones that others have published meanwhile. Returns
  // the number of tokens that need not be computed any more.
  int32_t AdoptPublished(int32_t n_tokens);
  // The hash of the next block to compute, when it is full of known tokens and nothing of it is computed.
  const kv::BlockHash* NextHash() const;

  // Makes room for n_tokens in the table. False: no block is available.
  bool Grow(int32_t n_tokens);

  // K and V of the first `computed_tokens` of `tokens` are in the blocks; publishes those that became full.
  void Advance(absl::Span<const text::TokenId> tokens, int32_t computed_tokens);

  // Gives every block up.
  void Release();

 private:
  int32_t hashed_blocks() const { return static_cast<int32_t>(prompt_hashes_.size() + own_hashes_.size()); }
  const kv::BlockHash& HashOf(int32_t block) const;

  const CacheRoom& room_;
  const kv::BlockHash& root_;
  const std::vector<kv::BlockHash>& prompt_hashes_;
  std::vector<kv::BlockHash> own_hashes_;  // of the full blocks after the prompt's
  std::vector<kv::BlockId> blocks_;
  int32_t computed_tokens_ = 0;
  int32_t published_blocks_ = 0;
};

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_SEQUENCE_CACHE_H_
