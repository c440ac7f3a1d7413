// The gRPC side of the daemon: all services on one port, or AdminService on one of its own, and the call to
// itself that keeps gRPC's threads awake.
#ifndef SPILLWAY_SERVER_GRPC_SERVER_H_
#define SPILLWAY_SERVER_GRPC_SERVER_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/admin_service.h"
#include "server/authorizer.h"
#include "server/grpc_port.h"
#include "server/health_service.h"
#include "server/inference_service.h"
#include "server/listener.h"
#include "server/message_call.h"
#include "server/reflection_service.h"
#include "server/tls_files.h"
#include "server/token_file.h"

namespace spillway::server {

class SelfCall;

struct GrpcServerOptions {
  std::string listen;             // HOST:PORT, port 0 picks one
  std::string admin_listen = {};  // of AdminService; empty: the same port
  int64_t context_tokens = 0;     // bounds the size of a request
  int64_t max_streams_per_connection = 1024;
  int64_t max_connection_age_ms = 0;  // 0: connections may stay for ever
  bool reflection = true;
  int64_t max_connections = 1024;
  int64_t network_memory_bytes = int64_t{1} << 30;
  // A message that has not come whole after so long is given up, and an answer that is not read for so long.
  std::chrono::milliseconds receive_timeout{60'000};
  std::chrono::milliseconds unread_timeout{30'000};
  int64_t unread_bytes_per_caller = int64_t{32} << 20;
  const TokenFile* tokens = nullptr;  // null: everybody may call. Outlives the server
  const TlsFiles* tls = nullptr;      // of every connection; null: plain text. Outlives the server
  // Sleeping threads of gRPC's callback API answer up to 100 ms late; off only to measure that.
  bool keep_awake = true;
};

class GrpcServer {
 public:
  // Unavailable, in one line with the cause, when the address cannot be bound. What `parts` refers to must
  // outlive the server.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const GrpcServerOptions& options,
                                                           const CallParts& parts);
  ~GrpcServer();  // Shutdown(0)
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  // Closes the port at once, so drain first. Calls may finish for so long; then they are cancelled. Returns
  // when all have ended. Idempotent.
  void Shutdown(std::chrono::milliseconds grace);

  // HOST:PORT as bound.
  const std::string& address() const { return port_->address(); }
  // Of AdminService: the same, unless it has a port of its own.
  const std::string& admin_address() const { return (admin_port_ ? admin_port_ : port_)->address(); }
  HealthService& health() { return health_; }
  AdminService& admin() { return admin_; }
  ConnectionCounts Connections() { return port_->Connections(); }
  CallWaits& waits() { return waits_; }
  // For tests and benchmarks without a socket.
  std::shared_ptr<grpc::Channel> InProcessChannel() { return port_->InProcessChannel(); }

 private:
  GrpcServer(const GrpcServerOptions& options, const CallParts& parts);

  // Used by calls until the ports have shut down.
  CallWaits waits_;
  const Authorizer authorizer_;
  InferenceService inference_;
  AdminService admin_;
  HealthService health_;
  ReflectionService reflection_;
  ReflectionAlphaService reflection_alpha_;
  std::unique_ptr<GrpcPort> port_;
  std::unique_ptr<GrpcPort> admin_port_;  // null: port_ serves admin_ too
  std::unique_ptr<SelfCall> self_call_;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_GRPC_SERVER_H_
