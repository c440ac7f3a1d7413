#include "server/admin_service.h"

#include <utility>

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
  out->set_tokens_per_s(now.tokens_per_s);
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

AdminService::AdminService(const ServingState& state, const Clock& clock)
    : state_(state), clock_(clock), start_ns_(clock.NowNs()) {}

void AdminService::SetStatic(StaticStatus status) {
  MutexLock lock(mutex_);
  static_ = std::move(status);
}

grpc::ServerUnaryReactor* AdminService::GetStatus(grpc::CallbackServerContext* context,
                                                  const v1::GetStatusRequest* /*request*/,
                                                  v1::GetStatusResponse* response) {
  response->set_version(SPILLWAY_VERSION);
  response->set_state(ToWire(state_.phase()));
  response->set_uptime_s(ToSeconds(clock_.NowNs() - start_ns_));
  if (const Backend* backend = state_.backend(); backend != nullptr) {
    response->set_model(backend->model.name());
    Fill(backend->scheduler.Snapshot(), response);
    MutexLock lock(mutex_);
    response->set_device(static_.device);
    response->mutable_blocks()->set_block_tokens(static_.geometry.block_tokens);
    response->mutable_blocks()->set_block_bytes(static_.geometry.block_bytes(kv::Form::kKv));
    for (const MemoryUse& use : static_.memory) {
      v1::MemoryUse& row = *response->add_memory();
      row.set_place(use.place);
      row.set_use(use.use);
      row.set_bytes(use.bytes);
    }
  }
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace spillway::server
