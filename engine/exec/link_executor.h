// LinkExecutor: the row schedule on a device with memory of its own, behind a link. One work item runs
// through all layers, then the next. Cached tokens reach attention as the plan says: resident on the device,
// carried as K and V, or carried as X from which K and V are rebuilt.
//
// Three streams: copies in, compute, copies out. A layer's visit projects its rows, attends to what lies on
// the device, then to the staging ring's chunks in the order in which they arrive, and completes the layer.
// What order they arrive in, and how far ahead, is the CarryQueue's. Blocks that become full are stored on
// the host layer by layer, once.
//
// A serial plan (the KVPR paper's form, a baseline) runs otherwise: a layer's X comes while the layers' other
// compute runs and is waited for; then K and V come while the X is rebuilt; the next layer's X comes after
// both. What of a layer does not fit in the ring at once goes through it in rounds of the same form.
//
// The host enqueues in one order: what frees a chunk before the copy that reuses it. Blocks that work under
// way reads or stores are pinned in the device cache, and those that it carries in the store, which then
// drops no form of them.
//
// An item is one chunk of rows: max_rows of its limits is at most chunk_rows().
//
// What is resident drifts towards the plans' targets: a block that became full stays as K and V or as X, and
// blocks that were carried are promoted, from where attention read them, layer by layer.
//
// Owned by the scheduler's step thread. Nothing is allocated after Create and CreateWorkItem.
#ifndef SPILLWAY_ENGINE_EXEC_LINK_EXECUTOR_H_
#define SPILLWAY_ENGINE_EXEC_LINK_EXECUTOR_H_

#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "engine/device/device.h"
#include "engine/exec/block_checks.h"
#include "engine/exec/block_writer.h"
#include "engine/exec/carry_queue.h"
#include "engine/exec/carry_tables.h"
#include "engine/exec/executor.h"
#include "engine/exec/residency.h"
#include "engine/exec/span_timer.h"
#include "engine/exec/staging_ring.h"
#include "engine/exec/step_tables.h"
#include "engine/exec/timeline.h"
#include "engine/exec/weight_stream.h"
#include "engine/kv/block_store.h"
#include "engine/kv/device_cache.h"
#include "engine/kv/host_pool.h"
#include "engine/model/model_config.h"
#include "engine/model/transformer.h"
#include "engine/model/weights.h"

namespace spillway::exec {

struct LinkExecutorOptions {
  int32_t chunk_rows = 256;  // rows of an item at most
  int32_t head_rows = 64;    // rows whose logits are computed at a time
  int32_t ring_chunks = kRingChunks;
  int64_t ring_chunk_bytes = 1 << 20;  // raised to one block's planes where those are larger
  // Device memory of open and resident blocks; at least what the items' open blocks need. 0: what the
  // device's budget leaves but for `reserve_bytes`, which are the work items'.
  int64_t cache_bytes = 0;
  int64_t reserve_bytes = 0;
  // Device memory of resident blocks at most, as so many blocks of K and V. 0: residency is off.
  int64_t resident_blocks_max = std::numeric_limits<int64_t>::max();
  ResidencyTargets residency;    // until a plan brings others
  bool check_blocks = false;     // BlockChecks, for debugging
  Timeline* timeline = nullptr;  // where a recording would be made; outlives the executor
};

class LinkExecutor final : public Executor {
 public:
  // InvalidArgument where X is stored and K and V cannot be rebuilt from it on this device, ResourceExhausted
  // without memory. All references must outlive the executor, which hears of what `store`, of the pool's
  // blocks, loses. REQUIRES: the pool's geometry is the model's, in the device's compute dtype.
  static absl::StatusOr<std::unique_ptr<LinkExecutor>> Create(device::Device& device,
                                                              const model::ModelConfig& config,
                                                              const model::ModelWeights& weights,
                                                              kv::HostPool& pool, kv::BlockStore& store,
                                                              const LinkExecutorOptions& options,
                                                              const Clock& clock = Clock::Real());
  ~LinkExecutor() override;

  // Items must be destroyed before the executor. InvalidArgument, naming the size that works, where the items
  // so far and this one may have more blocks open than the cache holds.
  absl::StatusOr<std::unique_ptr<WorkItem>> CreateWorkItem(const ItemLimits& limits) override;

  int32_t chunk_rows() const override { return options_.chunk_rows; }
  int32_t n_layers() const override { return transformer_->config().n_layers; }
  int32_t vocab_size() const override { return transformer_->config().vocab_size; }
  bool splits() const override { return true; }
  int64_t cache_bytes() const override { return cache_->size_bytes(); }
  int64_t residency_bytes() const override;
  int64_t staging_bytes() const override { return ring_bytes() + rebuilt_bytes_; }
  int64_t weight_slots_bytes() const override { return weights_ != nullptr ? 2 * weights_->slot_bytes() : 0; }
  int64_t weight_pass_bytes() const override { return weights_ != nullptr ? weights_->pass_bytes() : 0; }
  BatchShape ShapeOf(Phase phase, absl::Span<const Segment> segments) override;

  void Begin(WorkItem& item, Phase phase, absl::Span<const Segment> segments, const SplitPlan& plan) override;
  absl::Status Visit(WorkItem& item) override;
  absl::StatusOr<StepResult> Finish(WorkItem& item) override;
  void Abandon(WorkItem& item) override;
  absl::Span<const float> LogitsOf(const WorkItem& item, int32_t segment, int32_t row) const override;

  // Until every block that became full so far is stored.
  void WaitForStores() { writer_->WaitForAll(); }

  kv::BlockListener& block_listener() { return *cache_; }
  const kv::DeviceCache& cache() const { return *cache_; }
  // Null unless they were asked for.
  const BlockChecks* checks() const { return checks_.get(); }
  int64_t ring_bytes() const { return ring_->n_chunks() * ring_->chunk_bytes(); }
  int64_t scratch_bytes() const { return transformer_->scratch_bytes(); }

 private:
  class Item;

  LinkExecutor(device::Device& device, kv::HostPool& pool, kv::BlockStore& store,
               const LinkExecutorOptions& options, const Clock& clock);

  absl::Status Allocate(const model::ModelConfig& config, const model::ModelWeights& weights);
  Item& ItemOf(WorkItem& item) const;
  bool StoresX() const { return store_.stores_x(); }
  int64_t OpenSlots() const;

  // --- Begin.
  void OpenBlocks(Item& item, absl::Span<const Segment> segments);
  void PinReads(Item& item, absl::Span<const Segment> segments);
  void Unpin(const Item& item);
  // Of the carried chunks, how many the next step is expected to carry too, the first ones first.
  int64_t ChunksToExpect(const Item& item, Phase phase, const SplitPlan& plan) const;
  void StartStats(Item& item, Phase phase, const SplitPlan& plan, MonotonicNs begin_ns);

  // --- Visit.
  void UseWeights(Item& item, int32_t layer);
  void AttendToChunk(Item& item, int32_t layer, const CarryChunk& chunk);
  // The X of a chunk that is resident, as one piece.
  device::DevicePtr GatherX(Item& item, int32_t layer, const CarryChunk& chunk);
  void RebuildChunk(Item& item, int32_t layer, const CarryChunk& chunk, device::DevicePtr x);
  // Copies a layer of the blocks that are promoted out of a chunk: X from `x`, or K and V from `keys`.
  void Promote(Item& item, int32_t layer, const CarryChunk& chunk, kv::Residence as, device::DevicePtr from);
  void AttendToRound(Item& item, int32_t layer, size_t index);
  absl::Status Collect(Item& item, int32_t visit);
  // Of what is timed, what is over.
  void CollectTimers();

  device::Device& device_;
  kv::HostPool& pool_;
  kv::BlockStore& store_;
  const LinkExecutorOptions options_;
  const Clock& clock_;
  const device::StreamId compute_;
  std::unique_ptr<model::Transformer> transformer_;  // uses weights_
  std::unique_ptr<StagingRing> ring_;
  std::unique_ptr<kv::DeviceCache> cache_;
  std::unique_ptr<BlockChecks> checks_;  // null: nothing is checked
  std::unique_ptr<BlockWriter> writer_;  // uses checks_
  std::unique_ptr<Residency> residency_;
  device::DevicePtr rebuilt_;   // K and V of one chunk's X: slots 2b, 2b + 1
  device::DevicePtr gathered_;  // one chunk's X, where it is resident in several places
  int64_t rebuilt_bytes_ = 0;   // of both
  DistinctTokens distinct_;

  TimelineWriter timeline_;
  SpanTimer wait_timer_;  // compute's, for chunks and weights
  std::unique_ptr<CarryQueue> queue_;
  std::unique_ptr<WeightStream> weights_;  // where layers lie on the host; uses queue_'s timer
  uint64_t steps_ = 0;                     // begun
  int32_t n_items_ = 0;
  const Item* last_begun_ = nullptr;
  int64_t open_blocks_max_ = 0;  // of all items
};

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_LINK_EXECUTOR_H_
