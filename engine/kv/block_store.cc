#include "engine/kv/block_store.h"

#include <algorithm>
#include <vector>

#include "base/check.h"
#include "base/mutex.h"
#include "engine/kv/block_index.h"
#include "engine/kv/block_list.h"
#include "engine/kv/host_pool.h"
#include "engine/kv/host_slots.h"

namespace spillway::kv {
namespace {

constexpr int64_t kKvSlots = 2;

FormPolicy PolicyFor(const HostPool& pool, FormPolicy policy) {
  policy.stores_x &= pool.stores_x();
  return policy;
}

}  // namespace

struct BlockStore::Impl {
  struct Block {
    int32_t references = 0;
    int32_t pins = 0;
    bool published = false;
    Planes planes;
  };

  Impl(int64_t n_slots, int64_t the_x_slots, const FormPolicy& the_policy)
      : x_slots(the_x_slots),
        n_blocks(n_slots / (the_policy.stores_x ? std::min(kKvSlots, x_slots) : kKvSlots)),
        policy(the_policy),
        slots(n_slots, the_policy.stores_x ? x_slots : 1),
        blocks(static_cast<size_t>(n_blocks)),
        hashes(static_cast<size_t>(n_blocks)),
        index(static_cast<size_t>(n_blocks), hashes),
        cached(n_blocks),
        droppable(n_blocks),
        cached_droppable(n_blocks) {
    free_ids.reserve(static_cast<size_t>(n_blocks));
    for (int64_t block = n_blocks - 1; block >= 0; --block) free_ids.push_back(static_cast<BlockId>(block));
    PublishCounts();
  }

  Block& At(BlockId block) {
    SPILLWAY_CHECK(block >= 0 && block < n_blocks);
    return blocks[static_cast<size_t>(block)];
  }
  Block& InUse(BlockId block) {
    Block& entry = At(block);
    SPILLWAY_CHECK_MSG(entry.references > 0, "the block is not in use");
    return entry;
  }

  int64_t SlotsOf(Form form) const {
    return (form != Form::kX ? kKvSlots : 0) + (form != Form::kKv ? x_slots : 0);
  }
  int64_t SlotsOf(const Block& entry) const { return SlotsOf(entry.planes.form()); }
  // What the block can do without at least, beside the form that stays: whichever that is.
  int64_t SpareSlots(BlockId block) const {
    return droppable.Contains(block) ? std::min(kKvSlots, x_slots) : 0;
  }
  int64_t available_slots() const {
    return slots.free_slots() + cached_slots + droppable.size() * std::min(kKvSlots, x_slots);
  }
  int64_t in_use_slots() const { return slots.n_slots() - slots.free_slots() - cached_slots; }

  Form FormOfNew() {
    if (!policy.stores_x) return Form::kKv;
    const int64_t in_use = in_use_slots() + SlotsOf(Form::kBoth);
    if (policy.WantsBoth(static_cast<double>(in_use) / static_cast<double>(slots.n_slots()))) {
      return Form::kBoth;
    }
    return new_blocks.Next(policy.ShareOfNext(in_use_forms)) ? Form::kX : Form::kKv;
  }

  // `from_cached`: room is made of cached blocks alone.
  BlockId Allocate(Form form, bool from_cached = false) {
    Planes planes;
    while (!slots.Take(form, &planes)) {
      if (!MakeRoom(from_cached)) return kNoBlock;
    }
    const BlockId block = free_ids.back();
    free_ids.pop_back();
    Block& entry = At(block);
    entry.references = 1;
    entry.planes = planes;
    ++in_use_forms.Of(form);
    if (form == Form::kBoth) droppable.Append(block);
    return block;
  }

  bool MakeRoom(bool from_cached) {
    if (!cached_droppable.empty()) {
      DropForm(cached_droppable.oldest());
      return true;
    }
    if (!from_cached && !droppable.empty()) {
      DropForm(droppable.oldest());
      return true;
    }
    if (cached.empty()) return false;
    Evict(cached.oldest());
    return true;
  }

  void DropForm(BlockId block) {
    Block& entry = At(block);
    const bool is_cached = cached.Contains(block);
    FormCounts& forms = is_cached ? cached_forms : in_use_forms;
    ShareInTurn& turn = is_cached ? cached_drops : in_use_drops;
    const Form kept = turn.Next(policy.ShareOfNext(forms)) ? Form::kX : Form::kKv;
    if (is_cached) cached_slots -= SlotsOf(entry) - SlotsOf(kept);
    if (kept == Form::kX) {
      slots.GiveKv(&entry.planes);
      ++dropped_kv;
    } else {
      slots.GiveX(&entry.planes);
      ++dropped_x;
    }
    --forms.both_blocks;
    ++forms.Of(kept);
    (is_cached ? cached_droppable : droppable).Remove(block);
  }

  void Cache(BlockId block) {
    cached.Append(block);
    const Form form = At(block).planes.form();
    --in_use_forms.Of(form);
    ++cached_forms.Of(form);
    cached_slots += SlotsOf(form);
    if (form != Form::kBoth) return;
    droppable.Remove(block);
    cached_droppable.Append(block);
  }
  void Uncache(BlockId block) {
    cached.Remove(block);
    const Form form = At(block).planes.form();
    --cached_forms.Of(form);
    ++in_use_forms.Of(form);
    cached_slots -= SlotsOf(form);
    if (form != Form::kBoth) return;
    cached_droppable.Remove(block);
    droppable.Append(block);
  }

  // A cached block's content is forgotten and the block is free.
  void Evict(BlockId block) {
    Uncache(block);
    index.Remove(block);
    At(block).published = false;
    Lose(block);
  }

  void Lose(BlockId block) {
    Block& entry = At(block);
    --in_use_forms.Of(entry.planes.form());
    if (droppable.Contains(block)) droppable.Remove(block);
    if (entry.planes.has_kv()) slots.GiveKv(&entry.planes);
    if (entry.planes.has_x()) slots.GiveX(&entry.planes);
    free_ids.push_back(block);
    if (listener != nullptr) listener->OnBlockLost(block);
  }

  void PublishCounts() {
    BlockCounts counts;
    counts.total_blocks = slots.n_slots() / kKvSlots;
    counts.free_blocks = slots.free_slots() / kKvSlots;
    counts.cached_blocks = cached.size();
    counts.in_use_blocks = in_use_forms.total_blocks();
    counts.forms = in_use_forms + cached_forms;
    counts.total_slots = slots.n_slots();
    counts.cached_slots = cached_slots;
    counts.in_use_slots = in_use_slots();
    counts.dropped_kv = dropped_kv;
    counts.dropped_x = dropped_x;
    const MutexLock lock(mutex);
    published_counts = counts;
  }

  const int64_t x_slots;
  const int64_t n_blocks;
  FormPolicy policy;
  HostSlots slots;
  std::vector<Block> blocks;      // [n_blocks]
  std::vector<BlockHash> hashes;  // [n_blocks], of published blocks
  BlockIndex index;               // of published blocks
  std::vector<BlockId> free_ids;  // a stack; there is one wherever there are slots for a block
  BlockList cached;               // by their last use
  BlockList droppable;            // in use, stored in both forms and not pinned, by their last use
  BlockList cached_droppable;     // cached and stored in both forms, by their last use
  int64_t cached_slots = 0;       // of cached blocks
  // Each is steered for itself: steps read what is in use.
  FormCounts in_use_forms;
  FormCounts cached_forms;
  ShareInTurn new_blocks, in_use_drops, cached_drops;
  int64_t dropped_kv = 0;
  int64_t dropped_x = 0;
  BlockListener* listener = nullptr;

  mutable Mutex mutex;
  BlockCounts published_counts ABSL_GUARDED_BY(mutex);
};

BlockStore::BlockStore(int64_t n_blocks) : BlockStore(kKvSlots * n_blocks, 1, FormPolicy{}) {}

BlockStore::BlockStore(const HostPool& pool, const FormPolicy& policy)
    : BlockStore(pool.n_slots(), pool.geometry().x_slots(), PolicyFor(pool, policy)) {}

BlockStore::BlockStore(int64_t n_slots, int64_t x_slots, const FormPolicy& policy)
    : impl_(std::make_unique<Impl>(n_slots, x_slots, policy)) {}

BlockStore::~BlockStore() = default;

int64_t BlockStore::max_blocks() const { return impl_->n_blocks; }

bool BlockStore::stores_x() const { return impl_->policy.stores_x; }

BlockId BlockStore::Allocate() {
  const Form form = impl_->FormOfNew();
  BlockId block = impl_->Allocate(form, /*from_cached=*/form == Form::kBoth);
  const Form smallest = stores_x() && impl_->x_slots < kKvSlots ? Form::kX : Form::kKv;
  if (block == kNoBlock && form != smallest) block = impl_->Allocate(smallest);
  impl_->PublishCounts();
  return block;
}

BlockId BlockStore::Allocate(Form form) {
  SPILLWAY_CHECK(form == Form::kKv || stores_x());
  const BlockId block = impl_->Allocate(form);
  impl_->PublishCounts();
  return block;
}

int64_t BlockStore::available_blocks() const { return available_slots() / SlotsFor(1); }

int64_t BlockStore::available_slots() const { return impl_->available_slots(); }

int64_t BlockStore::SlotsHeldBy(BlockId block) const {
  return impl_->SlotsOf(impl_->InUse(block)) - impl_->SpareSlots(block);
}

const Planes& BlockStore::PlanesOf(BlockId block) const {
  SPILLWAY_DCHECK(block >= 0 && block < impl_->n_blocks);
  return impl_->blocks[static_cast<size_t>(block)].planes;
}

void BlockStore::Pin(BlockId block) {
  Impl::Block& entry = impl_->InUse(block);
  if (entry.pins++ == 0 && entry.planes.has_both()) impl_->droppable.Remove(block);
}

void BlockStore::Unpin(BlockId block) {
  Impl::Block& entry = impl_->InUse(block);
  SPILLWAY_CHECK_MSG(entry.pins > 0, "the block is not pinned");
  if (--entry.pins == 0 && entry.planes.has_both()) impl_->droppable.Append(block);
}

void BlockStore::SteerTo(double x_share) {
  SPILLWAY_CHECK(x_share >= 0 && x_share <= 1);
  impl_->policy.x_share = x_share;
}

void BlockStore::Ref(BlockId block) { ++impl_->InUse(block).references; }

void BlockStore::Unref(BlockId block) {
  Impl::Block& entry = impl_->InUse(block);
  if (--entry.references > 0) return;
  SPILLWAY_CHECK_MSG(entry.pins == 0, "a block is given up that work under way reads");
  if (entry.published) {
    impl_->Cache(block);
  } else {
    impl_->Lose(block);
  }
  impl_->PublishCounts();
}

int32_t BlockStore::references(BlockId block) const { return impl_->At(block).references; }

void BlockStore::Publish(BlockId block, const BlockHash& hash) {
  Impl::Block& entry = impl_->InUse(block);
  BlockHash& own = impl_->hashes[static_cast<size_t>(block)];
  if (entry.published) {
    SPILLWAY_CHECK_MSG(own == hash, "a published block has new content");
    return;
  }
  if (impl_->index.Find(hash) != kNoBlock) return;
  own = hash;
  entry.published = true;
  impl_->index.Insert(block);
}

BlockId BlockStore::Find(const BlockHash& hash) {
  const BlockId block = impl_->index.Find(hash);
  if (block == kNoBlock) return kNoBlock;
  if (impl_->At(block).references++ == 0) {
    impl_->Uncache(block);
    impl_->PublishCounts();
  }
  return block;
}

bool BlockStore::Contains(const BlockHash& hash) const { return impl_->index.Find(hash) != kNoBlock; }

void BlockStore::DropCached() {
  while (!impl_->cached.empty()) impl_->Evict(impl_->cached.oldest());
  impl_->PublishCounts();
}

void BlockStore::SetListener(BlockListener* listener) { impl_->listener = listener; }

BlockCounts BlockStore::Counts() const {
  const MutexLock lock(impl_->mutex);
  return impl_->published_counts;
}

}  // namespace spillway::kv
