#include "bench/gpu_targets.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "bench/gpu_bounds.h"
#include "bench/split_measure.h"

namespace spillway::bench {
namespace {

using nlohmann::json;

std::string Number(const GpuTarget& target, double value) {
  return target.kind == GpuTarget::Kind::kRatio ? absl::StrFormat("%.2f x", value)
                                                : absl::StrFormat("%.1f %%", 100 * value);
}

// Of each model, the row of mode transfer without residents that has most cached tokens.
std::vector<GpuTarget> LinkTargets(const json& report) {
  std::vector<GpuTarget> targets;
  for (const json& machine : report.at("machines")) {
    const json* most = nullptr;
    for (const json& row : report.at("rows")) {
      if (row.at("model") != machine.at("model") || row.at("link_mb_per_s") != machine.at("link_mb_per_s") ||
          row.at("mode") != "transfer" || row.at("resident_share") != 0 || row.at("step_s").empty()) {
        continue;
      }
      if (most == nullptr || row.at("carried_bytes") > most->at("carried_bytes")) most = &row;
    }
    if (most == nullptr) continue;
    const double step_s = Median(most->at("step_s").get<std::vector<double>>());
    const double peak = machine.at("profiled_link_in_bytes_per_s").get<double>();
    const bool emulated = report.at("link") == "emulated";
    GpuTarget target;
    const auto model = machine.at("model").get<std::string>();
    target.name = absl::StrCat("link_split_", model);
    target.what = absl::StrCat("link, split benchmark's ", model, " step");
    target.asked = 0.9;
    target.measured = ShareOfRate(most->at("carried_bytes").get<double>(), step_s, peak);
    target.of = absl::StrFormat("the profile's %s of%s copies in; link busy %.0f %%", FormatRate(peak, "B"),
                                emulated ? " an EMULATED link's" : "",
                                100 * most->at("link_busy_share").get<double>());
    targets.push_back(std::move(target));
  }
  return targets;
}

}  // namespace

void PrintTargets(const std::vector<GpuTarget>& targets, int32_t whole_layers, std::ostream& out) {
  size_t width = 0;
  for (const GpuTarget& target : targets) width = std::max(width, target.what.size());
  const int what = static_cast<int>(width);
  const bool any_whole = std::any_of(targets.begin(), targets.end(),
                                     [](const GpuTarget& target) { return target.whole.has_value(); });
  const std::string heading = any_whole ? absl::StrFormat("as %d layers", whole_layers) : "";
  out << absl::StrFormat("  %-*s  %10s  %9s  %-7s  %12s  %s\n", what, "what", "asked", "measured", "",
                         heading, "of what");
  for (const GpuTarget& target : targets) {
    const std::string asked =
        absl::StrCat(target.kind == GpuTarget::Kind::kError ? "<= " : ">= ", Number(target, target.asked));
    const std::string whole =
        target.whole.has_value() ? absl::StrCat("~ ", Number(target, *target.whole)) : "";
    out << absl::StrFormat("  %-*s  %10s  %9s  %-7s  %12s  %s\n", what, target.what, asked,
                           target.measured.has_value() ? Number(target, *target.measured) : "-",
                           !target.measured.has_value() ? "skipped"
                           : target.met()               ? "ok"
                                                        : "MISS",
                           whole, target.of);
  }
}

json ToJson(const GpuTarget& target) {
  json out = {{"name", target.name}, {"what", target.what}, {"asked", target.asked}, {"of", target.of}};
  out["asked_is"] = target.kind == GpuTarget::Kind::kError ? "at most" : "at least";
  out["measured"] = target.measured.has_value() ? json(*target.measured) : json(nullptr);
  out["met"] = target.measured.has_value() ? json(target.met()) : json(nullptr);
  if (target.whole.has_value()) out["estimated_for_all_layers"] = *target.whole;
  return out;
}

absl::StatusOr<std::vector<GpuTarget>> TargetsOfSplit(const json& report) {
  try {
    if (report.at("benchmark") != "split") return absl::InvalidArgumentError("it is of another benchmark");
    std::vector<GpuTarget> targets = LinkTargets(report);
    GpuTarget target;
    target.name = "prediction_error";
    target.what = "step time's prediction, median error";
    target.kind = GpuTarget::Kind::kError;
    target.asked = 0.1;
    if (report.contains("prediction") && report.at("prediction").contains("profile alone")) {
      const json& alone = report.at("prediction").at("profile alone");
      target.measured = alone.at("error_median").get<double>();
      target.of = absl::StrFormat("%d shapes that nothing was fitted to, feedback frozen",
                                  alone.at("shapes").get<int>());
    } else {
      target.of = "the split benchmark predicted nothing";
    }
    targets.push_back(std::move(target));
    return targets;
  } catch (const json::exception& error) {
    return absl::InvalidArgumentError(error.what());
  }
}

}  // namespace spillway::bench
