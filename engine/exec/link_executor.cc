#include "engine/exec/link_executor.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/exec/item_outputs.h"
#include "engine/exec/link_item.h"
#include "engine/exec/link_memory.h"

namespace spillway::exec {
namespace {

using device::DevicePtr;
using State = kv::DeviceCache::State;

// Uncollected waits of compute.
constexpr int32_t kTimedWaits = 256;

DevicePtr ElementAt(DevicePtr array, int64_t index, size_t element_bytes) {
  return array + index * static_cast<int64_t>(element_bytes);
}

LaneStats& LaneOf(StepStats& stats, Lane lane) { return stats.lanes[static_cast<size_t>(lane)]; }

}  // namespace

absl::StatusOr<std::unique_ptr<LinkExecutor>> LinkExecutor::Create(
    device::Device& device, const model::ModelConfig& config, const model::ModelWeights& weights,
    kv::HostPool& pool, kv::BlockStore& store, const LinkExecutorOptions& options, const Clock& clock) {
  SPILLWAY_CHECK(options.chunk_rows > 0 && options.head_rows > 0 && options.ring_chunks > 1);
  const kv::Geometry& geometry = pool.geometry();
  SPILLWAY_CHECK(geometry.n_layers == config.n_layers && geometry.n_kv_heads == config.n_kv_heads);
  SPILLWAY_CHECK(geometry.d_head == config.d_head && geometry.d == config.d_model &&
                 geometry.element_bytes == device::SizeOf(device.info().compute_dtype));
  std::unique_ptr<LinkExecutor> executor(new LinkExecutor(device, pool, store, options, clock));
  SPILLWAY_RETURN_IF_ERROR(executor->Allocate(config, weights));
  store.SetListener(executor->cache_.get());
  return executor;
}

LinkExecutor::LinkExecutor(device::Device& device, kv::HostPool& pool, kv::BlockStore& store,
                           const LinkExecutorOptions& options, const Clock& clock)
    : device_(device),
      pool_(pool),
      store_(store),
      options_(options),
      clock_(clock),
      compute_(device.CreateStream("compute")),
      distinct_(store.max_blocks()),
      timeline_(device, options.timeline, clock),
      wait_timer_(device, compute_, kTimedWaits, timeline_) {}

LinkExecutor::~LinkExecutor() {
  SPILLWAY_CHECK_MSG(n_items_ == 0, "work items outlive their executor");
  store_.SetListener(nullptr);
  writer_.reset();
  if (rebuilt_) device_.Free(rebuilt_);
  if (gathered_) device_.Free(gathered_);
}

absl::Status LinkExecutor::Allocate(const model::ModelConfig& config, const model::ModelWeights& weights) {
  const kv::Geometry& geometry = pool_.geometry();
  const LinkMemory memory = LinkMemoryOf(options_, geometry, StoresX());
  SPILLWAY_ASSIGN_OR_RETURN(ring_, StagingRing::Create(device_, options_.ring_chunks, memory.chunk_bytes));
  queue_ = std::make_unique<CarryQueue>(device_, pool_, *ring_, timeline_);

  if (StoresX()) {
    SPILLWAY_ASSIGN_OR_RETURN(rebuilt_, device_.Allocate(memory.rebuilt_bytes, "rebuilt keys and values"));
    SPILLWAY_ASSIGN_OR_RETURN(gathered_, device_.Allocate(memory.gathered_bytes, "gathered X"));
    rebuilt_bytes_ = memory.rebuilt_bytes + memory.gathered_bytes;
  }
  if (weights.layers_on_host()) {
    SPILLWAY_ASSIGN_OR_RETURN(
        weights_, WeightStream::Create(device_, weights, compute_, queue_->stream(), queue_->timer()));
    queue_->SetWeights(weights_.get());
  }
  SPILLWAY_ASSIGN_OR_RETURN(
      transformer_, model::Transformer::Create(device_, config, weights, memory.limits, weights_.get()));
  SPILLWAY_RETURN_IF_ERROR(WarmUpOutputs(device_, *transformer_, compute_));

  const int64_t left_bytes =
      device_.info().memory_bytes - device_.allocated_bytes() - options_.reserve_bytes - kLinkSpareBytes;
  const int64_t cache_bytes =
      options_.cache_bytes > 0 ? options_.cache_bytes : std::max<int64_t>(left_bytes, 0);
  const int64_t slots = cache_bytes / (geometry.slot_bytes() * geometry.n_layers);
  // More than every block of the pool would never be used.
  const int64_t most = OpenCacheSlots(store_.max_blocks(), memory);
  if (slots < OpenSlots()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a device cache of ", FormatBytes(cache_bytes), " holds no block; one takes ",
                     FormatBytes(OpenSlots() * geometry.slot_bytes() * geometry.n_layers)));
  }
  SPILLWAY_ASSIGN_OR_RETURN(
      cache_, kv::DeviceCache::Create(device_, geometry, static_cast<int32_t>(std::min(slots, most)),
                                      store_.max_blocks()));
  // X that takes more than K and V is of no use on the device.
  const bool x_stays = StoresX() && geometry.x_slots() <= 2;
  const int64_t slots_max =
      std::min<int64_t>(options_.resident_blocks_max, std::numeric_limits<int32_t>::max()) * 2;
  residency_ = std::make_unique<Residency>(*cache_, options_.residency, slots_max, x_stays);
  if (options_.check_blocks) {
    checks_ = std::make_unique<BlockChecks>(device_, pool_, store_, ring_->chunk_bytes());
  }
  writer_ = std::make_unique<BlockWriter>(device_, pool_, store_, *cache_, *residency_, compute_, timeline_,
                                          checks_.get());
  return absl::OkStatus();
}

int64_t LinkExecutor::OpenSlots() const { return OpenSlotsOf(pool_.geometry(), StoresX()); }

absl::StatusOr<std::unique_ptr<WorkItem>> LinkExecutor::CreateWorkItem(const ItemLimits& limits) {
  SPILLWAY_CHECK(limits.max_rows > 0 && limits.max_segments > 0 && limits.max_blocks > 0);
  SPILLWAY_CHECK(limits.max_outputs >= 0 && limits.max_kept_logits >= 0);
  SPILLWAY_CHECK_MSG(limits.max_rows <= options_.chunk_rows, "an item is one chunk of rows");
  const int64_t open_max = open_blocks_max_ + MaxOpenBlocks(limits, pool_.geometry());
  const LinkMemory memory = LinkMemoryOf(options_, pool_.geometry(), StoresX());
  const int64_t slots_needed = OpenCacheSlots(open_max, memory);
  const int64_t slot_bytes = pool_.geometry().slot_bytes() * pool_.geometry().n_layers;
  if (slots_needed > cache_->n_slots() && cache_->n_slots() < store_.max_blocks() * OpenSlots()) {
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
  // However many resident blocks are pinned by readers, there is room for what has to be written: kept free
  // where there is not a place for every block of the pool.
  const bool holds_all = cache_->n_slots() >= OpenCacheSlots(store_.max_blocks(), memory);
  cache_->SetOpenRoom(holds_all ? 0 : slots_needed);
  writer_->MakeRoom(item->stores.capacity());
  return item;
}

LinkExecutor::Item& LinkExecutor::ItemOf(WorkItem& item) const {
  Item& own = static_cast<Item&>(item);
  SPILLWAY_CHECK_MSG(&own.owner == this, "a work item of another executor");
  return own;
}

int64_t LinkExecutor::residency_bytes() const {
  const kv::Geometry& geometry = pool_.geometry();
  const int64_t slots = std::max<int64_t>(0, cache_->n_slots() - cache_->open_room());
  return slots * geometry.slot_bytes() * geometry.n_layers;
}

BatchShape LinkExecutor::ShapeOf(Phase phase, absl::Span<const Segment> segments) {
  BatchShape shape = ShapeWithoutCache(phase, segments);
  shape.weight_load_bytes = weight_pass_bytes();
  const int32_t block_tokens = pool_.geometry().block_tokens;
  distinct_.StartCount();
  for (const Segment& segment : segments) {
    for (int32_t begin = 0; begin < segment.first_position; begin += block_tokens) {
      const kv::BlockId block = segment.blocks[static_cast<size_t>(begin / block_tokens)];
      const int32_t added = distinct_.Add(block, std::min(segment.first_position - begin, block_tokens));
      (cache_->IsElsewhere(block)         ? shape.HostTokens(store_.PlanesOf(block).form())
       : cache_->PlanesOf(block).has_kv() ? shape.resident_kv_tokens
                                          : shape.resident_x_tokens) += added;
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
  timeline_.Follow();
  writer_->Collect();
  item.pinned.clear();
  item.stores.clear();
  cache_->StartUse();
  // What is read is pinned before anything is opened, which may evict.
  PinReads(item, segments);
  OpenBlocks(item, segments);
  item.carry.Build(segments, *cache_, plan, item.cursor.held());
  // What lies where, of all layers, is settled by that.
  for (const CarriedBlock& carried : item.carry.carried()) store_.Pin(carried.block);
  residency_->OnBegin(item.residency_number, phase, item.carry.full_blocks() + item.n_written,
                      pool_.geometry().block_tokens, plan.residency);
  item.promotions.Choose(item.carry, *residency_);
  const auto planes_of = [this](kv::BlockId block) {
    return cache_->IsElsewhere(block) ? kv::Planes{} : cache_->PlanesOf(block);
  };
  item.tables.Build(segments, store_.max_blocks(), vocab_size(), planes_of, distinct_);
  SPILLWAY_CHECK(item.tables.chunks().size() == 1);
  item.buffers.CopyIn(compute_, item.tables, &item.carry);
  item.Start(n_layers());
  StartStats(item, phase, plan, begin_ns);
  item.stats.sequences = static_cast<int32_t>(segments.size());
  queue_->Begin(item.cursor, n_layers(), plan.schedule == Schedule::kColumn, ++steps_,
                ChunksToExpect(item, phase, plan));
  last_begun_ = &item;

  model::RowBatch& batch = item.batch;
  batch.rows = item.tables.n_rows();
  batch.n_sequences = static_cast<int32_t>(item.tables.sequences().size());
  batch.ids = item.buffers.ids;
  batch.hidden = item.buffers.hidden;
  batch.append = item.buffers.append;
  batch.sequences = item.buffers.sequences;
  batch.blocks = item.buffers.blocks;
  batch.block_tokens = pool_.geometry().block_tokens;
  // Copies in need not wait for stores under way: what is carried is absent from the device, and a block is
  // open there until its store is done.
  queue_->FetchAhead(item.cursor);
  item.stats.active_ns = clock_.NowNs() - begin_ns;
}

void LinkExecutor::PinReads(Item& item, absl::Span<const Segment> segments) {
  const int32_t block_tokens = pool_.geometry().block_tokens;
  for (const Segment& segment : segments) {
    const int32_t n_cached = (segment.first_position + block_tokens - 1) / block_tokens;
    for (int32_t i = 0; i < n_cached; ++i) {
      const kv::BlockId block = segment.blocks[static_cast<size_t>(i)];
      const State state = cache_->StateOf(block);
      if (cache_->IsElsewhere(block)) continue;
      SPILLWAY_DCHECK(!cache_->IsLingering(block));
      if (state == State::kResident) cache_->Touch(block);
      cache_->Pin(block);
      item.pinned.push_back(block);
    }
  }
}

void LinkExecutor::OpenBlocks(Item& item, absl::Span<const Segment> segments) {
  const int32_t block_tokens = pool_.geometry().block_tokens;
  item.n_written = 0;
  for (const Segment& segment : segments) {
    const int32_t end = segment.first_position + static_cast<int32_t>(segment.tokens.size());
    for (int32_t i = segment.first_position / block_tokens; i * block_tokens < end; ++i) {
      const kv::BlockId block = segment.blocks[static_cast<size_t>(i)];
      ++item.n_written;
      const bool is_tail = i * block_tokens < segment.first_position;  // pinned already, as it is read
      if (cache_->StateOf(block) == State::kAbsent || cache_->IsLingering(block)) {
        SPILLWAY_CHECK_MSG(!is_tail, "a sequence's unfinished block is not on the device");
        writer_->Open(block);
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

void LinkExecutor::Unpin(const Item& item) {
  for (const kv::BlockId block : item.pinned) cache_->Unpin(block);
  for (const CarriedBlock& carried : item.carry.carried()) store_.Unpin(carried.block);
}

int64_t LinkExecutor::ChunksToExpect(const Item& item, Phase phase, const SplitPlan& plan) const {
  // Decode steps follow one another. A serial plan says what may be under way when, and a column's items take
  // turns.
  const bool goes_on = phase == Phase::kDecode && last_begun_ == &item;
  if (!goes_on || plan.mode == SplitMode::kSerial || plan.schedule == Schedule::kColumn) return 0;
  // What is promoted now is not carried then.
  const int32_t promoted = item.promotions.first_chunk();
  const absl::Span<const int32_t> carried = item.carry.carried_chunks();
  const auto end =
      std::find_if(carried.begin(), carried.end(), [&](int32_t chunk) { return chunk >= promoted; });
  // Half of the ring: the next step's tables cross the link behind these copies, and while compute then comes
  // to the first chunk, the other half keeps the link busy. And no more than recurred in this step: where
  // batches take turns in the item, the next one carries other blocks.
  return std::min<int64_t>(
      {end - carried.begin(), AheadChunksMax(ring_->n_chunks()), item.carry.recurring_chunks()});
}

void LinkExecutor::StartStats(Item& item, Phase phase, const SplitPlan& plan, MonotonicNs begin_ns) {
  const int64_t block_tokens = pool_.geometry().block_tokens;
  StepStats& stats = item.stats;
  stats = StepStats{};
  stats.phase = phase;
  stats.schedule = plan.schedule;
  stats.rows = item.tables.n_rows();
  stats.sampled_rows = static_cast<int32_t>(item.tables.samples().size());
  stats.tokens.carried_kv_tokens = item.carry.kv_blocks() * block_tokens;
  stats.tokens.carried_x_tokens = item.carry.x_blocks() * block_tokens;
  stats.tokens.resident_x_tokens = item.carry.resident_x_blocks() * block_tokens;
  stats.tokens.resident_kv_tokens = item.tables.cached_tokens() - stats.tokens.carried_kv_tokens -
                                    stats.tokens.carried_x_tokens - stats.tokens.resident_x_tokens;
  stats.promoted_tokens = item.promotions.blocks() * block_tokens;
  stats.reads_tokens = item.tables.reads_tokens();
  stats.predicted_step_s = plan.predicted_step_s;
  stats.corrected_step_s = plan.corrected_step_s;
  stats.begin_ns = begin_ns;
}

// ---------------------------------------------------------------------------------------------- Visit

void LinkExecutor::UseWeights(Item& item, int32_t layer) {
  if (weights_ == nullptr) return;
  wait_timer_.Begin();
  if (!weights_->Use(layer)) ++item.stats.weight_waits;
  wait_timer_.End(&LaneOf(item.stats, Lane::kCompute).stall_ns, item.cursor.Waiting(Lane::kCompute, layer));
}

absl::Status LinkExecutor::Visit(WorkItem& work_item) {
  Item& item = ItemOf(work_item);
  SPILLWAY_CHECK(item.running() && !item.done());
  const MonotonicNs begin_ns = clock_.NowNs();
  const int32_t layer = item.visits_done();
  if (layer >= Item::kVisitsInFlight) SPILLWAY_RETURN_IF_ERROR(Collect(item, layer - Item::kVisitsInFlight));

  const auto& [begin_event, end_event] =
      item.visit_events[static_cast<size_t>(layer % Item::kVisitsInFlight)];
  device_.Record(begin_event, compute_);
  if (layer == 0) transformer_->Embed(compute_, item.batch);
  item.cursor.BeginLayer(layer);
  UseWeights(item, layer);
  queue_->FetchAhead(item.cursor);
  const device::SlotArena arena = cache_->Arena(layer);
  transformer_->Project(compute_, layer, item.batch, arena);
  writer_->StoreLayer(item.stores, item.cursor.Label(Lane::kKvStore, layer));
  const model::KeyTable on_device{item.batch.n_sequences, item.buffers.sequences, item.buffers.blocks, arena,
                                  item.batch.block_tokens};
  transformer_->Attend(compute_, item.batch, on_device, /*first=*/true);
  if (item.carry.rounds().empty()) {
    for (const CarryChunk& chunk : item.carry.chunks()) AttendToChunk(item, layer, chunk);
  }
  for (size_t i = 0; i < item.carry.rounds().size(); ++i) AttendToRound(item, layer, i);
  transformer_->Complete(compute_, layer, item.batch);
  if (weights_ != nullptr) weights_->Release();
  device_.Record(end_event, compute_);
  item.CountVisit();
  item.stats.active_ns += clock_.NowNs() - begin_ns;
  SPILLWAY_RETURN_IF_ERROR(device_.status());
  return checks_ != nullptr ? checks_->status() : absl::OkStatus();
}

void LinkExecutor::AttendToRound(Item& item, int32_t layer, size_t index) {
  const absl::Span<const CarryRound> rounds = item.carry.rounds();
  const CarryRound& round = rounds[index];
  const absl::Span<const CarryChunk> chunks =
      item.carry.chunks().subspan(static_cast<size_t>(round.first_chunk));
  CarryCursor& cursor = item.cursor;
  const int64_t end_x = cursor.read() + round.n_x, end = end_x + round.n_kv;
  if (round.n_x > 0) {
    queue_->FetchThrough(cursor, end_x - 1);
    wait_timer_.Begin();
    ring_->BeginRead(compute_, cursor.RingChunk(end_x - 1));
    wait_timer_.End(&LaneOf(item.stats, Lane::kCompute).stall_ns, cursor.Waiting(Lane::kCompute, layer));
  }
  device_.Record(cursor.exposed(), compute_);
  cursor.LetThrough(end);
  queue_->FetchAhead(cursor);
  const int32_t n_rebuilt = round.n_x + round.n_resident;
  for (int32_t i = 0; i < n_rebuilt; ++i) AttendToChunk(item, layer, chunks[static_cast<size_t>(i)]);
  device_.Record(cursor.rebuilt(), compute_);
  cursor.LetThrough(std::min(end + rounds[(index + 1) % rounds.size()].n_x, cursor.chunks()));
  queue_->FetchAhead(cursor);
  for (int32_t i = 0; i < round.n_kv; ++i)
    AttendToChunk(item, layer, chunks[static_cast<size_t>(n_rebuilt + i)]);
}

void LinkExecutor::AttendToChunk(Item& item, int32_t layer, const CarryChunk& chunk) {
  const kv::Geometry& geometry = pool_.geometry();
  model::KeyTable keys;
  keys.n_sequences = chunk.n_sequences;
  keys.sequences =
      ElementAt(item.buffers.carry_sequences, chunk.first_sequence, sizeof(device::AttentionSequence));
  keys.blocks = item.buffers.carry_blocks;
  keys.arena = {rebuilt_, geometry.slot_bytes()};
  keys.block_tokens = geometry.block_tokens;
  if (chunk.resident) {
    RebuildChunk(item, layer, chunk, GatherX(item, layer, chunk));
    transformer_->Attend(compute_, item.batch, keys, /*first=*/false);
    return;
  }
  queue_->FetchThrough(item.cursor, item.cursor.read());
  const int32_t ring_chunk = item.cursor.RingChunk(item.cursor.read());
  wait_timer_.Begin();
  ring_->BeginRead(compute_, ring_chunk);
  wait_timer_.End(&LaneOf(item.stats, Lane::kCompute).stall_ns, item.cursor.Waiting(Lane::kCompute, layer));
  const DevicePtr arrived = ring_->At(ring_chunk);
  if (checks_ != nullptr) {
    checks_->OnArrived(compute_, layer, chunk.form, item.carry.BlocksOf(chunk), arrived);
  }
  if (chunk.form == kv::Form::kX) {
    RebuildChunk(item, layer, chunk, arrived);
    Promote(item, layer, chunk, kv::Residence::kX, arrived);
    ring_->EndRead(compute_, ring_chunk);
    transformer_->Attend(compute_, item.batch, keys, /*first=*/false);
    Promote(item, layer, chunk, kv::Residence::kKv, rebuilt_);
  } else {
    keys.arena.base = arrived;
    transformer_->Attend(compute_, item.batch, keys, /*first=*/false);
    Promote(item, layer, chunk, kv::Residence::kKv, arrived);
    ring_->EndRead(compute_, ring_chunk);
  }
  queue_->GiveRead(item.cursor);
  queue_->FetchAhead(item.cursor);
}

DevicePtr LinkExecutor::GatherX(Item& item, int32_t layer, const CarryChunk& chunk) {
  const DevicePtr arena = cache_->Arena(layer).base;
  const absl::Span<const CarryRun> runs = item.carry.runs(chunk);
  if (runs.size() == 1) return arena + runs[0].slot * pool_.geometry().slot_bytes();
  for (const CarryRun& run : runs) {
    device_.CopyWithin(compute_, gathered_ + run.offset_bytes,
                       arena + run.slot * pool_.geometry().slot_bytes(), run.size_bytes);
  }
  return gathered_;
}

void LinkExecutor::RebuildChunk(Item& item, int32_t layer, const CarryChunk& chunk, DevicePtr x) {
  const kv::Geometry& geometry = pool_.geometry();
  model::RebuildBatch rebuild;
  rebuild.rows = chunk.n_blocks * geometry.block_tokens;
  rebuild.x = x;
  rebuild.block_positions = ElementAt(item.buffers.carry_positions, chunk.first_position, sizeof(int32_t));
  rebuild.arena = {rebuilt_, geometry.slot_bytes()};
  rebuild.block_tokens = geometry.block_tokens;
  transformer_->Rebuild(compute_, layer, rebuild);
}

void LinkExecutor::Promote(Item& item, int32_t layer, const CarryChunk& chunk, kv::Residence as,
                           DevicePtr from) {
  const kv::Geometry& geometry = pool_.geometry();
  const bool is_x = as == kv::Residence::kX;
  const int64_t size_bytes = is_x ? geometry.block_tokens * geometry.chi_bytes() : 2 * geometry.slot_bytes();
  const auto index = static_cast<int32_t>(&chunk - item.carry.chunks().data());
  for (const Promotion& promotion : item.promotions.OfChunk(index)) {
    if (promotion.as != as) continue;
    const kv::Planes& planes = cache_->PlanesOf(promotion.block);
    device_.CopyWithin(compute_,
                       cache_->Arena(layer).base + (is_x ? planes.x : planes.k) * geometry.slot_bytes(),
                       from + promotion.place * size_bytes, size_bytes);
  }
}

absl::Status LinkExecutor::Collect(Item& item, int32_t visit) {
  SPILLWAY_DCHECK(visit == item.visits_collected);
  const auto& [begin, end] = item.visit_events[static_cast<size_t>(visit % Item::kVisitsInFlight)];
  SPILLWAY_RETURN_IF_ERROR(device_.Synchronize(end));
  LaneOf(item.stats, Lane::kCompute).busy_ns += device_.ElapsedNs(begin, end);
  timeline_.Add(item.cursor.Label(Lane::kCompute, visit), begin, end);
  ++item.visits_collected;
  CollectTimers();
  return absl::OkStatus();
}

void LinkExecutor::CollectTimers() {
  queue_->CollectTimers();
  wait_timer_.Collect();
}

// ---------------------------------------------------------------------------------------------- Finish

absl::StatusOr<StepResult> LinkExecutor::Finish(WorkItem& work_item) {
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
  CollectTimers();
  queue_->End(item.cursor);
  writer_->Complete(item.stores);
  if (item.cursor.went_ahead()) writer_->WaitFor(queue_->copied_ahead());
  item.promotions.Complete();
  Unpin(item);
  residency_->OnEnd(item.residency_number);
  item.Stop();

  StepStats& stats = item.stats;
  LaneStats& compute = LaneOf(stats, Lane::kCompute);
  const auto& last_visit =
      item.visit_events[static_cast<size_t>((item.visits_total() - 1) % Item::kVisitsInFlight)];
  stats.visits = item.visits_total();
  stats.stored_tokens = static_cast<int64_t>(item.stores.size()) * pool_.geometry().block_tokens;
  stats.head_ns = device_.ElapsedNs(last_visit.second, item.finished);
  timeline_.Add(item.cursor.Label(Lane::kCompute, n_layers()), last_visit.second, item.finished);
  compute.busy_ns += stats.head_ns - compute.stall_ns;
  writer_->TakeStats(stats);
  if (weights_ != nullptr) weights_->TakeStats(stats);
  const MonotonicNs end_ns = clock_.NowNs();
  stats.active_ns += end_ns - begin_ns;
  stats.wall_ns = end_ns - stats.begin_ns;
  return StepResult{item.outputs.Samples(item.tables), stats};
}

void LinkExecutor::Abandon(WorkItem& work_item) {
  Item& item = ItemOf(work_item);
  SPILLWAY_CHECK(item.running());
  // Until nothing enqueued touches the item's memory and blocks, on any stream: also not its stores, which
  // were not handed to the writer's list, so that nobody would wait for them before the blocks' memory, or
  // the pool, goes. A lost device touches nothing any more, so its error is not one here.
  for (const device::StreamId stream : {compute_, queue_->stream(), writer_->copies()}) {
    device_.Record(item.finished, stream);
    (void)device_.Synchronize(item.finished);
  }
  queue_->Abandon(item.cursor);
  (void)wait_timer_.CollectAll();  // after a device's error nothing is timed any more
  item.promotions.GiveUp();
  Unpin(item);
  residency_->OnEnd(item.residency_number);
  item.Stop();
}

absl::Span<const float> LinkExecutor::LogitsOf(const WorkItem& work_item, int32_t segment,
                                               int32_t row) const {
  const Item& item = static_cast<const Item&>(work_item);
  SPILLWAY_CHECK(&item.owner == this && !item.running());
  return item.outputs.Logits(item.tables, segment, row);
}

}  // namespace spillway::exec
