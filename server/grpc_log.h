// What gRPC says of its own accord. It calls errors what clients do, and says of bind failures what Start
// reports: to the log at debug level, but for TLS handshakes that fail, of which nobody else hears.
// Process-wide, as gRPC's log is; thread-safe.
#ifndef SPILLWAY_SERVER_GRPC_LOG_H_
#define SPILLWAY_SERVER_GRPC_LOG_H_

#include <cstdint>

namespace spillway::server {

// Once per process, before any other use of gRPC. Failed handshakes are warnings, one a second at most.
void RouteGrpcLog();

// TLS handshakes that failed since then: plain text, certificates that either side refuses. Those that never
// end are not among them.
int64_t FailedHandshakes();

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_GRPC_LOG_H_
