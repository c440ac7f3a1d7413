#include "tests/client/fake_daemon.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "google/protobuf/any.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"

namespace spillway::client {

v1::StreamEvent StartedEvent(int32_t prompt_tokens) {
  v1::StreamEvent event;
  event.mutable_started()->set_model("fake");
  event.mutable_started()->set_prompt_tokens(prompt_tokens);
  event.mutable_started()->set_seed(17);
  return event;
}

v1::StreamEvent QueuedEvent(int32_t requests_ahead) {
  v1::StreamEvent event;
  event.mutable_progress()->set_stage(v1::STAGE_QUEUED);
  event.mutable_progress()->set_requests_ahead(requests_ahead);
  return event;
}

v1::StreamEvent ProgressEvent(v1::Stage stage, int32_t done, int32_t total, int32_t cached, int32_t index) {
  v1::StreamEvent event;
  event.mutable_progress()->set_stage(stage);
  event.mutable_progress()->set_done_tokens(done);
  event.mutable_progress()->set_total_tokens(total);
  event.mutable_progress()->set_cached_tokens(cached);
  event.mutable_progress()->set_index(index);
  return event;
}

v1::StreamEvent DeltaEvent(const std::string& text, const std::vector<int32_t>& ids, int32_t index) {
  v1::StreamEvent event;
  event.mutable_delta()->set_index(index);
  event.mutable_delta()->set_text(text);
  for (const int32_t id : ids) event.mutable_delta()->add_token_ids(id);
  return event;
}

v1::StreamEvent FinishedEvent(v1::FinishReason reason, int32_t index) {
  v1::StreamEvent event;
  event.mutable_finished()->set_index(index);
  event.mutable_finished()->set_reason(reason);
  return event;
}

v1::StreamEvent UsageEvent(int32_t prompt_tokens, int32_t generated_tokens) {
  v1::StreamEvent event;
  event.mutable_usage()->set_prompt_tokens(prompt_tokens);
  event.mutable_usage()->set_generated_tokens(generated_tokens);
  event.mutable_usage()->mutable_timings()->set_first_token_ms(12);
  event.mutable_usage()->mutable_timings()->set_decode_ms(1000);
  event.mutable_usage()->mutable_timings()->set_total_ms(1012);
  return event;
}

grpc::Status DaemonError(Reason reason, const std::string& message,
                         const std::vector<FieldViolation>& violations, int64_t retry_after_ms) {
  const ReasonInfo& info = InfoOf(reason);
  google::rpc::Status details;
  details.set_code(static_cast<int>(info.code));
  details.set_message(message);
  google::rpc::ErrorInfo error_info;
  error_info.set_reason(std::string(info.name));
  error_info.set_domain("spillway.dev");
  details.add_details()->PackFrom(error_info);
  if (!violations.empty()) {
    google::rpc::BadRequest bad_request;
    for (const FieldViolation& violation : violations) {
      auto* field = bad_request.add_field_violations();
      field->set_field(violation.field);
      field->set_description(violation.description);
    }
    details.add_details()->PackFrom(bad_request);
  }
  if (retry_after_ms > 0) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(retry_after_ms / 1000);
    retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(retry_after_ms % 1000 * 1'000'000));
    details.add_details()->PackFrom(retry);
  }
  return {static_cast<grpc::StatusCode>(info.code), message, details.SerializeAsString()};
}

Script AnswerOf(const std::vector<std::string>& pieces) {
  Script script;
  script.events.push_back(StartedEvent(3));
  int32_t id = 100;
  for (const std::string& piece : pieces) script.events.push_back(DeltaEvent(piece, {id++}));
  script.events.push_back(FinishedEvent(v1::FINISH_REASON_LENGTH));
  script.events.push_back(UsageEvent(3, static_cast<int32_t>(pieces.size())));
  return script;
}

class FakeDaemon::Inference final : public v1::InferenceService::Service {
 public:
  explicit Inference(FakeDaemon& daemon) : daemon_(daemon) {}

  grpc::Status StreamComplete(grpc::ServerContext* context, const v1::CompleteRequest* request,
                              grpc::ServerWriter<v1::StreamEvent>* writer) override {
    int call = 0;
    {
      MutexLock lock(daemon_.mutex_);
      daemon_.NoteAuthorization(*context);
      daemon_.completes_.push_back(*request);
      call = daemon_.calls_++;
    }
    return daemon_.Play(context, writer, call);
  }

  grpc::Status StreamChat(grpc::ServerContext* context, const v1::ChatRequest* request,
                          grpc::ServerWriter<v1::StreamEvent>* writer) override {
    int call = 0;
    {
      MutexLock lock(daemon_.mutex_);
      daemon_.chats_.push_back(*request);
      call = daemon_.calls_++;
    }
    return daemon_.Play(context, writer, call);
  }

  grpc::Status Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override {
    MutexLock lock(daemon_.mutex_);
    daemon_.tokenizes_.push_back(*request);
    response->add_token_ids(19556);
    response->add_pieces("Hello");
    response->add_token_ids(905);
    response->add_pieces("\n\xE2\x82");  // a newline and half a character
    return daemon_.unary_;
  }

  grpc::Status Detokenize(grpc::ServerContext*, const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* response) override {
    MutexLock lock(daemon_.mutex_);
    response->set_text(absl::StrCat(request->token_ids_size(), " ids"));
    return daemon_.unary_;
  }

  grpc::Status ListModels(grpc::ServerContext* context, const v1::ListModelsRequest*,
                          v1::ListModelsResponse* response) override {
    MutexLock lock(daemon_.mutex_);
    daemon_.NoteAuthorization(*context);
    FillModel(response->add_models());
    return daemon_.unary_;
  }

  grpc::Status GetModel(grpc::ServerContext*, const v1::GetModelRequest*,
                        v1::GetModelResponse* response) override {
    MutexLock lock(daemon_.mutex_);
    FillModel(response->mutable_model());
    return daemon_.unary_;
  }

 private:
  static void FillModel(v1::Model* model) {
    model->set_name("fake");
    model->add_aliases("demo");
    model->set_architecture("llama");
    model->set_parameters(134'515'008);
    model->set_vocab_size(49152);
    model->set_weight_bytes(int64_t{256} << 20);
    model->set_streamed_weight_bytes(int64_t{200} << 20);
    model->set_context_tokens(2048);
    model->set_trained_context_tokens(8192);
    model->add_stop_token_ids(2);
    model->mutable_defaults()->mutable_sampling()->set_temperature(0.5F);
    model->mutable_features()->set_chat(true);
    model->mutable_features()->set_max_choices(16);
  }

  FakeDaemon& daemon_;
};

class FakeDaemon::Admin final : public v1::AdminService::Service {
 public:
  explicit Admin(FakeDaemon& daemon) : daemon_(daemon) {}

  grpc::Status GetStatus(grpc::ServerContext* context, const v1::GetStatusRequest*,
                         v1::GetStatusResponse* response) override {
    MutexLock lock(daemon_.mutex_);
    daemon_.NoteAuthorization(*context);
    response->set_version("0.1.0");
    response->set_state(v1::SERVER_STATE_SERVING);
    response->set_uptime_s(7384);
    response->set_model("fake");
    response->set_running_requests(daemon_.running_);
    response->set_running_sequences(daemon_.running_);
    response->mutable_blocks()->set_total(1024);
    response->mutable_blocks()->set_cached(24);
    response->mutable_blocks()->set_free(1000);
    response->set_prefix_queried_tokens(200);
    response->set_prefix_hit_tokens(50);
    auto* memory = response->add_memory();
    memory->set_place("host");
    memory->set_use("kv_pool");
    memory->set_bytes(int64_t{1} << 30);
    return daemon_.unary_;
  }
  grpc::Status GetProfile(grpc::ServerContext*, const v1::GetProfileRequest*,
                          v1::GetProfileResponse* response) override {
    MutexLock lock(daemon_.mutex_);
    response->set_json("{\"schema_version\": 1}\n");
    response->set_text("profile  a machine\x1b[2J\n  link in  0.1 GB/s\n");
    return daemon_.unary_;
  }

  grpc::Status RecordTrace(grpc::ServerContext*, const v1::RecordTraceRequest* request,
                           v1::RecordTraceResponse* response) override {
    MutexLock lock(daemon_.mutex_);
    response->set_duration_s(static_cast<double>(request->duration_ms()) / 1e3);
    response->set_model("tiny");
    const auto add = [response](v1::TraceLane lane, bool waiting, int32_t layer, int64_t begin_us,
                                int64_t duration_us, int64_t bytes) {
      v1::TraceSpan& span = *response->add_spans();
      span.set_lane(lane);
      span.set_waiting(waiting);
      span.set_step(7);
      span.set_layer(layer);
      span.set_begin_ns(begin_us * 1000);
      span.set_duration_ns(duration_us * 1000);
      span.set_bytes(bytes);
    };
    add(v1::TRACE_LANE_KV_LOAD, false, 0, 0, 500'000, 50'000'000);
    add(v1::TRACE_LANE_COMPUTE, false, 0, 100'000, 600'000, 0);
    add(v1::TRACE_LANE_COMPUTE, true, 0, 100'000, 400'000, 0);
    add(v1::TRACE_LANE_COMPUTE, false, 1, 700'000, 100'000, 0);
    return daemon_.unary_;
  }

  grpc::Status ExplainPlan(grpc::ServerContext*, const v1::ExplainPlanRequest* request,
                           v1::ExplainPlanResponse* response) override {
    MutexLock lock(daemon_.mutex_);
    daemon_.plans_.push_back(*request);
    response->set_profile("a profile");
    response->set_model("fake");
    response->set_n_layers(2);
    *response->mutable_query() = *request;
    for (const char* name : {"auto, residency auto", "transfer, residency off"}) {
      auto* alternative = response->add_alternatives();
      alternative->set_name(name);
      alternative->set_step_s(0.25);
      alternative->set_tokens_per_s(16);
      alternative->set_carried_x_tokens(300);
      auto* time = alternative->add_resources();
      time->set_resource("link in");
      time->set_seconds(0.25);
      time->set_binds(true);
      alternative->add_resources()->set_resource("of a newer daemon");
    }
    return daemon_.unary_;
  }

 private:
  FakeDaemon& daemon_;
};

class FakeDaemon::HealthService final : public grpc::health::v1::Health::Service {
 public:
  explicit HealthService(FakeDaemon& daemon) : daemon_(daemon) {}

  grpc::Status Check(grpc::ServerContext*, const grpc::health::v1::HealthCheckRequest*,
                     grpc::health::v1::HealthCheckResponse* response) override {
    MutexLock lock(daemon_.mutex_);
    response->set_status(daemon_.health_);
    return grpc::Status::OK;
  }

 private:
  FakeDaemon& daemon_;
};

FakeDaemon::FakeDaemon()
    : answer_([](int) {
        return AnswerOf({"Hello", " world"});
      }),
      inference_(std::make_unique<Inference>(*this)),
      admin_(std::make_unique<Admin>(*this)),
      health_service_(std::make_unique<HealthService>(*this)) {
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(inference_.get());
  builder.RegisterService(admin_.get());
  builder.RegisterService(health_service_.get());
  server_ = builder.BuildAndStart();
  SPILLWAY_CHECK(server_ != nullptr && port_ != 0);
}

FakeDaemon::~FakeDaemon() { server_->Shutdown(); }

std::string FakeDaemon::address() const { return absl::StrCat("127.0.0.1:", port_); }

void FakeDaemon::NoteAuthorization(const grpc::ServerContext& context) {
  const auto found = context.client_metadata().find("authorization");
  authorizations_.emplace_back(found == context.client_metadata().end()
                                   ? std::string()
                                   : std::string(found->second.data(), found->second.size()));
}

std::vector<std::string> FakeDaemon::authorizations() const {
  MutexLock lock(mutex_);
  return authorizations_;
}

grpc::Status FakeDaemon::Play(grpc::ServerContext* context, grpc::ServerWriter<v1::StreamEvent>* writer,
                              int call) {
  Script script;
  {
    MutexLock lock(mutex_);
    script = answer_(call);
  }
  bool connected = true;
  for (const v1::StreamEvent& event : script.events) connected = connected && writer->Write(event);
  while (script.endless && connected && !context->IsCancelled()) {
    connected = writer->Write(DeltaEvent("more ", {7}));
    MutexLock lock(mutex_);
    endless_seen_ = true;
    changed_.NotifyAll();
  }
  if (script.endless || !connected) {
    MutexLock lock(mutex_);
    ++cancelled_;
    changed_.NotifyAll();
    return grpc::Status::CANCELLED;
  }
  return script.status;
}

void FakeDaemon::Answer(std::function<Script(int call)> answer) {
  MutexLock lock(mutex_);
  answer_ = std::move(answer);
}

void FakeDaemon::Answer(const Script& script) {
  Answer([script](int) { return script; });
}

void FakeDaemon::FailUnary(const grpc::Status& status) {
  MutexLock lock(mutex_);
  unary_ = status;
}

void FakeDaemon::SetRunning(int32_t sequences) {
  MutexLock lock(mutex_);
  running_ = sequences;
}

void FakeDaemon::SetHealth(grpc::health::v1::HealthCheckResponse::ServingStatus status) {
  MutexLock lock(mutex_);
  health_ = status;
}

std::vector<v1::ExplainPlanRequest> FakeDaemon::plans() const {
  MutexLock lock(mutex_);
  return plans_;
}

std::vector<v1::CompleteRequest> FakeDaemon::completes() const {
  MutexLock lock(mutex_);
  return completes_;
}

std::vector<v1::ChatRequest> FakeDaemon::chats() const {
  MutexLock lock(mutex_);
  return chats_;
}

std::vector<v1::TokenizeRequest> FakeDaemon::tokenizes() const {
  MutexLock lock(mutex_);
  return tokenizes_;
}

void FakeDaemon::WaitForCancelled() {
  MutexLock lock(mutex_);
  while (cancelled_ == 0) changed_.Wait(mutex_);
}

void FakeDaemon::WaitForEndless() {
  MutexLock lock(mutex_);
  while (!endless_seen_) changed_.Wait(mutex_);
}

}  // namespace spillway::client
