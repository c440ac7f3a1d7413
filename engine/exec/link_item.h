// The link executor's own state of a work item; of link_executor.cc alone.
#ifndef SPILLWAY_ENGINE_EXEC_LINK_ITEM_H_
#define SPILLWAY_ENGINE_EXEC_LINK_ITEM_H_

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/status_macros.h"
#include "engine/exec/item_buffers.h"
#include "engine/exec/item_outputs.h"
#include "engine/exec/link_executor.h"
#include "engine/exec/link_memory.h"
#include "engine/exec/promotions.h"

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
        carry(limits, executor.pool_.geometry(), executor.store_, executor.ring_->chunk_bytes(),
              executor.ring_->n_chunks()),
        promotions(*executor.cache_, limits.max_blocks),
        outputs(limits, executor.vocab_size()),
        residency_number(executor.residency_->AddItem()),
        cursor(executor.device_, carry, stats, executor.ring_->n_chunks()) {
    for (auto& pair : visit_events) pair = {device().CreateEvent(), device().CreateEvent()};
    finished = device().CreateEvent();
    const size_t max_blocks = static_cast<size_t>(limits.max_blocks);
    pinned.reserve(max_blocks);
    stores.reserve(static_cast<size_t>(MaxOpenBlocks(limits, executor.pool_.geometry())));
    owner.queue_->Add(cursor);
    ++owner.n_items_;
  }
  ~Item() override {
    if (running_) owner.Abandon(*this);  // the engine is lost, or going down
    // What is timed adds to `stats`, however late it is over.
    (void)owner.wait_timer_.CollectAll();
    owner.queue_->Remove(cursor);
    --owner.n_items_;
    if (owner.last_begun_ == this) owner.last_begun_ = nullptr;
  }

  absl::Status Allocate() {
    SPILLWAY_ASSIGN_OR_RETURN(buffers, ItemBuffers::Create(device(), owner.transformer_->config(), limits_,
                                                           owner.options_.chunk_rows, /*carries=*/true));
    return absl::OkStatus();
  }

  void Start(int32_t n_visits) {
    running_ = true;
    visits_done_ = 0;
    visits_total_ = n_visits;
    visits_collected = 0;
  }
  void CountVisit() { ++visits_done_; }
  void Stop() { running_ = false; }

  device::Device& device() const { return owner.device_; }

  LinkExecutor& owner;
  StepTables tables;
  CarryTables carry;
  Promotions promotions;
  ItemOutputs outputs;
  StepStats stats;
  model::RowBatch batch;
  const size_t residency_number;
  CarryCursor cursor;  // in carry
  int32_t visits_collected = 0;
  std::vector<kv::BlockId> pinned;  // device blocks that the item reads or writes
  std::vector<kv::BlockId> stores;  // blocks that its rows fill
  int64_t n_written = 0;            // blocks that its rows are written to

  ItemBuffers buffers;
  std::array<std::pair<device::EventId, device::EventId>, kVisitsInFlight> visit_events;  // begin, end
  device::EventId finished;
};

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_LINK_ITEM_H_
