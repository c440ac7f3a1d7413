// A planner over a profile of a multi-head model, which tests ask for plans.
#ifndef SPILLWAY_TESTS_SCHEDULER_PLANNER_HARNESS_H_
#define SPILLWAY_TESTS_SCHEDULER_PLANNER_HARNESS_H_

#include <chrono>
#include <cstdint>

#include "gtest/gtest.h"
#include "scheduler/planner.h"
#include "tests/scheduler/profiles.h"

namespace spillway::scheduler {

// No test waits so long unless it is about to fail.
inline constexpr std::chrono::seconds kLong(20);

inline exec::BatchShape Decode(int32_t sequences, int64_t tokens) {
  exec::BatchShape shape;
  shape.sequences = shape.new_tokens = shape.head_rows = sequences;
  shape.reads_tokens = tokens + sequences;
  shape.host_both_tokens = tokens;
  return shape;
}

inline PlannerOptions PatientOptions() {
  PlannerOptions options;
  options.store_x = true;
  options.residency_bytes = 4e9;
  options.pool_bytes = 200e9;
  options.longest_wait = kLong;
  return options;
}

struct TestPlanner {
  explicit TestPlanner(const PlannerOptions& options = PatientOptions(),
                       const PlanSolver::Options& solver_options = PlanSolver::Options(),
                       const profiler::MachineProfile& profile = MultiHeadProfile())
      : solver(profile, solver_options), planner(solver, options) {}

  PlanSolver solver;
  Planner planner;
};

inline double SecondsOf(const exec::SplitPlan& plan, exec::Resource resource) {
  return plan.predicted_s[static_cast<size_t>(resource)];
}

// What a step would measure that did as planned, each resource slower by its factor.
inline exec::StepStats Measured(const TestPlanner& t, const exec::SplitPlan& plan, double in, double out,
                                double compute) {
  exec::StepStats stats;
  stats.tokens = plan.tokens;
  const auto copy = [&stats](exec::Lane lane, double seconds, double bytes_per_s, double factor) {
    stats.lanes[static_cast<size_t>(lane)].bytes = static_cast<int64_t>(seconds * bytes_per_s);
    stats.lanes[static_cast<size_t>(lane)].busy_ns = static_cast<int64_t>(seconds * factor * 1e9);
  };
  const double in_s = SecondsOf(plan, exec::Resource::kLinkIn),
               out_s = SecondsOf(plan, exec::Resource::kLinkOut);
  const double in_rate = t.solver.profile().copy_in.bytes_per_s;
  const double out_rate = t.solver.profile().copy_out.bytes_per_s;
  copy(exec::Lane::kKvLoad, in_s * 0.7, in_rate, in);
  copy(exec::Lane::kXLoad, in_s * 0.2, in_rate, in);
  copy(exec::Lane::kWeightLoad, in_s * 0.1, in_rate, in);
  copy(exec::Lane::kKvStore, out_s * 0.5, out_rate, out);
  copy(exec::Lane::kXStore, out_s * 0.5, out_rate, out);
  stats.lanes[static_cast<size_t>(exec::Lane::kCompute)].busy_ns =
      static_cast<int64_t>(SecondsOf(plan, exec::Resource::kCompute) * compute * 1e9);
  return stats;
}

inline void ExpectEveryTokenInOneClass(const exec::SplitPlan& plan) {
  const exec::BatchShape& s = plan.shape;
  const exec::TokenClasses& t = plan.tokens;
  EXPECT_EQ(t.total_tokens(), s.resident_kv_tokens + s.resident_x_tokens + s.host_kv_tokens +
                                  s.host_x_tokens + s.host_both_tokens);
  EXPECT_EQ(t.resident_kv_tokens, s.resident_kv_tokens);
  EXPECT_EQ(t.resident_x_tokens, s.resident_x_tokens);
  EXPECT_GE(t.carried_x_tokens, s.host_x_tokens);
  EXPECT_LE(t.carried_x_tokens, s.host_x_tokens + s.host_both_tokens);
  EXPECT_GE(t.carried_kv_tokens, 0);
  EXPECT_GE(t.host_attended_tokens, 0);
  EXPECT_LE(t.carried_kv_tokens + t.host_attended_tokens, s.host_kv_tokens + s.host_both_tokens);
}

}  // namespace spillway::scheduler

#endif  // SPILLWAY_TESTS_SCHEDULER_PLANNER_HARNESS_H_
