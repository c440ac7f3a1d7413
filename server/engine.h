// Engine: a model on a device, ready to generate: weights, pool, executor and scheduler in the order in which
// they need each other, sized from settings and from the machine's memory. Knows no concrete device.
#ifndef SPILLWAY_SERVER_ENGINE_H_
#define SPILLWAY_SERVER_ENGINE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "engine/device/device.h"
#include "engine/exec/executor.h"
#include "engine/exec/timeline.h"
#include "engine/kv/block_store.h"
#include "engine/kv/host_pool.h"
#include "engine/model/model.h"
#include "profiler/machine_profile.h"
#include "scheduler/plan_solver.h"
#include "scheduler/planner.h"
#include "scheduler/scheduler.h"
#include "server/admin_service.h"
#include "server/profile_step.h"
#include "server/served_model.h"
#include "server/settings.h"
#include "server/start_times.h"

namespace spillway::server {

// What a model file says before anything of it is loaded.
struct ModelHeader {
  model::ModelConfig config;
  scheduler::SamplingParams sampling;  // the file's generation defaults, else neutral
};

// The file of --chat_template, before minutes are spent on weights. Errors name the flag and the way out.
absl::Status CheckChatTemplate(const Settings& settings);

// Of --model or --random_weights. Errors are one line with file, offset and remedy.
absl::StatusOr<ModelHeader> ReadModelHeader(const Settings& settings);

// --context, else what the model was made for. InvalidArgument where it is more than that.
absl::StatusOr<int32_t> ContextTokens(const Settings& settings, const ModelHeader& header);

// The model that --model or --random_weights names, on the device; says in the log how far loading is. Errors
// are one line that names the file and the remedy.
absl::StatusOr<model::Model> LoadServedModel(const Settings& settings, const ModelHeader& header,
                                             device::Device& device);

// Host memory that a link carries from and to.
struct LinkedMemory {
  std::string use;  // "weights", "kv_pool"
  int64_t bytes = 0;
  bool page_locked = false;
};

class Engine {
 public:
  // Says what it does in the log as it goes. `device` and `observer` must outlive the engine. Errors are one
  // line that names the file or flag and the remedy.
  static absl::StatusOr<std::unique_ptr<Engine>> Load(const Settings& settings, const ModelHeader& header,
                                                      device::Device& device, scheduler::Observer& observer);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Starts the step thread and generates a few tokens, so that the first client pays for nothing that is done
  // once. Fails where the engine does not answer within `timeout_ms`.
  absl::Status WarmUp(int64_t timeout_ms);

  const ServedModel& model() const { return model_; }
  scheduler::Scheduler& scheduler() { return *scheduler_; }
  // Null without a profile.
  scheduler::PlanSolver* plan_solver() { return plan_solver_.get(); }
  // What the lanes do, for whoever records it.
  exec::Timeline& timeline() { return timeline_; }
  const kv::Geometry& geometry() const { return pool_->geometry(); }
  const std::vector<MemoryUse>& memory() const { return memory_; }
  // Empty where there is no link.
  const std::vector<LinkedMemory>& linked_memory() const { return linked_memory_; }
  const scheduler::ServedMemory& served_memory() const { return served_memory_; }
  // How long each phase of the start took; the last one once WarmUp is done.
  const StartTimes& start_times() const { return start_times_; }
  // Empty where none was asked for or could be measured.
  const std::optional<profiler::MachineProfile>& profile() const { return obtained_profile_.profile; }
  bool is_profile_unsaved() const { return obtained_profile_.is_unsaved; }

 private:
  Engine() = default;

  absl::Status DescribeModel(const Settings& settings, const ModelHeader& header,
                             const device::Device& device);
  // Notes what is page-locked; where some is not, plans are made for the link as it then is.
  absl::Status PlanForPageableMemory(const Settings& settings, device::Device& device);

  StartTimes start_times_{Clock::Real()};
  model::Model loaded_;
  ServedModel model_;
  ObtainedProfile obtained_profile_;
  std::unique_ptr<kv::HostPool> pool_;
  std::unique_ptr<kv::BlockStore> blocks_;
  exec::Timeline timeline_;
  std::unique_ptr<exec::Executor> executor_;
  std::unique_ptr<scheduler::PlanSolver> plan_solver_;  // where there is a profile
  std::unique_ptr<scheduler::Planner> planner_;         // and the executor splits
  std::unique_ptr<scheduler::Scheduler> scheduler_;     // stops before the others go
  std::vector<MemoryUse> memory_;
  std::vector<LinkedMemory> linked_memory_;
  scheduler::ServedMemory served_memory_;
};

// The memory table, a line a row: use, bytes on the host and on the device.
std::string MemoryTable(const std::vector<MemoryUse>& memory);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_ENGINE_H_
