// StepLoop: the step thread's work, one decision and its visit at a time.
//
//   arrivals, cancellations, timers -> admission -> the next visit: of a decode pass, or of the best prefill
//
// A decode pass, once begun, runs through all layers. By the row schedule it is one batch, and nothing comes
// in between: prefill would make every stream wait for the gain of one prompt. By the column schedule it is
// all batches that are ready, and a piece of a prompt with them, each layer visited by all before any goes to
// the next: so they share a load of its weights. Sequences that ask for latency then decode, and are
// prefilled, in row passes of their own, which come in between any two visits; others keep at least their
// share of the time. Cancellations, deadlines and arrivals are seen before each visit.
//
// Step thread only (or one thread at a time, where tests turn the loop by hand).
#ifndef SPILLWAY_SCHEDULER_STEP_LOOP_H_
#define SPILLWAY_SCHEDULER_STEP_LOOP_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "base/reason.h"
#include "scheduler/admission.h"
#include "scheduler/batch.h"
#include "scheduler/inbox.h"
#include "scheduler/pacer.h"
#include "scheduler/prefill_queue.h"
#include "scheduler/request_table.h"
#include "scheduler/schedule_choice.h"
#include "scheduler/scheduler.h"
#include "scheduler/step_state.h"

namespace spillway::scheduler {

class StepLoop {
 public:
  // Creates the work items. All references must outlive the loop.
  static absl::StatusOr<std::unique_ptr<StepLoop>> Create(const Scheduler::Parts& parts,
                                                          const CacheRoom& room,
                                                          const SchedulerOptions& options,
                                                          int32_t max_sequence_tokens, Inbox& inbox,
                                                          SharedStepState& shared);
  ~StepLoop();  // REQUIRES: all requests have ended

  // False when there was nothing to visit.
  bool RunOnce();
  // Ends every request, also those still in the inbox. The inbox is closed before.
  void EndAll(Reason reason);
  // Until a deadline or a slow reader's time is over; negative: none is pending.
  int64_t NsToNextTimer() const;

 private:
  StepLoop(const Scheduler::Parts& parts, const SchedulerOptions& options, Inbox& inbox,
           SharedStepState& shared, const Pacer& pacer);

  // --- What came in (step_requests.cc).
  void TakeMail();
  void Accept(std::unique_ptr<ActiveRequest> arrival);
  void OnReaderMoved(ActiveRequest& request);
  void FireTimers();
  void ResetTimer(ActiveRequest& request);
  void AdmitWaiting();
  void Pause(ActiveRequest& request);
  void Resume(ActiveRequest& request);
  void EndRequest(ActiveRequest& request, absl::Status status);
  void EndEvery(Reason reason);
  void Deliver(Sequence& sequence, const device::SampleResult& sample);
  // Requests whose draw gave no token, which Deliver put aside.
  void EndInvalid();
  void OnFinished(Sequence& sequence, FinishedEvent finished);

  // --- Passes (step_passes.cc).
  enum class Members : uint8_t { kAll, kLatency, kThroughput };
  bool RunVisit();
  bool PassRuns() const;
  bool plans() const { return parts_.planner != nullptr && parts_.executor.splits(); }
  // Decoding sequences that may take part in a pass into ready_; pauses those whose reader is behind. Returns
  // since when the one that waits longest waits.
  MonotonicNs CollectReady(Members which);
  // As many of ready_ as one batch takes.
  void KeepLongestWaiting();
  // Room for the next row of each of ready_; who has to give way leaves it.
  void GrowReady();
  void BeginBatch(Batch& batch, absl::Span<Sequence* const> members, const ScheduleChoice& pass);
  // False: everyone gave way.
  bool BeginRow(ScheduleReason reason);
  bool BeginColumn(ScheduleReason reason);
  // Of the column that has just begun.
  void PredictPass();
  void VisitPass();
  // Row passes of those that ask for latency, where there are columns. False: there is nothing to visit.
  bool LatencyIsDue() const;
  bool VisitLatency();
  bool BeginLatency();
  void PayLatencyDebt(MonotonicNs since_ns);

  // --- Visits (step_loop.cc).
  void FinishDecode(Batch& batch);
  void VisitPrefill(const PrefillQueue::Pick& pick, ScheduleReason reason);
  void FinishPrefill(Batch& batch);
  void OnStep(const Batch& batch, exec::StepStats stats);
  // How the passes run that begin now.
  ScheduleChoice Choose();
  // What runs and waits.
  LoadDescription DescribeLoad();
  // To the planner, what all decode passes read.
  void TellLoad();
  void MarkBusy();
  void CountVisit();
  void Fail(const absl::Status& error);
  void PublishState();

  Scheduler::Parts parts_;
  const int32_t block_tokens_;
  const int64_t slow_reader_timeout_ns_;
  const bool shares_prefixes_;
  const std::optional<exec::Schedule> forced_schedule_;
  const double throughput_share_;
  Inbox& inbox_;
  SharedStepState& shared_;
  Pacer pacer_;
  std::unique_ptr<PrefillQueue> prefill_;
  std::unique_ptr<Admission> admission_;
  std::vector<std::unique_ptr<Batch>> decodes_;  // one, or as many as a column has of decode batches
  std::unique_ptr<Batch> latency_;               // where there are columns
  std::vector<Batch*> pass_;                     // the batches that were begun together, in order
  std::vector<const exec::SplitPlan*> plans_;    // of PredictPass
  RequestTable requests_;
  Inbox::Mail mail_;
  std::vector<Sequence*> ready_;  // [max_sequences]
  std::vector<ActiveRequest*> invalid_;
  MonotonicNs pass_begin_ns_ = 0;
  double latency_debt_ns_ = 0;       // time that others have before the next latency pass begins
  int64_t admitted_hit_tokens_ = 0;  // prompt tokens found in the prefix cache on admission
  bool failed_ = false;
  StepState state_;
};

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_STEP_LOOP_H_
