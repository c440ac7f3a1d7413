// spillway.v1.AdminService: what the daemon is doing, from the scheduler's snapshot, and what it would do.
// Thread-safe.
#ifndef SPILLWAY_SERVER_ADMIN_SERVICE_H_
#define SPILLWAY_SERVER_ADMIN_SERVICE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "engine/kv/geometry.h"
#include "profiler/machine_profile.h"
#include "server/message_call.h"
#include "server/serving_state.h"
#include "server/trace_recorder.h"
#include "spillway/v1/admin.grpc.pb.h"

namespace spillway::server {

// A row of the memory table.
struct MemoryUse {
  std::string place;  // "host", "device"
  std::string use;    // "weights", "kv_pool", "scratch"
  int64_t bytes = 0;
};

// What does not change once the model is loaded.
struct StaticStatus {
  std::string device;
  kv::Geometry geometry;
  std::vector<MemoryUse> memory;
  int32_t max_sequences = 0;
  int32_t max_queue = 0;
  int32_t context_tokens = 0;
  int64_t max_connections = 0;
  scheduler::ServedMemory served_memory;
};

class AdminService final : public MessageService {
 public:
  // All must outlive the service.
  AdminService(const ServingState& state, const Clock& clock, CallWaits& waits, Telemetry& telemetry,
               const Authorizer& authorizer);

  // Once, when the model is loaded.
  void SetStatic(StaticStatus status);
  // At most once, before serving.
  void SetProfile(const profiler::MachineProfile& profile);
  // Once, before serving: what Drain calls, which must not block.
  void SetDrain(std::function<void()> drain);
  // Ends the recording that is under way; it is answered before this returns. No other begins.
  void StopTraces() { traces_.Stop(); }

 private:
  v1::GetStatusResponse GetStatus();
  absl::StatusOr<v1::GetProfileResponse> GetProfile();
  // Answered on the plan solver's thread, whose queue is bounded; an error: not at all.
  absl::Status ExplainPlan(AnswerCall& call, const grpc::ByteBuffer& bytes);
  absl::Status Drain();
  // Answered on the recorder's thread, earlier where its client goes away; an error: not at all.
  absl::Status RecordTrace(AnswerCall& call, const grpc::ByteBuffer& bytes);

  const ServingState& state_;
  const Clock& clock_;
  const MonotonicNs start_ns_;
  Mutex mutex_;
  StaticStatus static_ ABSL_GUARDED_BY(mutex_);
  std::optional<v1::GetProfileResponse> profile_ ABSL_GUARDED_BY(mutex_);
  std::function<void()> drain_ ABSL_GUARDED_BY(mutex_);
  TraceRecorder traces_;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_ADMIN_SERVICE_H_
