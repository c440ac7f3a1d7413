// What a call's metadata says of it for logs: the name that a proxy gave it, its place in a distributed trace
// (https://www.w3.org/TR/trace-context/). Free functions; thread-safe.
#ifndef SPILLWAY_SERVER_CALL_LABELS_H_
#define SPILLWAY_SERVER_CALL_LABELS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "grpcpp/server_context.h"
#include "server/request_log.h"

namespace spillway::server {

struct TraceContext {
  std::string trace_id;        // 32 hexadecimal digits
  std::string parent_span_id;  // 16: of the caller's span
};

// Of a `traceparent`; both empty where it is none that the recommendation allows. A version that is newer may
// have more after the flags.
TraceContext ParseTraceparent(absl::string_view traceparent);

// Of a call.
TraceContext TraceContextOf(const grpc::CallbackServerContext& context);

// A call's x-request-id, as Envoy and others set it, where it is fit for a log; else empty.
std::string RequestIdOf(const grpc::CallbackServerContext& context);

// A call that is refused with `why`.
Refusal RefusalOf(const absl::Status& why, std::string method, const grpc::CallbackServerContext& context,
                  std::string tenant);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_CALL_LABELS_H_
