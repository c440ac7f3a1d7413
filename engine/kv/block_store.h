// BlockStore: who holds which block, in which form and slots it is stored, and which full blocks can be found
// again by their content.
//
// A block is `block_tokens` consecutive tokens of one sequence in all layers; the bytes lie in HostPool. Its
// id is a name: where its planes lie is state. Every block is free (no slots, no content), in use (references
// > 0) or cached (no references, full, findable by its hash). BlockHasher makes the hashes; equal ones mean
// equal contents.
//
// Where slots are short, first blocks that are stored in both forms lose one (FormPolicy says which), cached
// ones before those in use, and of either those first that were used longest ago; then cached blocks are
// evicted in that order. For a block that is to have both forms only cached ones give way. A form is never
// dropped of a block that is pinned: work under way reads its planes.
//
// Owned by the scheduler, which alone allocates and frees; executors read planes and pin. Step thread only;
// Counts() is thread-safe. After construction nothing here allocates memory.
#ifndef SPILLWAY_ENGINE_KV_BLOCK_STORE_H_
#define SPILLWAY_ENGINE_KV_BLOCK_STORE_H_

#include <cstdint>
#include <memory>

#include "engine/kv/block_hasher.h"
#include "engine/kv/form_policy.h"
#include "engine/kv/geometry.h"

namespace spillway::kv {

struct BlockCounts {
  // What the pool holds as K and V: so many blocks can be had when none is in use, whatever their forms.
  int64_t total_blocks = 0;
  int64_t free_blocks = 0;  // what fits as K and V in slots that nothing takes
  int64_t in_use_blocks = 0;
  int64_t cached_blocks = 0;
  FormCounts forms;  // of blocks in use and cached
  // Slots of each layer.
  int64_t total_slots = 0;
  int64_t in_use_slots = 0;
  int64_t cached_slots = 0;
  // Ever, to make room: of blocks that kept the other form.
  int64_t dropped_kv = 0;
  int64_t dropped_x = 0;
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
  // For n_blocks blocks of K and V.
  explicit BlockStore(int64_t n_blocks);
  // Of all slots of the pool; X is stored where the pool and the policy both say so.
  explicit BlockStore(const HostPool& pool, const FormPolicy& policy = {.stores_x = true});
  BlockStore(int64_t n_slots, int64_t x_slots, const FormPolicy& policy);
  ~BlockStore();
  BlockStore(const BlockStore&) = delete;
  BlockStore& operator=(const BlockStore&) = delete;

  // Ids are below this.
  int64_t max_blocks() const;
  bool stores_x() const;

  // A block with one reference, undefined content and slots for the form that the policy wants now; where no
  // other fits, for the one that takes fewest. kNoBlock when every slot is in use.
  BlockId Allocate();
  // One of this form, or kNoBlock. REQUIRES: kKv, or stores_x().
  BlockId Allocate(Form form);
  // Allocate can be called so many times at least, whatever forms the policy wants: slots that are free, that
  // cached blocks have or that blocks in both forms can do without, by those of K and V. (Where X is the
  // larger form, which no policy should want, that holds for K and V.)
  int64_t available_blocks() const;
  int64_t available_slots() const;
  // What available_slots() would grow by, were this block given up. REQUIRES: it is in use.
  int64_t SlotsHeldBy(BlockId block) const;
  // Slots that must be available for so many calls of Allocate.
  static int64_t SlotsFor(int64_t blocks) { return 2 * blocks; }

  // Where the block lies in the arena of every layer. Fixed while it is pinned; else Allocate may drop a
  // form. All -1 for a free one.
  const Planes& PlanesOf(BlockId block) const;
  // Work under way copies its planes. REQUIRES: in use until the last Unpin.
  void Pin(BlockId block);
  void Unpin(BlockId block);
  // Of blocks in one form, the share that is wanted as X from now on. REQUIRES: in 0..1.
  void SteerTo(double x_share);

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
