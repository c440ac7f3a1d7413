#include "engine/exec/block_writer.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace spillway::exec {
namespace {

using State = kv::DeviceCache::State;

// Uncollected stretches of the copies' stream.
constexpr int32_t kTimedCopies = 256;
// Steps whose stores may be under way.
constexpr int32_t kStoresInFlight = 4;

void Move(LaneStats& from, LaneStats& to) {
  const LaneStats moved = std::exchange(from, {});
  to.busy_ns += moved.busy_ns;
  to.bytes += moved.bytes;
  to.copies += moved.copies;
}

}  // namespace

BlockWriter::BlockWriter(device::Device& device, kv::HostPool& pool, const kv::BlockStore& store,
                         kv::DeviceCache& cache, const Residency& residency, device::StreamId compute,
                         TimelineWriter& timeline, BlockChecks* checks)
    : device_(device),
      pool_(pool),
      store_(store),
      cache_(cache),
      residency_(residency),
      checks_(checks),
      compute_(compute),
      copies_(device.CreateStream("copies out")),
      timer_(device, copies_, kTimedCopies, timeline),
      projected_(device.CreateEvent()),
      stores_(kStoresInFlight) {
  for (Stores& stores : stores_) stores.done = device.CreateEvent();
}

BlockWriter::~BlockWriter() { WaitForAll(); }

void BlockWriter::MakeRoom(size_t n_blocks) {
  for (Stores& stores : stores_) stores.blocks.reserve(n_blocks);
  runs_.reserve(2 * n_blocks);  // K and V may lie apart
}

void BlockWriter::Open(kv::BlockId block) {
  // The id's former content is being stored still.
  while (cache_.IsLingering(block)) {
    SPILLWAY_CHECK_MSG(n_stores_ > 0, "a lost block is pinned by work that reads it");
    WaitForFirst();
  }
  while (!cache_.Open(block, /*with_x=*/store_.PlanesOf(block).has_x())) {
    SPILLWAY_CHECK_MSG(n_stores_ > 0, "the device cache has no slots for a block that is to be written");
    WaitForFirst();
  }
}

void BlockWriter::StoreLayer(absl::Span<const kv::BlockId> blocks, const SpanLabel& label) {
  if (blocks.empty()) return;
  device_.Record(projected_, compute_);
  device_.Wait(copies_, projected_);
  SpanLabel store = label;
  store.lane = Lane::kKvStore;
  StorePlanes(blocks, store, kv_);
  store.lane = Lane::kXStore;
  if (store_.stores_x()) StorePlanes(blocks, store, x_);
}

void BlockWriter::StorePlanes(absl::Span<const kv::BlockId> blocks, SpanLabel label, LaneStats& lane) {
  const bool is_x = label.lane == Lane::kXStore;
  const int64_t slot_bytes = pool_.geometry().slot_bytes();
  const device::DevicePtr arena = cache_.Arena(label.layer).base;
  runs_.clear();
  const auto add = [&](int32_t from, int32_t to, int64_t size_bytes) {
    runs_.push_back({arena + from * slot_bytes, pool_.Slot(label.layer, to), size_bytes});
    label.bytes += size_bytes;
  };
  for (const kv::BlockId block : blocks) {
    const kv::Planes& from = cache_.PlanesOf(block);
    const kv::Planes& to = store_.PlanesOf(block);
    if (is_x && to.has_x()) {
      add(from.x, to.x, pool_.geometry().block_tokens * pool_.geometry().chi_bytes());
    } else if (!is_x && to.has_kv() && to.v == to.k + 1) {
      add(from.k, to.k, 2 * slot_bytes);
    } else if (!is_x && to.has_kv()) {
      add(from.k, to.k, slot_bytes);
      add(from.v, to.v, slot_bytes);
    }
  }
  if (runs_.empty()) return;
  timer_.Begin();
  device_.CopyOutBatch(copies_, runs_);
  timer_.EndCopies(&lane, label, static_cast<int64_t>(runs_.size()));
}

void BlockWriter::Complete(absl::Span<const kv::BlockId> blocks) {
  if (blocks.empty()) return;
  if (n_stores_ == kStoresInFlight) WaitForFirst();
  Stores& stores = stores_[static_cast<size_t>((first_ + n_stores_) % kStoresInFlight)];
  stores.blocks.assign(blocks.begin(), blocks.end());
  // Were a block lost and its id given anew, SealFirst would seal what is written under it then.
  for (const kv::BlockId block : stores.blocks) cache_.Pin(block);
  device_.Record(stores.done, copies_);
  ++n_stores_;
}

void BlockWriter::Collect() {
  while (n_stores_ > 0 && device_.IsComplete(stores_[static_cast<size_t>(first_)].done)) SealFirst();
}

void BlockWriter::WaitForAll() {
  while (n_stores_ > 0) WaitForFirst();
}

void BlockWriter::TakeStats(StepStats& stats) {
  timer_.Collect();
  Move(kv_, stats.lanes[static_cast<size_t>(Lane::kKvStore)]);
  Move(x_, stats.lanes[static_cast<size_t>(Lane::kXStore)]);
}

void BlockWriter::WaitForFirst() {
  // After a device's error nothing is under way any more.
  (void)device_.Synchronize(stores_[static_cast<size_t>(first_)].done);
  SealFirst();
}

kv::Residence BlockWriter::KeptOf(kv::BlockId block) const {
  const kv::Residence keep = residency_.ForSealed();
  const bool lacks_x = keep == kv::Residence::kX && !cache_.PlanesOf(block).has_x();
  return lacks_x ? kv::Residence::kKv : keep;
}

void BlockWriter::SealFirst() {
  for (const kv::BlockId block : stores_[static_cast<size_t>(first_)].blocks) {
    // Gone, if its content was lost meanwhile.
    cache_.Unpin(block);
    if (cache_.StateOf(block) != State::kOpen) continue;
    if (checks_ != nullptr) checks_->OnStored(block, cache_);
    cache_.Seal(block, KeptOf(block));
  }
  first_ = (first_ + 1) % kStoresInFlight;
  --n_stores_;
}

}  // namespace spillway::exec
