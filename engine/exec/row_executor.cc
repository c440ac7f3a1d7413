#include "engine/exec/row_executor.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"
#include "engine/exec/item_buffers.h"
#include "engine/exec/item_outputs.h"

namespace spillway::exec {
namespace {

using device::DevicePtr;

// Visits of an item that may be enqueued and not yet complete: one computes while the host prepares the next.
constexpr int32_t kVisitsInFlight = 2;

}  // namespace

// Everything a work item owns, on the host and on the device.
class RowExecutor::Item final : public WorkItem {
 public:
  Item(const RowExecutor& executor, const ItemLimits& limits)
      : WorkItem(limits),
        owner(&executor),
        device(executor.device_),
        tables(limits, executor.options_.chunk_rows, executor.pool_.geometry().block_tokens),
        outputs(limits, executor.vocab_size()) {
    for (auto& pair : visit_events) pair = {device.CreateEvent(), device.CreateEvent()};
    finished = device.CreateEvent();
  }
  ~Item() override {
    WaitForVisits();  // running still: the engine is lost, or going down
  }

  absl::Status Allocate() {
    SPILLWAY_ASSIGN_OR_RETURN(buffers, ItemBuffers::Create(device, owner->transformer_->config(), limits_,
                                                           owner->options_.chunk_rows, /*carries=*/false));
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
  // Until nothing enqueued touches the item's memory and blocks. A lost device touches nothing any more, so
  // its error is not one here.
  void WaitForVisits() {
    if (!running_ || visits_done_ == 0) return;
    const size_t last = static_cast<size_t>((visits_done_ - 1) % kVisitsInFlight);
    (void)device.Synchronize(visit_events[last].second);
  }

  const RowExecutor* const owner;
  device::Device& device;

  StepTables tables;
  ItemOutputs outputs;
  StepStats stats;
  int32_t visits_collected = 0;
  uint64_t step = 0;

  ItemBuffers buffers;
  std::array<std::pair<device::EventId, device::EventId>, kVisitsInFlight> visit_events;  // begin, end
  device::EventId finished;
};

absl::StatusOr<std::unique_ptr<RowExecutor>> RowExecutor::Create(
    device::Device& device, const model::ModelConfig& config, const model::ModelWeights& weights,
    kv::HostPool& pool, const kv::BlockStore& store, const RowExecutorOptions& options, const Clock& clock) {
  SPILLWAY_CHECK(options.chunk_rows > 0 && options.head_rows > 0);
  const kv::Geometry& geometry = pool.geometry();
  SPILLWAY_CHECK(geometry.n_layers == config.n_layers && geometry.n_kv_heads == config.n_kv_heads);
  SPILLWAY_CHECK_MSG(!store.stores_x(), "what is read in place is stored as K and V");
  SPILLWAY_CHECK(geometry.d_head == config.d_head &&
                 geometry.element_bytes == device::SizeOf(device.info().compute_dtype));
  if (!device.info().host_addressable) {
    return absl::FailedPreconditionError(
        "the row executor reads keys and values in host memory, which this device cannot address; serve "
        "with --device=cpu and without an emulated link");
  }
  std::unique_ptr<RowExecutor> executor(new RowExecutor(device, pool, store, options, clock));
  SPILLWAY_ASSIGN_OR_RETURN(
      executor->transformer_,
      model::Transformer::Create(device, config, weights, {options.chunk_rows, options.head_rows}));
  for (int32_t layer = 0; layer < config.n_layers; ++layer) {
    executor->arenas_.push_back({device.HostAddress(pool.LayerArena(layer)), geometry.slot_bytes()});
  }
  SPILLWAY_RETURN_IF_ERROR(WarmUpOutputs(device, *executor->transformer_, executor->compute_));
  return executor;
}

RowExecutor::RowExecutor(device::Device& device, kv::HostPool& pool, const kv::BlockStore& store,
                         const RowExecutorOptions& options, const Clock& clock)
    : device_(device),
      pool_(pool),
      store_(store),
      options_(options),
      clock_(clock),
      compute_(device.CreateStream("compute")),
      distinct_(store.max_blocks()),
      timeline_(device, options.timeline, clock) {}

absl::StatusOr<std::unique_ptr<WorkItem>> RowExecutor::CreateWorkItem(const ItemLimits& limits) {
  SPILLWAY_CHECK(limits.max_rows > 0 && limits.max_segments > 0 && limits.max_blocks > 0);
  SPILLWAY_CHECK(limits.max_outputs >= 0 && limits.max_kept_logits >= 0);
  auto item = std::make_unique<Item>(*this, limits);
  SPILLWAY_RETURN_IF_ERROR(item->Allocate());
  return item;
}

RowExecutor::Item& RowExecutor::ItemOf(WorkItem& item) const {
  Item& own = static_cast<Item&>(item);
  SPILLWAY_CHECK_MSG(own.owner == this, "a work item of another executor");
  return own;
}

void RowExecutor::Begin(WorkItem& work_item, Phase phase, absl::Span<const Segment> segments,
                        const SplitPlan& plan) {
  Item& item = ItemOf(work_item);
  SPILLWAY_CHECK(!item.running());
  const MonotonicNs begin_ns = clock_.NowNs();
  timeline_.Follow();
  item.step = ++steps_;
  const auto planes_of = [this](kv::BlockId block) { return store_.PlanesOf(block); };
  item.tables.Build(segments, store_.max_blocks(), vocab_size(), planes_of, distinct_);
  item.buffers.CopyIn(compute_, item.tables, nullptr);
  item.Start(n_layers() * static_cast<int32_t>(item.tables.chunks().size()));

  StepStats& stats = item.stats;
  stats = StepStats{};
  stats.phase = phase;
  stats.schedule = Schedule::kRow;
  stats.sequences = static_cast<int32_t>(segments.size());
  stats.rows = item.tables.n_rows();
  stats.sampled_rows = static_cast<int32_t>(item.tables.samples().size());
  stats.tokens.resident_kv_tokens = item.tables.cached_tokens();
  stats.reads_tokens = item.tables.reads_tokens();
  stats.predicted_step_s = plan.predicted_step_s;
  stats.corrected_step_s = plan.corrected_step_s;
  stats.begin_ns = begin_ns;
  stats.active_ns = clock_.NowNs() - begin_ns;
}

absl::Status RowExecutor::Visit(WorkItem& work_item) {
  Item& item = ItemOf(work_item);
  SPILLWAY_CHECK(item.running() && !item.done());
  const MonotonicNs begin_ns = clock_.NowNs();
  const int32_t visit = item.visits_done();
  if (visit >= kVisitsInFlight) SPILLWAY_RETURN_IF_ERROR(Collect(item, visit - kVisitsInFlight));

  const int32_t n_chunks = static_cast<int32_t>(item.tables.chunks().size());
  const int32_t layer = visit / n_chunks;
  const StepTables::Chunk& chunk = item.tables.chunks()[static_cast<size_t>(visit % n_chunks)];
  const auto at = [](DevicePtr array, int64_t index, int64_t element_bytes) {
    return array + index * element_bytes;
  };
  model::RowBatch batch;
  batch.rows = chunk.n_rows;
  batch.n_sequences = chunk.n_sequences;
  batch.ids = at(item.buffers.ids, chunk.first_row, sizeof(int32_t));
  batch.hidden = at(item.buffers.hidden, chunk.first_row, int64_t{transformer_->config().d_model} * 4);
  batch.append = at(item.buffers.append, chunk.first_row, sizeof(device::AppendRow));
  batch.sequences = at(item.buffers.sequences, chunk.first_sequence, sizeof(device::AttentionSequence));
  batch.blocks = item.buffers.blocks;
  batch.block_tokens = pool_.geometry().block_tokens;

  const auto& [begin_event, end_event] = item.visit_events[static_cast<size_t>(visit % kVisitsInFlight)];
  device_.Record(begin_event, compute_);
  if (layer == 0) transformer_->Embed(compute_, batch);
  transformer_->Layer(compute_, layer, batch, arenas_[static_cast<size_t>(layer)]);
  device_.Record(end_event, compute_);
  item.CountVisit();
  item.stats.active_ns += clock_.NowNs() - begin_ns;
  return device_.status();
}

absl::Status RowExecutor::Collect(Item& item, int32_t visit) {
  SPILLWAY_DCHECK(visit == item.visits_collected);
  const auto& [begin, end] = item.visit_events[static_cast<size_t>(visit % kVisitsInFlight)];
  SPILLWAY_RETURN_IF_ERROR(device_.Synchronize(end));
  LaneStats& compute = item.stats.lanes[static_cast<size_t>(Lane::kCompute)];
  compute.busy_ns += device_.ElapsedNs(begin, end);
  const int32_t layer = visit / static_cast<int32_t>(item.tables.chunks().size());
  timeline_.Add({Lane::kCompute, /*waiting=*/false, item.stats.phase, item.step, layer, 0}, begin, end);
  ++item.visits_collected;
  return absl::OkStatus();
}

absl::StatusOr<StepResult> RowExecutor::Finish(WorkItem& work_item) {
  Item& item = ItemOf(work_item);
  SPILLWAY_CHECK(item.done());
  const MonotonicNs begin_ns = clock_.NowNs();
  item.outputs.Enqueue(device_, *transformer_, compute_, item.tables, item.buffers.hidden,
                       item.buffers.output_rows);
  device_.Record(item.finished, compute_);
  while (item.visits_collected < item.visits_done()) {
    SPILLWAY_RETURN_IF_ERROR(Collect(item, item.visits_collected));
  }
  SPILLWAY_RETURN_IF_ERROR(device_.Synchronize(item.finished));
  item.Stop();

  StepStats& stats = item.stats;
  stats.visits = item.visits_total();
  stats.stored_tokens = stats.rows;
  const auto& last_visit = item.visit_events[static_cast<size_t>((stats.visits - 1) % kVisitsInFlight)];
  const MonotonicNs end_ns = clock_.NowNs();
  stats.head_ns = device_.ElapsedNs(last_visit.second, item.finished);
  stats.lanes[static_cast<size_t>(Lane::kCompute)].busy_ns += stats.head_ns;
  timeline_.Add({Lane::kCompute, /*waiting=*/false, stats.phase, item.step, n_layers(), 0}, last_visit.second,
                item.finished);
  stats.active_ns += end_ns - begin_ns;
  stats.wall_ns = end_ns - stats.begin_ns;
  return StepResult{item.outputs.Samples(item.tables), stats};
}

void RowExecutor::Abandon(WorkItem& work_item) {
  Item& item = ItemOf(work_item);
  SPILLWAY_CHECK(item.running());
  item.WaitForVisits();
  item.Stop();
}

absl::Span<const float> RowExecutor::LogitsOf(const WorkItem& work_item, int32_t segment, int32_t row) const {
  const Item& item = static_cast<const Item&>(work_item);
  SPILLWAY_CHECK(item.owner == this && !item.running());
  return item.outputs.Logits(item.tables, segment, row);
}

}  // namespace spillway::exec
