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

CarryQueue::CarryQueue(device::Device& device, kv::HostPool& pool, StagingRing& ring,
                       TimelineWriter& timeline)
    : device_(device),
      pool_(pool),
      ring_(ring),
      copies_(device.CreateStream("copies in")),
      timer_(device, copies_, kTimedCopies, timeline),
      wait_timer_(device, copies_, kTimedCopies, timeline),
      copied_ahead_(device.CreateEvent()) {
  taken_.reserve(static_cast<size_t>(ring.n_chunks()));
}

void CarryQueue::Add(CarryCursor& cursor) {
  cursors_.push_back(&cursor);
  runs_.reserve(std::max(runs_.capacity(), static_cast<size_t>(cursor.carry_.max_runs())));
}

void CarryQueue::Remove(CarryCursor& cursor) {
  GiveUp(cursor);
  CollectAllTimers();  // they add to what goes with the cursor
  cursors_.erase(std::find(cursors_.begin(), cursors_.end(), &cursor));
}

void CarryQueue::Begin(CarryCursor& cursor, int32_t n_layers, bool is_column, uint64_t step, int64_t ahead) {
  SPILLWAY_CHECK(!cursor.running_);
  taken_.clear();
  for (int64_t i = 0; i < cursor.held(); ++i) {
    const int32_t ring_chunk = cursor.RingChunk(cursor.read_ + i);
    if (cursor.carry_.Took(i)) {
      taken_.push_back(ring_chunk);
    } else {
      ring_.Give(ring_chunk);
      ++cursor.dropped_;
    }
  }
  std::copy(taken_.begin(), taken_.end(), cursor.ring_chunks_.begin());
  cursor.fetched_ = static_cast<int64_t>(taken_.size());
  cursor.read_ = 0;
  cursor.stats_.chunks_ahead = cursor.fetched_;
  cursor.running_ = true;
  cursor.n_layers_ = n_layers;
  cursor.is_column_ = is_column;
  cursor.step_ = step;
  cursor.layer_begun_ = -1;
  cursor.waited_for_ = -1;
  cursor.ahead_ = ahead;
  cursor.went_ahead_ = false;
  cursor.ahead_now_ = 1 - cursor.ahead_now_;
  const absl::Span<const CarryRound> rounds = cursor.carry_.rounds();
  cursor.fetch_end_ = rounds.empty() ? cursor.chunks() + ahead : rounds.front().n_x;
}

void CarryQueue::End(CarryCursor& cursor) {
  SPILLWAY_CHECK(cursor.read_ == cursor.chunks());
  for (size_t lane = 0; lane < kLanes; ++lane) {
    LaneStats& copied = cursor.ahead_lanes_[cursor.ahead_now_][lane];
    LaneStats& sum = cursor.stats_.lanes[lane];
    sum.bytes += copied.bytes;
    sum.copies += copied.copies;
    sum.busy_ns += copied.busy_ns;
    sum.stall_ns += copied.stall_ns;
    copied = {};
  }
  cursor.stats_.chunks_dropped = std::exchange(cursor.dropped_, 0);
  device_.Record(copied_ahead_, copies_);
  cursor.running_ = false;
}

void CarryQueue::Abandon(CarryCursor& cursor) {
  CollectAllTimers();
  GiveUp(cursor);
  cursor.ahead_lanes_ = {};
  cursor.running_ = false;
}

bool CarryQueue::OthersRun(const CarryCursor& cursor) const {
  return std::any_of(cursors_.begin(), cursors_.end(),
                     [&cursor](const CarryCursor* other) { return other != &cursor && other->running_; });
}

CarryCursor* CarryQueue::NextToFetch(CarryCursor& cursor) const {
  if (!cursor.is_column_) return cursor.fetched_ < cursor.chunks() + cursor.ahead_ ? &cursor : nullptr;
  CarryCursor* next = nullptr;
  for (CarryCursor* other : cursors_) {
    if (!other->running_ || !other->is_column_ || other->fetched_ == other->chunks()) continue;
    if (next == nullptr ||
        std::pair(other->fetch_layer(), other->step_) < std::pair(next->fetch_layer(), next->step_)) {
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
    const bool is_ahead = next->fetched_ >= next->chunks();
    if (is_ahead && (ring_.empty() || OthersRun(cursor))) return;
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
  const bool is_ahead = cursor.fetched_ >= cursor.chunks();
  const int32_t layer = cursor.fetch_layer() % cursor.n_layers_;
  cursor.went_ahead_ |= is_ahead;
  const int32_t ring_chunk = ring_.Take();
  cursor.RingChunk(cursor.fetched_) = ring_chunk;
  ++cursor.fetched_;

  runs_.clear();
  const device::DevicePtr to = ring_.At(ring_chunk);
  for (const CarryRun& run : cursor.carry_.runs(chunk)) {
    runs_.push_back({to + run.offset_bytes, pool_.Slot(layer, run.slot), run.size_bytes});
  }
  const Lane load = chunk.form == kv::Form::kX ? Lane::kXLoad : Lane::kKvLoad;
  auto& lanes = is_ahead ? cursor.ahead_lanes_[1 - cursor.ahead_now_] : cursor.stats_.lanes;
  LaneStats& lane = lanes[static_cast<size_t>(load)];
  wait_timer_.Begin();
  ring_.BeginCopy(copies_, ring_chunk);
  if (chunk.gate == CarryGate::kExposed) device_.Wait(copies_, cursor.exposed_);
  if (chunk.gate == CarryGate::kRebuilt && cursor.fetched_ > 1) device_.Wait(copies_, cursor.rebuilt_);
  SpanLabel label = cursor.Label(load, layer, chunk.size_bytes);
  if (is_ahead) ++label.step;  // nobody else is expected to begin one
  SpanLabel waiting = label;
  waiting.waiting = true;
  waiting.bytes = 0;
  wait_timer_.End(&lane.stall_ns, waiting);
  timer_.Begin();
  device_.CopyInBatch(copies_, runs_);
  timer_.EndCopies(&lane, label, chunk.n_runs);
  ring_.EndCopy(copies_, ring_chunk);
}

void CarryQueue::GiveRead(CarryCursor& cursor) {
  ring_.Give(cursor.RingChunk(cursor.read_));
  ++cursor.read_;
}

void CarryQueue::GiveUp(CarryCursor& cursor) {
  // The copies that reuse the chunks come after these on the same stream.
  for (int64_t index = cursor.read_; index < cursor.fetched_; ++index) ring_.Give(cursor.RingChunk(index));
  cursor.dropped_ += cursor.held();
  cursor.fetched_ = cursor.read_;
}

void CarryQueue::TakeFromOthers(const CarryCursor& cursor) {
  for (CarryCursor* other : cursors_) {
    // Fetched for visits that come later: they will be fetched again.
    if (other != &cursor) GiveUp(*other);
  }
}

void CarryQueue::CollectAllTimers() {
  // After a device's error nothing is timed any more.
  (void)timer_.CollectAll();
  (void)wait_timer_.CollectAll();
}

}  // namespace spillway::exec
