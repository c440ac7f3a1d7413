// PlanModes: --split, --residency and --schedule, parsed and checked against what the model can be served
// with. Plain values and pure functions.
#ifndef SPILLWAY_SCHEDULER_PLAN_MODES_H_
#define SPILLWAY_SCHEDULER_PLAN_MODES_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/exec/split_plan.h"

namespace spillway::scheduler {

enum class ResidencyMode : uint8_t { kAuto, kOff, kFixed };

struct PlanModes {
  exec::SplitMode split = exec::SplitMode::kAuto;
  double split_fraction = 0;  // kFixed: of the tokens that are not resident, carried as X
  ResidencyMode residency = ResidencyMode::kAuto;
  double residency_fraction = 0;           // kFixed: of the cached tokens, resident as KV
  std::optional<exec::Schedule> schedule;  // none: auto
};

// "auto", "serial", "transfer", "rebuild", "fixed:0.3"; "auto", "off", "fixed:0.5"; "auto", "row", "column".
// InvalidArgument names the flag, the value and what is allowed.
absl::StatusOr<PlanModes> ParsePlanModes(absl::string_view split, absl::string_view residency,
                                         absl::string_view schedule);

struct ServedCache {
  double beta_bytes = 0;
  double chi_bytes = 0;
  // Whether cached tokens reach attention over a link; without one nothing is split or resident by choice.
  bool has_link = false;
  bool has_profile = false;  // without one a step carries everything as keys and values
};

// Unimplemented or FailedPrecondition names the flag that cannot be served with this model and device, and
// which value can.
absl::Status CheckPlanModes(const PlanModes& modes, const ServedCache& cache);

// The flags as one would write them.
std::string SplitText(const PlanModes& modes);
std::string ResidencyText(const PlanModes& modes);

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_PLAN_MODES_H_
