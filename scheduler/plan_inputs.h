// From measured rates and a batch shape to the split's linear program. Pure functions of their arguments.
#ifndef SPILLWAY_SCHEDULER_PLAN_INPUTS_H_
#define SPILLWAY_SCHEDULER_PLAN_INPUTS_H_

#include "engine/exec/split_plan.h"
#include "profiler/machine_profile.h"
#include "scheduler/split_problem.h"

namespace spillway::scheduler {

// What holds for every step: how tokens are split, and whether new blocks store X beside K and V.
struct SplitPolicy {
  exec::SplitMode mode = exec::SplitMode::kAuto;
  double fixed_fraction = 0;  // kFixed
  bool store_x = false;
};

// By how much longer a resource takes than the profile says. What has no lane of its own has no factor: both
// directions together change as the two do, the host's memory not at all.
struct ResourceFactors {
  double link_in = 1;
  double link_out = 1;
  double compute = 1;
};

// The carry problem of `shape` on the profiled machine, corrected by `factors`. `shape.new_tokens` rows store
// their K and V, and their X too where `policy.store_x`. Replaces all of `inputs`; a second time for the same
// profile it allocates nothing. REQUIRES: the profile passed ValidateProfile, factors above 0.
void FillSplitInputs(const profiler::MachineProfile& profile, const exec::BatchShape& shape,
                     const SplitPolicy& policy, const ResourceFactors& factors, SplitInputs* inputs);
SplitInputs MakeSplitInputs(const profiler::MachineProfile& profile, const exec::BatchShape& shape,
                            const SplitPolicy& policy = {}, const ResourceFactors& factors = {});

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_PLAN_INPUTS_H_
