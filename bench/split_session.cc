#include "bench/split_session.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>
#include <utility>

#include "base/check.h"
#include "base/status_macros.h"

namespace spillway::bench {
namespace {

constexpr int32_t kToken = 100;

exec::Segment SegmentOf(absl::Span<const int32_t> tokens, int32_t first_position,
                        absl::Span<const kv::BlockId> blocks) {
  exec::Segment segment;
  segment.tokens = tokens;
  segment.first_position = first_position;
  segment.blocks = blocks;
  segment.sample.top_p = segment.sample.repetition_penalty = 1;
  segment.sample.n_logprobs = -1;
  segment.sample.position = first_position + static_cast<int32_t>(tokens.size());
  return segment;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModePlanner>> ModePlanner::Create(const SplitMachine& machine,
                                                                 const std::string& mode, bool feedback,
                                                                 double residency_bytes) {
  scheduler::PlannerOptions options;
  SPILLWAY_ASSIGN_OR_RETURN(options.modes, scheduler::ParsePlanModes(mode, "auto", "row"));
  scheduler::ServedCache cache;
  cache.beta_bytes = static_cast<double>(machine.geometry().beta_bytes());
  cache.chi_bytes = static_cast<double>(machine.geometry().chi_bytes());
  cache.has_link = cache.has_profile = true;
  SPILLWAY_RETURN_IF_ERROR(scheduler::CheckPlanModes(options.modes, cache));
  options.store_x = machine.form() == kv::Form::kBoth;
  options.pool_bytes = machine.profile().host_memory_bytes;
  options.residency_bytes = residency_bytes;
  options.feedback = feedback;
  options.longest_wait = std::chrono::seconds(5);  // every step by its own plan
  std::unique_ptr<ModePlanner> planner(new ModePlanner(machine.profile()));
  planner->planner_ = std::make_unique<scheduler::Planner>(planner->solver_, options);
  return planner;
}

absl::StatusOr<std::unique_ptr<SplitSession>> SplitSession::Create(const SplitMachine& machine,
                                                                   const SplitSessionOptions& options) {
  auto session = std::unique_ptr<SplitSession>(new SplitSession(machine));
  session->options_ = options;
  device::Device& device = machine.device();
  const model::Model& model = machine.model();
  const kv::Geometry& geometry = machine.geometry();
  const int64_t written_blocks = session->areas() * session->area_blocks();
  const int64_t n_blocks =
      geometry.blocks_for(options.max_cached_tokens) + options.max_sequences + written_blocks;
  session->n_blocks_ = n_blocks;
  // A pool is of pairs of slots.
  SPILLWAY_ASSIGN_OR_RETURN(
      session->pool_,
      kv::HostPool::Create(device, geometry, (n_blocks + n_blocks % 2) * geometry.block_bytes(machine.form()),
                           machine.form() != kv::Form::kKv));
  session->FillPool();
  session->blocks_ = std::make_unique<kv::BlockStore>(*session->pool_);
  session->TakeBlocks(machine.form());

  exec::LinkExecutorOptions executor;
  executor.chunk_rows = std::max(kPieceRowsMax, options.max_sequences);
  executor.ring_chunk_bytes = kRingChunkBytes;
  executor.resident_blocks_max = options.resident_tokens / kSplitBlockTokens;
  // An eighth to spare, and a work item's own.
  const int64_t open_blocks =
      (written_blocks + kPieceRowsMax / kSplitBlockTokens + 2 * options.max_sequences) * 9 / 8;
  executor.cache_bytes =
      (open_blocks * geometry.block_slots(kv::Form::kBoth) + 2 * executor.resident_blocks_max) *
      geometry.slot_bytes() * geometry.n_layers;
  SPILLWAY_ASSIGN_OR_RETURN(session->executor_,
                            exec::LinkExecutor::Create(device, model.config, *model.weights, *session->pool_,
                                                       *session->blocks_, executor));
  exec::ItemLimits limits;
  limits.max_rows = executor.chunk_rows;
  limits.max_segments = limits.max_outputs = options.max_sequences;
  limits.max_blocks = int64_t{options.max_sequences} * n_blocks;
  SPILLWAY_ASSIGN_OR_RETURN(session->item_, session->executor_->CreateWorkItem(limits));
  session->tokens_.assign(static_cast<size_t>(kPieceRowsMax), kToken);
  return session;
}

void SplitSession::FillPool() {
  // Small values of either sign, the same in every slot; what matters is that they are numbers.
  const kv::Geometry& geometry = pool_->geometry();
  std::vector<uint8_t> slot(static_cast<size_t>(geometry.slot_bytes()));
  std::mt19937 random(1);
  for (size_t i = 0; i < slot.size(); i += static_cast<size_t>(geometry.element_bytes)) {
    const float value = static_cast<float>(static_cast<int32_t>(random() % 2001) - 1000) / 4000;
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    const size_t n = static_cast<size_t>(geometry.element_bytes);
    std::memcpy(slot.data() + i, reinterpret_cast<const uint8_t*>(&bits) + 4 - n, n);
  }
  for (int32_t layer = 0; layer < geometry.n_layers; ++layer) {
    for (int64_t i = 0; i < pool_->n_slots(); ++i) {
      std::memcpy(pool_->Slot(layer, static_cast<int32_t>(i)), slot.data(), slot.size());
    }
  }
}

void SplitSession::TakeBlocks(kv::Form form) {
  const bool steered = options_.x_share.has_value();
  if (steered) blocks_->SteerTo(*options_.x_share);
  std::vector<kv::BlockId> beyond;
  for (int64_t i = 0; steered || i < n_blocks_; ++i) {
    const kv::BlockId block = steered ? blocks_->Allocate() : blocks_->Allocate(form);
    if (block == kv::kNoBlock) break;
    SPILLWAY_CHECK(i >= n_blocks_ || block == i);
    if (i >= n_blocks_) beyond.push_back(block);
    filled_ = blocks_->Counts();
  }
  for (const kv::BlockId block : beyond) blocks_->Unref(block);
}

absl::Status SplitSession::SetBatch(const SplitBatch& batch) {
  SPILLWAY_CHECK(!batch.sequences.empty() && batch.shared % kSplitBlockTokens == 0);
  SPILLWAY_CHECK(static_cast<int32_t>(batch.sequences.size()) <= options_.max_sequences);
  DropBlocks();
  batch_ = batch;
  tables_.clear();
  const int32_t n_shared = batch.shared / kSplitBlockTokens;
  kv::BlockId next = n_shared;
  for (const SplitSequence& sequence : batch.sequences) {
    std::vector<kv::BlockId>& table = tables_.emplace_back();
    for (int32_t i = 0; i < sequence.cached / kSplitBlockTokens; ++i)
      table.push_back(i < n_shared ? i : next++);
  }
  // Unfinished blocks are written by their tokens.
  for (size_t s = 0; s < tables_.size(); ++s) {
    const int32_t cached = batch.sequences[s].cached;
    const int32_t tail = cached % kSplitBlockTokens;
    if (tail == 0) continue;
    SPILLWAY_CHECK(batch.sequences[s].rows < kSplitBlockTokens - tail);
    tables_[s].push_back(next++);
    const exec::Segment segment =
        SegmentOf(absl::MakeConstSpan(tokens_).first(static_cast<size_t>(tail)), cached - tail, tables_[s]);
    SPILLWAY_RETURN_IF_ERROR(Run(exec::Phase::kPrefill, {&segment, 1}, {}).status());
  }
  SPILLWAY_CHECK(next <= pool_->geometry().blocks_for(options_.max_cached_tokens) + options_.max_sequences);
  return absl::OkStatus();
}

int64_t SplitSession::area_blocks() const {
  return (options_.prefills ? kPieceRowsMax / kSplitBlockTokens : 0) + 2 * options_.max_sequences;
}

void SplitSession::LayOutRows() {
  // Areas are at the pool's end.
  next_area_ = (next_area_ + 1) % areas();
  auto next = static_cast<kv::BlockId>(n_blocks_ - (next_area_ + 1) * area_blocks());
  segments_.clear();
  for (size_t s = 0; s < tables_.size(); ++s) {
    const SplitSequence& sequence = batch_.sequences[s];
    std::vector<kv::BlockId>& table = tables_[s];
    table.resize(static_cast<size_t>(pool_->geometry().blocks_for(sequence.cached)));
    while (static_cast<int32_t>(table.size()) * kSplitBlockTokens < sequence.cached + sequence.rows) {
      Forget(next);
      table.push_back(next++);
    }
    segments_.push_back(SegmentOf(absl::MakeConstSpan(tokens_).first(static_cast<size_t>(sequence.rows)),
                                  sequence.cached, table));
    segments_.back().sequence = s;
    segments_.back().output =
        batch_.phase == exec::Phase::kDecode ? exec::Output::kSample : exec::Output::kNone;
  }
}

exec::SplitPlan SplitSession::PlanFor(exec::Phase phase, absl::Span<const exec::Segment> segments,
                                      scheduler::Planner& planner) {
  return planner.PlanFor(executor_->ShapeOf(phase, segments));
}

absl::StatusOr<SplitStep> SplitSession::Step(scheduler::Planner& planner) {
  LayOutRows();
  SplitStep step;
  step.plan = PlanFor(batch_.phase, segments_, planner);
  SPILLWAY_ASSIGN_OR_RETURN(const exec::StepResult result, Run(batch_.phase, segments_, step.plan));
  step.stats = result.stats;
  return step;
}

absl::StatusOr<exec::StepResult> SplitSession::Run(exec::Phase phase,
                                                   absl::Span<const exec::Segment> segments,
                                                   const exec::SplitPlan& plan) {
  executor_->Begin(*item_, phase, segments, plan);
  while (!item_->done()) SPILLWAY_RETURN_IF_ERROR(executor_->Visit(*item_));
  return executor_->Finish(*item_);
}

void SplitSession::DropBlocks() {
  executor_->WaitForStores();
  for (int64_t i = 0; i < n_blocks_; ++i) Forget(static_cast<kv::BlockId>(i));
}

absl::Status SplitSession::MakeResident(int64_t n_tokens) {
  SPILLWAY_CHECK(n_tokens <= options_.resident_tokens);
  const auto n_sequences = static_cast<int64_t>(tables_.size());
  const int64_t each = n_tokens / n_sequences / kSplitBlockTokens * kSplitBlockTokens;
  for (const std::vector<kv::BlockId>& table : tables_) {
    for (int64_t begin = 0; begin < each;) {
      const int64_t n = std::min<int64_t>(kPieceRowsMax / 2, each - begin);
      const exec::Segment segment = SegmentOf(absl::MakeConstSpan(tokens_).first(static_cast<size_t>(n)),
                                              static_cast<int32_t>(begin), table);
      SPILLWAY_RETURN_IF_ERROR(Run(exec::Phase::kPrefill, {&segment, 1}, {}).status());
      begin += n;
    }
  }
  executor_->WaitForStores();
  return absl::OkStatus();
}

}  // namespace spillway::bench
