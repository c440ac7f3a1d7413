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
// Step thread only. Nothing is allocated after the last Add.
#ifndef SPILLWAY_ENGINE_EXEC_CARRY_QUEUE_H_
#define SPILLWAY_ENGINE_EXEC_CARRY_QUEUE_H_

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

  // The tables were built for a step of `n_layers`; `turn` is its place in a column, a row's is none.
  void Start(int32_t n_layers, bool is_column, uint64_t turn, uint64_t step);
  void Stop() { running_ = false; }

  bool running() const { return running_; }
  int64_t chunks() const { return static_cast<int64_t>(carry_.carried_chunks().size()) * n_layers_; }
  int64_t fetched() const { return fetched_; }  // whose copies are enqueued
  int64_t read() const { return read_; }        // whose reading is enqueued
  int64_t held() const { return fetched_ - read_; }
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

  // Of the next chunk to fetch. REQUIRES: there is one.
  int32_t fetch_layer() const {
    return static_cast<int32_t>(fetched_ / static_cast<int64_t>(carry_.carried_chunks().size()));
  }

  const CarryTables& carry_;
  StepStats& stats_;
  bool running_ = false;
  int32_t n_layers_ = 0;
  uint64_t step_ = 0;  // counts the executor's
  bool is_column_ = false;
  uint64_t turn_ = 0;
  int32_t layer_begun_ = -1;  // the last one that was visited
  int64_t fetch_end_ = 0;     // what may be fetched by now
  int64_t fetched_ = 0;
  int64_t read_ = 0;
  int64_t waited_for_ = -1;           // the last chunk that found no room in the ring
  std::vector<int32_t> ring_chunks_;  // [ring chunks]
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

  // The cursor is in the queue until Remove.
  void Add(CarryCursor& cursor);
  void Remove(CarryCursor& cursor);

  // Copies of what comes next, as many as the ring takes: the cursor's, or all of a column.
  void FetchAhead(CarryCursor& cursor);
  // Until the cursor's chunk `index` is fetched, whoever's turn it is.
  void FetchThrough(CarryCursor& cursor, int64_t index);
  // The reading of the cursor's next chunk is enqueued, to the ring's EndRead.
  void GiveRead(CarryCursor& cursor);
  // What the cursor fetched and nobody reads goes back to the ring. Its copies may still be under way.
  void GiveUp(CarryCursor& cursor);

  // Of what is timed, what is over; CollectAllTimers waits for the rest.
  void CollectTimers();
  void CollectAllTimers();

 private:
  // Whose chunk comes next where `cursor` fetches; null: no more in this pass.
  CarryCursor* NextToFetch(CarryCursor& cursor) const;
  void Fetch(CarryCursor& cursor);
  // Makes room in the ring.
  void TakeFromOthers(const CarryCursor& cursor);

  device::Device& device_;
  kv::HostPool& pool_;
  StagingRing& ring_;
  const device::StreamId copies_;
  SpanTimer timer_;
  SpanTimer wait_timer_;  // for room in the ring, and for a serial plan's compute
  WeightStream* weights_ = nullptr;
  std::vector<CarryCursor*> cursors_;
  std::vector<device::CopyRun> runs_;  // of one batched copy
};

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_CARRY_QUEUE_H_
