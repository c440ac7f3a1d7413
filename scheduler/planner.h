// Planner: from a batch's shape to the split that the executor obeys.
//
// Plans are memoised by bucketed shape (shape_buckets.h), as shares that are scaled to the true shape. A
// shape whose bucket is not known is solved on the solver's thread, for which the step thread waits a bounded
// time; where no answer came in time, or none that could be used, the last good plan of the phase serves,
// scaled to the shape, and the answer is remembered when it comes. So a step is never later than by that
// time, and never without a plan. When feedback has moved the rates, known plans go on serving while they are
// solved again.
//
// Step thread only, except Snapshot. A plan for a known bucket allocates nothing.
#ifndef SPILLWAY_SCHEDULER_PLANNER_H_
#define SPILLWAY_SCHEDULER_PLANNER_H_

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "engine/exec/split_plan.h"
#include "engine/exec/step_stats.h"
#include "scheduler/plan_memo.h"
#include "scheduler/plan_modes.h"
#include "scheduler/plan_solver.h"
#include "scheduler/resource_feedback.h"
#include "scheduler/schedule_choice.h"

namespace spillway::scheduler {

struct PlannerOptions {
  PlanModes modes;
  bool store_x = false;        // new blocks store X beside K and V
  double residency_bytes = 0;  // device memory for cached tokens
  double pool_bytes = 0;       // host memory for stored forms
  bool feedback = true;        // false: every prediction and plan from the profile alone
  int32_t max_plans = 512;     // memoised
  // For a plan that is not known yet. A solve and the two wake-ups around it take about 100 us.
  std::chrono::nanoseconds longest_wait = std::chrono::milliseconds(1);
};

// What the stored forms and the residency should drift towards, as shares of the cached tokens.
struct PlacementTargets {
  uint64_t version = 0;  // 0: none yet
  double resident_kv = 0;
  double resident_x = 0;
  double stored_kv = 0;  // as KV only
  double stored_x = 0;   // as X only
  double stored_both = 0;
  double x_share = 0;  // of what is carried, as X; where all is resident, of that
  double step_s = 0;   // predicted once they are reached
};

// Seconds that the items of a pass take together: from the profile alone, and with feedback.
struct PassTimes {
  double predicted_s = 0;
  double corrected_s = 0;
};

struct PlannerSnapshot {
  uint64_t solves = 0;     // carry and placement, answered well
  uint64_t memo_hits = 0;  // steps whose bucket was known
  uint64_t failures = 0;   // answers that could not be used
  uint64_t timeouts = 0;   // steps that did not get theirs in time
  double solve_s = 0;      // all solves together
  int32_t plans = 0;       // memoised now
  ResourceFactors factors;
  PlacementTargets targets;
  ScheduleChoice schedule;
  // Steps by the schedule that they ran in, and why.
  std::array<std::array<uint64_t, kScheduleReasons>, 2> scheduled{};
  // Bytes by busy time of the link's lanes, recent steps weighing most, and its share of the profile's rate;
  // 0 until something was carried.
  double link_in_bytes_per_s = 0;
  double link_out_bytes_per_s = 0;
  double link_in_share = 0;
  double link_out_share = 0;
};

class Planner {
 public:
  // `solver` must outlive the planner, which alone asks it.
  Planner(PlanSolver& solver, const PlannerOptions& options);
  Planner(const Planner&) = delete;
  Planner& operator=(const Planner&) = delete;

  // Device memory for resident tokens, instead of the options'. Before the first plan.
  void SetResidencyBytes(double residency_bytes) { residency_bytes_ = residency_bytes; }
  // What all decoding sequences read together, in however many batches they take turns: memory is shared out
  // for that. `sequences` 0: nobody decodes, and of every decode shape that is planned for it is taken to be
  // all.
  // `weight_load_bytes`: of a pass, 0 when resident.
  void SetLoad(int32_t sequences, int64_t distinct_cached_tokens, int64_t reads_tokens,
               int64_t weight_load_bytes);
  // REQUIRES: no negative count in `shape`. Every token of the shape is in exactly one class of the plan.
  exec::SplitPlan PlanFor(const exec::BatchShape& shape);
  // Of the pass that these plans' items make together: each resource does the work of all of them.
  PassTimes PredictPass(absl::Span<const exec::SplitPlan* const> plans);
  // What became of `plan`, which was obeyed in its schedule for this reason. The rates are judged by what the
  // step did, which is not quite what was planned: blocks are carried and stored whole.
  void OnStep(const exec::SplitPlan& plan, const exec::StepStats& stats,
              ScheduleReason reason = ScheduleReason::kForced);
  // How the passes run that begin now.
  void OnSchedule(const ScheduleChoice& choice) { schedule_ = choice; }

  const PlacementTargets& targets() const { return targets_; }

  // Any thread.
  PlannerSnapshot Snapshot() const;

 private:
  SplitShares SharesFor(const exec::BatchShape& shape, uint64_t* solve_id);
  bool Ask(const exec::BatchShape& bucket);
  bool Asked(const exec::BatchShape& bucket) const;
  void AskForTargets(const exec::BatchShape& load);
  // Of all cached tokens of a decode shape, wherever they are now.
  exec::BatchShape LoadOf(const exec::BatchShape& shape) const;
  void TakeAnswers(std::chrono::nanoseconds wait, const exec::BatchShape* wanted);
  void Accept(const SolveAnswer& answer);
  void AcceptTargets(const SolveAnswer& answer);
  bool SharesOf(const SolveAnswer& answer, SplitShares* shares);
  StepTimes Predict(const exec::BatchShape& shape, const exec::TokenClasses& tokens,
                    const ResourceFactors& factors);
  void Publish();

  PlanSolver& solver_;
  const profiler::MachineProfile& profile_;
  const PlannerOptions options_;
  double residency_bytes_;
  const SplitPolicy policy_;
  PlanMemo memo_;
  ResourceFeedback feedback_;
  std::array<SplitShares, 2> last_good_;  // by phase
  std::array<exec::BatchShape, PlanSolver::kMaxOpen> asked_;
  size_t n_asked_ = 0;
  exec::BatchShape load_;         // as SetLoad said
  exec::BatchShape target_load_;  // that targets were asked for, bucketed
  uint32_t target_factors_version_ = 0;
  PlacementTargets targets_;
  ScheduleChoice schedule_;
  uint64_t next_solve_id_ = 1;
  SplitInputs inputs_;      // of Predict, so that it allocates nothing
  PlannerSnapshot counts_;  // the step thread's

  mutable Mutex mutex_;
  PlannerSnapshot published_ ABSL_GUARDED_BY(mutex_);
};

// The classes of `shape`'s tokens under `shares`: whole tokens, each in one class.
exec::TokenClasses ScaleShares(const exec::BatchShape& shape, const SplitShares& shares);

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_PLANNER_H_
