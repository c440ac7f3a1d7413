// The part of StepLoop that decides which batches decode together, and whose visit is next.
#include <algorithm>

#include "base/check.h"
#include "scheduler/step_loop.h"

namespace spillway::scheduler {
namespace {

bool WantsLatency(const Sequence& sequence) {
  return sequence.request.request().objective == Objective::kLatency;
}

}  // namespace

bool StepLoop::PassRuns() const {
  return std::any_of(pass_.begin(), pass_.end(), [](const Batch* batch) { return batch->running(); });
}

bool StepLoop::RunVisit() {
  if (latency_ != nullptr && LatencyIsDue() && VisitLatency()) return true;
  const MonotonicNs begin_ns = parts_.clock.NowNs();
  if (PassRuns()) {
    VisitPass();
    PayLatencyDebt(begin_ns);
    return true;
  }
  const MonotonicNs waiting_since = CollectReady(latency_ != nullptr ? Members::kThroughput : Members::kAll);
  const int64_t adopted_before = prefill_->adopted_tokens();
  const PrefillQueue::Pick pick = prefill_->PickNext();
  // Blocks became free: those that were to hold what others have computed meanwhile.
  if (prefill_->adopted_tokens() != adopted_before) admission_->Reconsider();
  if (ready_.empty() && !pick.any()) {
    latency_debt_ns_ = 0;  // nobody is there to be owed time
    return latency_ != nullptr && VisitLatency();
  }
  MarkBusy();
  const ScheduleChoice choice = Choose();
  const bool column = latency_ != nullptr && choice.schedule == exec::Schedule::kColumn;
  // What was to be a column and is left alone.
  const ScheduleReason row_reason = column ? ScheduleReason::kOneBatchFits : choice.reason;
  const bool decode =
      !ready_.empty() && (column || !pick.any() ||
                          pacer_.DecodeIsDue(parts_.clock.NowNs(), waiting_since, pick.choice.visit_ns));
  if (!decode) {
    VisitPrefill(pick, row_reason);
  } else if (column ? BeginColumn(choice.reason) : BeginRow(choice.reason)) {
    VisitPass();
  }
  PayLatencyDebt(begin_ns);
  return true;
}

// ---------------------------------------------------------------------------------------------- Members

MonotonicNs StepLoop::CollectReady(Members which) {
  ready_.clear();
  MonotonicNs waiting_since = parts_.clock.NowNs();
  for (Sequence* sequence : admission_->running()) {
    if (sequence->state != SequenceState::kDecode || sequence->batch != nullptr) continue;
    if (sequence->request.paused()) continue;
    if (which != Members::kAll && WantsLatency(*sequence) != (which == Members::kLatency)) continue;
    if (sequence->request.stream().Full()) {
      Pause(sequence->request);
      continue;
    }
    ready_.push_back(sequence);
    waiting_since = std::min(waiting_since, sequence->last_token_ns);
  }
  // A pause takes a request's other choices with it.
  ready_.erase(std::remove_if(ready_.begin(), ready_.end(),
                              [](const Sequence* sequence) { return sequence->request.paused(); }),
               ready_.end());
  return waiting_since;
}

void StepLoop::KeepLongestWaiting() {
  const size_t most = static_cast<size_t>(decodes_.front()->limits().max_segments);
  if (ready_.size() <= most) return;
  std::sort(ready_.begin(), ready_.end(), [](const Sequence* a, const Sequence* b) {
    return a->last_token_ns != b->last_token_ns ? a->last_token_ns < b->last_token_ns : RunsBefore()(a, b);
  });
  ready_.resize(most);
  std::sort(ready_.begin(), ready_.end(), RunsBefore());
}

void StepLoop::GrowReady() {
  // Best first, so that none pushes out one that was given room before.
  for (Sequence*& sequence : ready_) {
    if (sequence->state != SequenceState::kDecode || !admission_->GrowForDecode(*sequence)) {
      sequence = nullptr;
    }
  }
  ready_.erase(std::remove_if(ready_.begin(), ready_.end(),
                              [](const Sequence* sequence) {
                                // One that was paused may have been pushed out after its turn.
                                return sequence == nullptr || sequence->state != SequenceState::kDecode;
                              }),
               ready_.end());
}

void StepLoop::BeginBatch(Batch& batch, absl::Span<Sequence* const> members, const ScheduleChoice& pass) {
  batch.Clear();
  int64_t tail_tokens = 0;
  for (Sequence* sequence : members) {
    batch.Add(*sequence, 1);
    tail_tokens += sequence->cache.computed_tokens() % block_tokens_;
  }
  const bool all = static_cast<int64_t>(members.size()) == admission_->decode_readers();
  const int64_t distinct = all ? admission_->distinct_decode_blocks() * block_tokens_ + tail_tokens
                               : prefill_->CountDistinctTokens(batch);
  batch.Begin(exec::Phase::kDecode, distinct, pass);
}

// ---------------------------------------------------------------------------------------------- Passes

bool StepLoop::BeginRow(ScheduleReason reason) {
  KeepLongestWaiting();
  GrowReady();
  if (ready_.empty()) return false;
  pass_.assign(1, decodes_.front().get());
  pass_begin_ns_ = parts_.clock.NowNs();
  ScheduleChoice pass;
  pass.reason = reason;
  BeginBatch(*decodes_.front(), ready_, pass);
  return true;
}

bool StepLoop::BeginColumn(ScheduleReason reason) {
  GrowReady();
  if (ready_.empty()) return false;
  // Now: growing may have sent the sequence of an earlier pick away, or back to prefill.
  const PrefillQueue::Pick pick = prefill_->PickNext();
  const size_t most = static_cast<size_t>(decodes_.front()->limits().max_segments);
  const size_t n_batches = (ready_.size() + most - 1) / most;
  SPILLWAY_CHECK(n_batches <= decodes_.size());
  ScheduleChoice pass;
  pass.n_items = static_cast<int32_t>(n_batches) + (pick.any() ? 1 : 0);
  pass.schedule = pass.n_items > 1 ? exec::Schedule::kColumn : exec::Schedule::kRow;
  pass.reason = pass.n_items > 1 ? reason : ScheduleReason::kOneBatchFits;
  pass_.clear();
  pass_begin_ns_ = parts_.clock.NowNs();
  for (size_t i = 0; i < n_batches; ++i) {
    const size_t begin = ready_.size() * i / n_batches;
    const size_t end = ready_.size() * (i + 1) / n_batches;
    BeginBatch(*decodes_[i], absl::MakeConstSpan(ready_).subspan(begin, end - begin), pass);
    pass_.push_back(decodes_[i].get());
  }
  if (pick.any()) {
    pass_.push_back(&prefill_->Start(pick, /*streams_wait=*/true, pass));
    prefill_->OnVisited(pick);
  }
  if (pass.n_items > 1 && plans()) PredictPass();
  return true;
}

void StepLoop::PredictPass() {
  plans_.clear();
  // A piece of a prompt that had begun before keeps the prediction of its own row.
  for (const Batch* batch : pass_) {
    if (batch->plan().schedule == exec::Schedule::kColumn) plans_.push_back(&batch->plan());
  }
  const PassTimes times = parts_.planner->PredictPass(plans_);
  for (Batch* batch : pass_) {
    if (batch->plan().schedule == exec::Schedule::kColumn) batch->SetPrediction(times);
  }
}

void StepLoop::VisitPass() {
  Batch* next = nullptr;
  for (Batch* batch : pass_) {
    if (batch->running() && (next == nullptr || batch->layers_done() < next->layers_done())) next = batch;
  }
  SPILLWAY_CHECK(next != nullptr);
  if (absl::Status status = next->Visit(); !status.ok()) return Fail(status);
  CountVisit();
  if (next->done()) {
    if (next->decodes()) {
      FinishDecode(*next);
    } else {
      FinishPrefill(*next);
    }
  }
  // Abandoned, where all its members left.
  if (!PassRuns() && !failed_) {
    pacer_.OnDecodePass(parts_.clock.NowNs() - pass_begin_ns_);
    admission_->Reconsider();  // those that were in the pass may give way now
  }
}

// ---------------------------------------------------------------------------------------------- Latency

bool StepLoop::LatencyIsDue() const { return latency_->running() || latency_debt_ns_ <= 0; }

bool StepLoop::VisitLatency() {
  const MonotonicNs begin_ns = parts_.clock.NowNs();
  if (latency_->running() || BeginLatency()) {
    MarkBusy();
    if (absl::Status status = latency_->Visit(); !status.ok()) {
      Fail(status);
      return true;
    }
    CountVisit();
    if (latency_->done()) FinishDecode(*latency_);
  } else {
    const PrefillQueue::Pick pick = prefill_->PickLatency();
    if (!pick.any()) return false;
    MarkBusy();
    VisitPrefill(pick, ScheduleReason::kLatencyWanted);
  }
  const double spent_ns = static_cast<double>(parts_.clock.NowNs() - begin_ns);
  latency_debt_ns_ += spent_ns * throughput_share_ / (1 - throughput_share_);
  return true;
}

bool StepLoop::BeginLatency() {
  (void)CollectReady(Members::kLatency);
  KeepLongestWaiting();
  GrowReady();
  if (ready_.empty()) return false;
  ScheduleChoice pass;
  pass.reason = ScheduleReason::kLatencyWanted;
  BeginBatch(*latency_, ready_, pass);
  return true;
}

void StepLoop::PayLatencyDebt(MonotonicNs since_ns) {
  latency_debt_ns_ = std::max(0.0, latency_debt_ns_ - static_cast<double>(parts_.clock.NowNs() - since_ns));
}

}  // namespace spillway::scheduler
