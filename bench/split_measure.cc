#include "bench/split_measure.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/status_macros.h"

namespace spillway::bench {
namespace {

using exec::Lane;

constexpr int32_t kDecodeWarmUp = 1;
constexpr int32_t kPrefillWarmUp = 6;

double LaneSeconds(const exec::StepStats& stats, Lane lane) {
  return static_cast<double>(stats.lanes[static_cast<size_t>(lane)].busy_ns) / 1e9;
}

double WallSeconds(const exec::StepStats& stats) { return static_cast<double>(stats.wall_ns) / 1e9; }

template <typename Function>
std::vector<double> OfEach(const std::vector<exec::StepStats>& steps, const Function& function) {
  std::vector<double> values;
  for (const exec::StepStats& stats : steps) values.push_back(function(stats));
  return values;
}

absl::StatusOr<SplitMeasured> Measure(SplitSession& session, scheduler::Planner& planner, int32_t warm_up,
                                      int32_t n) {
  SplitMeasured measured;
  for (int32_t i = -warm_up; i < n; ++i) {
    SPILLWAY_ASSIGN_OR_RETURN(const SplitStep step, session.Step(planner));
    planner.OnStep(step.plan, step.stats);
    if (i == -warm_up) measured.first_plan = step.plan;
    if (i < 0) continue;
    measured.plan = step.plan;
    measured.steps.push_back(step.stats);
    if (2 * (i + 1) < n || i == 0) continue;
    const std::vector<double> walls_s = OfEach(measured.steps, WallSeconds);
    const auto [least, most] = std::minmax_element(walls_s.begin(), walls_s.end());
    if (*most <= *least * (1 + kAgreed)) break;
  }
  return measured;
}

}  // namespace

double Percentile(std::vector<double> values, double p) {
  SPILLWAY_CHECK(!values.empty());
  const auto rank = static_cast<size_t>(std::ceil(p / 100 * static_cast<double>(values.size())));
  const auto nth = values.begin() + static_cast<std::ptrdiff_t>(std::max<size_t>(rank, 1) - 1);
  std::nth_element(values.begin(), nth, values.end());
  return *nth;
}

double Median(std::vector<double> values) {
  SPILLWAY_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

double SplitMeasured::step_s() const { return Median(OfEach(steps, WallSeconds)); }

double SplitMeasured::link_busy_share() const {
  double busy_s = 0;
  for (const exec::StepStats& stats : steps) {
    busy_s += LaneSeconds(stats, Lane::kKvLoad) + LaneSeconds(stats, Lane::kXLoad) +
              LaneSeconds(stats, Lane::kWeightLoad);
  }
  const MonotonicNs begin_ns = steps.front().begin_ns, end_ns = steps.back().begin_ns + steps.back().wall_ns;
  return busy_s / ToSeconds(end_ns - begin_ns);
}

double SplitMeasured::lane_busy_s(Lane lane) const {
  return Median(OfEach(steps, [lane](const exec::StepStats& stats) { return LaneSeconds(stats, lane); }));
}

int64_t SplitMeasured::carried_bytes() const {
  const auto& lanes = steps.back().lanes;
  return lanes[static_cast<size_t>(Lane::kKvLoad)].bytes + lanes[static_cast<size_t>(Lane::kXLoad)].bytes;
}

double SplitMeasured::x_share() const {
  const exec::TokenClasses& tokens = steps.back().tokens;
  const int64_t carried = tokens.carried_kv_tokens + tokens.carried_x_tokens;
  return carried > 0 ? static_cast<double>(tokens.carried_x_tokens) / static_cast<double>(carried) : 0;
}

double SplitMeasured::prediction_error() const { return std::abs(plan.predicted_step_s / step_s() - 1); }

nlohmann::json SplitMeasured::ToJson() const {
  nlohmann::json resources = nlohmann::json::object();
  for (int i = 0; i < exec::kResources; ++i) {
    resources[std::string(scheduler::NameOf(static_cast<exec::Resource>(i)))] =
        plan.predicted_s[static_cast<size_t>(i)];
  }
  return {{"step_s", OfEach(steps, WallSeconds)},
          {"predicted_step_s", plan.predicted_step_s},
          {"predicted_resource_s", resources},
          {"predicted_to_bind", std::string(scheduler::NameOf(plan.binding))},
          {"x_share", x_share()},
          {"resident_tokens", steps.back().tokens.resident_kv_tokens + steps.back().tokens.resident_x_tokens},
          {"carried_bytes", carried_bytes()},
          {"compute_busy_s", lane_busy_s(Lane::kCompute)},
          {"kv_load_busy_s", lane_busy_s(Lane::kKvLoad)},
          {"x_load_busy_s", lane_busy_s(Lane::kXLoad)},
          {"kv_store_busy_s", lane_busy_s(Lane::kKvStore)},
          {"x_store_busy_s", lane_busy_s(Lane::kXStore)},
          {"chunks_ahead", steps.back().chunks_ahead},
          {"chunks_dropped", steps.back().chunks_dropped},
          {"link_busy_share", link_busy_share()}};
}

absl::StatusOr<SplitMeasured> MeasureSteps(SplitSession& session, scheduler::Planner& planner,
                                           exec::Phase phase, int32_t n) {
  return Measure(session, planner, phase == exec::Phase::kPrefill ? kPrefillWarmUp : kDecodeWarmUp, n);
}

absl::StatusOr<SplitMeasured> MeasureMoreSteps(SplitSession& session, scheduler::Planner& planner,
                                               int32_t n) {
  return Measure(session, planner, kDecodeWarmUp, n);
}

}  // namespace spillway::bench
