// GrpcPort: one address at which gRPC serves services: a Listener of ours that hands it connections, the
// credentials that these are made with, and the channel arguments that a model server needs.
//
// Thread-safe.
#ifndef SPILLWAY_SERVER_GRPC_PORT_H_
#define SPILLWAY_SERVER_GRPC_PORT_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "grpcpp/channel.h"
#include "grpcpp/impl/codegen/service_type.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "server/listener.h"

namespace spillway::server {

class CallTraffic;

struct GrpcPortOptions {
  std::string listen;           // HOST:PORT, port 0 picks one
  int receive_limit_bytes = 0;  // of a message
  int64_t max_streams_per_connection = 1024;
  int64_t max_connection_age_ms = 0;  // 0: connections may stay for ever
  int64_t max_connections = 1024;
  int64_t network_memory_bytes = int64_t{1} << 30;
  CallTraffic* traffic = nullptr;  // of the services' calls, which outlives the port; null: nobody is cut
};

class GrpcPort {
 public:
  // Bound, and nothing accepted yet. Unavailable, in one line with the cause, when the address cannot be
  // bound. The services must outlive the port; the credentials are kept.
  static absl::StatusOr<std::unique_ptr<GrpcPort>> Bind(const GrpcPortOptions& options,
                                                        std::shared_ptr<grpc::ServerCredentials> credentials,
                                                        const std::vector<grpc::Service*>& services);
  ~GrpcPort();  // Shutdown(0)
  GrpcPort(const GrpcPort&) = delete;
  GrpcPort& operator=(const GrpcPort&) = delete;

  // Once.
  void Accept();
  // Takes no more connections. Idempotent.
  void Close() { listener_->Stop(); }
  // Close; calls may finish for so long, then they are cancelled. Returns when all have ended. Idempotent.
  void Shutdown(std::chrono::milliseconds grace);

  // HOST:PORT as bound.
  const std::string& address() const { return listener_->address(); }
  ConnectionCounts Connections() { return listener_->Counts(); }
  // Without a socket, and without what secures one.
  std::shared_ptr<grpc::Channel> InProcessChannel() { return server_->InProcessChannel({}); }

 private:
  explicit GrpcPort(const GrpcPortOptions& options) : options_(options) {}

  const GrpcPortOptions options_;

  std::shared_ptr<grpc::ServerCredentials> credentials_;
  // Goes after the listener, which hands it connections.
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Listener> listener_;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_GRPC_PORT_H_
