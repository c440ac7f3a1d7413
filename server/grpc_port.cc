#include "server/grpc_port.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "grpcpp/resource_quota.h"

namespace spillway::server {
namespace {

constexpr int kMinuteMs = 60'000;
// A connection that has not begun to speak HTTP/2 by then is closed, its TLS handshake included, and one
// without a call for so long.
constexpr int kHandshakeTimeoutMs = 20'000;
constexpr int kIdleConnectionMs = 10 * kMinuteMs;

void AddArguments(const GrpcPortOptions& options, grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(options.receive_limit_bytes);
  builder->SetResourceQuota(grpc::ResourceQuota().Resize(static_cast<size_t>(options.network_memory_bytes)));
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTimeoutMs);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, kIdleConnectionMs);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS,
                              static_cast<int>(options.max_streams_per_connection));
  // The running calls of an old connection finish; new ones go to another, which a balancer may place anew.
  if (options.max_connection_age_ms > 0) {
    builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS,
                                static_cast<int>(options.max_connection_age_ms));
  }
  // A prefill may send nothing for long: clients may ping as they like, and vanished ones are found out.
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 0);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kMinuteMs);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kMinuteMs / 3);
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcPort>> GrpcPort::Bind(const GrpcPortOptions& options,
                                                         std::shared_ptr<grpc::ServerCredentials> credentials,
                                                         const std::vector<grpc::Service*>& services) {
  auto out = std::unique_ptr<GrpcPort>(new GrpcPort(options));
  SPILLWAY_ASSIGN_OR_RETURN(out->listener_, Listener::Bind(options.listen, options.max_connections));
  out->credentials_ = std::move(credentials);
  grpc::ServerBuilder builder;
  out->acceptor_ = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD, out->credentials_);
  for (grpc::Service* const service : services) builder.RegisterService(service);
  AddArguments(options, &builder);
  out->server_ = builder.BuildAndStart();
  if (out->server_ == nullptr) {
    return absl::InternalError(absl::StrCat("gRPC does not start on ", options.listen));
  }
  return out;
}

GrpcPort::~GrpcPort() { Shutdown(std::chrono::milliseconds(0)); }

void GrpcPort::Accept() {
  const auto take = [this](int listening, int connected) {
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters connection;
    connection.listener_fd = listening;
    connection.fd = connected;
    acceptor_->HandleNewConnection(&connection);
  };
  listener_->Start(take, options_.traffic, options_.receive_limit_bytes);
}

void GrpcPort::Shutdown(std::chrono::milliseconds grace) {
  if (server_ == nullptr) return;
  Close();
  server_->Shutdown(std::chrono::system_clock::now() + grace);
  server_->Wait();
  server_ = nullptr;
}

}  // namespace spillway::server
