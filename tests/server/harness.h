// A whole server over loopback: the real services, scheduler, tokenizer and chat template over a fake
// executor.
#ifndef SPILLWAY_TESTS_SERVER_HARNESS_H_
#define SPILLWAY_TESTS_SERVER_HARNESS_H_

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/kv/block_store.h"
#include "google/rpc/error_details.pb.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "profiler/machine_profile.h"
#include "scheduler/plan_solver.h"
#include "scheduler/scheduler.h"
#include "server/delivery.h"
#include "server/grpc_server.h"
#include "server/metrics.h"
#include "server/served_model.h"
#include "server/serving_state.h"
#include "server/telemetry.h"
#include "server/text_pool.h"
#include "spillway/v1/admin.grpc.pb.h"
#include "spillway/v1/inference.grpc.pb.h"
#include "tests/fakes/fake_executor.h"
#include "tests/server/gated_executor.h"

namespace spillway::server {

// The tiny Llama's vocabulary (byte-level BPE, ChatML template, <|im_start|> 1, <|im_end|> 2 ends generation)
// as a served model "tiny" with the alias "other"; context 256 unless given.
ServedModel TinyModel(int32_t context_tokens = 256);

// What an error carries in its details.
struct ErrorDetails {
  std::optional<google::rpc::ErrorInfo> info;
  std::optional<google::rpc::BadRequest> bad_request;
  std::optional<google::rpc::RetryInfo> retry;

  std::string reason() const { return info.has_value() ? info->reason() : ""; }
  std::vector<std::string> fields() const;
};
ErrorDetails DetailsOf(const grpc::Status& status);

struct TestServerOptions {
  scheduler::SchedulerOptions scheduler;
  TextPoolOptions text_pool;
  int64_t n_blocks = 256;
  int64_t max_connection_age_ms = 0;
  bool reflection = true;
  std::string listen = "127.0.0.1:0";
  std::string admin_listen;
  bool serving = true;                              // else it goes on loading
  std::optional<profiler::MachineProfile> profile;  // to explain plans with
  int64_t max_connections = 1024;
  const TlsFiles* tls = nullptr;  // outlives the server
  TokenFile* tokens = nullptr;    // likewise
  std::chrono::milliseconds receive_timeout{60'000};
  std::chrono::milliseconds unread_timeout{30'000};
  int64_t unread_bytes_per_caller = int64_t{32} << 20;

  TestServerOptions() {
    scheduler.context_tokens = 256;
    scheduler.max_sequences = 8;
    scheduler.max_queue = 64;
    scheduler.prefill_rows = 64;
    scheduler.reserve_output_tokens = 8;
    scheduler.model_fingerprint = {1, 2, 3};
  }
};

// Room for generations that are far from done when something happens to them.
TestServerOptions RoomForLongOnes();

class TestServer {
 public:
  explicit TestServer(const TestServerOptions& options = {});
  ~TestServer();

  // A channel of its own; a tuned one where `arguments` are given.
  std::shared_ptr<grpc::Channel> Connect();
  std::shared_ptr<grpc::Channel> Connect(const grpc::ChannelArguments& arguments);

  // Waits, for a bounded time, until the condition holds.
  bool Eventually(const std::function<bool()>& condition) const;
  // A visit has begun and nobody waits in the queue.
  bool Computes() const;
  // Every block is free or cached, and nothing runs.
  bool AtRest() const;

  ServedModel model;
  ManualClock executor_clock;  // turned by the fake executor alone
  kv::BlockStore blocks;
  fakes::FakeExecutor fake;
  GatedExecutor executor;
  Metrics metrics;
  Telemetry telemetry;
  std::unique_ptr<scheduler::Scheduler> scheduler;
  std::unique_ptr<scheduler::PlanSolver> plan_solver;  // where there is a profile
  exec::Timeline timeline;
  Backend backend;
  ServingState state;
  TextPool text_pool;
  Delivery delivery;
  std::unique_ptr<GrpcServer> server;
  std::unique_ptr<v1::InferenceService::Stub> stub;

 private:
  static fakes::FakeExecutorOptions ExecutorOptions();
  std::unique_ptr<scheduler::Scheduler> MakeScheduler(const TestServerOptions& options);
};

// All calls of tests have a deadline, so that a lost event fails a test instead of hanging it.
std::unique_ptr<grpc::ClientContext> NewContext(int64_t timeout_ms = 20'000);

v1::CompleteRequest TextRequest(const std::string& text, int32_t max_tokens);

// Reads a stream to its end.
struct StreamResult {
  std::vector<v1::StreamEvent> events;
  grpc::Status status;
};
StreamResult ReadAll(v1::InferenceService::Stub& stub, const v1::CompleteRequest& request);

// What the documented order of a stream's events demands; empty when it is kept.
std::string OrderFault(const std::vector<v1::StreamEvent>& events, int n_choices);

}  // namespace spillway::server

#endif  // SPILLWAY_TESTS_SERVER_HARNESS_H_
