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

BlockWriter::BlockWriter(device::Device& device, kv::HostPool& pool, kv::DeviceCache& cache,
                         const Residency& residency, device::StreamId compute, TimelineWriter& timeline)
    : device_(device),
      pool_(pool),
      cache_(cache),
      residency_(residency),
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
  runs_.reserve(n_blocks);
}

int64_t BlockWriter::OpenSlots(const kv::HostPool& pool) {
  return 2 + (pool.form() != kv::Form::kKv ? pool.geometry().x_slots() : 0);
}

void BlockWriter::Open(kv::BlockId block) {
  // The id's former content is being stored still.
  while (cache_.IsLingering(block)) {
    SPILLWAY_CHECK_MSG(n_stores_ > 0, "a lost block is pinned by work that reads it");
    WaitForFirst();
  }
  while (!cache_.Open(block, /*with_x=*/pool_.form() != kv::Form::kKv)) {
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
  if (pool_.form() != kv::Form::kX) StorePlanes(blocks, store, kv_);
  store.lane = Lane::kXStore;
  if (pool_.form() != kv::Form::kKv) StorePlanes(blocks, store, x_);
}

void BlockWriter::StorePlanes(absl::Span<const kv::BlockId> blocks, SpanLabel label, LaneStats& lane) {
  const bool is_x = label.lane == Lane::kXStore;
  const kv::Geometry& geometry = pool_.geometry();
  const int64_t size_bytes = is_x ? geometry.block_tokens * geometry.chi_bytes() : 2 * geometry.slot_bytes();
  const device::DevicePtr arena = cache_.Arena(label.layer).base;
  runs_.clear();
  for (const kv::BlockId block : blocks) {
    const kv::Planes from = cache_.PlanesOf(block);
    const kv::Planes to = pool_.PlanesOf(block);
    runs_.push_back({arena + (is_x ? from.x : from.k) * geometry.slot_bytes(),
                     pool_.Slot(label.layer, is_x ? to.x : to.k), size_bytes});
  }
  timer_.Begin();
  device_.CopyOutBatch(copies_, runs_);
  const int64_t n = static_cast<int64_t>(runs_.size());
  label.bytes = n * size_bytes;
  timer_.EndCopies(&lane, label, n);
}

void BlockWriter::Complete(absl::Span<const kv::BlockId> blocks) {
  if (blocks.empty()) return;
  if (n_stores_ == kStoresInFlight) WaitForFirst();
  Stores& stores = stores_[static_cast<size_t>((first_ + n_stores_) % kStoresInFlight)];
  stores.blocks.assign(blocks.begin(), blocks.end());
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

void BlockWriter::SealFirst() {
  for (const kv::BlockId block : stores_[static_cast<size_t>(first_)].blocks) {
    // Gone, if its content was lost meanwhile.
    cache_.Unpin(block);
    if (cache_.StateOf(block) == State::kOpen) cache_.Seal(block, residency_.ForSealed());
  }
  first_ = (first_ + 1) % kStoresInFlight;
  --n_stores_;
}

}  // namespace spillway::exec
