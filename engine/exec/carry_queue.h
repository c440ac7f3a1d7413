// CarryQueue: the order in which what compute will need crosses the link. Copies run ahead of compute as far
// as the staging ring reaches, into the layers that come, so the busiest of the link and the compute is all
// that a step costs.
//
// In order of need: an item of a row fetches its own chunks, layer by layer; those of a column, in turn, a
// layer of each. Before a layer's chunks come its weights, where they are streamed, and never those of the
// layer after the next. A serial plan's chunks are let through round by round, and wait at their gates.
//
// The host enqueues in one order: what frees a chunk of the ring before the copy that reuses it. Who must go
// on while others hold the ring takes what they fetched ahead; they fetch it again.
//
// Across steps: when all of a step's chunks are fetched, those of its first layer are fetched again for the
// next step, which is expected to carry the same, while the last layers and the head are computed and the
// host prepares the step. What holds: a fetched chunk is read only by a step whose tables took it, hence with
// the content that its blocks have then; others go back to the ring unread. And a block may be freed and
// stored anew while its copy is under way, because stores wait on the device for all copies of steps that
// ended (copied_ahead). So every copy reads what was stored before it was enqueued, or nobody reads it.
//
// Step thread only. Nothing is allocated after the last Add.
#ifndef SPILLWAY_ENGINE_EXEC_CARRY_QUEUE_H_
#define SPILLWAY_ENGINE_EXEC_CARRY_QUEUE_H_

#include <array>
#include <cstdint>
#include <vector>

#include "engine/device/device.h"
#include "engine/exec/carry_tables.h"
#include "engine/exec/span_timer.h"
#include "engine/exec/staging_ring.h"
#include "engine/exec/step_stats.h"
#include "engine/exec/timeline.h"
#include "engine/exec/weight_stream.h"
#include "engine/kv/host_pool.h"

namespace spillway::exec {

// How far a work item's step is with its carried chunks, all layers' counted through: `carry`'s of layer 0,
// then of layer 1, and so on.
class CarryCursor {
 public:
  // Of a ring of `ring_chunks`. What is copied is counted in `stats`. Both references outlive the cursor.
  CarryCursor(device::Device& device, const CarryTables& carry, StepStats& stats, int32_t ring_chunks);

  bool running() const { return running_; }
  int64_t chunks() const { return static_cast<int64_t>(carry_.carried_chunks().size()) * n_layers_; }
  int64_t fetched() const { return fetched_; }  // whose copies are enqueued
  int64_t read() const { return read_; }        // whose reading is enqueued
  // Fetched and not read: when the step is over, chunks of the next one's first layer.
  int64_t held() const { return fetched_ - read_; }
  // Since the step began some were.
  bool went_ahead() const { return went_ahead_; }
  const CarryChunk& ChunkAt(int64_t index) const {
    const absl::Span<const int32_t> carried = carry_.carried_chunks();
    return carry_.chunks()[static_cast<size_t>(carried[static_cast<size_t>(index) % carried.size()])];
  }
  // The ring's chunk that holds chunk `index` from its fetch to its reading.
  int32_t& RingChunk(int64_t index) { return ring_chunks_[static_cast<size_t>(index) % ring_chunks_.size()]; }

  SpanLabel Label(Lane lane, int32_t layer, int64_t bytes = 0) const {
    return {lane, /*waiting=*/false, stats_.phase, step_, layer, bytes};
  }
  SpanLabel Waiting(Lane lane, int32_t layer) const {
    SpanLabel label = Label(lane, layer);
    label.waiting = true;
    return label;
  }

  // The layer's visit began: what it needs is wanted at once.
  void BeginLayer(int32_t layer) { layer_begun_ = layer; }
  // Of a serial plan: chunks before `index` may be fetched from now on.
  void LetThrough(int64_t index) { fetch_end_ = index; }
  // A serial plan's gates, recorded by compute.
  device::EventId exposed() const { return exposed_; }
  device::EventId rebuilt() const { return rebuilt_; }

 private:
  friend class CarryQueue;

  // Of the next chunk to fetch; n_layers_: of the next step's first. REQUIRES: there is one.
  int32_t fetch_layer() const {
    return static_cast<int32_t>(fetched_ / static_cast<int64_t>(carry_.carried_chunks().size()));
  }

  const CarryTables& carry_;
  StepStats& stats_;
  bool running_ = false;
  int32_t n_layers_ = 0;
  uint64_t step_ = 0;  // counts the executor's
  bool is_column_ = false;
  int32_t layer_begun_ = -1;  // the last one that was visited
  int64_t fetch_end_ = 0;     // what may be fetched by now
  int64_t fetched_ = 0;
  int64_t read_ = 0;
  int64_t ahead_ = 0;  // chunks of the next step's first layer that may be fetched
  bool went_ahead_ = false;
  int64_t dropped_ = 0;               // chunks whose copies nobody reads, not yet counted
  int64_t waited_for_ = -1;           // the last chunk that found no room in the ring
  std::vector<int32_t> ring_chunks_;  // [ring chunks]
  // What was copied ahead counts in the step that it was copied for: in this step's, and in the next one's.
  std::array<std::array<LaneStats, kLanes>, 2> ahead_lanes_{};
  size_t ahead_now_ = 0;
  // Of a serial plan's round: its X arrived and compute came so far; its X is rebuilt.
  const device::EventId exposed_;
  const device::EventId rebuilt_;
};

class CarryQueue {
 public:
  // Copies on a stream of its own. All references outlive the queue.
  CarryQueue(device::Device& device, kv::HostPool& pool, StagingRing& ring, TimelineWriter& timeline);

  // Streamed weights, whose copies take this queue's stream and timer; they outlive the queue's use.
  void SetWeights(WeightStream* weights) { weights_ = weights; }
  device::StreamId stream() const { return copies_; }
  SpanTimer& timer() { return timer_; }

  // The cursor is in the queue until Remove, which waits for its copies.
  void Add(CarryCursor& cursor);
  void Remove(CarryCursor& cursor);

  // The cursor's tables were built for a step of `n_layers`, the `step`th of all. Of what was fetched ahead
  // it has what they took. Of the next step the first `ahead` chunks may be fetched, as long as nobody else
  // runs.
  void Begin(CarryCursor& cursor, int32_t n_layers, bool is_column, uint64_t step, int64_t ahead);
  // The step is over, and its copies but for those ahead. REQUIRES: all of its chunks are read and the timers
  // collected.
  void End(CarryCursor& cursor);
  // The step is given up. REQUIRES: its copies and its compute are over.
  void Abandon(CarryCursor& cursor);
  // Recorded by End behind the copies of all steps that ended.
  device::EventId copied_ahead() const { return copied_ahead_; }

  // Copies of what comes next, as many as the ring takes: the cursor's, or all of a column.
  void FetchAhead(CarryCursor& cursor);
  // Until the cursor's chunk `index` is fetched, whoever's turn it is.
  void FetchThrough(CarryCursor& cursor, int64_t index);
  // The reading of the cursor's next chunk is enqueued, to the ring's EndRead.
  void GiveRead(CarryCursor& cursor);

  // Of what is timed, what is over.
  void CollectTimers() {
    timer_.Collect();
    wait_timer_.Collect();
  }

 private:
  // What the cursor fetched and nobody reads goes back to the ring. Its copies may still be under way.
  void GiveUp(CarryCursor& cursor);
  void CollectAllTimers();
  // Whose chunk comes next where `cursor` fetches; null: no more in this pass.
  CarryCursor* NextToFetch(CarryCursor& cursor) const;
  bool OthersRun(const CarryCursor& cursor) const;
  void Fetch(CarryCursor& cursor);
  // Makes room in the ring.
  void TakeFromOthers(const CarryCursor& cursor);

  device::Device& device_;
  kv::HostPool& pool_;
  StagingRing& ring_;
  const device::StreamId copies_;
  SpanTimer timer_;
  SpanTimer wait_timer_;  // for room in the ring, and for a serial plan's compute
  const device::EventId copied_ahead_;
  WeightStream* weights_ = nullptr;
  std::vector<CarryCursor*> cursors_;
  std::vector<device::CopyRun> runs_;  // of one batched copy
  std::vector<int32_t> taken_;         // the ring's chunks that Begin keeps
};

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_CARRY_QUEUE_H_
