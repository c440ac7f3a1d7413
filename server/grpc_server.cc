#include "server/grpc_server.h"

#include <algorithm>
#include <chrono>
#include <climits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/log.h"
#include "grpc/support/log.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "server/network_address.h"
#include "server/self_call.h"

namespace spillway::server {
namespace {

constexpr int kMinuteMs = 60'000;

std::vector<std::string> ServiceNames() {
  return {std::string(v1::InferenceService::service_full_name()),
          std::string(v1::AdminService::service_full_name()),
          std::string(grpc::health::v1::Health::service_full_name()),
          std::string(grpc::reflection::v1::ServerReflection::service_full_name()),
          std::string(grpc::reflection::v1alpha::ServerReflection::service_full_name())};
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

GrpcServer::GrpcServer(const CallParts& parts)
    : inference_(parts),
      admin_(parts.state, parts.clock),
      health_({std::string(v1::InferenceService::service_full_name())}),
      reflection_(ServiceNames()),
      reflection_alpha_(ServiceNames()) {}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const GrpcServerOptions& options,
                                                              const CallParts& parts) {
  auto out = std::unique_ptr<GrpcServer>(new GrpcServer(parts));
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(options.listen, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&out->inference_);
  builder.RegisterService(&out->admin_);
  builder.RegisterService(&out->health_);
  builder.RegisterService(&out->reflection_);
  builder.RegisterService(&out->reflection_alpha_);
  builder.SetMaxReceiveMessageSize(ReceiveLimitBytes(options.context_tokens));
  // Two daemons on one port would share its connections silently.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS,
                             static_cast<int>(options.max_streams_per_connection));
  // A prefill may send nothing for long: clients may ping as they like, and vanished ones are found out.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kMinuteMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kMinuteMs / 3);

  out->server_ = builder.BuildAndStart();
  if (out->server_ == nullptr || port == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", options.listen, ": ", WhyNotBound(options.listen)));
  }
  out->address_ = WithPort(options.listen, port);
  if (options.keep_awake) out->self_call_ = std::make_unique<SelfCall>(out->InProcessChannel());
  return out;
}

GrpcServer::~GrpcServer() { Shutdown(std::chrono::milliseconds(0)); }

void GrpcServer::Shutdown(std::chrono::milliseconds grace) {
  if (server_ == nullptr) return;
  self_call_.reset();
  // They would stay until they are cancelled.
  health_.EndWatches();
  server_->Shutdown(std::chrono::system_clock::now() + grace);
  server_->Wait();
  server_ = nullptr;
}

std::shared_ptr<grpc::Channel> GrpcServer::InProcessChannel() { return server_->InProcessChannel({}); }

}  // namespace spillway::server
