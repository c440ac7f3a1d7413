// PlanSolver: the one thread that owns GLPK's objects. It solves what the planner asks, and between two of
// its questions those of ExplainPlan, whatever numbers a client sent.
//
// Why a thread of its own when a solve takes microseconds: GLPK keeps an environment per thread and aborts
// the process where it finds itself inconsistent, so one thread makes its objects; a solve that should ever
// take long delays nobody but those who wait for it, each for as long as it chose; and a client's question
// never runs on the step thread or on one of gRPC's.
//
// Thread-safe, but for Ask and TakeAnswer: one thread (the step thread) makes those calls, and neither
// allocates.
#ifndef SPILLWAY_SCHEDULER_PLAN_SOLVER_H_
#define SPILLWAY_SCHEDULER_PLAN_SOLVER_H_

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "engine/exec/split_plan.h"
#include "profiler/machine_profile.h"
#include "scheduler/plan_explanation.h"
#include "scheduler/plan_inputs.h"
#include "scheduler/split_problem.h"

namespace spillway::scheduler {

// A carry problem, or with a budget a placement problem, of one shape on the profiled machine.
struct SolveRequest {
  exec::BatchShape shape;
  SplitPolicy policy;
  ResourceFactors factors;
  uint32_t factors_version = 0;  // returned with the answer
  std::optional<PlacementBudget> placement;
};

struct SolveAnswer {
  SolveRequest request;
  bool ok = false;
  GroupSplit split;
  double step_s = 0;
  int64_t solve_ns = 0;
};

class PlanSolver {
 public:
  using Solve = std::function<absl::StatusOr<SplitSolution>(const SplitInputs&)>;
  using Explained = std::function<void(absl::StatusOr<PlanExplanation>)>;

  struct Options {
    int32_t max_questions = 8;  // calls of Explain that wait
    Solve solve = &SolveSplit;  // of Ask; tests put others in its place
  };

  // REQUIRES: the profile passed ValidateProfile. Starts the thread.
  explicit PlanSolver(profiler::MachineProfile profile) : PlanSolver(std::move(profile), Options()) {}
  PlanSolver(profiler::MachineProfile profile, Options options);
  // Waits for what is being solved; Explain's callers that wait hear Unavailable.
  ~PlanSolver();
  PlanSolver(const PlanSolver&) = delete;
  PlanSolver& operator=(const PlanSolver&) = delete;

  const profiler::MachineProfile& profile() const { return profile_; }

  // --- Any thread. `done` is called once, on the solver's thread (or on the destructor's); it must be quick
  // and must not throw. ResourceExhausted (kPlannerBusy) where max_questions wait already: then `done` is not
  // called.
  absl::Status Explain(const PlanQuery& query, Explained done);

  // --- The step thread.
  // False where the queue is full: the question is dropped.
  bool Ask(const SolveRequest& request);
  // An answer, in the order of questions. Waits for one up to `wait` where a question is open; false where
  // none came.
  bool TakeAnswer(SolveAnswer* answer, std::chrono::nanoseconds wait);
  // Questions asked whose answers were not taken.
  int32_t open_questions() const { return open_; }

  static constexpr int32_t kMaxOpen = 16;

 private:
  // Fixed room for kMaxOpen, first in first out.
  template <typename T>
  struct Ring {
    std::array<T, kMaxOpen> items;
    size_t first = 0;
    size_t count = 0;

    void Push(const T& item) { items[(first + count++) % kMaxOpen] = item; }
    T Pop() {
      const size_t at = first;
      first = (first + 1) % kMaxOpen;
      --count;
      return items[at];
    }
  };
  struct Question {
    PlanQuery query;
    Explained done;
  };

  void Run();
  SolveAnswer AnswerTo(const SolveRequest& request);

  const profiler::MachineProfile profile_;
  const Options options_;
  int32_t open_ = 0;       // the step thread's
  uint64_t failures_ = 0;  // the solver thread's

  Mutex mutex_;
  CondVar asked_;
  CondVar answered_;
  Ring<SolveRequest> requests_ ABSL_GUARDED_BY(mutex_);
  Ring<SolveAnswer> answers_ ABSL_GUARDED_BY(mutex_);
  std::deque<Question> questions_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // the last to be made
};

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_PLAN_SOLVER_H_
