#include "scheduler/plan_solver.h"

#include <bit>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/reason.h"
#include "scheduler/linear_program.h"

namespace spillway::scheduler {

PlanSolver::PlanSolver(profiler::MachineProfile profile, Options options)
    : profile_(std::move(profile)), options_(std::move(options)), thread_([this] {
        Run();
        ReleaseSolver();
      }) {
  SPILLWAY_CHECK(options_.max_questions > 0 && options_.solve != nullptr);
}

PlanSolver::~PlanSolver() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    asked_.NotifyAll();
  }
  thread_.join();
  MutexLock lock(mutex_);
  for (Question& question : questions_) {
    question.done(MakeError(Reason::kDraining, "the daemon is shutting down"));
  }
}

absl::Status PlanSolver::Explain(const PlanQuery& query, Explained done) {
  MutexLock lock(mutex_);
  if (const auto waiting = static_cast<int32_t>(questions_.size()); waiting >= options_.max_questions) {
    return MakeError(Reason::kPlannerBusy, absl::StrCat(waiting, " questions wait for the planner"),
                     {{"limit", absl::StrCat(options_.max_questions)}, {"value", absl::StrCat(waiting)}});
  }
  questions_.push_back({query, std::move(done)});
  asked_.NotifyOne();
  return absl::OkStatus();
}

bool PlanSolver::Ask(const SolveRequest& request) {
  if (open_ == kMaxOpen) return false;
  ++open_;
  MutexLock lock(mutex_);
  requests_.Push(request);
  asked_.NotifyOne();
  return true;
}

bool PlanSolver::TakeAnswer(SolveAnswer* answer, std::chrono::nanoseconds wait) {
  if (open_ == 0) return false;
  MutexLock lock(mutex_);
  if (answers_.count == 0 && wait.count() > 0) {
    const MonotonicNs until = Clock::Real().NowNs() + wait.count();
    while (answers_.count == 0) {
      const int64_t left = until - Clock::Real().NowNs();
      if (left <= 0) return false;
      answered_.WaitFor(mutex_, std::chrono::nanoseconds(left));
    }
  }
  if (answers_.count == 0) return false;
  *answer = answers_.Pop();
  --open_;
  return true;
}

void PlanSolver::Run() {
  while (true) {
    Question question;
    SolveRequest request;
    bool step_waits = false;
    {
      MutexLock lock(mutex_);
      while (!stopping_ && requests_.count == 0 && questions_.empty()) asked_.Wait(mutex_);
      if (stopping_) return;
      step_waits = requests_.count > 0;
      if (step_waits) {
        request = requests_.Pop();
      } else {
        question = std::move(questions_.front());
        questions_.pop_front();
      }
    }
    if (!step_waits) {
      question.done(ExplainPlan(profile_, question.query));
      continue;
    }
    const SolveAnswer answer = AnswerTo(request);
    MutexLock lock(mutex_);
    answers_.Push(answer);  // fits: no more than kMaxOpen questions are open
    answered_.NotifyOne();
  }
}

SolveAnswer PlanSolver::AnswerTo(const SolveRequest& request) {
  SolveAnswer answer;
  answer.request = request;
  const MonotonicNs begin_ns = Clock::Real().NowNs();
  SplitInputs inputs = MakeSplitInputs(profile_, request.shape, request.policy, request.factors);
  inputs.placement = request.placement;
  const absl::StatusOr<SplitSolution> solution = options_.solve(inputs);
  answer.solve_ns = Clock::Real().NowNs() - begin_ns;
  if (!solution.ok()) {
    // The first of them, then ever fewer.
    if (std::has_single_bit(++failures_)) {
      Log(LogLevel::kWarning, "no plan was found; the last good one stays in use",
          {{"error", solution.status().message()}, {"failures", static_cast<int64_t>(failures_)}});
    }
    return answer;
  }
  answer.ok = solution->groups.size() == 1 && std::isfinite(solution->step_s) && solution->step_s >= 0;
  if (!answer.ok) return answer;
  answer.split = solution->groups[0];
  answer.step_s = solution->step_s;
  return answer;
}

}  // namespace spillway::scheduler
