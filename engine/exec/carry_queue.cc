#include "engine/exec/carry_queue.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace spillway::exec {
namespace {

// Uncollected stretches of the stream's work.
constexpr int32_t kTimedCopies = 256;

}  // namespace

CarryCursor::CarryCursor(device::Device& device, const CarryTables& carry, StepStats& stats,
                         int32_t ring_chunks)
    : carry_(carry),
      stats_(stats),
      ring_chunks_(static_cast<size_t>(ring_chunks)),
      exposed_(device.CreateEvent()),
      rebuilt_(device.CreateEvent()) {}

void CarryCursor::Start(int32_t n_layers, bool is_column, uint64_t turn, uint64_t step) {
  running_ = true;
  n_layers_ = n_layers;
  is_column_ = is_column;
  turn_ = turn;
  step_ = step;
  layer_begun_ = -1;
  fetched_ = read_ = 0;
  waited_for_ = -1;
  fetch_end_ = carry_.rounds().empty() ? chunks() : carry_.rounds().front().n_x;
}

CarryQueue::CarryQueue(device::Device& device, kv::HostPool& pool, StagingRing& ring,
                       TimelineWriter& timeline)
    : device_(device),
      pool_(pool),
      ring_(ring),
      copies_(device.CreateStream("copies in")),
      timer_(device, copies_, kTimedCopies, timeline),
      wait_timer_(device, copies_, kTimedCopies, timeline) {}

void CarryQueue::Add(CarryCursor& cursor) {
  cursors_.push_back(&cursor);
  runs_.reserve(std::max(runs_.capacity(), static_cast<size_t>(cursor.carry_.max_runs())));
}

void CarryQueue::Remove(CarryCursor& cursor) {
  cursors_.erase(std::find(cursors_.begin(), cursors_.end(), &cursor));
}

CarryCursor* CarryQueue::NextToFetch(CarryCursor& cursor) const {
  if (!cursor.is_column_) return cursor.fetched_ < cursor.chunks() ? &cursor : nullptr;
  CarryCursor* next = nullptr;
  for (CarryCursor* other : cursors_) {
    if (!other->running_ || !other->is_column_ || other->fetched_ == other->chunks()) continue;
    if (next == nullptr ||
        std::pair(other->fetch_layer(), other->turn_) < std::pair(next->fetch_layer(), next->turn_)) {
      next = other;
    }
  }
  return next;
}

void CarryQueue::FetchAhead(CarryCursor& cursor) {
  for (;;) {
    CarryCursor* const next = NextToFetch(cursor);
    const int32_t layer = next != nullptr ? next->fetch_layer() : cursor.n_layers_;
    if (weights_ != nullptr && layer > cursor.layer_begun_) {
      // What the layer that is computed carries is on its way: now the next one's weights, then what that
      // carries.
      weights_->Prefetch((cursor.layer_begun_ + 1) % cursor.n_layers_);
      if (layer > cursor.layer_begun_ + 1) return;
    }
    if (next == nullptr || next->fetched_ >= next->fetch_end_) return;
    if (ring_.empty()) {
      // Once for each chunk, however often it is tried.
      if (next->waited_for_ != next->fetched_) ++next->stats_.ring_waits;
      next->waited_for_ = next->fetched_;
      return;
    }
    Fetch(*next);
  }
}

void CarryQueue::FetchThrough(CarryCursor& cursor, int64_t index) {
  if (cursor.fetched_ <= index) FetchAhead(cursor);
  if (cursor.fetched_ <= index) TakeFromOthers(cursor);
  // Whoever else's turn it were.
  while (cursor.fetched_ <= index) Fetch(cursor);
  FetchAhead(cursor);
}

void CarryQueue::Fetch(CarryCursor& cursor) {
  const CarryChunk& chunk = cursor.ChunkAt(cursor.fetched_);
  const int32_t layer = cursor.fetch_layer();
  const int32_t ring_chunk = ring_.Take();
  cursor.RingChunk(cursor.fetched_) = ring_chunk;
  ++cursor.fetched_;

  runs_.clear();
  const device::DevicePtr to = ring_.At(ring_chunk);
  for (const CarryRun& run : cursor.carry_.runs(chunk)) {
    runs_.push_back({to + run.offset_bytes, pool_.Slot(layer, run.slot), run.size_bytes});
  }
  const Lane load = chunk.form == kv::Form::kX ? Lane::kXLoad : Lane::kKvLoad;
  LaneStats& lane = cursor.stats_.lanes[static_cast<size_t>(load)];
  wait_timer_.Begin();
  ring_.BeginCopy(copies_, ring_chunk);
  if (chunk.gate == CarryGate::kExposed) device_.Wait(copies_, cursor.exposed_);
  if (chunk.gate == CarryGate::kRebuilt && cursor.fetched_ > 1) device_.Wait(copies_, cursor.rebuilt_);
  wait_timer_.End(&lane.stall_ns, cursor.Waiting(load, layer));
  timer_.Begin();
  device_.CopyInBatch(copies_, runs_);
  timer_.EndCopies(&lane, cursor.Label(load, layer, chunk.size_bytes), chunk.n_runs);
  ring_.EndCopy(copies_, ring_chunk);
}

void CarryQueue::GiveRead(CarryCursor& cursor) {
  ring_.Give(cursor.RingChunk(cursor.read_));
  ++cursor.read_;
}

void CarryQueue::GiveUp(CarryCursor& cursor) {
  // The copies that reuse the chunks come after these on the same stream.
  for (int64_t index = cursor.read_; index < cursor.fetched_; ++index) ring_.Give(cursor.RingChunk(index));
  cursor.fetched_ = cursor.read_;
}

void CarryQueue::TakeFromOthers(const CarryCursor& cursor) {
  for (CarryCursor* other : cursors_) {
    // Fetched for visits that come later: they will be fetched again.
    if (other != &cursor) GiveUp(*other);
  }
}

void CarryQueue::CollectTimers() {
  timer_.Collect();
  wait_timer_.Collect();
}

void CarryQueue::CollectAllTimers() {
  // After a device's error nothing is timed any more.
  (void)timer_.CollectAll();
  (void)wait_timer_.CollectAll();
}

}  // namespace spillway::exec
