#include "server/planner_setup.h"

#include "base/status_macros.h"

namespace spillway::server {

absl::StatusOr<scheduler::PlanModes> ReadPlanModes(const Settings& settings) {
  return scheduler::ParsePlanModes(settings.split, settings.residency, settings.schedule);
}

absl::Status CheckPlanModes(const Settings& settings, const model::ModelConfig& config,
                            const device::Device& device) {
  SPILLWAY_ASSIGN_OR_RETURN(const scheduler::PlanModes modes, ReadPlanModes(settings));
  const auto element_bytes = static_cast<double>(device::SizeOf(device.info().compute_dtype));
  scheduler::ServedCache cache;
  cache.beta_bytes = 2.0 * config.n_kv_heads * config.d_head * element_bytes;
  cache.chi_bytes = config.d_model * element_bytes;
  cache.has_link = !device.info().host_addressable;
  // Behind a link a missing profile is measured.
  cache.has_profile = cache.has_link || !settings.profile.empty();
  return scheduler::CheckPlanModes(modes, cache);
}

absl::StatusOr<std::unique_ptr<scheduler::Planner>> CreatePlanner(const Settings& settings,
                                                                  scheduler::PlanSolver& solver,
                                                                  const kv::HostPool& pool) {
  scheduler::PlannerOptions options;
  SPILLWAY_ASSIGN_OR_RETURN(options.modes, ReadPlanModes(settings));
  options.store_x = pool.stores_x();
  options.pool_bytes = static_cast<double>(pool.size_bytes());
  return std::make_unique<scheduler::Planner>(solver, options);
}

}  // namespace spillway::server
