// RowExecutor: one work item through all layers, then the next; the schedule of lowest latency. Keys and
// values are read and written where they lie in the host pool, so the device must address it
// (DeviceInfo::host_addressable); every cached token counts as resident.
//
// An item's rows go through a layer in chunks, earlier ones first: a chunk attends to the earlier chunks of
// its item through the cache. Between two visits nothing of an item lives outside of its WorkItem and its
// blocks, so any other item may run there.
//
// Owned by the scheduler's step thread. Nothing is allocated after Create and CreateWorkItem.
#ifndef SPILLWAY_ENGINE_EXEC_ROW_EXECUTOR_H_
#define SPILLWAY_ENGINE_EXEC_ROW_EXECUTOR_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "engine/device/device.h"
#include "engine/exec/executor.h"
#include "engine/exec/step_tables.h"
#include "engine/exec/timeline.h"
#include "engine/kv/block_store.h"
#include "engine/kv/host_pool.h"
#include "engine/model/model_config.h"
#include "engine/model/transformer.h"
#include "engine/model/weights.h"

namespace spillway::exec {

struct RowExecutorOptions {
  int32_t chunk_rows = 256;      // rows of a visit
  int32_t head_rows = 64;        // rows whose logits are computed at a time
  Timeline* timeline = nullptr;  // where a recording would be made; outlives the executor
};

class RowExecutor final : public Executor {
 public:
  // FailedPrecondition where the device does not address the pool, Unimplemented for a model that no device
  // operation computes, ResourceExhausted without memory for the scratch. All references must outlive the
  // executor. REQUIRES: the pool's geometry is the model's, in the device's compute dtype.
  static absl::StatusOr<std::unique_ptr<RowExecutor>> Create(device::Device& device,
                                                             const model::ModelConfig& config,
                                                             const model::ModelWeights& weights,
                                                             kv::HostPool& pool, const kv::BlockStore& store,
                                                             const RowExecutorOptions& options,
                                                             const Clock& clock = Clock::Real());

  // Items must be destroyed before the executor.
  absl::StatusOr<std::unique_ptr<WorkItem>> CreateWorkItem(const ItemLimits& limits) override;

  int32_t chunk_rows() const override { return options_.chunk_rows; }
  int32_t n_layers() const override { return transformer_->config().n_layers; }
  int32_t vocab_size() const override { return transformer_->config().vocab_size; }
  // Device memory shared by all items.
  int64_t scratch_bytes() const { return transformer_->scratch_bytes(); }

  void Begin(WorkItem& item, Phase phase, absl::Span<const Segment> segments, const SplitPlan& plan) override;
  absl::Status Visit(WorkItem& item) override;
  absl::StatusOr<StepResult> Finish(WorkItem& item) override;
  void Abandon(WorkItem& item) override;
  absl::Span<const float> LogitsOf(const WorkItem& item, int32_t segment, int32_t row) const override;

 private:
  class Item;

  RowExecutor(device::Device& device, kv::HostPool& pool, const kv::BlockStore& store,
              const RowExecutorOptions& options, const Clock& clock);

  Item& ItemOf(WorkItem& item) const;
  // Waits for the item's visit that used this pair of events and takes its time.
  absl::Status Collect(Item& item, int32_t visit);

  device::Device& device_;
  kv::HostPool& pool_;
  const kv::BlockStore& store_;
  const RowExecutorOptions options_;
  const Clock& clock_;
  const device::StreamId compute_;
  std::unique_ptr<model::Transformer> transformer_;
  std::vector<device::SlotArena> arenas_;  // [n_layers]
  DistinctTokens distinct_;
  TimelineWriter timeline_;
  uint64_t steps_ = 0;  // begun
};

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_ROW_EXECUTOR_H_
