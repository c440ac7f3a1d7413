#include "scheduler/plan_explanation.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/bytes.h"
#include "base/reason.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"
#include "scheduler/plan_inputs.h"

namespace spillway::scheduler {
namespace {

using exec::BatchShape;
using exec::SplitMode;
using profiler::MachineProfile;

// What staging, tails and activations take where nobody says it: 1 GiB, at most an eighth of the memory.
constexpr double kScratchBytes = 1 << 30;
constexpr double kScratchParts = 8;

// Of everything that is given in bytes.
constexpr double kBytesMax = 1e15;

constexpr int64_t kContextTokens = 4096;

// Every number that is out of range, by its name.
absl::Status CheckQuery(const PlanQuery& q, const profiler::ProfiledModel& model) {
  std::vector<FieldViolation> violations;
  const auto in_range = [&violations](double value, double low, double high, const char* field) {
    if (value >= low && value <= high) return;  // not so for a NaN
    // Enough digits to tell a number from the bound that it is just above.
    violations.push_back(
        {field, absl::StrFormat("is %.17g; it must lie in [%.17g, %.17g]", value, low, high)});
  };
  constexpr double kContextMax = 1e9;
  const auto context = static_cast<double>(q.context_tokens);
  in_range(q.sequences, 1, 1e6, "sequences");
  in_range(context, 1, kContextMax, "context_tokens");
  if (model.context_length > 0 && q.context_tokens > model.context_length) {
    violations.push_back({"context_tokens", absl::StrCat("is ", q.context_tokens, "; ", model.name,
                                                         " was made for ", model.context_length)});
  }
  // Part of the context, where that is one.
  in_range(static_cast<double>(q.shared_tokens), 0,
           context >= 1 && context <= kContextMax ? context : kContextMax, "shared_tokens");
  in_range(q.device_memory_bytes, 0, kBytesMax, "device_memory_bytes");
  in_range(q.host_pool_bytes, 0, kBytesMax, "host_pool_bytes");
  in_range(q.scratch_bytes.value_or(0), 0, kBytesMax, "scratch_bytes");
  in_range(q.residency_bytes.value_or(0), 0, kBytesMax, "residency_bytes");
  return violations.empty() ? absl::OkStatus() : MakeFieldError(violations);
}

// Numbers of bytes may be absurd without being refused; no conversion of them is undefined.
int64_t Whole(double value) { return static_cast<int64_t>(std::clamp(value, -9e18, 9e18)); }

// The weights leave no room.
absl::Status DeviceTooSmall(const PlanQuery& asked, const PlanExplanation& e) {
  // The least memory whose own default of scratch leaves them room.
  const double enough_bytes =
      asked.scratch_bytes.has_value()
          ? e.weight_bytes + *asked.scratch_bytes
          : std::min(e.weight_bytes + kScratchBytes, e.weight_bytes * kScratchParts / (kScratchParts - 1));
  return MakeError(
      Reason::kMemoryTooSmall,
      absl::StrCat("weights and scratch take ", FormatBytes(Whole(e.weight_bytes + *e.query.scratch_bytes)),
                   " of device memory, of which there is ", FormatBytes(Whole(e.query.device_memory_bytes)),
                   "; ", FormatExactBytes(Whole(std::ceil(enough_bytes))), " would do",
                   asked.stream_weights ? "" : ", or stream the weights, or use a smaller model"));
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
  shape.new_tokens = shape.head_rows = q.sequences;
  shape.reads_tokens = q.sequences * q.context_tokens;
  shape.host_both_tokens = DistinctTokens(q);
  if (q.stream_weights) {
    shape.weight_load_bytes = Whole(profile.model.layer_weight_bytes * profile.model.n_layers);
  }
  SplitPolicy policy;
  policy.mode = mode;
  policy.store_x = profile.model.chi_bytes() < profile.model.beta_bytes();
  SplitInputs inputs = MakeSplitInputs(profile, shape, policy);
  inputs.placement = PlacementBudget{resident ? e.residency_bytes : 0, q.host_pool_bytes};
  // As the daemon stores it; rebuilding needs it whatever it takes.
  inputs.placement->stores_x =
      mode == SplitMode::kRebuild || (mode != SplitMode::kTransfer && policy.store_x);
  inputs.placement->host_fixed_bytes = e.pool_weight_bytes;
  absl::StatusOr<SplitSolution> solution = SolveSplit(inputs);
  if (solution.ok()) return solution;
  switch (solution.status().code()) {
    case absl::StatusCode::kFailedPrecondition:
      return MakeError(Reason::kMemoryTooSmall, solution.status().message());
    case absl::StatusCode::kInvalidArgument:
      return MakeFieldError({{"context_tokens", std::string(solution.status().message())}});
    default:
      return MakeError(Reason::kInternal, solution.status().message());
  }
}

}  // namespace

PlanQuery WithDefaults(PlanQuery query, const ServedMemory& served) {
  if (query.host_pool_bytes == 0) query.host_pool_bytes = served.host_pool_bytes;
  if (query.device_memory_bytes != 0) return query;
  query.device_memory_bytes = served.device_memory_bytes;
  if (query.scratch_bytes.has_value() || (query.stream_weights && !served.streams_weights)) return query;
  query.stream_weights = served.streams_weights;
  query.residency_bytes = served.residency_bytes;
  return query;
}

absl::StatusOr<PlanExplanation> ExplainPlan(const MachineProfile& profile, const PlanQuery& asked) {
  SPILLWAY_RETURN_IF_ERROR(profiler::ValidateProfile(profile));
  const profiler::ProfiledModel& model = profile.model;
  PlanQuery query = asked;
  if (query.context_tokens == 0) {
    query.context_tokens =
        model.context_length > 0 ? std::min<int64_t>(kContextTokens, model.context_length) : kContextTokens;
  }
  SPILLWAY_RETURN_IF_ERROR(CheckQuery(query, model));
  PlanExplanation e;
  e.profile = profile.description;
  e.model = model.name;
  e.n_layers = model.n_layers;
  e.beta_bytes = model.beta_bytes();
  e.chi_bytes = model.chi_bytes();
  e.query = query;
  if (e.query.device_memory_bytes == 0) e.query.device_memory_bytes = profile.device_memory_bytes;
  if (e.query.host_pool_bytes == 0) {
    e.query.host_pool_bytes = profile.host_memory_bytes;
    e.pool_weight_bytes = query.stream_weights ? model.weight_bytes : 0;
  }
  e.weight_bytes = query.stream_weights ? model.weight_bytes - (model.n_layers - 2) * model.layer_weight_bytes
                                        : model.weight_bytes;
  e.cache_bytes = static_cast<double>(DistinctTokens(query)) * model.beta_bytes() * model.n_layers;
  if (e.query.residency_bytes.has_value()) {
    e.query.scratch_bytes =
        std::max(0.0, e.query.device_memory_bytes - e.weight_bytes - *e.query.residency_bytes);
  } else if (!e.query.scratch_bytes.has_value()) {
    e.query.scratch_bytes = std::min(kScratchBytes, e.query.device_memory_bytes / kScratchParts);
  }
  e.residency_bytes =
      e.query.residency_bytes.value_or(e.query.device_memory_bytes - e.weight_bytes - *e.query.scratch_bytes);
  if (e.residency_bytes < -0.5) return DeviceTooSmall(query, e);
  e.residency_bytes = std::max(0.0, e.residency_bytes);
  const std::pair<SplitMode, const char*> modes[] = {{SplitMode::kAuto, "auto"},
                                                     {SplitMode::kSerial, "serial"},
                                                     {SplitMode::kTransfer, "transfer"},
                                                     {SplitMode::kRebuild, "rebuild"}};
  for (const bool resident : {true, false}) {
    for (const auto& [mode, name] : modes) {
      absl::StatusOr<SplitSolution> solution = Solve(profile, e, mode, resident);
      PlanAlternative alternative;
      alternative.name = absl::StrCat(name, ", residency ", resident ? "auto" : "off");
      if (solution.ok()) {
        alternative.tokens_per_s = solution->step_s > 0 ? query.sequences / solution->step_s : 0;
        alternative.solution = *std::move(solution);
      } else if (e.alternatives.empty() || !absl::IsFailedPrecondition(solution.status())) {
        return solution.status();
      } else {
        alternative.does_not_fit = std::string(solution.status().message());
        alternative.solution.groups.resize(1);
      }
      e.alternatives.push_back(std::move(alternative));
    }
  }
  return e;
}

std::string FormatExplanation(const PlanExplanation& e) {
  const auto bytes = [](double value) { return FormatBytes(Whole(value)); };
  const PlanAlternative& best = e.alternatives.front();
  const GroupSplit& split = best.solution.groups.front();
  std::string out;
  absl::StrAppend(&out, "profile   ", e.profile, "\nmodel     ", e.model, ", ", e.n_layers, " layers, beta ",
                  e.beta_bytes, " B, chi ", e.chi_bytes, " B a token a layer\n");
  absl::StrAppendFormat(&out, "batch     %d sequences of %d cached tokens (%d shared)\n\n", e.query.sequences,
                        e.query.context_tokens, e.query.shared_tokens);
  absl::StrAppendFormat(&out, "device memory  %s: weights %s, scratch %s, cached tokens %s\n",
                        bytes(e.query.device_memory_bytes), bytes(e.weight_bytes),
                        bytes(*e.query.scratch_bytes), bytes(e.residency_bytes));
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
    absl::StrAppendFormat(&out, "  %-16s %10.3f ms%s\n", NameOf(static_cast<exec::Resource>(r)),
                          seconds * 1e3, r == static_cast<int>(best.solution.binding) ? "  <- binds" : "");
  }
  absl::StrAppend(&out, "\n");
  for (const PlanAlternative& alternative : e.alternatives) {
    if (!alternative.does_not_fit.empty()) {
      absl::StrAppendFormat(&out, "%-26s does not fit: %s\n", alternative.name, alternative.does_not_fit);
      continue;
    }
    absl::StrAppendFormat(&out, "%-26s %10.3f ms a step %10.1f tokens/s\n", alternative.name,
                          alternative.solution.step_s * 1e3, alternative.tokens_per_s);
  }
  return out;
}

std::string ExplanationToJson(const PlanExplanation& e) {
  nlohmann::json out = {{"schema_version", 1},
                        {"profile", e.profile},
                        {"model", e.model},
                        {"n_layers", e.n_layers},
                        {"beta_bytes", e.beta_bytes},
                        {"chi_bytes", e.chi_bytes},
                        {"sequences", e.query.sequences},
                        {"context_tokens", e.query.context_tokens},
                        {"shared_tokens", e.query.shared_tokens},
                        {"device_memory_bytes", e.query.device_memory_bytes},
                        {"host_pool_bytes", e.query.host_pool_bytes},
                        {"scratch_bytes", *e.query.scratch_bytes},
                        {"stream_weights", e.query.stream_weights},
                        {"weight_bytes", e.weight_bytes},
                        {"cache_bytes", e.cache_bytes},
                        {"residency_bytes", e.residency_bytes}};
  for (const PlanAlternative& alternative : e.alternatives) {
    if (!alternative.does_not_fit.empty()) {
      out["alternatives"].push_back({{"name", alternative.name}, {"does_not_fit", alternative.does_not_fit}});
      continue;
    }
    const SplitSolution& solution = alternative.solution;
    const GroupSplit& split = solution.groups.front();
    nlohmann::json resources;
    for (int r = 0; r < exec::kResources; ++r) {
      resources[std::string(NameOf(static_cast<exec::Resource>(r)))] =
          solution.resource_s[static_cast<size_t>(r)];
    }
    out["alternatives"].push_back({{"name", alternative.name},
                                   {"step_s", solution.step_s},
                                   {"tokens_per_s", alternative.tokens_per_s},
                                   {"resident_kv_tokens", split.resident_kv_tokens},
                                   {"resident_x_tokens", split.resident_x_tokens},
                                   {"carried_kv_tokens", split.carried_kv_tokens},
                                   {"carried_x_tokens", split.carried_x_tokens},
                                   {"host_attended_tokens", split.host_attended_tokens},
                                   {"resource_s", resources},
                                   {"binds", std::string(NameOf(solution.binding))}});
  }
  // Names come from files: what is not UTF-8 in them is replaced, not thrown at.
  return out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace spillway::scheduler
