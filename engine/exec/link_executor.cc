#include "engine/exec/link_executor.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/exec/item_outputs.h"

namespace spillway::exec {
namespace {

using device::DevicePtr;
using State = kv::DeviceCache::State;

// Visits of an item that may be enqueued and not yet complete: one computes while the host prepares the next.
constexpr int32_t kVisitsInFlight = 2;
// Uncollected stretches of a stream's work.
constexpr int32_t kTimedCopies = 256;
// Steps whose stores may be under way.
constexpr int32_t kStoresInFlight = 4;
constexpr int64_t kAlignmentBytes = 256;

template <typename T>
int64_t BytesOf(absl::Span<const T> values) {
  return static_cast<int64_t>(values.size() * sizeof(T));
}

LaneStats& LaneOf(StepStats& stats, Lane lane) { return stats.lanes[static_cast<size_t>(lane)]; }

}  // namespace

// Everything a work item owns, on the host and on the device.
class LinkExecutor::Item final : public WorkItem {
 public:
  Item(LinkExecutor& executor, const ItemLimits& limits)
      : WorkItem(limits),
        owner(executor),
        tables(limits, executor.options_.chunk_rows, executor.pool_.geometry().block_tokens),
        carry(limits, executor.pool_, executor.ring_->chunk_bytes()),
        outputs(limits, executor.vocab_size()),
        ring_chunks(static_cast<size_t>(executor.ring_->n_chunks())) {
    for (auto& pair : visit_events) pair = {device().CreateEvent(), device().CreateEvent()};
    finished = device().CreateEvent();
    const size_t max_blocks = static_cast<size_t>(limits.max_blocks);
    pinned.reserve(max_blocks);
    stores.reserve(static_cast<size_t>(executor.MaxOpenBlocks(limits)));
    owner.items_.push_back(this);
  }
  ~Item() override {
    if (running_) owner.Abandon(*this);  // the engine is lost, or going down
    if (memory) device().Free(memory);
    owner.items_.erase(std::find(owner.items_.begin(), owner.items_.end(), this));
  }

  absl::Status Allocate() {
    const model::ModelConfig& config = owner.transformer_->config();
    const int64_t rows = limits_.max_rows;
    const auto array = [](int64_t n, size_t element_bytes) {
      return n * static_cast<int64_t>(element_bytes);
    };
    const std::pair<DevicePtr*, int64_t> buffers[] = {
        {&hidden, rows * config.d_model * 4},
        {&ids, array(rows, sizeof(int32_t))},
        {&append, array(rows, sizeof(device::AppendRow))},
        {&sequences, array(tables.max_sequences(), sizeof(device::AttentionSequence))},
        {&blocks, array(limits_.max_blocks, sizeof(device::AttentionBlock))},
        {&output_rows, array(limits_.max_outputs + limits_.max_kept_logits, sizeof(int32_t))},
        {&carry_sequences, array(carry.max_sequences(), sizeof(device::AttentionSequence))},
        {&carry_blocks, array(carry.max_blocks(), sizeof(device::AttentionBlock))},
        {&carry_positions, array(carry.max_positions(), sizeof(int32_t))},
    };
    int64_t total_bytes = 0;
    for (const auto& [buffer, size_bytes] : buffers) {
      total_bytes += (size_bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes;
    }
    SPILLWAY_ASSIGN_OR_RETURN(memory, device().Allocate(total_bytes, "work item"));
    DevicePtr next = memory;
    for (const auto& [buffer, size_bytes] : buffers) {
      *buffer = next;
      next = next + (size_bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes;
    }
    return absl::OkStatus();
  }

  void Start(int32_t n_visits) {
    running_ = true;
    visits_done_ = 0;
    visits_total_ = n_visits;
    visits_collected = 0;
    fetched = read = 0;
  }
  void CountVisit() { ++visits_done_; }
  void Stop() { running_ = false; }

  device::Device& device() const { return owner.device_; }
  int64_t carried_chunks() const { return static_cast<int64_t>(carry.chunks().size()) * visits_total_; }
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
  int32_t visits_collected = 0;
  std::vector<int32_t> ring_chunks;  // [ring chunks]
  int64_t fetched = 0;               // carried chunks whose copies are enqueued, of all layers
  int64_t read = 0;                  // carried chunks whose reading is enqueued
  std::vector<kv::BlockId> pinned;   // device blocks that the item reads or writes
  std::vector<kv::BlockId> stores;   // blocks that its rows fill

  DevicePtr memory;
  DevicePtr hidden;  // f32 [max_rows, d]
  DevicePtr ids;     // the tables' arrays
  DevicePtr append;
  DevicePtr sequences;
  DevicePtr blocks;
  DevicePtr output_rows;
  DevicePtr carry_sequences;
  DevicePtr carry_blocks;
  DevicePtr carry_positions;
  std::array<std::pair<device::EventId, device::EventId>, kVisitsInFlight> visit_events;  // begin, end
  device::EventId finished;
};

absl::StatusOr<std::unique_ptr<LinkExecutor>> LinkExecutor::Create(
    device::Device& device, const model::ModelConfig& config, const model::ModelWeights& weights,
    kv::HostPool& pool, const LinkExecutorOptions& options, const Clock& clock) {
  SPILLWAY_CHECK(options.chunk_rows > 0 && options.head_rows > 0 && options.ring_chunks > 1);
  const kv::Geometry& geometry = pool.geometry();
  SPILLWAY_CHECK(geometry.n_layers == config.n_layers && geometry.n_kv_heads == config.n_kv_heads);
  SPILLWAY_CHECK(geometry.d_head == config.d_head && geometry.d == config.d_model &&
                 geometry.element_bytes == device::SizeOf(device.info().compute_dtype));
  std::unique_ptr<LinkExecutor> executor(new LinkExecutor(device, pool, options, clock));
  SPILLWAY_RETURN_IF_ERROR(executor->Allocate(config, weights));
  return executor;
}

LinkExecutor::LinkExecutor(device::Device& device, kv::HostPool& pool, const LinkExecutorOptions& options,
                           const Clock& clock)
    : device_(device),
      pool_(pool),
      options_(options),
      clock_(clock),
      compute_(device.CreateStream("compute")),
      copies_in_(device.CreateStream("copies in")),
      copies_out_(device.CreateStream("copies out")),
      distinct_(pool.n_blocks()),
      in_timer_(device, copies_in_, kTimedCopies),
      out_timer_(device, copies_out_, kTimedCopies),
      wait_timer_(device, compute_, kTimedCopies),
      projected_(device.CreateEvent()),
      stores_(kStoresInFlight) {
  for (Stores& stores : stores_) stores.done = device.CreateEvent();
}

LinkExecutor::~LinkExecutor() {
  SPILLWAY_CHECK_MSG(items_.empty(), "work items outlive their executor");
  WaitForStores();
  if (rebuilt_) device_.Free(rebuilt_);
}

absl::Status LinkExecutor::Allocate(const model::ModelConfig& config, const model::ModelWeights& weights) {
  const kv::Geometry& geometry = pool_.geometry();
  const int64_t kv_bytes = 2 * geometry.slot_bytes();
  const int64_t x_bytes = geometry.block_tokens * geometry.chi_bytes();
  const int64_t chunk_bytes = std::max({options_.ring_chunk_bytes, kv_bytes, StoresX() ? x_bytes : 0});
  SPILLWAY_ASSIGN_OR_RETURN(ring_, StagingRing::Create(device_, options_.ring_chunks, chunk_bytes));

  model::TransformerLimits limits{options_.chunk_rows, options_.head_rows, 0};
  if (StoresX()) {
    const int64_t rebuilt_blocks = chunk_bytes / x_bytes;
    limits.max_rebuild_rows = static_cast<int32_t>(rebuilt_blocks * geometry.block_tokens);
    SPILLWAY_ASSIGN_OR_RETURN(rebuilt_,
                              device_.Allocate(rebuilt_blocks * kv_bytes, "rebuilt keys and values"));
  }
  SPILLWAY_ASSIGN_OR_RETURN(transformer_, model::Transformer::Create(device_, config, weights, limits));
  SPILLWAY_RETURN_IF_ERROR(WarmUpOutputs(device_, *transformer_, compute_));

  const int64_t left_bytes =
      device_.info().memory_bytes - device_.allocated_bytes() - options_.reserve_bytes - kMiB;
  const int64_t cache_bytes =
      options_.cache_bytes > 0 ? options_.cache_bytes : std::max<int64_t>(left_bytes, 0);
  const int64_t slots = cache_bytes / (geometry.slot_bytes() * geometry.n_layers);
  // More than every block of the pool would never be used.
  const int64_t most = pool_.n_blocks() * OpenSlots();
  if (slots < OpenSlots()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a device cache of ", FormatBytes(cache_bytes), " holds no block; one takes ",
                     FormatBytes(OpenSlots() * geometry.slot_bytes() * geometry.n_layers)));
  }
  SPILLWAY_ASSIGN_OR_RETURN(
      cache_, kv::DeviceCache::Create(device_, geometry, static_cast<int32_t>(std::min(slots, most)),
                                      pool_.n_blocks()));
  return absl::OkStatus();
}

int64_t LinkExecutor::OpenSlots() const { return 2 + (StoresX() ? pool_.geometry().x_slots() : 0); }

int64_t LinkExecutor::MaxOpenBlocks(const ItemLimits& limits) const {
  // A segment's first and last block may each hold a single row of its.
  return limits.max_rows / pool_.geometry().block_tokens + 2 * int64_t{limits.max_segments};
}

absl::StatusOr<std::unique_ptr<WorkItem>> LinkExecutor::CreateWorkItem(const ItemLimits& limits) {
  SPILLWAY_CHECK(limits.max_rows > 0 && limits.max_segments > 0 && limits.max_blocks > 0);
  SPILLWAY_CHECK(limits.max_outputs >= 0 && limits.max_kept_logits >= 0);
  SPILLWAY_CHECK_MSG(limits.max_rows <= options_.chunk_rows, "an item is one chunk of rows");
  const int64_t open_max = open_blocks_max_ + MaxOpenBlocks(limits);
  // Single X slots among pairs of K and V: not every hole fits, hence one block in eight to spare.
  const int64_t slots_needed = open_max * OpenSlots() * 9 / 8;
  const int64_t slot_bytes = pool_.geometry().slot_bytes() * pool_.geometry().n_layers;
  if (slots_needed > cache_->n_slots() && cache_->n_slots() < pool_.n_blocks() * OpenSlots()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the device cache of ", FormatBytes(cache_->size_bytes()),
                     " is too small for the blocks that are being "
                     "written, up to ",
                     open_max, " at a time; it needs ", FormatBytes(slots_needed * slot_bytes),
                     ": give more device memory, or fewer sequences or rows at a time"));
  }
  auto item = std::make_unique<Item>(*this, limits);
  SPILLWAY_RETURN_IF_ERROR(item->Allocate());
  open_blocks_max_ = open_max;
  // However many resident blocks are pinned by readers, there is room for what has to be written.
  cache_->SetResidentMax(
      std::min(options_.resident_blocks_max, std::max<int64_t>(0, cache_->n_slots() - slots_needed) / 2));
  for (Stores& stores : stores_) stores.blocks.reserve(item->stores.capacity());
  runs_.reserve(
      std::max({runs_.capacity(), item->stores.capacity(), static_cast<size_t>(item->carry.max_runs())}));
  return item;
}

LinkExecutor::Item& LinkExecutor::ItemOf(WorkItem& item) const {
  Item& own = static_cast<Item&>(item);
  SPILLWAY_CHECK_MSG(&own.owner == this, "a work item of another executor");
  return own;
}

BatchShape LinkExecutor::ShapeOf(Phase phase, absl::Span<const Segment> segments) {
  BatchShape shape = ShapeWithoutCache(phase, segments);
  int64_t& on_host = pool_.form() == kv::Form::kKv  ? shape.host_kv_tokens
                     : pool_.form() == kv::Form::kX ? shape.host_x_tokens
                                                    : shape.host_both_tokens;
  const int32_t block_tokens = pool_.geometry().block_tokens;
  distinct_.StartCount();
  for (const Segment& segment : segments) {
    for (int32_t begin = 0; begin < segment.first_position; begin += block_tokens) {
      const kv::BlockId block = segment.blocks[static_cast<size_t>(begin / block_tokens)];
      const int32_t added = distinct_.Add(block, std::min(segment.first_position - begin, block_tokens));
      (cache_->StateOf(block) == State::kAbsent ? on_host : shape.resident_kv_tokens) += added;
    }
  }
  return shape;
}

// ---------------------------------------------------------------------------------------------- Begin

void LinkExecutor::Begin(WorkItem& work_item, Phase phase, absl::Span<const Segment> segments,
                         const SplitPlan& plan) {
  Item& item = ItemOf(work_item);
  SPILLWAY_CHECK(!item.running());
  const MonotonicNs begin_ns = clock_.NowNs();
  CollectStores();
  item.pinned.clear();
  item.stores.clear();
  // What is read is pinned before anything is opened, which may evict.
  PinReads(item, segments);
  OpenBlocks(item, segments);
  item.carry.Build(segments, *cache_, plan);
  const auto planes_of = [this](kv::BlockId block) { return cache_->PlanesOf(block); };
  item.tables.Build(segments, pool_.n_blocks(), vocab_size(), planes_of, distinct_);
  SPILLWAY_CHECK(item.tables.chunks().size() == 1);
  CopyTables(item);
  item.Start(n_layers());
  StartStats(item, phase, plan, begin_ns);
  item.stats.sequences = static_cast<int32_t>(segments.size());

  model::RowBatch& batch = item.batch;
  batch.rows = item.tables.n_rows();
  batch.n_sequences = static_cast<int32_t>(item.tables.sequences().size());
  batch.ids = item.ids;
  batch.hidden = item.hidden;
  batch.append = item.append;
  batch.sequences = item.sequences;
  batch.blocks = item.blocks;
  batch.block_tokens = pool_.geometry().block_tokens;
  // Carried blocks may be on their way to the host still: a copy out and a copy in know nothing of each
  // other.
  if (n_stores_ > 0 && !item.carry.chunks().empty()) {
    const int32_t last = (first_stores_ + n_stores_ - 1) % kStoresInFlight;
    device_.Wait(copies_in_, stores_[static_cast<size_t>(last)].done);
  }
  FetchAhead(item);
  item.stats.active_ns = clock_.NowNs() - begin_ns;
}

void LinkExecutor::PinReads(Item& item, absl::Span<const Segment> segments) {
  const int32_t block_tokens = pool_.geometry().block_tokens;
  for (const Segment& segment : segments) {
    const int32_t n_cached = (segment.first_position + block_tokens - 1) / block_tokens;
    for (int32_t i = 0; i < n_cached; ++i) {
      const kv::BlockId block = segment.blocks[static_cast<size_t>(i)];
      const State state = cache_->StateOf(block);
      if (state == State::kAbsent) continue;
      SPILLWAY_DCHECK(!cache_->IsLingering(block));
      if (state == State::kResident) cache_->Touch(block);
      cache_->Pin(block);
      item.pinned.push_back(block);
    }
  }
}

void LinkExecutor::OpenBlocks(Item& item, absl::Span<const Segment> segments) {
  const int32_t block_tokens = pool_.geometry().block_tokens;
  for (const Segment& segment : segments) {
    const int32_t end = segment.first_position + static_cast<int32_t>(segment.tokens.size());
    for (int32_t i = segment.first_position / block_tokens; i * block_tokens < end; ++i) {
      const kv::BlockId block = segment.blocks[static_cast<size_t>(i)];
      const bool is_tail = i * block_tokens < segment.first_position;  // pinned already, as it is read
      if (cache_->StateOf(block) == State::kAbsent || cache_->IsLingering(block)) {
        SPILLWAY_CHECK_MSG(!is_tail, "a sequence's unfinished block is not on the device");
        OpenBlock(block);
      }
      SPILLWAY_CHECK_MSG(cache_->StateOf(block) == State::kOpen, "a full block would be written to");
      if (!is_tail) {
        cache_->Pin(block);
        item.pinned.push_back(block);
      }
      if ((i + 1) * block_tokens <= end) item.stores.push_back(block);
    }
  }
}

void LinkExecutor::OpenBlock(kv::BlockId block) {
  // The id's former content is being stored still.
  while (cache_->IsLingering(block)) {
    SPILLWAY_CHECK_MSG(n_stores_ > 0, "a lost block is pinned by work that reads it");
    WaitForFirstStores();
  }
  while (!cache_->Open(block, StoresX())) {
    SPILLWAY_CHECK_MSG(n_stores_ > 0, "the device cache has no slots for a block that is to be written");
    WaitForFirstStores();
  }
}

void LinkExecutor::CopyTables(Item& item) {
  const auto copy = [this](DevicePtr to, auto values) {
    if (!values.empty()) device_.CopyIn(compute_, to, values.data(), BytesOf(values));
  };
  copy(item.ids, item.tables.ids());
  copy(item.append, item.tables.append());
  copy(item.sequences, item.tables.sequences());
  copy(item.blocks, item.tables.blocks());
  copy(item.output_rows, item.tables.output_rows());
  copy(item.carry_sequences, item.carry.sequences());
  copy(item.carry_blocks, item.carry.blocks());
  copy(item.carry_positions, item.carry.positions());
}

void LinkExecutor::StartStats(Item& item, Phase phase, const SplitPlan& plan, MonotonicNs begin_ns) {
  const int64_t block_tokens = pool_.geometry().block_tokens;
  StepStats& stats = item.stats;
  stats = StepStats{};
  stats.phase = phase;
  stats.schedule = Schedule::kRow;
  stats.rows = item.tables.n_rows();
  stats.sampled_rows = static_cast<int32_t>(item.tables.samples().size());
  stats.tokens.carried_kv_tokens = item.carry.kv_blocks() * block_tokens;
  stats.tokens.carried_x_tokens = item.carry.x_blocks() * block_tokens;
  stats.tokens.resident_kv_tokens =
      item.tables.cached_tokens() - stats.tokens.carried_kv_tokens - stats.tokens.carried_x_tokens;
  stats.reads_tokens = item.tables.reads_tokens();
  stats.predicted_step_s = plan.predicted_step_s;
  stats.corrected_step_s = plan.corrected_step_s;
  stats.begin_ns = begin_ns;
}

// ---------------------------------------------------------------------------------------------- Visit

void LinkExecutor::FetchAhead(Item& item) {
  while (item.fetched < item.carried_chunks() && !ring_->empty()) Fetch(item);
}

void LinkExecutor::Fetch(Item& item) {
  const CarryChunk& chunk = item.CarriedChunk(item.fetched);
  const int32_t layer = static_cast<int32_t>(item.fetched / static_cast<int64_t>(item.carry.chunks().size()));
  const int32_t ring_chunk = ring_->Take();
  item.RingChunk(item.fetched) = ring_chunk;
  ++item.fetched;

  runs_.clear();
  const DevicePtr to = ring_->At(ring_chunk);
  for (const CarryRun& run : item.carry.runs(chunk)) {
    runs_.push_back({to + run.offset_bytes, pool_.Slot(layer, run.host_slot), run.size_bytes});
  }
  LaneStats& lane = LaneOf(item.stats, chunk.form == kv::Form::kX ? Lane::kXLoad : Lane::kKvLoad);
  ring_->BeginCopy(copies_in_, ring_chunk);
  in_timer_.Begin();
  device_.CopyInBatch(copies_in_, runs_);
  in_timer_.End(&lane.busy_ns);
  ring_->EndCopy(copies_in_, ring_chunk);
  lane.bytes += chunk.size_bytes;
  lane.copies += chunk.n_runs;
}

void LinkExecutor::TakeFromOthers(const Item& item) {
  for (Item* other : items_) {
    if (other == &item || other->held_chunks() == 0) continue;
    // Fetched for visits that come later: they will be fetched again. The copies that reuse the chunks come
    // after theirs on the same stream.
    for (int64_t index = other->read; index < other->fetched; ++index) ring_->Give(other->RingChunk(index));
    other->fetched = other->read;
    ++other->stats.ring_waits;
  }
}

absl::Status LinkExecutor::Visit(WorkItem& work_item) {
  Item& item = ItemOf(work_item);
  SPILLWAY_CHECK(item.running() && !item.done());
  const MonotonicNs begin_ns = clock_.NowNs();
  const int32_t layer = item.visits_done();
  if (layer >= kVisitsInFlight) SPILLWAY_RETURN_IF_ERROR(Collect(item, layer - kVisitsInFlight));
  FetchAhead(item);

  const auto& [begin_event, end_event] = item.visit_events[static_cast<size_t>(layer % kVisitsInFlight)];
  device_.Record(begin_event, compute_);
  if (layer == 0) transformer_->Embed(compute_, item.batch);
  const device::SlotArena arena = cache_->Arena(layer);
  transformer_->Project(compute_, layer, item.batch, arena);
  StoreLayer(item, layer);
  const model::KeyTable on_device{item.batch.n_sequences, item.sequences, item.blocks, arena,
                                  item.batch.block_tokens};
  transformer_->Attend(compute_, item.batch, on_device, /*first=*/true);
  for (const CarryChunk& chunk : item.carry.chunks()) AttendToChunk(item, layer, chunk);
  transformer_->Complete(compute_, layer, item.batch);
  device_.Record(end_event, compute_);
  item.CountVisit();
  item.stats.active_ns += clock_.NowNs() - begin_ns;
  return device_.status();
}

void LinkExecutor::AttendToChunk(Item& item, int32_t layer, const CarryChunk& chunk) {
  if (item.fetched == item.read) {
    if (ring_->empty()) TakeFromOthers(item);
    FetchAhead(item);
  }
  const int32_t ring_chunk = item.RingChunk(item.read);
  wait_timer_.Begin();
  ring_->BeginRead(compute_, ring_chunk);
  wait_timer_.End(&LaneOf(item.stats, Lane::kCompute).stall_ns);

  const kv::Geometry& geometry = pool_.geometry();
  const auto at = [](DevicePtr array, int64_t index, size_t element_bytes) {
    return array + index * static_cast<int64_t>(element_bytes);
  };
  model::KeyTable keys;
  keys.n_sequences = chunk.n_sequences;
  keys.sequences = at(item.carry_sequences, chunk.first_sequence, sizeof(device::AttentionSequence));
  keys.blocks = item.carry_blocks;
  keys.arena = {ring_->At(ring_chunk), geometry.slot_bytes()};
  keys.block_tokens = geometry.block_tokens;
  if (chunk.form == kv::Form::kX) {
    model::RebuildBatch rebuild;
    rebuild.rows = chunk.n_blocks * geometry.block_tokens;
    rebuild.x = ring_->At(ring_chunk);
    rebuild.block_positions = at(item.carry_positions, chunk.first_position, sizeof(int32_t));
    rebuild.arena = {rebuilt_, geometry.slot_bytes()};
    rebuild.block_tokens = geometry.block_tokens;
    transformer_->Rebuild(compute_, layer, rebuild);
    ring_->EndRead(compute_, ring_chunk);
    keys.arena.base = rebuilt_;
    transformer_->Attend(compute_, item.batch, keys, /*first=*/false);
  } else {
    transformer_->Attend(compute_, item.batch, keys, /*first=*/false);
    ring_->EndRead(compute_, ring_chunk);
  }
  ring_->Give(ring_chunk);
  ++item.read;
  FetchAhead(item);
}

void LinkExecutor::StoreLayer(Item& item, int32_t layer) {
  if (item.stores.empty()) return;
  const kv::Geometry& geometry = pool_.geometry();
  device_.Record(projected_, compute_);
  device_.Wait(copies_out_, projected_);
  const DevicePtr arena = cache_->Arena(layer).base;
  const auto store = [&](bool is_x, int64_t* busy_ns) {
    const int64_t size_bytes =
        is_x ? geometry.block_tokens * geometry.chi_bytes() : 2 * geometry.slot_bytes();
    runs_.clear();
    for (const kv::BlockId block : item.stores) {
      const kv::Planes from = cache_->PlanesOf(block);
      const kv::Planes to = pool_.PlanesOf(block);
      runs_.push_back({arena + (is_x ? from.x : from.k) * geometry.slot_bytes(),
                       pool_.Slot(layer, is_x ? to.x : to.k), size_bytes});
    }
    out_timer_.Begin();
    device_.CopyOutBatch(copies_out_, runs_);
    out_timer_.End(busy_ns);
    LaneStats& lane = LaneOf(item.stats, is_x ? Lane::kXStore : Lane::kKvStore);
    lane.bytes += static_cast<int64_t>(runs_.size()) * size_bytes;
    lane.copies += static_cast<int64_t>(runs_.size());
  };
  if (pool_.form() != kv::Form::kX) store(/*is_x=*/false, &kv_store_busy_ns_);
  if (pool_.form() != kv::Form::kKv) store(/*is_x=*/true, &x_store_busy_ns_);
}

absl::Status LinkExecutor::Collect(Item& item, int32_t visit) {
  SPILLWAY_DCHECK(visit == item.visits_collected);
  const auto& [begin, end] = item.visit_events[static_cast<size_t>(visit % kVisitsInFlight)];
  SPILLWAY_RETURN_IF_ERROR(device_.Synchronize(end));
  LaneOf(item.stats, Lane::kCompute).busy_ns += device_.ElapsedNs(begin, end);
  ++item.visits_collected;
  in_timer_.Collect();
  wait_timer_.Collect();
  return absl::OkStatus();
}

// ---------------------------------------------------------------------------------------------- Finish

absl::StatusOr<StepResult> LinkExecutor::Finish(WorkItem& work_item) {
  Item& item = ItemOf(work_item);
  SPILLWAY_CHECK(item.done());
  const MonotonicNs begin_ns = clock_.NowNs();
  item.outputs.Enqueue(device_, *transformer_, compute_, item.tables, item.hidden, item.output_rows);
  device_.Record(item.finished, compute_);
  while (item.visits_collected < item.visits_done()) {
    SPILLWAY_RETURN_IF_ERROR(Collect(item, item.visits_collected));
  }
  SPILLWAY_RETURN_IF_ERROR(device_.Synchronize(item.finished));
  SPILLWAY_CHECK(item.held_chunks() == 0);
  in_timer_.Collect();
  wait_timer_.Collect();
  out_timer_.Collect();
  AddStores(item);
  for (const kv::BlockId block : item.pinned) cache_->Unpin(block);
  item.Stop();

  StepStats& stats = item.stats;
  LaneStats& compute = LaneOf(stats, Lane::kCompute);
  const auto& last_visit =
      item.visit_events[static_cast<size_t>((item.visits_total() - 1) % kVisitsInFlight)];
  stats.visits = item.visits_total();
  stats.stored_tokens = static_cast<int64_t>(item.stores.size()) * pool_.geometry().block_tokens;
  stats.head_ns = device_.ElapsedNs(last_visit.second, item.finished);
  compute.busy_ns += stats.head_ns - compute.stall_ns;
  LaneOf(stats, Lane::kKvStore).busy_ns = std::exchange(kv_store_busy_ns_, 0);
  LaneOf(stats, Lane::kXStore).busy_ns = std::exchange(x_store_busy_ns_, 0);
  const MonotonicNs end_ns = clock_.NowNs();
  stats.active_ns += end_ns - begin_ns;
  stats.wall_ns = end_ns - stats.begin_ns;
  return StepResult{item.outputs.Samples(item.tables), stats};
}

void LinkExecutor::Abandon(WorkItem& work_item) {
  Item& item = ItemOf(work_item);
  SPILLWAY_CHECK(item.running());
  // Until nothing enqueued touches the item's memory and blocks, on any stream. A lost device touches nothing
  // any more, so its error is not one here.
  for (const device::StreamId stream : {compute_, copies_in_, copies_out_}) {
    device_.Record(item.finished, stream);
    (void)device_.Synchronize(item.finished);
  }
  (void)in_timer_.CollectAll();
  (void)wait_timer_.CollectAll();
  for (; item.read < item.fetched; ++item.read) ring_->Give(item.RingChunk(item.read));
  for (const kv::BlockId block : item.pinned) cache_->Unpin(block);
  item.Stop();
}

absl::Span<const float> LinkExecutor::LogitsOf(const WorkItem& work_item, int32_t segment,
                                               int32_t row) const {
  const Item& item = static_cast<const Item&>(work_item);
  SPILLWAY_CHECK(&item.owner == this && !item.running());
  return item.outputs.Logits(item.tables, segment, row);
}

// ---------------------------------------------------------------------------------------------- Stores

void LinkExecutor::AddStores(Item& item) {
  if (item.stores.empty()) return;
  if (n_stores_ == kStoresInFlight) WaitForFirstStores();
  Stores& stores = stores_[static_cast<size_t>((first_stores_ + n_stores_) % kStoresInFlight)];
  stores.blocks = item.stores;
  for (const kv::BlockId block : stores.blocks) cache_->Pin(block);
  device_.Record(stores.done, copies_out_);
  ++n_stores_;
}

void LinkExecutor::CollectStores() {
  while (n_stores_ > 0 && device_.IsComplete(stores_[static_cast<size_t>(first_stores_)].done))
    SealFirstStores();
}

void LinkExecutor::WaitForStores() {
  while (n_stores_ > 0) WaitForFirstStores();
}

void LinkExecutor::WaitForFirstStores() {
  // After a device's error nothing is under way any more.
  (void)device_.Synchronize(stores_[static_cast<size_t>(first_stores_)].done);
  SealFirstStores();
}

void LinkExecutor::SealFirstStores() {
  for (const kv::BlockId block : stores_[static_cast<size_t>(first_stores_)].blocks) {
    // Gone, if its content was lost meanwhile.
    cache_->Unpin(block);
    if (cache_->StateOf(block) == State::kOpen) cache_->Seal(block);
  }
  first_stores_ = (first_stores_ + 1) % kStoresInFlight;
  --n_stores_;
}

}  // namespace spillway::exec
