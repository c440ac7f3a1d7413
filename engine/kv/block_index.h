// Published blocks by their hash. Of block_store.cc alone.
#ifndef SPILLWAY_ENGINE_KV_BLOCK_INDEX_H_
#define SPILLWAY_ENGINE_KV_BLOCK_INDEX_H_

#include <bit>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "engine/kv/block_hasher.h"
#include "engine/kv/geometry.h"

namespace spillway::kv {

// Open addressing with linear probing over block ids, at most half full; the hashes lie with the blocks. A
// removal shifts later entries back, so there are no tombstones and probes stay short.
class BlockIndex {
 public:
  BlockIndex(size_t capacity, const std::vector<BlockHash>& hashes)
      : hashes_(hashes), slots_(std::bit_ceil(2 * capacity), kNoBlock), mask_(slots_.size() - 1) {}

  BlockId Find(const BlockHash& hash) const { return slots_[SlotOf(hash)]; }

  // REQUIRES: no block of this hash is in.
  void Insert(BlockId block) {
    const size_t slot = SlotOf(hashes_[block]);
    SPILLWAY_CHECK(slots_[slot] == kNoBlock);
    slots_[slot] = block;
  }

  // REQUIRES: `block` is in.
  void Remove(BlockId block) {
    size_t hole = SlotOf(hashes_[block]);
    SPILLWAY_CHECK(slots_[hole] == block);
    for (size_t slot = Next(hole); slots_[slot] != kNoBlock; slot = Next(slot)) {
      // An entry may fill the hole if that does not put it before its home.
      const size_t from_home = (slot - Home(hashes_[slots_[slot]])) & mask_;
      const size_t from_hole = (slot - hole) & mask_;
      if (from_home >= from_hole) {
        slots_[hole] = slots_[slot];
        hole = slot;
      }
    }
    slots_[hole] = kNoBlock;
  }

 private:
  size_t Home(const BlockHash& hash) const {
    uint64_t prefix;
    std::memcpy(&prefix, hash.data(), sizeof(prefix));
    return prefix & mask_;
  }
  size_t Next(size_t slot) const { return (slot + 1) & mask_; }
  // The slot that holds `hash`, or the free one where it would go.
  size_t SlotOf(const BlockHash& hash) const {
    size_t slot = Home(hash);
    while (slots_[slot] != kNoBlock && hashes_[slots_[slot]] != hash) slot = Next(slot);
    return slot;
  }

  const std::vector<BlockHash>& hashes_;  // [n_blocks]
  std::vector<BlockId> slots_;
  const size_t mask_;
};

}  // namespace spillway::kv

#endif  // SPILLWAY_ENGINE_KV_BLOCK_INDEX_H_
