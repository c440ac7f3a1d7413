// SplitMeasured: repeated steps of one batch under one plan, and what was predicted of them.
#ifndef SPILLWAY_BENCH_SPLIT_MEASURE_H_
#define SPILLWAY_BENCH_SPLIT_MEASURE_H_

#include <vector>

#include "absl/status/statusor.h"
#include "bench/split_session.h"
#include "nlohmann/json.hpp"

namespace spillway::bench {

double Median(std::vector<double> values);                // REQUIRES: !values.empty()
double Percentile(std::vector<double> values, double p);  // the nearest rank; REQUIRES: !values.empty()

struct SplitMeasured {
  exec::SplitPlan first_plan;  // made before any of the steps, those that warm up among them
  exec::SplitPlan plan;        // of the last step
  std::vector<exec::StepStats> steps;

  double step_s() const;  // median
  // Of all steps and the time between them. What one step fetches for the next counts in the next.
  double link_busy_share() const;
  double lane_busy_s(exec::Lane lane) const;  // median
  int64_t carried_bytes() const;              // of the last step
  // Share of the carried tokens that was carried as X.
  double x_share() const;
  // |predicted / measured - 1|, from the profile alone.
  double prediction_error() const;
  bool link_binds() const { return plan.binding == exec::Resource::kLinkIn; }

  nlohmann::json ToJson() const;
};

// `n` steps of the session's batch, back to back, after some that warm up; no more than half of them where
// these took the same time within kAgreed. The stores of a prefill's steps are finished by later ones, so
// that as many are run first as may be on their way: what is measured is the pace that lasts.
constexpr double kAgreed = 0.005;
absl::StatusOr<SplitMeasured> MeasureSteps(SplitSession& session, scheduler::Planner& planner,
                                           exec::Phase phase, int32_t n);
// The same after steps of the same batch: one warms up. The planner is told what each took.
absl::StatusOr<SplitMeasured> MeasureMoreSteps(SplitSession& session, scheduler::Planner& planner, int32_t n);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_SPLIT_MEASURE_H_
