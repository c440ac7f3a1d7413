#include "tests/server/harness.h"

#include <chrono>
#include <set>
#include <thread>
#include <utility>

#include "absl/types/span.h"
#include "base/check.h"
#include "engine/model/gguf.h"
#include "engine/model/gguf_vocabulary.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "tests/fakes/gguf_writer.h"

namespace spillway::server {
namespace {

constexpr int kVocabSize = 320;

}  // namespace

ServedModel TinyModel(int32_t context_tokens) {
  fakes::TinyLlamaOptions options;
  options.vocab_size = kVocabSize;
  const std::string bytes = fakes::TinyLlamaBytes(options);
  const auto file = model::GgufFile::Parse(
      absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()), "tiny");
  SPILLWAY_CHECK(file.ok());
  auto vocabulary = model::VocabularyFromGguf(*file);
  SPILLWAY_CHECK(vocabulary.ok());
  ServedModel out;
  out.names = {"tiny", "other"};
  out.architecture = "llama";
  out.parameters = 1;
  out.trained_context_tokens = 512;
  out.compute_dtype = "f32";
  out.fingerprint = "ab";
  out.context_tokens = context_tokens;
  out.default_max_tokens = 32;
  out.defaults.temperature = 0;
  out.bos_token = vocabulary->tokens[1];
  out.eos_token = vocabulary->tokens[2];
  auto chat_template = text::ChatTemplate::Parse(vocabulary->chat_template);
  SPILLWAY_CHECK(chat_template.ok());
  out.chat_template = *std::move(chat_template);
  auto tokenizer = text::Tokenizer::Create(*std::move(vocabulary));
  SPILLWAY_CHECK(tokenizer.ok());
  out.tokenizer = *std::move(tokenizer);
  return out;
}

std::vector<std::string> ErrorDetails::fields() const {
  std::vector<std::string> out;
  if (!bad_request.has_value()) return out;
  for (const auto& violation : bad_request->field_violations()) out.push_back(violation.field());
  return out;
}

ErrorDetails DetailsOf(const grpc::Status& status) {
  google::rpc::Status details;
  ErrorDetails out;
  if (!details.ParseFromString(status.error_details())) return out;
  for (const google::protobuf::Any& any : details.details()) {
    if (any.Is<google::rpc::ErrorInfo>()) any.UnpackTo(&out.info.emplace());
    if (any.Is<google::rpc::BadRequest>()) any.UnpackTo(&out.bad_request.emplace());
    if (any.Is<google::rpc::RetryInfo>()) any.UnpackTo(&out.retry.emplace());
  }
  return out;
}

TestServerOptions RoomForLongOnes() {
  TestServerOptions options;
  options.scheduler.context_tokens = 60'000;
  options.n_blocks = 40'000;
  return options;
}

fakes::FakeExecutorOptions TestServer::ExecutorOptions() {
  fakes::FakeExecutorOptions options;
  options.vocab_size = kVocabSize;
  return options;
}

std::unique_ptr<scheduler::Scheduler> TestServer::MakeScheduler(const TestServerOptions& options) {
  kv::Geometry geometry;
  geometry.n_layers = ExecutorOptions().n_layers;
  geometry.n_kv_heads = 1;
  geometry.d_head = 8;
  geometry.d = 8;
  geometry.block_tokens = ExecutorOptions().block_tokens;
  auto created = scheduler::Scheduler::Create(
      {executor, blocks, geometry, *model.tokenizer, Clock::Real(), telemetry}, options.scheduler);
  SPILLWAY_CHECK_MSG(created.ok(), created.status().ToString().c_str());
  return *std::move(created);
}

TestServer::TestServer(const TestServerOptions& options)
    : model(TinyModel(options.scheduler.context_tokens)),
      blocks(options.n_blocks),
      fake(ExecutorOptions(), blocks, executor_clock),
      executor(fake),
      telemetry(metrics, options.tokens),
      scheduler(MakeScheduler(options)),
      plan_solver(options.profile.has_value() ? std::make_unique<scheduler::PlanSolver>(*options.profile)
                                              : nullptr),
      backend(model, *scheduler, plan_solver.get(), &timeline),
      text_pool(options.text_pool) {
  telemetry.Listen();
  metrics.SetSources([this] { return scheduler->Snapshot(); }, [this] { return state.ready(); });
  auto started = GrpcServer::Start({.listen = options.listen,
                                    .admin_listen = options.admin_listen,
                                    .context_tokens = model.context_tokens,
                                    .max_connection_age_ms = options.max_connection_age_ms,
                                    .reflection = options.reflection,
                                    .max_connections = options.max_connections,
                                    .receive_timeout = options.receive_timeout,
                                    .unread_timeout = options.unread_timeout,
                                    .unread_bytes_per_caller = options.unread_bytes_per_caller,
                                    .tokens = options.tokens,
                                    .tls = options.tls},
                                   {state, text_pool, delivery, telemetry, Clock::Real()});
  SPILLWAY_CHECK_MSG(started.ok(), started.status().ToString().c_str());
  server = *std::move(started);
  scheduler->Start();
  if (options.serving) {
    state.Publish(&backend);
    state.Enter(ServerPhase::kServing);
    server->health().SetServing(true);
  }
  stub = v1::InferenceService::NewStub(Connect());
}

TestServer::~TestServer() {
  executor.Open();
  server.reset();
  scheduler.reset();
}

std::shared_ptr<grpc::Channel> TestServer::Connect() { return Connect(grpc::ChannelArguments()); }

std::shared_ptr<grpc::Channel> TestServer::Connect(const grpc::ChannelArguments& arguments) {
  grpc::ChannelArguments own = arguments;
  own.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // tests do not share connections
  return grpc::CreateCustomChannel(server->address(), grpc::InsecureChannelCredentials(), own);
}

bool TestServer::Eventually(const std::function<bool()>& condition) const {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

bool TestServer::Computes() const {
  const scheduler::SchedulerSnapshot now = scheduler->Snapshot();
  return now.has_work && now.waiting_requests == 0;
}

bool TestServer::AtRest() const {
  const scheduler::SchedulerSnapshot now = scheduler->Snapshot();
  return now.running_requests == 0 && now.running_sequences == 0 && now.waiting_requests == 0 &&
         now.blocks.in_use_blocks == 0;
}

std::unique_ptr<grpc::ClientContext> NewContext(int64_t timeout_ms) {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(timeout_ms));
  return context;
}

v1::CompleteRequest TextRequest(const std::string& text, int32_t max_tokens) {
  v1::CompleteRequest request;
  request.set_text(text);
  request.mutable_options()->set_max_tokens(max_tokens);
  request.mutable_options()->mutable_stop()->set_ignore_eos(true);
  return request;
}

StreamResult ReadAll(v1::InferenceService::Stub& stub, const v1::CompleteRequest& request) {
  const auto context = NewContext();
  const auto reader = stub.StreamComplete(context.get(), request);
  StreamResult out;
  v1::StreamEvent event;
  while (reader->Read(&event)) out.events.push_back(event);
  out.status = reader->Finish();
  return out;
}

std::string OrderFault(const std::vector<v1::StreamEvent>& events, int n_choices) {
  if (events.empty() || !events.front().has_started()) return "started is not the first event";
  if (!events.back().has_usage()) return "usage is not the last event";
  std::set<int> finished;
  for (size_t i = 1; i + 1 < events.size(); ++i) {
    const v1::StreamEvent& event = events[i];
    if (event.has_started() || event.has_usage()) return "started or usage in the middle";
    if (event.has_delta() && finished.count(event.delta().index()) > 0) return "a delta after its finished";
    if (event.has_finished() && !finished.insert(event.finished().index()).second) return "finished twice";
  }
  return static_cast<int>(finished.size()) == n_choices ? "" : "not every choice finished";
}

}  // namespace spillway::server
