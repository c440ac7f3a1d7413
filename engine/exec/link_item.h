// The link executor's own state of a work item; of link_executor.cc alone.
#ifndef SPILLWAY_ENGINE_EXEC_LINK_ITEM_H_
#define SPILLWAY_ENGINE_EXEC_LINK_ITEM_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "engine/exec/item_buffers.h"
#include "engine/exec/item_outputs.h"
#include "engine/exec/link_executor.h"

namespace spillway::exec {

// Everything a work item owns, on the host and on the device.
class LinkExecutor::Item final : public WorkItem {
 public:
  // Visits that may be enqueued and not yet complete: one computes while the host prepares the next.
  static constexpr int32_t kVisitsInFlight = 2;

  Item(LinkExecutor& executor, const ItemLimits& limits)
      : WorkItem(limits),
        owner(executor),
        tables(limits, executor.options_.chunk_rows, executor.pool_.geometry().block_tokens),
        carry(limits, executor.pool_, executor.ring_->chunk_bytes(), executor.ring_->n_chunks()),
        outputs(limits, executor.vocab_size()),
        ring_chunks(static_cast<size_t>(executor.ring_->n_chunks())) {
    for (auto& pair : visit_events) pair = {device().CreateEvent(), device().CreateEvent()};
    finished = device().CreateEvent();
    exposed = device().CreateEvent();
    rebuilt = device().CreateEvent();
    const size_t max_blocks = static_cast<size_t>(limits.max_blocks);
    pinned.reserve(max_blocks);
    stores.reserve(static_cast<size_t>(executor.MaxOpenBlocks(limits)));
    owner.items_.push_back(this);
  }
  ~Item() override {
    if (running_) owner.Abandon(*this);  // the engine is lost, or going down
    owner.CollectAllTimers();            // they add to `stats`
    owner.items_.erase(std::find(owner.items_.begin(), owner.items_.end(), this));
  }

  absl::Status Allocate() {
    SPILLWAY_ASSIGN_OR_RETURN(
        buffers, ItemBuffers::Create(device(), owner.transformer_->config(), limits_, tables, &carry));
    return absl::OkStatus();
  }

  void Start(int32_t n_visits) {
    running_ = true;
    visits_done_ = 0;
    visits_total_ = n_visits;
    visits_collected = 0;
    fetched = read = 0;
    layer_begun = -1;
    waited_for = -1;
    fetch_end = carried_chunks();
    if (!carry.rounds().empty()) fetch_end = carry.rounds().front().n_x;
  }
  void CountVisit() { ++visits_done_; }
  void Stop() { running_ = false; }

  device::Device& device() const { return owner.device_; }
  int64_t carried_chunks() const { return static_cast<int64_t>(carry.chunks().size()) * visits_total_; }
  // Of the next chunk to fetch. REQUIRES: there is one.
  int32_t fetch_layer() const {
    return static_cast<int32_t>(fetched / static_cast<int64_t>(carry.chunks().size()));
  }
  SpanLabel Label(Lane lane, int32_t layer, int64_t bytes = 0) const {
    return {lane, /*waiting=*/false, stats.phase, step, layer, bytes};
  }
  SpanLabel Waiting(Lane lane, int32_t layer) const {
    SpanLabel label = Label(lane, layer);
    label.waiting = true;
    return label;
  }
  int32_t held_chunks() const { return static_cast<int32_t>(fetched - read); }
  // The ring's chunk that holds carried chunk `index` (all layers' counted through) from its fetch to its
  // reading.
  int32_t& RingChunk(int64_t index) { return ring_chunks[static_cast<size_t>(index) % ring_chunks.size()]; }
  const CarryChunk& CarriedChunk(int64_t index) const {
    return carry.chunks()[static_cast<size_t>(index) % carry.chunks().size()];
  }

  LinkExecutor& owner;
  StepTables tables;
  CarryTables carry;
  ItemOutputs outputs;
  StepStats stats;
  model::RowBatch batch;
  bool is_column = false;    // visited in turn with the others that are, a layer at a time
  uint64_t turn = 0;         // among them: in the order in which they began
  int32_t layer_begun = -1;  // the last one that was visited
  uint64_t step = 0;         // counts the executor's
  int32_t visits_collected = 0;
  std::vector<int32_t> ring_chunks;  // [ring chunks]
  int64_t fetch_end = 0;             // carried chunks that may be fetched by now, of all layers
  int64_t fetched = 0;               // carried chunks whose copies are enqueued, of all layers
  int64_t waited_for = -1;           // the last carried chunk that found no room in the ring
  int64_t read = 0;                  // carried chunks whose reading is enqueued
  std::vector<kv::BlockId> pinned;   // device blocks that the item reads or writes
  std::vector<kv::BlockId> stores;   // blocks that its rows fill

  ItemBuffers buffers;
  std::array<std::pair<device::EventId, device::EventId>, kVisitsInFlight> visit_events;  // begin, end
  device::EventId finished;
  // Of a serial plan's round: its X arrived and compute came so far; its X is rebuilt.
  device::EventId exposed;
  device::EventId rebuilt;
};

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_LINK_ITEM_H_
