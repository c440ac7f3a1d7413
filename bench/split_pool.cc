#include "bench/split_pool.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "bench/split_measure.h"
#include "bench/split_session.h"

namespace spillway::bench {
namespace {

// Questions are answered on another thread: so many plans at most until the targets are there.
constexpr int kPlansMax = 1000;

// The placement's, for this batch with nothing resident.
absl::StatusOr<scheduler::PlacementTargets> TargetsFor(const SplitBatch& batch, scheduler::Planner& planner) {
  exec::BatchShape shape;
  shape.phase = batch.phase;
  shape.sequences = shape.new_tokens = shape.head_rows = batch.rows();
  shape.reads_tokens = batch.cached_tokens() + batch.rows();
  shape.host_both_tokens = batch.distinct_tokens();
  for (int i = 0; i < kPlansMax && planner.targets().version == 0; ++i) {
    (void)planner.PlanFor(shape);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (planner.targets().version == 0) return absl::InternalError("the planner gave no placement targets");
  return planner.targets();
}

}  // namespace

absl::Status MeasurePool(const SplitMachine& machine, const SplitBenchOptions& options,
                         const std::atomic<bool>& stop, SplitReport& report) {
  if (machine.form() != kv::Form::kBoth || stop.load()) return absl::OkStatus();
  const SplitBatch batch = UniformBatch(options.sequences_max(),
                                        *std::max_element(options.contexts.begin(), options.contexts.end()));
  SPILLWAY_ASSIGN_OR_RETURN(const auto planner,
                            ModePlanner::Create(machine, "auto", /*feedback=*/false, /*residency_bytes=*/0));
  SPILLWAY_ASSIGN_OR_RETURN(const scheduler::PlacementTargets targets, TargetsFor(batch, planner->planner()));
  SplitSessionOptions session_options;
  session_options.max_sequences = options.sequences_max();
  session_options.max_cached_tokens = options.cached_tokens_max();
  session_options.prefills = false;
  session_options.x_share = targets.x_share;
  SPILLWAY_ASSIGN_OR_RETURN(const auto session, SplitSession::Create(machine, session_options));

  const kv::BlockCounts& full = session->filled();
  const kv::FormCounts& forms = full.forms;
  const auto over = [&](kv::Form form) {
    const int64_t blocks = full.total_slots / machine.geometry().block_slots(form);  // whole ones
    return static_cast<double>(forms.total_blocks()) / static_cast<double>(blocks);
  };
  const double over_kv = over(kv::Form::kKv), over_both = over(kv::Form::kBoth);
  const std::string& model = machine.options().model.name;
  const double link = machine.options().link_mb_per_s;
  report.Section(
      absl::StrFormat("The host pool at the target ratio of forms: %s, %s", model, machine.DescribeLink()));
  report.Line(
      absl::StrFormat("target: %.2f as X; %d slots hold %d blocks (%d as X, %d as K and V, %d as both): %.2f "
                      "times the tokens "
                      "a byte of K and V alone, %.2f of both forms",
                      targets.x_share, full.total_slots, forms.total_blocks(), forms.x_blocks,
                      forms.kv_blocks, forms.both_blocks, over_kv, over_both));
  nlohmann::json json;
  json["model"] = model;
  json["link_mb_per_s"] = link;
  json["batch"] = batch.ToJson();
  json["target_x_share"] = targets.x_share;
  json["slots"] = full.total_slots;
  json["blocks"] = {{"x", forms.x_blocks}, {"kv", forms.kv_blocks}, {"both", forms.both_blocks}};
  json["tokens_per_byte_over_kv"] = over_kv;
  json["tokens_per_byte_over_both"] = over_both;
  if (link == options.links_mb_per_s.front()) {
    report.Ratio("pool_tokens_over_kv", over_kv);
    report.Ratio("pool_tokens_over_both", over_both);
  }
  const SplitRow* const in_both = report.Find(model, link, "auto", 0);
  if (!options.quick && in_both != nullptr) {
    SPILLWAY_RETURN_IF_ERROR(session->SetBatch(in_both->batch));
    SPILLWAY_ASSIGN_OR_RETURN(const SplitMeasured measured,
                              MeasureSteps(*session, planner->planner(), batch.phase, options.steps));
    report.Line(absl::StrFormat(
        "%s: %.1f ms a step, %.2f of it carried as X; with every block in both forms %.1f, %.2f",
        in_both->batch.Describe(), measured.step_s() * 1e3, measured.x_share(),
        in_both->measured.step_s() * 1e3, in_both->measured.x_share()));
    json["steps"] = measured.ToJson();
    json["both_forms_step_s"] = in_both->measured.step_s();
  }
  report["pool"].push_back(std::move(json));
  return absl::OkStatus();
}

}  // namespace spillway::bench
