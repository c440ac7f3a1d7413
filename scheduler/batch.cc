#include "scheduler/batch.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "engine/exec/step_tables.h"
#include "scheduler/active_request.h"

namespace spillway::scheduler {
namespace {

device::SampleRow SampleRowOf(const Sequence& sequence) {
  const SamplingParams& sampling = sequence.request.request().sampling;
  const StopRules& rules = sequence.request.stop_rules();
  device::SampleRow row{};
  row.temperature = sampling.temperature;
  row.top_k = sampling.top_k;
  row.top_p = sampling.top_p;
  row.min_p = sampling.min_p;
  row.repetition_penalty = sampling.repetition_penalty;
  row.frequency_penalty = sampling.frequency_penalty;
  row.presence_penalty = sampling.presence_penalty;
  row.n_logprobs = sampling.n_logprobs;
  row.seed = sampling.seed;
  row.choice = static_cast<uint32_t>(sequence.index);
  row.position = sequence.n_tokens();
  row.history = sequence.tokens.data();
  row.n_prompt = sequence.request.n_prompt();
  row.n_history = sequence.n_tokens();
  if (sequence.n_generated() < rules.min_tokens && !rules.stop_ids.empty()) {
    row.forbidden_ids = rules.stop_ids.data();
    row.n_forbidden_ids = static_cast<int32_t>(rules.stop_ids.size());
  }
  return row;
}

}  // namespace

Batch::Batch(exec::Executor& executor, std::unique_ptr<exec::WorkItem> item, int32_t block_tokens,
             Planner* planner)
    : executor_(executor), item_(std::move(item)), block_tokens_(block_tokens), planner_(planner) {
  members_.reserve(static_cast<size_t>(limits().max_segments));
  segments_.reserve(static_cast<size_t>(limits().max_segments));
}

void Batch::Clear() {
  SPILLWAY_CHECK(!running());
  members_.clear();
  segments_.clear();
  rows_ = 0;
  blocks_ = 0;
  live_members_ = 0;
}

bool Batch::Fits(const Sequence& sequence, int32_t rows) const {
  const int64_t end = int64_t{sequence.cache.computed_tokens()} + rows;
  return static_cast<int32_t>(members_.size()) < limits().max_segments && rows_ + rows <= limits().max_rows &&
         blocks_ + (end + block_tokens_ - 1) / block_tokens_ <= limits().max_blocks;
}

void Batch::Add(Sequence& sequence, int32_t rows) {
  SPILLWAY_CHECK(!running() && rows > 0 && rows <= sequence.rows_left() && Fits(sequence, rows));
  const int32_t first = sequence.cache.computed_tokens();
  const int64_t n_blocks = (int64_t{first} + rows + block_tokens_ - 1) / block_tokens_;
  SPILLWAY_CHECK(n_blocks <= static_cast<int64_t>(sequence.cache.blocks().size()));
  const bool samples = rows == sequence.rows_left();

  exec::Segment segment;
  segment.sequence = sequence.request.number();
  segment.tokens = absl::MakeConstSpan(sequence.tokens).subspan(first, rows);
  segment.first_position = first;
  segment.blocks = sequence.cache.blocks().first(static_cast<size_t>(n_blocks));
  segment.output = samples ? exec::Output::kSample : exec::Output::kNone;
  if (samples) segment.sample = SampleRowOf(sequence);
  segments_.push_back(segment);
  members_.push_back({&sequence, rows, samples, /*left=*/false});
  sequence.batch = this;
  rows_ += rows;
  blocks_ += n_blocks;
  ++live_members_;
}

exec::BatchShape Batch::ShapeOf(exec::Phase phase, int64_t distinct_cached_tokens) const {
  exec::BatchShape shape = exec::ShapeWithoutCache(phase, segments_);
  shape.resident_kv_tokens = distinct_cached_tokens;
  return shape;
}

exec::SplitPlan Batch::MakePlan(exec::Phase phase, int64_t distinct_cached_tokens, int32_t n_items) {
  if (!executor_.splits()) return exec::AllResidentPlan(ShapeOf(phase, distinct_cached_tokens));
  exec::BatchShape shape = executor_.ShapeOf(phase, segments_);
  shape.weight_load_bytes /= n_items;
  return planner_ != nullptr ? planner_->PlanFor(shape) : exec::TransferPlan(shape);
}

void Batch::Begin(exec::Phase phase, int64_t distinct_cached_tokens, const ScheduleChoice& pass) {
  SPILLWAY_CHECK(!members_.empty() && pass.n_items > 0);
  plan_ = MakePlan(phase, distinct_cached_tokens, pass.n_items);
  plan_.schedule = pass.schedule;
  reason_ = pass.reason;
  executor_.Begin(*item_, phase, segments_, plan_);
}

absl::Status Batch::Visit() { return executor_.Visit(*item_); }

absl::StatusOr<exec::StepResult> Batch::Finish() {
  auto result = executor_.Finish(*item_);
  if (result.ok()) LetGo();  // else the item runs on, to be abandoned with the engine
  return result;
}

void Batch::Abandon() {
  executor_.Abandon(*item_);
  LetGo();
}

void Batch::LetGo() {
  for (const Member& member : members_) member.sequence->batch = nullptr;
}

void Batch::Leave(const Sequence& sequence) {
  const auto member = std::find_if(members_.begin(), members_.end(),
                                   [&sequence](const Member& m) { return m.sequence == &sequence; });
  SPILLWAY_CHECK(member != members_.end() && !member->left);
  member->left = true;
  --live_members_;
}

int32_t Batch::layers_done() const {
  return static_cast<int32_t>(int64_t{item_->visits_done()} * executor_.n_layers() / item_->visits_total());
}

int64_t Batch::rows_left() const {
  if (!running()) return 0;
  const int64_t visits_left = item_->visits_total() - item_->visits_done();
  return (int64_t{rows_} * visits_left + item_->visits_total() - 1) / item_->visits_total();
}

}  // namespace spillway::scheduler
