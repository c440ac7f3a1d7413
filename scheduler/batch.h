// Batch: a work item of the executor and the sequences whose rows it computes - a decode pass, or a piece of
// one long prompt or of several short ones.
//
// Membership is frozen from Begin to Finish or Abandon. A sequence that ends meanwhile leaves: its result is
// skipped, its blocks stay until then. Step thread only; nothing allocates after construction.
#ifndef SPILLWAY_SCHEDULER_BATCH_H_
#define SPILLWAY_SCHEDULER_BATCH_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/exec/executor.h"
#include "engine/exec/split_plan.h"
#include "scheduler/planner.h"
#include "scheduler/schedule_choice.h"
#include "scheduler/sequence.h"

namespace spillway::scheduler {

class Batch {
 public:
  struct Member {
    Sequence* sequence;
    int32_t rows;
    bool samples;  // the rows reach the end of the tokens: the next token is drawn
    bool left;     // ended since Begin
  };

  // `planner`: of an executor that splits; null: what is not resident is carried as keys and values.
  Batch(exec::Executor& executor, std::unique_ptr<exec::WorkItem> item, int32_t block_tokens,
        Planner* planner);

  // --- Between two runs.
  void Clear();
  bool Fits(const Sequence& sequence, int32_t rows) const;
  // The next `rows` rows of the sequence. REQUIRES: Fits, and its table covers them.
  void Add(Sequence& sequence, int32_t rows);
  // `distinct_cached_tokens`: cached tokens of all members, those of shared blocks once; not asked where the
  // executor splits, which then knows them by residency and form.
  // `pass`: that this is a part of, and why; the items of a column share a load of the weights.
  void Begin(exec::Phase phase, int64_t distinct_cached_tokens, const ScheduleChoice& pass = {});

  // --- While running.
  bool running() const { return item_->running(); }
  bool done() const { return item_->done(); }
  absl::Status Visit();
  // Members stay listed, with what they got, until Clear; their `batch` is null from here on.
  absl::StatusOr<exec::StepResult> Finish();
  void Abandon();
  // `sequence` has ended.
  void Leave(const Sequence& sequence);
  // Rows times layers that are still to be computed, in rows.
  int64_t rows_left() const;
  // Layers that are done with all rows.
  int32_t layers_done() const;

  // What the latest run obeys, and why in its schedule.
  const exec::SplitPlan& plan() const { return plan_; }
  ScheduleReason reason() const { return reason_; }
  // Of a column's pass, once all of its items have begun.
  void SetPrediction(const PassTimes& times) {
    plan_.predicted_step_s = times.predicted_s;
    plan_.corrected_step_s = times.corrected_s;
  }
  bool decodes() const { return plan_.shape.phase == exec::Phase::kDecode; }
  absl::Span<const Member> members() const { return members_; }
  int32_t live_members() const { return live_members_; }
  int32_t rows() const { return rows_; }
  const exec::ItemLimits& limits() const { return item_->limits(); }

 private:
  exec::BatchShape ShapeOf(exec::Phase phase, int64_t distinct_cached_tokens) const;
  exec::SplitPlan MakePlan(exec::Phase phase, int64_t distinct_cached_tokens, int32_t n_items);
  void LetGo();

  exec::Executor& executor_;
  const std::unique_ptr<exec::WorkItem> item_;
  const int32_t block_tokens_;
  Planner* const planner_;
  exec::SplitPlan plan_;
  ScheduleReason reason_ = ScheduleReason::kWeightsResident;
  std::vector<Member> members_;          // [max_segments]
  std::vector<exec::Segment> segments_;  // [max_segments]
  int32_t rows_ = 0;
  int64_t blocks_ = 0;
  int32_t live_members_ = 0;
};

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_BATCH_H_
