#include "scheduler/step_loop.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "scheduler/work_items.h"

namespace spillway::scheduler {

StepLoop::StepLoop(const Scheduler::Parts& parts, const SchedulerOptions& options, Inbox& inbox,
                   SharedStepState& shared, const Pacer& pacer)
    : parts_(parts),
      block_tokens_(parts.geometry.block_tokens),
      slow_reader_timeout_ns_(options.slow_reader_timeout_ms * kNsPerMs),
      shares_prefixes_(options.prefix_cache),
      forced_schedule_(options.schedule),
      throughput_share_(options.throughput_share),
      inbox_(inbox),
      shared_(shared),
      pacer_(pacer) {
  ready_.reserve(static_cast<size_t>(options.max_sequences));
}

StepLoop::~StepLoop() {
  requests_.Sweep();
  SPILLWAY_CHECK_MSG(requests_.empty(), "requests outlive the step loop");
}

absl::StatusOr<std::unique_ptr<StepLoop>> StepLoop::Create(const Scheduler::Parts& parts,
                                                           const CacheRoom& room,
                                                           const SchedulerOptions& options,
                                                           int32_t max_sequence_tokens, Inbox& inbox,
                                                           SharedStepState& shared) {
  exec::Executor& executor = parts.executor;
  const Pacer pacer(options.max_gap_ms, executor.chunk_rows(),
                    PrefillQueue::PieceRows(executor.chunk_rows(), options.prefill_rows),
                    executor.n_layers());
  std::unique_ptr<StepLoop> loop(new StepLoop(parts, options, inbox, shared, pacer));
  const int64_t max_blocks = parts.blocks.max_blocks();
  const bool columns = options.schedule.has_value() ? *options.schedule == exec::Schedule::kColumn
                                                    : executor.weight_pass_bytes() > 0;
  const WorkItems items =
      WorkItemsOf(options, room.blocks_for(max_sequence_tokens), executor.chunk_rows(), columns);

  PrefillQueue::Limits prefill;
  prefill.item = items.prefill;
  prefill.max_sequences = options.max_sequences;
  prefill.max_blocks = max_blocks;
  prefill.block_tokens = room.block_tokens;
  SPILLWAY_ASSIGN_OR_RETURN(loop->prefill_,
                            PrefillQueue::Create(executor, prefill, loop->pacer_, parts.planner));
  loop->admission_ = std::make_unique<Admission>(
      Admission::Limits{options.max_sequences, options.reserve_output_tokens, max_blocks}, room,
      *loop->prefill_, parts.observer);

  const auto create = [&]() -> absl::StatusOr<std::unique_ptr<Batch>> {
    SPILLWAY_ASSIGN_OR_RETURN(auto item, executor.CreateWorkItem(items.decode));
    return std::make_unique<Batch>(executor, std::move(item), room.block_tokens, parts.planner);
  };
  for (int32_t i = 0; i < items.decodes; ++i) {
    SPILLWAY_ASSIGN_OR_RETURN(auto batch, create());
    loop->decodes_.push_back(std::move(batch));
  }
  if (items.latency) {
    SPILLWAY_ASSIGN_OR_RETURN(loop->latency_, create());
  }
  loop->pass_.reserve(static_cast<size_t>(items.decodes) + 1);
  loop->plans_.reserve(static_cast<size_t>(items.decodes) + 1);
  loop->PublishState();
  return loop;
}

bool StepLoop::RunOnce() {
  TakeMail();
  FireTimers();
  // During a pass only a prompt that asks for latency could begin.
  if (latency_ != nullptr || !PassRuns()) AdmitWaiting();
  const bool visited = !failed_ && RunVisit();
  requests_.Sweep();
  // Waiting for readers is no work; a queue that nothing runs before would be a stall.
  const bool stalled = admission_->running().empty() && !admission_->queue().empty();
  state_.snapshot.has_work = (visited && !requests_.empty()) || stalled;
  PublishState();
  return visited;
}

void StepLoop::MarkBusy() {
  // Said before the visit, which may be the one that never returns.
  if (state_.snapshot.has_work) return;
  state_.snapshot.has_work = true;
  state_.snapshot.last_visit_ns = parts_.clock.NowNs();
  shared_.Set(state_);
}

void StepLoop::CountVisit() {
  ++state_.snapshot.visits;
  state_.snapshot.last_visit_ns = parts_.clock.NowNs();
}

void StepLoop::FinishDecode(Batch& batch) {
  auto result = batch.Finish();
  if (!result.ok()) return Fail(result.status());
  OnStep(batch, result->stats);
  size_t sample = 0;
  for (const Batch::Member& member : batch.members()) {
    const device::SampleResult& drawn = result->samples[sample++];
    Sequence& sequence = *member.sequence;
    if (member.left) {
      admission_->GiveUp(sequence);
      continue;
    }
    const int32_t full_blocks_before = sequence.cache.full_blocks();
    sequence.cache.Advance(sequence.tokens, sequence.n_tokens());
    admission_->OnAdvanced(sequence, full_blocks_before);
    Deliver(sequence, drawn);
  }
  EndInvalid();
}

void StepLoop::VisitPrefill(const PrefillQueue::Pick& pick, ScheduleReason reason) {
  ScheduleChoice pass;
  pass.reason = reason;
  Batch& batch = prefill_->Start(pick, /*streams_wait=*/!ready_.empty(), pass);
  if (absl::Status status = batch.Visit(); !status.ok()) return Fail(status);
  CountVisit();
  prefill_->OnVisited(pick);
  if (batch.done()) FinishPrefill(batch);
}

void StepLoop::FinishPrefill(Batch& batch) {
  auto result = batch.Finish();
  if (!result.ok()) return Fail(result.status());
  const exec::StepStats& stats = result->stats;
  pacer_.OnPrefillFinished(stats, batch.members()[0].sequence->cache.computed_tokens());
  const double row_ns = pacer_.RowNs(stats);
  state_.prefill_token_ns.Add(row_ns * parts_.executor.n_layers());
  OnStep(batch, stats);
  // The first waiting sequence may need fewer blocks now: it finds those that are published here.
  if (shares_prefixes_) admission_->Reconsider();
  size_t sample = 0;
  for (const Batch::Member& member : batch.members()) {
    const device::SampleResult* drawn = member.samples ? &result->samples[sample++] : nullptr;
    Sequence& sequence = *member.sequence;
    if (member.left) {
      admission_->GiveUp(sequence);
      continue;
    }
    sequence.row_ns = row_ns;
    sequence.cache.Advance(sequence.tokens, sequence.cache.computed_tokens() + member.rows);
    if (drawn != nullptr) {
      Deliver(sequence, *drawn);
    } else {
      prefill_->Add(sequence);
      sequence.request.OnPrefillProgress(sequence);
    }
  }
  EndInvalid();
}

void StepLoop::OnStep(const Batch& batch, exec::StepStats stats) {
  // A column's items were given theirs when all had begun.
  stats.predicted_step_s = batch.plan().predicted_step_s;
  stats.corrected_step_s = batch.plan().corrected_step_s;
  const MonotonicNs now = parts_.clock.NowNs();
  if (stats.phase == exec::Phase::kPrefill) state_.prompt_rate.Add(now, stats.rows);
  if (stats.sampled_rows > 0) state_.generated_rate.Add(now, stats.sampled_rows);
  if (plans()) {
    parts_.planner->OnStep(batch.plan(), stats, batch.reason());
    const PlacementTargets& targets = parts_.planner->targets();
    if (targets.version > 0) parts_.blocks.SteerTo(targets.x_share);
  }
  for (const Batch::Member& member : batch.members()) {
    if (member.left) continue;
    member.sequence->request.OnAttended(stats.tokens, member.sequence->cache.computed_tokens());
  }
  parts_.observer.OnStep(stats);
}

ScheduleChoice StepLoop::Choose() {
  if (latency_ == nullptr && !plans()) return {};
  const ScheduleChoice choice = ChooseSchedule(DescribeLoad(), forced_schedule_);
  if (plans()) {
    parts_.planner->OnSchedule(choice);
    TellLoad();
  }
  return choice;
}

void StepLoop::TellLoad() {
  int32_t sequences = 0;
  int64_t reads_tokens = 0, tail_tokens = 0;
  for (const Sequence* sequence : admission_->running()) {
    if (!sequence->counted_reader) continue;
    ++sequences;
    reads_tokens += sequence->cache.computed_tokens();
    tail_tokens += sequence->cache.computed_tokens() % block_tokens_;
  }
  parts_.planner->SetLoad(sequences, admission_->distinct_decode_blocks() * block_tokens_ + tail_tokens,
                          reads_tokens + sequences, parts_.executor.weight_pass_bytes());
}

LoadDescription StepLoop::DescribeLoad() {
  LoadDescription load;
  int64_t cached_tokens = 0;
  bool all_latency = true;
  for (const Sequence* sequence : admission_->running()) {
    const bool prefills = sequence->state == SequenceState::kPrefill;
    load.running_sequences += !prefills;
    load.prompts += prefills;
    cached_tokens += sequence->cache.computed_tokens();
    const bool latency = sequence->request.request().objective == Objective::kLatency;
    load.latency_wanted |= latency;
    all_latency &= latency;
  }
  // Beside columns they have passes of their own.
  if (latency_ != nullptr) load.latency_wanted &= all_latency;
  const int32_t waiting = inbox_.waiting().requests;
  load.waiting_sequences = load.prompts + waiting;
  load.prompts += waiting;
  load.weights_streamed = parts_.executor.weight_pass_bytes() > 0;
  load.max_sequences = decodes_.front()->limits().max_segments;
  const int64_t running = static_cast<int64_t>(admission_->running().size());
  load.tokens_per_sequence = running > 0 ? cached_tokens / running : 0;
  load.pool_tokens = parts_.blocks.Counts().total_blocks * block_tokens_;
  return load;
}

void StepLoop::Fail(const absl::Status& error) {
  Log(LogLevel::kError, "the engine failed; every request ends", {{"error", error.message()}});
  failed_ = true;
  inbox_.Close(Reason::kEngineFailed);
  EndAll(Reason::kEngineFailed);
}

void StepLoop::PublishState() {
  SchedulerSnapshot& snapshot = state_.snapshot;
  snapshot.running_sequences = static_cast<int32_t>(admission_->running().size());
  snapshot.prefilling_sequences = 0;
  snapshot.paused_sequences = 0;
  for (const Sequence* sequence : admission_->running()) {
    snapshot.prefilling_sequences += sequence->state == SequenceState::kPrefill;
    snapshot.paused_sequences += sequence->request.paused();
  }
  snapshot.prefix_hit_tokens = admitted_hit_tokens_ + prefill_->adopted_prompt_tokens();
  snapshot.preemptions = admission_->preemptions();
  snapshot.failed = failed_;
  inbox_.SetReturned(admission_->queue().returned());
  shared_.Set(state_);
}

}  // namespace spillway::scheduler
