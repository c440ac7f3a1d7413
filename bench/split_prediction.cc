#include "bench/split_prediction.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "bench/split_session.h"

namespace spillway::bench {
namespace {

constexpr int32_t kLongest = 1024;
constexpr int64_t kMostTokens = 4096;

void Summarize(const std::string& name, const std::vector<double>& errors, SplitReport& report) {
  if (errors.empty()) return;
  const double median = Median(errors), p95 = Percentile(errors, 95);
  report.Line(
      absl::StrFormat("%-14s %d shapes: off by %.1f %% at the median, %.1f %% at p95, %.1f %% at most", name,
                      errors.size(), 100 * median, 100 * p95, 100 * Percentile(errors, 100)));
  report["prediction"][name] = {
      {"shapes", errors.size()}, {"error_median", median}, {"error_p95", p95}, {"errors", errors}};
}

}  // namespace

absl::Status PredictUnseen(const SplitMachine& machine, const SplitBenchOptions& options, int n,
                           uint64_t seed, const std::atomic<bool>& stop, SplitReport& report,
                           PredictionErrors* errors) {
  SplitSessionOptions session_options;
  session_options.max_cached_tokens = kMostTokens;
  SPILLWAY_ASSIGN_OR_RETURN(const auto session, SplitSession::Create(machine, session_options));
  SPILLWAY_ASSIGN_OR_RETURN(const auto frozen, ModePlanner::Create(machine, "auto", /*feedback=*/false));
  SPILLWAY_ASSIGN_OR_RETURN(const auto learning, ModePlanner::Create(machine, "auto", /*feedback=*/true));
  report.Section(absl::StrFormat("Shapes that nothing was fitted to: %s, %s", machine.options().model.name,
                                 machine.DescribeLink()));
  report.Line(absl::StrFormat("%-28s %7s %10s %10s %7s %15s", "batch", "X share", "ms a step", "predicted",
                              "error", "with feedback"));
  for (const SplitBatch& batch : DrawBatches(seed, n, kLongest, kMostTokens)) {
    if (stop.load()) break;
    SPILLWAY_RETURN_IF_ERROR(session->SetBatch(batch));
    SPILLWAY_ASSIGN_OR_RETURN(const SplitMeasured measured,
                              MeasureSteps(*session, frozen->planner(), batch.phase, options.steps));
    // The prediction is made before anything of the shape was learned.
    SPILLWAY_ASSIGN_OR_RETURN(const SplitMeasured learned,
                              MeasureMoreSteps(*session, learning->planner(), options.steps));
    const double corrected_s = learned.first_plan.corrected_step_s;
    errors->frozen.push_back(measured.prediction_error());
    errors->with_feedback.push_back(std::abs(corrected_s / learned.step_s() - 1));
    report.Line(absl::StrFormat("%-28s %7.2f %10.1f %10.1f %+6.1f%% %+14.1f%%", batch.Describe(),
                                measured.x_share(), measured.step_s() * 1e3,
                                measured.plan.predicted_step_s * 1e3,
                                100 * (measured.plan.predicted_step_s / measured.step_s() - 1),
                                100 * (corrected_s / learned.step_s() - 1)));
    nlohmann::json json = measured.ToJson();
    json["model"] = machine.options().model.name;
    json["link_mb_per_s"] = machine.options().link_mb_per_s;
    json["batch"] = batch.ToJson();
    json["with_feedback"] = learned.ToJson();
    json["with_feedback"]["predicted_step_s"] = corrected_s;
    const scheduler::ResourceFactors factors = learning->planner().Snapshot().factors;  // with this shape's
    json["with_feedback"]["factors"] = {
        {"link_in", factors.link_in}, {"link_out", factors.link_out}, {"compute", factors.compute}};
    report["unseen"].push_back(std::move(json));
  }
  return absl::OkStatus();
}

void SummarizeErrors(const PredictionErrors& errors, SplitReport& report) {
  if (errors.frozen.empty()) return;
  report.Section("Predictions of shapes that nothing was fitted to (asked: 10 % at the median, 20 % at p95)");
  Summarize("profile alone", errors.frozen, report);
  Summarize("with feedback", errors.with_feedback, report);
  report.Ratio("prediction_error_median", Median(errors.frozen));
}

}  // namespace spillway::bench
