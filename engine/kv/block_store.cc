#include "engine/kv/block_store.h"

#include <atomic>
#include <bit>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "engine/kv/host_pool.h"

namespace spillway::kv {
namespace {

// Published blocks by hash: open addressing with linear probing over block ids, at most half full; the hashes
// lie with the blocks. A removal shifts later entries back, so there are no tombstones and probes stay short.
class HashIndex {
 public:
  HashIndex(size_t capacity, const std::vector<BlockHash>& hashes)
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

}  // namespace

struct BlockStore::Impl {
  struct Block {
    int32_t references = 0;
    bool published = false;
    // Neighbours in the list of cached blocks, least recently used first; the entry after the last block is
    // the list's head.
    BlockId older = kNoBlock;
    BlockId newer = kNoBlock;
  };

  explicit Impl(int64_t n_blocks)
      : blocks(n_blocks + 1),
        hashes(n_blocks),
        index(static_cast<size_t>(n_blocks), hashes),
        list_head(static_cast<BlockId>(n_blocks)) {
    free_blocks.reserve(n_blocks);
    for (int64_t block = n_blocks - 1; block >= 0; --block) {
      free_blocks.push_back(static_cast<BlockId>(block));  // handed out from 0 up: runs stay runs
    }
    blocks[list_head].older = blocks[list_head].newer = list_head;
    PublishCounts();
  }

  int64_t n_blocks() const { return static_cast<int64_t>(hashes.size()); }

  Block& InUse(BlockId block) {
    SPILLWAY_CHECK(block >= 0 && block < n_blocks());
    SPILLWAY_CHECK_MSG(blocks[block].references > 0, "the block is not in use");
    return blocks[block];
  }

  void AppendToList(BlockId block) {
    const BlockId newest = blocks[list_head].older;
    blocks[block].older = newest;
    blocks[block].newer = list_head;
    blocks[newest].newer = block;
    blocks[list_head].older = block;
    ++cached;
  }

  void TakeFromList(BlockId block) {
    blocks[blocks[block].older].newer = blocks[block].newer;
    blocks[blocks[block].newer].older = blocks[block].older;
    --cached;
  }

  // A cached block's content is forgotten and the block is free.
  void Evict(BlockId block) {
    TakeFromList(block);
    index.Remove(block);
    blocks[block].published = false;
    Lose(block);
  }

  void Lose(BlockId block) {
    free_blocks.push_back(block);
    if (listener != nullptr) listener->OnBlockLost(block);
  }

  // One word, so that another thread reads numbers of one moment.
  void PublishCounts() {
    counts.store(static_cast<uint64_t>(free_blocks.size()) << 32 | static_cast<uint32_t>(cached),
                 std::memory_order_relaxed);
  }

  std::vector<Block> blocks;         // [n_blocks + 1]
  std::vector<BlockHash> hashes;     // [n_blocks], of published blocks
  HashIndex index;                   // of published blocks
  const BlockId list_head;           // its newer: the least recently used cached block
  std::vector<BlockId> free_blocks;  // a stack
  int32_t cached = 0;                // length of the list
  std::atomic<uint64_t> counts{0};   // free << 32 | cached
  BlockListener* listener = nullptr;
};

BlockStore::BlockStore(int64_t n_blocks) : impl_(std::make_unique<Impl>(n_blocks)) {}

BlockStore::BlockStore(const HostPool& pool) : BlockStore(pool.n_blocks()) {}

BlockStore::~BlockStore() = default;

BlockId BlockStore::Allocate() {
  Impl& store = *impl_;
  if (store.free_blocks.empty()) {
    if (store.cached == 0) return kNoBlock;
    store.Evict(store.blocks[store.list_head].newer);
  }
  const BlockId block = store.free_blocks.back();
  store.free_blocks.pop_back();
  store.blocks[block].references = 1;
  store.PublishCounts();
  return block;
}

int64_t BlockStore::available_blocks() const {
  return static_cast<int64_t>(impl_->free_blocks.size()) + impl_->cached;
}

void BlockStore::Ref(BlockId block) { ++impl_->InUse(block).references; }

void BlockStore::Unref(BlockId block) {
  Impl::Block& entry = impl_->InUse(block);
  if (--entry.references > 0) return;
  if (entry.published) {
    impl_->AppendToList(block);
  } else {
    impl_->Lose(block);
  }
  impl_->PublishCounts();
}

int32_t BlockStore::references(BlockId block) const {
  SPILLWAY_CHECK(block >= 0 && block < impl_->n_blocks());
  return impl_->blocks[block].references;
}

void BlockStore::Publish(BlockId block, const BlockHash& hash) {
  Impl::Block& entry = impl_->InUse(block);
  if (entry.published) {
    SPILLWAY_CHECK_MSG(impl_->hashes[block] == hash, "a published block has new content");
    return;
  }
  if (impl_->index.Find(hash) != kNoBlock) return;
  impl_->hashes[block] = hash;
  entry.published = true;
  impl_->index.Insert(block);
}

BlockId BlockStore::Find(const BlockHash& hash) {
  const BlockId block = impl_->index.Find(hash);
  if (block == kNoBlock) return kNoBlock;
  if (impl_->blocks[block].references++ == 0) {
    impl_->TakeFromList(block);
    impl_->PublishCounts();
  }
  return block;
}

bool BlockStore::Contains(const BlockHash& hash) const { return impl_->index.Find(hash) != kNoBlock; }

void BlockStore::DropCached() {
  while (impl_->cached > 0) impl_->Evict(impl_->blocks[impl_->list_head].newer);
  impl_->PublishCounts();
}

void BlockStore::SetListener(BlockListener* listener) { impl_->listener = listener; }

BlockCounts BlockStore::Counts() const {
  const uint64_t counts = impl_->counts.load(std::memory_order_relaxed);
  BlockCounts result;
  result.total_blocks = impl_->n_blocks();
  result.free_blocks = static_cast<int64_t>(counts >> 32);
  result.cached_blocks = static_cast<int64_t>(counts & 0xffffffffu);
  result.in_use_blocks = result.total_blocks - result.free_blocks - result.cached_blocks;
  return result;
}

}  // namespace spillway::kv
