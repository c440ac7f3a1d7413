// What the daemon is doing, and what calls need once a model is loaded. Thread-safe.
#ifndef SPILLWAY_SERVER_SERVING_STATE_H_
#define SPILLWAY_SERVER_SERVING_STATE_H_

#include <atomic>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/exec/timeline.h"
#include "scheduler/plan_solver.h"
#include "scheduler/scheduler.h"
#include "server/request_reader.h"
#include "server/served_model.h"

namespace spillway::server {

enum class ServerPhase : uint8_t {
  kLoading,
  kServing,
  kLameDuck,  // says that it is not serving, and still accepts
  kDraining,  // refuses; what runs may finish
  kFailed,    // the device is lost
};

// Parts of a loaded engine that calls use; they outlive the gRPC server.
struct Backend {
  // `plan_solver` may be null: without a profile nothing is planned. So may `steps_timeline`: nothing is
  // recorded.
  Backend(const ServedModel& served, scheduler::Scheduler& steps,
          scheduler::PlanSolver* plan_solver = nullptr, exec::Timeline* steps_timeline = nullptr)
      : model(served), scheduler(steps), plans(plan_solver), timeline(steps_timeline), reader(served) {}

  const ServedModel& model;
  scheduler::Scheduler& scheduler;
  scheduler::PlanSolver* const plans;
  exec::Timeline* const timeline;
  const RequestReader reader;
};

class ServingState {
 public:
  // `backend` outlives every call. Before kServing.
  void Publish(const Backend* backend) { backend_.store(backend, std::memory_order_release); }
  void Enter(ServerPhase phase) { phase_.store(phase, std::memory_order_release); }

  ServerPhase phase() const { return phase_.load(std::memory_order_acquire); }
  bool ready() const { return phase() == ServerPhase::kServing; }
  // Null while loading.
  const Backend* backend() const { return backend_.load(std::memory_order_acquire); }

  // For calls that only need the model: kNotReady while loading.
  absl::StatusOr<const Backend*> Loaded() const;
  // For generation: also kDraining and kEngineFailed.
  absl::StatusOr<const Backend*> Accepting() const;

 private:
  std::atomic<ServerPhase> phase_{ServerPhase::kLoading};
  std::atomic<const Backend*> backend_{nullptr};
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_SERVING_STATE_H_
