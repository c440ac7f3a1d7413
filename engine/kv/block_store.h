// BlockStore: who holds which block, and which full blocks can be found again by their content.
//
// A block is `block_tokens` consecutive tokens of one sequence in all layers; the bytes lie in HostPool.
// Every block is free (no content), in use (references > 0) or cached (no references, full, findable by its
// hash; the least recently used is evicted when a free block is needed). BlockHasher makes
// the hashes; equal ones mean equal contents.
//
// Owned by the scheduler, which alone allocates and frees. Step thread only; Counts() is thread-safe.
// After construction nothing here allocates memory.
#ifndef SPILLWAY_ENGINE_KV_BLOCK_STORE_H_
#define SPILLWAY_ENGINE_KV_BLOCK_STORE_H_

#include <cstdint>
#include <memory>

#include "engine/kv/block_hasher.h"
#include "engine/kv/geometry.h"

namespace spillway::kv {

struct BlockCounts {
  int64_t total_blocks = 0;
  int64_t free_blocks = 0;
  int64_t in_use_blocks = 0;
  int64_t cached_blocks = 0;
};

class HostPool;

// Hears when a block's content is lost: its last reference went before it was published, or it was evicted.
// What others keep of the block (planes on a device) is worthless from then on. Must not call back.
class BlockListener {
 public:
  virtual ~BlockListener() = default;
  virtual void OnBlockLost(BlockId block) = 0;
};

class BlockStore {
 public:
  explicit BlockStore(int64_t n_blocks);
  explicit BlockStore(const HostPool& pool);  // one for every block of the pool
  ~BlockStore();
  BlockStore(const BlockStore&) = delete;
  BlockStore& operator=(const BlockStore&) = delete;

  // A block with one reference and undefined content; evicts the least recently used cached block when none
  // is free. kNoBlock when every block is in use.
  BlockId Allocate();
  // Blocks that Allocate could give: free and cached.
  int64_t available_blocks() const;

  // REQUIRES: the block is in use.
  void Ref(BlockId block);
  // The last reference gone, a published block becomes cached (the most recently used), any other free. A
  // sequence is best given up from its last block to its first: then its end is evicted before the prefix
  // without which the end cannot be found. REQUIRES: the block is in use.
  void Unref(BlockId block);
  int32_t references(BlockId block) const;

  // Makes a full block findable. A second block of equal content stays private: the first one published wins.
  // REQUIRES: the block is in use, and not published by another hash.
  void Publish(BlockId block, const BlockHash& hash);
  // The published block of this content with a new reference, or kNoBlock.
  BlockId Find(const BlockHash& hash);
  bool Contains(const BlockHash& hash) const;  // takes no reference and is no use

  // Forgets every cached block's content (they become free). Blocks in use stay findable.
  void DropCached();

  // `listener` outlives the store, or is taken back with null.
  void SetListener(BlockListener* listener);

  BlockCounts Counts() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace spillway::kv

#endif  // SPILLWAY_ENGINE_KV_BLOCK_STORE_H_
