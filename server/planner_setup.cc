#include "server/planner_setup.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "profiler/machine_profile.h"

namespace spillway::server {

namespace {

// "32 layers of 4096, 8 KV heads of 128"
std::string ShapeText(int32_t n_layers, int32_t d_model, int32_t n_kv_heads, int32_t d_head) {
  return absl::StrCat(n_layers, " layers of ", d_model, ", ", n_kv_heads, " KV heads of ", d_head);
}

}  // namespace

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
  cache.has_profile = !settings.profile.empty();
  return scheduler::CheckPlanModes(modes, cache);
}

absl::StatusOr<std::unique_ptr<scheduler::PlanSolver>> CreatePlanSolver(const Settings& settings,
                                                                        const model::ModelConfig& config) {
  if (settings.profile.empty()) return nullptr;
  absl::StatusOr<profiler::MachineProfile> profile = profiler::LoadProfile(settings.profile);
  if (!profile.ok()) {
    return absl::Status(profile.status().code(), absl::StrCat("--profile: ", profile.status().message()));
  }
  const profiler::ProfiledModel& model = profile->model;
  const std::string measured = ShapeText(model.n_layers, model.d_model, model.n_kv_heads, model.d_head);
  const std::string served = ShapeText(config.n_layers, config.d_model, config.n_kv_heads, config.d_head);
  if (measured != served) {
    return absl::FailedPreconditionError(absl::StrCat("--profile=", settings.profile, ": measured for ",
                                                      model.name, " (", measured, "), and this model has ",
                                                      served, "; use a profile of this model"));
  }
  return std::make_unique<scheduler::PlanSolver>(*std::move(profile));
}

absl::StatusOr<std::unique_ptr<scheduler::Planner>> CreatePlanner(const Settings& settings,
                                                                  scheduler::PlanSolver& solver,
                                                                  const exec::Executor& executor,
                                                                  const kv::HostPool& pool) {
  scheduler::PlannerOptions options;
  SPILLWAY_ASSIGN_OR_RETURN(options.modes, ReadPlanModes(settings));
  options.store_x = pool.form() != kv::Form::kKv;
  options.pool_bytes = static_cast<double>(pool.size_bytes());
  options.residency_bytes = static_cast<double>(executor.residency_bytes());
  return std::make_unique<scheduler::Planner>(solver, options);
}

}  // namespace spillway::server
