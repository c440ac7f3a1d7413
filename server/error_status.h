// The one place where an absl::Status becomes a gRPC status: code, google.rpc details and retry metadata,
// from the reason that base/reason attached. Free functions; thread-safe.
#ifndef SPILLWAY_SERVER_ERROR_STATUS_H_
#define SPILLWAY_SERVER_ERROR_STATUS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "base/reason.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/status.h"

namespace spillway::server {

// When a client should try again after a retryable refusal: as its metadata say (retry_after_ms), else by its
// reason. `queue_ms`: the scheduler's estimate, for what depends on the queue. REQUIRES: its reason is
// retryable.
int64_t RetryAfterMs(const absl::Status& status, int64_t queue_ms);

// Details are kept below what fits in a client's metadata (8 KiB by default): long texts are cut, and a
// violation beyond the limit is counted instead of listed.
grpc::Status ToGrpcStatus(const absl::Status& status, int64_t queue_ms);

// The same, and adds grpc-retry-pushback-ms and retry-after to the call's trailing metadata where the error
// is retryable. To be called at most once a call.
grpc::Status FinishStatus(const absl::Status& status, int64_t queue_ms, grpc::ServerContextBase& context);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_ERROR_STATUS_H_
