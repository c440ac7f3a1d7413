#include "scheduler/plan_inputs.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/bytes.h"
#include "base/status_macros.h"

namespace spillway::scheduler {
namespace {

using exec::BatchShape;
using exec::SplitMode;
using profiler::MachineProfile;

constexpr std::array<const char*, exec::kResources> kResourceNames = {
    "link in", "link out", "link both ways", "compute", "host attention", "host memory"};

absl::Status InRange(double value, double low, double high, absl::string_view name) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("%s is %g; it must lie in [%g, %g]", name, value, low, high));
}

absl::Status CheckQuery(const PlanQuery& q) {
  SPILLWAY_RETURN_IF_ERROR(InRange(q.sequences, 1, 1e6, "sequences"));
  SPILLWAY_RETURN_IF_ERROR(InRange(static_cast<double>(q.context_tokens), 1, 1e9, "context_tokens"));
  SPILLWAY_RETURN_IF_ERROR(InRange(static_cast<double>(q.shared_tokens), 0,
                                   static_cast<double>(q.context_tokens), "shared_tokens"));
  SPILLWAY_RETURN_IF_ERROR(InRange(q.device_memory_bytes, 0, 1e15, "device_memory_bytes"));
  SPILLWAY_RETURN_IF_ERROR(InRange(q.host_pool_bytes, 0, 1e15, "host_pool_bytes"));
  return InRange(q.scratch_bytes, 0, 1e15, "scratch_bytes");
}

int64_t DistinctTokens(const PlanQuery& q) {
  return q.shared_tokens + q.sequences * (q.context_tokens - q.shared_tokens);
}

// Residency decided by the placement problem under both memories, or nothing resident.
absl::StatusOr<SplitSolution> Solve(const MachineProfile& profile, const PlanExplanation& e, SplitMode mode,
                                    bool resident) {
  const PlanQuery& q = e.query;
  BatchShape shape;
  shape.sequences = q.sequences;
  shape.new_tokens = q.sequences;
  shape.reads_tokens = q.sequences * q.context_tokens;
  shape.host_both_tokens = DistinctTokens(q);
  if (q.stream_weights) {
    shape.weight_load_bytes = static_cast<int64_t>(profile.model.layer_weight_bytes * profile.model.n_layers);
  }
  const bool store_x = profile.model.chi_bytes() < profile.model.beta_bytes();
  SplitInputs inputs = MakeSplitInputs(profile, shape, mode, store_x);
  inputs.placement = PlacementBudget{resident ? e.residency_bytes : 0, q.host_pool_bytes};
  return SolveSplit(inputs);
}

}  // namespace

SplitInputs MakeSplitInputs(const MachineProfile& profile, const BatchShape& shape, SplitMode mode,
                            bool store_x) {
  const profiler::ProfiledModel& model = profile.model;
  SplitInputs in;
  in.mode = mode;
  in.beta_bytes = model.beta_bytes();
  in.chi_bytes = model.chi_bytes();
  in.head_s = profile.head.At(std::max(1, shape.sequences));
  in.rates.link_in_bytes_per_s = profile.copy_in.bytes_per_s;
  in.rates.link_out_bytes_per_s = profile.copy_out.bytes_per_s;
  in.rates.link_both_bytes_per_s = profile.copy_both_bytes_per_s;
  in.rates.host_memory_bytes_per_s = profile.host_memory_bytes_per_s;
  // Host attention is measured and planned for before an executor can do it.
  in.rates.host_attention_bytes_per_s = 0;
  for (const profiler::CostPiece& piece : profile.rebuild.pieces) {
    in.rates.rebuild.pieces.push_back({piece.fixed_s, piece.per_unit_s});
  }
  LayerGroup group;
  group.n_layers = model.n_layers;
  group.resident_kv_tokens = static_cast<double>(shape.resident_kv_tokens);
  group.resident_x_tokens = static_cast<double>(shape.resident_x_tokens);
  group.host_kv_tokens = static_cast<double>(shape.host_kv_tokens);
  group.host_x_tokens = static_cast<double>(shape.host_x_tokens);
  group.host_both_tokens = static_cast<double>(shape.host_both_tokens);
  group.linear_s = profile.linear.At(std::max(1, shape.new_tokens));
  group.attention_s =
      shape.reads_tokens > 0 ? profile.attention.At(static_cast<double>(shape.reads_tokens)) : 0;
  group.weight_bytes = static_cast<double>(shape.weight_load_bytes) / model.n_layers;
  group.store_bytes = shape.new_tokens * (in.beta_bytes + (store_x ? in.chi_bytes : 0));
  in.groups = {group};
  return in;
}

absl::StatusOr<PlanExplanation> ExplainPlan(const MachineProfile& profile, const PlanQuery& query) {
  SPILLWAY_RETURN_IF_ERROR(profiler::ValidateProfile(profile));
  SPILLWAY_RETURN_IF_ERROR(CheckQuery(query));
  const profiler::ProfiledModel& model = profile.model;
  PlanExplanation e;
  e.query = query;
  if (e.query.device_memory_bytes == 0) e.query.device_memory_bytes = profile.device_memory_bytes;
  if (e.query.host_pool_bytes == 0) e.query.host_pool_bytes = profile.host_memory_bytes;
  e.weight_bytes = query.stream_weights ? model.weight_bytes - (model.n_layers - 2) * model.layer_weight_bytes
                                        : model.weight_bytes;
  e.cache_bytes = static_cast<double>(DistinctTokens(query)) * model.beta_bytes() * model.n_layers;
  const double fixed_bytes = e.weight_bytes + e.query.scratch_bytes;
  e.residency_bytes = e.query.device_memory_bytes - fixed_bytes;
  if (e.residency_bytes < 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("weights and scratch take ", FormatBytes(static_cast<int64_t>(fixed_bytes)),
                     " of device memory, of which there is ",
                     FormatBytes(static_cast<int64_t>(e.query.device_memory_bytes)),
                     query.stream_weights ? "" : "; stream the weights, or use a smaller model"));
  }
  const std::pair<SplitMode, const char*> modes[] = {{SplitMode::kAuto, "auto"},
                                                     {SplitMode::kSerial, "serial"},
                                                     {SplitMode::kTransfer, "transfer"},
                                                     {SplitMode::kRebuild, "rebuild"}};
  for (const bool resident : {true, false}) {
    for (const auto& [mode, name] : modes) {
      SPILLWAY_ASSIGN_OR_RETURN(SplitSolution solution, Solve(profile, e, mode, resident));
      PlanAlternative alternative;
      alternative.name = absl::StrCat(name, ", residency ", resident ? "auto" : "off");
      alternative.tokens_per_s = solution.step_s > 0 ? query.sequences / solution.step_s : 0;
      alternative.solution = std::move(solution);
      e.alternatives.push_back(std::move(alternative));
    }
  }
  return e;
}

std::string FormatExplanation(const MachineProfile& profile, const PlanExplanation& e) {
  const auto bytes = [](double value) { return FormatBytes(static_cast<int64_t>(value)); };
  const PlanAlternative& best = e.alternatives.front();
  const GroupSplit& split = best.solution.groups.front();
  std::string out;
  absl::StrAppend(&out, "profile   ", profile.description, "\n", "model     ", profile.model.name, ", ",
                  profile.model.n_layers, " layers, beta ", profile.model.beta_bytes(), " B, chi ",
                  profile.model.chi_bytes(), " B a token a layer\n");
  absl::StrAppendFormat(&out, "batch     %d sequences of %d cached tokens (%d shared)\n\n", e.query.sequences,
                        e.query.context_tokens, e.query.shared_tokens);
  absl::StrAppendFormat(&out, "device memory  %s: weights %s, scratch %s, cached tokens %s\n",
                        bytes(e.query.device_memory_bytes), bytes(e.weight_bytes),
                        bytes(e.query.scratch_bytes), bytes(e.residency_bytes));
  absl::StrAppendFormat(&out, "K and V of all tokens  %s, host pool %s\n\n", bytes(e.cache_bytes),
                        bytes(e.query.host_pool_bytes));
  absl::StrAppendFormat(
      &out,
      "tokens a layer  resident as KV %.0f, resident as X %.0f, carried as KV %.0f, carried as X "
      "%.0f, attended on the host %.0f\n",
      split.resident_kv_tokens, split.resident_x_tokens, split.carried_kv_tokens, split.carried_x_tokens,
      split.host_attended_tokens);
  for (int r = 0; r < exec::kResources; ++r) {
    const double seconds = best.solution.resource_s[static_cast<size_t>(r)];
    absl::StrAppendFormat(&out, "  %-16s %10.3f ms%s\n", kResourceNames[static_cast<size_t>(r)],
                          seconds * 1e3, r == static_cast<int>(best.solution.binding) ? "  <- binds" : "");
  }
  absl::StrAppend(&out, "\n");
  for (const PlanAlternative& alternative : e.alternatives) {
    absl::StrAppendFormat(&out, "%-26s %10.3f ms a step %10.1f tokens/s\n", alternative.name,
                          alternative.solution.step_s * 1e3, alternative.tokens_per_s);
  }
  return out;
}

}  // namespace spillway::scheduler
