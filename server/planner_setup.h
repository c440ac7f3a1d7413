// How steps are planned, from flags: modes, the profile, and the planner over both.
#ifndef SPILLWAY_SERVER_PLANNER_SETUP_H_
#define SPILLWAY_SERVER_PLANNER_SETUP_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/device.h"
#include "engine/exec/executor.h"
#include "engine/kv/host_pool.h"
#include "engine/model/model_config.h"
#include "scheduler/plan_modes.h"
#include "scheduler/plan_solver.h"
#include "scheduler/planner.h"
#include "server/settings.h"

namespace spillway::server {

// --split, --residency and --schedule. InvalidArgument names the flag and what is allowed.
absl::StatusOr<scheduler::PlanModes> ReadPlanModes(const Settings& settings);
// What is known before anything is loaded: whether they can serve this model on this device.
absl::Status CheckPlanModes(const Settings& settings, const model::ModelConfig& config,
                            const device::Device& device);

// Of an executor that splits: its residency_bytes() are to be set once every work item is there. `solver`
// must outlive the planner.
absl::StatusOr<std::unique_ptr<scheduler::Planner>> CreatePlanner(const Settings& settings,
                                                                  scheduler::PlanSolver& solver,
                                                                  const kv::HostPool& pool);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_PLANNER_SETUP_H_
