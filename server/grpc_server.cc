#include "server/grpc_server.h"

#include <algorithm>
#include <chrono>
#include <climits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "grpc/support/log.h"
#include "grpcpp/resource_quota.h"
#include "grpcpp/security/server_credentials.h"
#include "server/network_address.h"
#include "server/self_call.h"
#include "spillway/v1/inference.grpc.pb.h"

namespace spillway::server {
namespace {

constexpr int kMinuteMs = 60'000;
// A connection that has not begun to speak HTTP/2 by then is closed, and one without a call for so long.
constexpr int kHandshakeTimeoutMs = 20'000;
constexpr int kIdleConnectionMs = 10 * kMinuteMs;

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

void LogForGrpc(gpr_log_func_args* arguments) {
  Log(LogLevel::kDebug, "grpc",
      {{"message", arguments->message}, {"severity", gpr_log_severity_string(arguments->severity)}});
}

}  // namespace

void RouteGrpcLog() {
  gpr_set_log_function(&LogForGrpc);
  gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
}

GrpcServer::GrpcServer(const GrpcServerOptions& options, const CallParts& parts)
    : waits_{CallTimeouts(options.receive_timeout), CallTimeouts(options.unread_timeout)},
      inference_(parts, waits_),
      admin_(parts.state, parts.clock, waits_, parts.telemetry),
      health_({std::string(v1::InferenceService::service_full_name())}, waits_),
      reflection_(ServiceNames(options), waits_),
      reflection_alpha_(ServiceNames(options), waits_) {}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const GrpcServerOptions& options,
                                                              const CallParts& parts) {
  auto out = std::unique_ptr<GrpcServer>(new GrpcServer(options, parts));
  SPILLWAY_ASSIGN_OR_RETURN(out->listener_, Listener::Bind(options.listen, options.max_connections));
  out->address_ = out->listener_->address();
  grpc::ServerBuilder builder;
  out->acceptor_ = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
      grpc::InsecureServerCredentials());
  builder.RegisterService(&out->inference_);
  if (options.admin_listen.empty()) builder.RegisterService(&out->admin_);
  builder.RegisterService(&out->health_);
  if (options.reflection) {
    builder.RegisterService(&out->reflection_);
    builder.RegisterService(&out->reflection_alpha_);
  }
  builder.SetMaxReceiveMessageSize(ReceiveLimitBytes(options.context_tokens));
  builder.SetResourceQuota(grpc::ResourceQuota().Resize(static_cast<size_t>(options.network_memory_bytes)));
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, kIdleConnectionMs);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS,
                             static_cast<int>(options.max_streams_per_connection));
  // The running calls of an old connection finish; new ones go to another, which a balancer may place anew.
  if (options.max_connection_age_ms > 0) {
    builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                               static_cast<int>(options.max_connection_age_ms));
  }
  // A prefill may send nothing for long: clients may ping as they like, and vanished ones are found out.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kMinuteMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kMinuteMs / 3);

  out->server_ = builder.BuildAndStart();
  if (out->server_ == nullptr) {
    return absl::InternalError(absl::StrCat("gRPC does not start on ", options.listen));
  }
  out->admin_address_ = out->address_;
  if (!options.admin_listen.empty()) {
    SPILLWAY_RETURN_IF_ERROR(out->StartAdmin(options.admin_listen));
  }
  out->listener_->Start([&acceptor = *out->acceptor_](int listening, int connected) {
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    connection.listener_fd = listening;
    connection.fd = connected;
    acceptor.HandleNewConnection(&connection);
  });
  if (options.keep_awake) out->self_call_ = std::make_unique<SelfCall>(out->InProcessChannel());
  return out;
}

absl::Status GrpcServer::StartAdmin(const std::string& listen) {
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(listen, grpc::InsecureServerCredentials(), &port);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.RegisterService(&admin_);
  admin_server_ = builder.BuildAndStart();
  if (admin_server_ == nullptr || port == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen for AdminService on ", listen, ": ", WhyNotBound(listen)));
  }
  admin_address_ = WithPort(listen, port);
  return absl::OkStatus();
}

GrpcServer::~GrpcServer() { Shutdown(std::chrono::milliseconds(0)); }

void GrpcServer::Shutdown(std::chrono::milliseconds grace) {
  if (server_ == nullptr) return;
  self_call_.reset();
  listener_->Stop();
  // They would stay until they are cancelled, or over.
  health_.EndWatches();
  admin_.StopTraces();
  server_->Shutdown(std::chrono::system_clock::now() + grace);
  server_->Wait();
  server_ = nullptr;
  // To the last, an operator can ask what is going on.
  if (admin_server_ == nullptr) return;
  admin_server_->Shutdown(std::chrono::system_clock::now());
  admin_server_->Wait();
  admin_server_ = nullptr;
}

std::shared_ptr<grpc::Channel> GrpcServer::InProcessChannel() { return server_->InProcessChannel({}); }

}  // namespace spillway::server
