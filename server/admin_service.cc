#include "server/admin_service.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"
#include "base/reason.h"
#include "base/status_macros.h"
#include "profiler/profile_text.h"
#include "scheduler/plan_explanation.h"
#include "scheduler/plan_inputs.h"
#include "scheduler/plan_solver.h"
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
  blocks.set_stored_as_x(now.blocks.forms.x_blocks);
  blocks.set_stored_as_both(now.blocks.forms.both_blocks);
}

scheduler::PlanQuery ToQuery(const v1::ExplainPlanRequest& in) {
  scheduler::PlanQuery query;
  if (in.sequences() != 0) query.sequences = in.sequences();
  if (in.context_tokens() != 0) query.context_tokens = in.context_tokens();
  query.shared_tokens = in.shared_tokens();
  query.device_memory_bytes = static_cast<double>(in.device_memory_bytes());
  query.host_pool_bytes = static_cast<double>(in.host_pool_bytes());
  if (in.has_scratch_bytes()) query.scratch_bytes = static_cast<double>(in.scratch_bytes());
  query.stream_weights = in.stream_weights();
  return query;
}

// Of a query that was found good: its numbers fit.
void Fill(const scheduler::PlanQuery& query, v1::ExplainPlanRequest* out) {
  out->set_sequences(query.sequences);
  out->set_context_tokens(query.context_tokens);
  out->set_shared_tokens(query.shared_tokens);
  out->set_device_memory_bytes(static_cast<int64_t>(query.device_memory_bytes));
  out->set_host_pool_bytes(static_cast<int64_t>(query.host_pool_bytes));
  if (query.scratch_bytes.has_value()) out->set_scratch_bytes(static_cast<int64_t>(*query.scratch_bytes));
  out->set_stream_weights(query.stream_weights);
}

void Fill(const scheduler::PlanAlternative& alternative, v1::PlanAlternative* out) {
  const scheduler::SplitSolution& solution = alternative.solution;
  const scheduler::GroupSplit& split = solution.groups.front();
  out->set_name(alternative.name);
  out->set_does_not_fit(alternative.does_not_fit);
  if (!alternative.does_not_fit.empty()) return;
  out->set_step_s(solution.step_s);
  out->set_tokens_per_s(alternative.tokens_per_s);
  out->set_resident_kv_tokens(split.resident_kv_tokens);
  out->set_resident_x_tokens(split.resident_x_tokens);
  out->set_carried_kv_tokens(split.carried_kv_tokens);
  out->set_carried_x_tokens(split.carried_x_tokens);
  out->set_host_attended_tokens(split.host_attended_tokens);
  for (int i = 0; i < exec::kResources; ++i) {
    const auto resource = static_cast<exec::Resource>(i);
    v1::ResourceTime& time = *out->add_resources();
    time.set_resource(std::string(scheduler::NameOf(resource)));
    time.set_seconds(solution.resource_s[static_cast<size_t>(i)]);
    time.set_binds(resource == solution.binding);
  }
}

void Fill(const scheduler::PlanExplanation& e, v1::ExplainPlanResponse* out) {
  out->set_profile(e.profile);
  out->set_model(e.model);
  out->set_n_layers(e.n_layers);
  out->set_beta_bytes(e.beta_bytes);
  out->set_chi_bytes(e.chi_bytes);
  Fill(e.query, out->mutable_query());
  out->set_weight_bytes(e.weight_bytes);
  out->set_cache_bytes(e.cache_bytes);
  out->set_residency_bytes(e.residency_bytes);
  for (const scheduler::PlanAlternative& alternative : e.alternatives) {
    Fill(alternative, out->add_alternatives());
  }
}

absl::Status NoProfile() {
  return MakeError(Reason::kNoProfile, "this daemon has no profile of its machine and model to plan with");
}

v1::GetProfileResponse ToWire(const profiler::MachineProfile& profile) {
  v1::GetProfileResponse out;
  out.set_json(profiler::ProfileToJson(profile));
  out.set_text(profiler::FormatProfile(profile));
  v1::ProfileNumbers& numbers = *out.mutable_numbers();
  numbers.set_source(std::string(profiler::NameOf(profile.source)));
  numbers.set_link_in_bytes_per_s(profile.copy_in.bytes_per_s);
  numbers.set_link_out_bytes_per_s(profile.copy_out.bytes_per_s);
  numbers.set_link_both_bytes_per_s(profile.copy_both_bytes_per_s);
  numbers.set_copy_overhead_s(profile.copy_in.overhead_s);
  numbers.set_rebuild_tokens_per_s(1 / profile.rebuild.pieces.back().per_unit_s);
  numbers.set_attention_reads_per_s(1 / profile.attention.pieces.back().per_unit_s);
  numbers.set_host_memory_bytes_per_s(profile.host_memory_bytes_per_s);
  numbers.set_compute_slowdown_by_link(profile.compute_slowdown_by_link);
  numbers.set_fit_error(profiler::WorstFitError(profile));
  numbers.set_measuring_s(profile.measuring_s);
  return out;
}

v1::TraceLane ToWire(exec::Lane lane) {
  switch (lane) {
    case exec::Lane::kWeightLoad:
      return v1::TRACE_LANE_WEIGHT_LOAD;
    case exec::Lane::kXLoad:
      return v1::TRACE_LANE_X_LOAD;
    case exec::Lane::kKvLoad:
      return v1::TRACE_LANE_KV_LOAD;
    case exec::Lane::kCompute:
      return v1::TRACE_LANE_COMPUTE;
    case exec::Lane::kKvStore:
      return v1::TRACE_LANE_KV_STORE;
    case exec::Lane::kXStore:
      return v1::TRACE_LANE_X_STORE;
  }
  return v1::TRACE_LANE_UNSPECIFIED;
}

void Fill(const exec::Recording& recording, v1::RecordTraceResponse* out) {
  out->set_duration_s(ToSeconds(recording.end_ns - recording.begin_ns));
  out->set_dropped_spans(recording.dropped_spans);
  for (const exec::TimelineSpan& span : recording.spans) {
    v1::TraceSpan& wire = *out->add_spans();
    wire.set_lane(ToWire(span.label.lane));
    wire.set_waiting(span.label.waiting);
    wire.set_prefill(span.label.phase == exec::Phase::kPrefill);
    wire.set_step(span.label.step);
    wire.set_layer(span.label.layer);
    wire.set_begin_ns(span.begin_ns - recording.begin_ns);
    wire.set_duration_ns(span.end_ns - span.begin_ns);
    wire.set_bytes(span.label.bytes);
  }
}

// Who did something to the daemon, for whoever asks later.
void LogAsked(absl::string_view what, const AnswerCall& call) {
  Log(LogLevel::kInfo, "an admin call",
      {{"what", what}, {"tenant", call.tenant_name()}, {"peer", call.peer()}});
}

constexpr int64_t kTraceMs = 1'000;
constexpr int64_t kTraceMsMax = 60'000;

}  // namespace

AdminService::AdminService(const ServingState& state, const Clock& clock, CallWaits& waits,
                           Telemetry& telemetry, const Authorizer& authorizer)
    : MessageService(std::string(v1::AdminService::service_full_name()), waits,
                     {&authorizer, Access::kAdmin, &telemetry}),
      state_(state),
      clock_(clock),
      start_ns_(clock.NowNs()) {
  AddAnswer("GetStatus", [this](AnswerCall& call, const grpc::ByteBuffer& bytes) {
    v1::GetStatusRequest request;
    if (const absl::Status parsed = ParseSmallMessage(bytes, &request); !parsed.ok())
      return call.Answer(parsed);
    call.Answer(SerializeMessage(GetStatus()));
  });
  AddAnswer("GetProfile", [this](AnswerCall& call, const grpc::ByteBuffer& bytes) {
    v1::GetProfileRequest request;
    if (const absl::Status parsed = ParseSmallMessage(bytes, &request); !parsed.ok())
      return call.Answer(parsed);
    const absl::StatusOr<v1::GetProfileResponse> profile = GetProfile();
    if (!profile.ok()) return call.Answer(profile.status());
    call.Answer(SerializeMessage(*profile));
  });
  AddAnswer("ExplainPlan", [this](AnswerCall& call, const grpc::ByteBuffer& bytes) {
    if (const absl::Status refused = ExplainPlan(call, bytes); !refused.ok()) call.Answer(refused);
  });
  AddAnswer("Drain", [this](AnswerCall& call, const grpc::ByteBuffer& bytes) {
    v1::DrainRequest request;
    if (const absl::Status parsed = ParseSmallMessage(bytes, &request); !parsed.ok())
      return call.Answer(parsed);
    if (const absl::Status refused = Drain(); !refused.ok()) return call.Answer(refused);
    LogAsked("drain", call);
    call.Answer(SerializeMessage(v1::DrainResponse()));
  });
  AddAnswer("RecordTrace", [this](AnswerCall& call, const grpc::ByteBuffer& bytes) {
    if (const absl::Status refused = RecordTrace(call, bytes); !refused.ok()) call.Answer(refused);
  });
}

void AdminService::SetStatic(StaticStatus status) {
  MutexLock lock(mutex_);
  static_ = std::move(status);
}

void AdminService::SetProfile(const profiler::MachineProfile& profile) {
  v1::GetProfileResponse answer = ToWire(profile);
  MutexLock lock(mutex_);
  profile_ = std::move(answer);
}

void AdminService::SetDrain(std::function<void()> drain) {
  MutexLock lock(mutex_);
  drain_ = std::move(drain);
}

absl::Status AdminService::Drain() {
  std::function<void()> drain;
  {
    MutexLock lock(mutex_);
    drain = drain_;
  }
  // Before it serves there is nothing to drain: a signal ends it.
  SPILLWAY_RETURN_IF_ERROR(state_.Loaded().status());
  if (drain != nullptr) drain();
  return absl::OkStatus();
}

absl::StatusOr<v1::GetProfileResponse> AdminService::GetProfile() {
  SPILLWAY_RETURN_IF_ERROR(state_.Loaded().status());
  MutexLock lock(mutex_);
  if (!profile_.has_value()) return NoProfile();
  return *profile_;
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
    v1::Limits& limits = *out.mutable_limits();
    limits.set_max_sequences(static_.max_sequences);
    limits.set_max_queue(static_.max_queue);
    limits.set_context_tokens(static_.context_tokens);
    limits.set_max_connections(static_.max_connections);
  }
  return out;
}

absl::Status AdminService::ExplainPlan(AnswerCall& call, const grpc::ByteBuffer& bytes) {
  v1::ExplainPlanRequest request;
  SPILLWAY_RETURN_IF_ERROR(ParseSmallMessage(bytes, &request));
  SPILLWAY_ASSIGN_OR_RETURN(const Backend* const backend, state_.Loaded());
  if (backend->plans == nullptr) return NoProfile();
  scheduler::ServedMemory served;
  {
    MutexLock lock(mutex_);
    served = static_.served_memory;
  }
  return backend->plans->Explain(scheduler::WithDefaults(ToQuery(request), served),
                                 [&call](const absl::StatusOr<scheduler::PlanExplanation>& answer) {
                                   if (!answer.ok()) return call.Answer(answer.status());
                                   v1::ExplainPlanResponse response;
                                   Fill(*answer, &response);
                                   call.Answer(SerializeMessage(response));
                                 });
}

absl::Status AdminService::RecordTrace(AnswerCall& call, const grpc::ByteBuffer& bytes) {
  v1::RecordTraceRequest request;
  SPILLWAY_RETURN_IF_ERROR(ParseSmallMessage(bytes, &request));
  const int64_t duration_ms = request.duration_ms() == 0 ? kTraceMs : request.duration_ms();
  if (duration_ms < 1 || duration_ms > kTraceMsMax) {
    return MakeFieldError({{"duration_ms", absl::StrCat("is ", duration_ms, "; allowed: 1..", kTraceMsMax)}});
  }
  SPILLWAY_ASSIGN_OR_RETURN(const Backend* const backend, state_.Loaded());
  SPILLWAY_CHECK(backend->timeline != nullptr);
  SPILLWAY_ASSIGN_OR_RETURN(const uint64_t number,
                            traces_.Record(*backend->timeline, std::chrono::milliseconds(duration_ms),
                                           [this, &call, backend](const exec::Recording& recording) {
                                             v1::RecordTraceResponse response;
                                             Fill(recording, &response);
                                             response.set_model(backend->model.name());
                                             {
                                               MutexLock lock(mutex_);
                                               response.set_device(static_.device);
                                             }
                                             call.Answer(SerializeMessage(response));
                                           }));
  LogAsked("record_trace", call);
  // Nobody else could record for the rest of the time. The call may be answered by now, but it is there until
  // its message's reaction, which this is, has returned.
  call.WhenGone([this, number] { traces_.End(number); });
  return absl::OkStatus();
}

}  // namespace spillway::server
