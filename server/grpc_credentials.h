// What gRPC secures its connections with: nothing, or TLS with files that may change while it serves.
#ifndef SPILLWAY_SERVER_GRPC_CREDENTIALS_H_
#define SPILLWAY_SERVER_GRPC_CREDENTIALS_H_

#include <memory>

#include "grpcpp/security/server_credentials.h"
#include "server/tls_files.h"

namespace spillway::server {

// Plain text where `tls` is null. Every handshake begins with the files that are in effect then. `tls`, and
// what is returned, must outlive the server.
std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(const TlsFiles* tls);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_GRPC_CREDENTIALS_H_
