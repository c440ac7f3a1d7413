#include "bench/split_residency.h"

#include <algorithm>
#include <memory>

#include "absl/strings/str_format.h"
#include "base/bytes.h"
#include "base/status_macros.h"
#include "bench/split_session.h"

namespace spillway::bench {
namespace {

constexpr int32_t kStepsToClimb = 60;

// Until nothing comes to stay any more. The first steps bring the targets.
absl::Status Climb(SplitSession& session, scheduler::Planner& planner, const std::atomic<bool>& stop) {
  int32_t quiet = 0;
  for (int32_t i = 0; i < kStepsToClimb && quiet < 3 && !stop.load(); ++i) {
    SPILLWAY_ASSIGN_OR_RETURN(const SplitStep step, session.Step(planner));
    quiet = step.stats.promoted_tokens == 0 ? quiet + 1 : 0;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status MeasureResidency(const SplitMachine& machine, const SplitBenchOptions& options,
                              const std::atomic<bool>& stop, SplitReport& report) {
  if (options.resident == 0 || machine.form() != kv::Form::kBoth || stop.load()) return absl::OkStatus();
  const SplitBatch batch = UniformBatch(options.sequences_max(),
                                        *std::max_element(options.contexts.begin(), options.contexts.end()));
  SplitSessionOptions session_options;
  session_options.max_sequences = options.sequences_max();
  session_options.max_cached_tokens = options.cached_tokens_max();
  session_options.resident_tokens =
      static_cast<int64_t>(options.resident * static_cast<double>(options.cached_tokens_max()));
  const kv::Geometry& geometry = machine.geometry();
  const int64_t bytes = session_options.resident_tokens * geometry.beta_bytes() * geometry.n_layers;
  SPILLWAY_ASSIGN_OR_RETURN(const auto planner, ModePlanner::Create(machine, "auto", /*feedback=*/false,
                                                                    static_cast<double>(bytes)));
  SPILLWAY_ASSIGN_OR_RETURN(const auto session, SplitSession::Create(machine, session_options));
  SPILLWAY_RETURN_IF_ERROR(session->SetBatch(batch));
  SPILLWAY_RETURN_IF_ERROR(Climb(*session, planner->planner(), stop));
  SPILLWAY_ASSIGN_OR_RETURN(const SplitMeasured measured,
                            MeasureSteps(*session, planner->planner(), batch.phase, options.steps));

  const exec::TokenClasses& tokens = measured.steps.back().tokens;
  const auto share = [&tokens](int64_t n) {
    return static_cast<double>(n) / static_cast<double>(tokens.total_tokens());
  };
  const double kv = share(tokens.resident_kv_tokens), x = share(tokens.resident_x_tokens);
  report.Section(absl::StrFormat("%s of device memory for resident tokens: %s, %s", FormatBytes(bytes),
                                 machine.options().model.name, machine.DescribeLink()));
  report.Line(
      absl::StrFormat("as the linear program chooses, %.0f %% of the tokens as X and %.0f %% as K and V: "
                      "%.1f ms a step, predicted "
                      "%.1f",
                      100 * x, 100 * kv, measured.step_s() * 1e3, measured.plan.predicted_step_s * 1e3));
  nlohmann::json json = measured.ToJson();
  json["model"] = machine.options().model.name;
  json["link_mb_per_s"] = machine.options().link_mb_per_s;
  json["batch"] = batch.ToJson();
  json["residency_bytes"] = bytes;
  json["resident_x_share"] = x;
  json["resident_kv_share"] = kv;
  const SplitRow* const as_kv =
      report.Find(machine.options().model.name, machine.options().link_mb_per_s, "auto", options.resident);
  if (as_kv != nullptr) {
    const double ratio = as_kv->measured.step_s() / measured.step_s();
    report.Line(
        absl::StrFormat("all of it K and V, %.0f %% of the tokens: %.1f ms a step; %.2f times as long",
                        100 * options.resident, as_kv->measured.step_s() * 1e3, ratio));
    json["kv_step_s"] = as_kv->measured.step_s();
    // Of the slowest link, whose compute has most slack.
    if (machine.options().link_mb_per_s ==
        *std::min_element(options.links_mb_per_s.begin(), options.links_mb_per_s.end())) {
      report.Ratio("residency_auto_over_kv", ratio);
    }
  }
  report["residency"].push_back(std::move(json));
  return absl::OkStatus();
}

}  // namespace spillway::bench
