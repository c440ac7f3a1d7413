// A daemon by script: serves the interface over a real loopback port and answers as a test tells it to.
#ifndef SPILLWAY_TESTS_CLIENT_FAKE_DAEMON_H_
#define SPILLWAY_TESTS_CLIENT_FAKE_DAEMON_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/reason.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/server.h"
#include "spillway/v1/admin.grpc.pb.h"
#include "spillway/v1/inference.grpc.pb.h"

namespace spillway::client {

// --- Events by hand.
v1::StreamEvent StartedEvent(int32_t prompt_tokens);
v1::StreamEvent QueuedEvent(int32_t requests_ahead);
v1::StreamEvent ProgressEvent(v1::Stage stage, int32_t done, int32_t total, int32_t cached = 0,
                              int32_t index = 0);
v1::StreamEvent DeltaEvent(const std::string& text, const std::vector<int32_t>& ids, int32_t index = 0);
v1::StreamEvent FinishedEvent(v1::FinishReason reason, int32_t index = 0);
v1::StreamEvent UsageEvent(int32_t prompt_tokens, int32_t generated_tokens);

// An error as the daemon sends it: ErrorInfo, and BadRequest or RetryInfo where there is something to say.
grpc::Status DaemonError(Reason reason, const std::string& message,
                         const std::vector<FieldViolation>& violations = {}, int64_t retry_after_ms = 0);

// How a stream is answered.
struct Script {
  std::vector<v1::StreamEvent> events;
  grpc::Status status;
  // After `events`, repeat this delta until the client goes away.
  bool endless = false;
};

// A sound stream of one choice: every piece is a token.
Script AnswerOf(const std::vector<std::string>& pieces);

// Thread-safe.
class FakeDaemon {
 public:
  FakeDaemon();
  ~FakeDaemon();

  std::string address() const;

  // What generations are answered with from now on; given the number of the call, from 0.
  void Answer(std::function<Script(int call)> answer);
  void Answer(const Script& script);
  // What every other call ends with.
  void FailUnary(const grpc::Status& status);
  // Sequences that GetStatus says are running; 3 at first.
  void SetRunning(int32_t sequences);
  void SetHealth(grpc::health::v1::HealthCheckResponse::ServingStatus status);

  // Requests seen so far.
  std::vector<v1::CompleteRequest> completes() const;
  std::vector<v1::ExplainPlanRequest> plans() const;
  std::vector<v1::ChatRequest> chats() const;
  std::vector<v1::TokenizeRequest> tokenizes() const;
  // What calls to ListModels, GetStatus and StreamComplete showed; empty where nothing.
  std::vector<std::string> authorizations() const;
  // Blocks until a generation has noticed that its client went away before the end.
  void WaitForCancelled();
  // Blocks until an endless generation has written its first repeated delta.
  void WaitForEndless();

 private:
  class Inference;
  class Admin;
  class HealthService;

  void NoteAuthorization(const grpc::ServerContext& context) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  grpc::Status Play(grpc::ServerContext* context, grpc::ServerWriter<v1::StreamEvent>* writer, int call);

  mutable Mutex mutex_;
  CondVar changed_;
  std::function<Script(int)> answer_ ABSL_GUARDED_BY(mutex_);
  grpc::Status unary_ ABSL_GUARDED_BY(mutex_);
  grpc::health::v1::HealthCheckResponse::ServingStatus health_ ABSL_GUARDED_BY(mutex_) =
      grpc::health::v1::HealthCheckResponse::SERVING;
  std::vector<v1::ExplainPlanRequest> plans_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::CompleteRequest> completes_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::ChatRequest> chats_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::TokenizeRequest> tokenizes_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::string> authorizations_ ABSL_GUARDED_BY(mutex_);
  int32_t running_ ABSL_GUARDED_BY(mutex_) = 3;
  int calls_ ABSL_GUARDED_BY(mutex_) = 0;
  int cancelled_ ABSL_GUARDED_BY(mutex_) = 0;
  bool endless_seen_ ABSL_GUARDED_BY(mutex_) = false;

  std::unique_ptr<Inference> inference_;
  std::unique_ptr<Admin> admin_;
  std::unique_ptr<HealthService> health_service_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace spillway::client

#endif  // SPILLWAY_TESTS_CLIENT_FAKE_DAEMON_H_
