#include "server/grpc_server.h"

#include <algorithm>
#include <chrono>
#include <climits>
#include <utility>

#include "base/bytes.h"
#include "base/status_macros.h"
#include "server/grpc_credentials.h"
#include "server/self_call.h"
#include "spillway/v1/inference.grpc.pb.h"

namespace spillway::server {
namespace {

// An AdminService of its own is for a few operators, who ask short questions.
constexpr int64_t kAdminConnections = 64;
constexpr int kAdminReceiveLimitBytes = 1 << 20;
constexpr int64_t kAdminMemoryBytes = int64_t{256} << 20;

// What reflection tells of: the services of its own port.
std::vector<std::string> ServiceNames(const GrpcServerOptions& options) {
  std::vector<std::string> names = {
      std::string(v1::InferenceService::service_full_name()),
      std::string(grpc::health::v1::Health::service_full_name()),
      std::string(grpc::reflection::v1::ServerReflection::service_full_name()),
      std::string(grpc::reflection::v1alpha::ServerReflection::service_full_name())};
  if (options.admin_listen.empty()) names.emplace_back(v1::AdminService::service_full_name());
  return names;
}

int ReceiveLimitBytes(int64_t context_tokens) {
  return static_cast<int>(std::min<int64_t>(std::max<int64_t>(16 * kMiB, 8 * context_tokens), INT_MAX));
}

}  // namespace

GrpcServer::GrpcServer(const GrpcServerOptions& options, const CallParts& parts)
    : waits_{CallTimeouts(options.receive_timeout),
             CallTimeouts(options.unread_timeout),
             {},
             UnreadAnswers({.caller_bytes = options.unread_bytes_per_caller,
                            .bytes = options.network_memory_bytes / 2})},
      authorizer_(options.tokens),
      inference_(parts, waits_, authorizer_),
      admin_(parts.state, parts.clock, waits_, parts.telemetry, authorizer_),
      health_({std::string(v1::InferenceService::service_full_name())}, waits_),
      reflection_(ServiceNames(options), waits_, {&authorizer_, Access::kUser, &parts.telemetry}),
      reflection_alpha_(ServiceNames(options), waits_, {&authorizer_, Access::kUser, &parts.telemetry}) {}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const GrpcServerOptions& options,
                                                              const CallParts& parts) {
  auto out = std::unique_ptr<GrpcServer>(new GrpcServer(options, parts));
  GrpcPortOptions port = {.listen = options.listen,
                          .receive_limit_bytes = ReceiveLimitBytes(options.context_tokens),
                          .max_streams_per_connection = options.max_streams_per_connection,
                          .max_connection_age_ms = options.max_connection_age_ms,
                          .max_connections = options.max_connections,
                          .network_memory_bytes = options.network_memory_bytes,
                          .traffic = &out->waits_.traffic};
  std::vector<grpc::Service*> services = {&out->inference_, &out->health_};
  if (options.admin_listen.empty()) services.push_back(&out->admin_);
  if (options.reflection) services.insert(services.end(), {&out->reflection_, &out->reflection_alpha_});
  SPILLWAY_ASSIGN_OR_RETURN(out->port_, GrpcPort::Bind(port, MakeServerCredentials(options.tls), services));
  if (!options.admin_listen.empty()) {
    port.listen = options.admin_listen;
    port.receive_limit_bytes = kAdminReceiveLimitBytes;
    port.max_connections = kAdminConnections;
    port.network_memory_bytes = kAdminMemoryBytes;
    SPILLWAY_ASSIGN_OR_RETURN(out->admin_port_, GrpcPort::Bind(port, MakeServerCredentials(options.tls),
                                                               {&out->admin_, &out->health_}));
    out->admin_port_->Accept();
  }
  out->port_->Accept();
  if (options.keep_awake) out->self_call_ = std::make_unique<SelfCall>(out->InProcessChannel());
  return out;
}

GrpcServer::~GrpcServer() { Shutdown(std::chrono::milliseconds(0)); }

void GrpcServer::Shutdown(std::chrono::milliseconds grace) {
  if (port_ == nullptr) return;  // it could not be bound
  self_call_.reset();
  port_->Close();
  // They would stay until they are cancelled, or over.
  health_.EndWatches();
  admin_.StopTraces();
  port_->Shutdown(grace);
  // To the last, an operator can ask what is going on.
  if (admin_port_ != nullptr) admin_port_->Shutdown(std::chrono::milliseconds(0));
}

}  // namespace spillway::server
