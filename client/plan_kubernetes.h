// `spillway plan --kubernetes`: a plan as a patch for the Deployment in deploy/kubernetes. Pure functions.
#ifndef SPILLWAY_CLIENT_PLAN_KUBERNETES_H_
#define SPILLWAY_CLIENT_PLAN_KUBERNETES_H_

#include <string>

#include "profiler/machine_profile.h"
#include "scheduler/plan_explanation.h"

namespace spillway::client {

// A strategic merge patch (YAML): the daemon's flags as environment variables, and the container's memory.
// `asked` is the query as the user gave it, where 0 is what was not said. Without --host_pool the pool holds
// every sequence at its full context, in whole blocks.
//
// Memory is the pool, the weights where they lie on the host, and 2 GiB for the process: code, buffers of
// calls, and pages of the model's file while it is read.
std::string KubernetesPatch(const profiler::MachineProfile& profile,
                            const scheduler::PlanExplanation& explanation, const scheduler::PlanQuery& asked);

}  // namespace spillway::client

#endif  // SPILLWAY_CLIENT_PLAN_KUBERNETES_H_
