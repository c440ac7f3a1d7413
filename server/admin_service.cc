#include "server/admin_service.h"

#include <string>
#include <utility>

#include "server/message_bytes.h"

namespace spillway::server {
namespace {

v1::ServerState ToWire(ServerPhase phase) {
  switch (phase) {
    case ServerPhase::kLoading:
      return v1::SERVER_STATE_LOADING;
    case ServerPhase::kServing:
      return v1::SERVER_STATE_SERVING;
    case ServerPhase::kLameDuck:
    case ServerPhase::kDraining:
      return v1::SERVER_STATE_DRAINING;
    case ServerPhase::kFailed:
      return v1::SERVER_STATE_FAILED;
  }
  return v1::SERVER_STATE_UNSPECIFIED;
}

void Fill(const scheduler::SchedulerSnapshot& now, v1::GetStatusResponse* out) {
  out->set_running_sequences(now.running_sequences);
  out->set_prefilling_sequences(now.prefilling_sequences);
  out->set_paused_sequences(now.paused_sequences);
  out->set_waiting_requests(now.waiting_requests);
  out->set_waiting_tokens(now.waiting_tokens);
  out->set_prompt_tokens_per_s(now.prompt_tokens_per_s);
  out->set_generated_tokens_per_s(now.generated_tokens_per_s);
  out->set_running_requests(now.running_requests);
  out->set_returned_sequences(now.returned_sequences);
  out->set_prefix_queried_tokens(now.prefix_queried_tokens);
  out->set_prefix_hit_tokens(now.prefix_hit_tokens);
  out->set_preemptions(now.preemptions);
  v1::BlockUsage& blocks = *out->mutable_blocks();
  blocks.set_total(now.blocks.total_blocks);
  blocks.set_free(now.blocks.free_blocks);
  blocks.set_in_use(now.blocks.in_use_blocks);
  blocks.set_cached(now.blocks.cached_blocks);
}

}  // namespace

AdminService::AdminService(const ServingState& state, const Clock& clock, CallWaits& waits)
    : MessageService(std::string(v1::AdminService::service_full_name())),
      state_(state),
      clock_(clock),
      start_ns_(clock.NowNs()) {
  AddAnswer("GetStatus", waits, [this](AnswerCall& call, const grpc::ByteBuffer& bytes) {
    v1::GetStatusRequest request;
    if (const absl::Status parsed = ParseMessage(bytes, &request); !parsed.ok()) return call.Answer(parsed);
    call.Answer(SerializeMessage(GetStatus()));
  });
}

void AdminService::SetStatic(StaticStatus status) {
  MutexLock lock(mutex_);
  static_ = std::move(status);
}

v1::GetStatusResponse AdminService::GetStatus() {
  v1::GetStatusResponse out;
  out.set_version(SPILLWAY_VERSION);
  out.set_state(ToWire(state_.phase()));
  out.set_uptime_s(ToSeconds(clock_.NowNs() - start_ns_));
  if (const Backend* backend = state_.backend(); backend != nullptr) {
    out.set_model(backend->model.name());
    Fill(backend->scheduler.Snapshot(), &out);
    MutexLock lock(mutex_);
    out.set_device(static_.device);
    out.mutable_blocks()->set_block_tokens(static_.geometry.block_tokens);
    out.mutable_blocks()->set_block_bytes(static_.geometry.block_bytes(kv::Form::kKv));
    for (const MemoryUse& use : static_.memory) {
      v1::MemoryUse& row = *out.add_memory();
      row.set_place(use.place);
      row.set_use(use.use);
      row.set_bytes(use.bytes);
    }
  }
  return out;
}

}  // namespace spillway::server
