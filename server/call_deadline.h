// A call's deadline, as the client set it and as it reaches the server. Free functions; thread-safe.
#ifndef SPILLWAY_SERVER_CALL_DEADLINE_H_
#define SPILLWAY_SERVER_CALL_DEADLINE_H_

#include "base/clock.h"
#include "base/reason.h"
#include "grpcpp/server_context.h"

namespace spillway::server {

// The deadline of a call at `now_ns`, on the clock that this is of; 0: none. At least 1.
MonotonicNs DeadlineNs(const grpc::ServerContextBase& context, MonotonicNs now_ns);

// Why gRPC cancelled a call that arrived at `arrival_ns` with the deadline `deadline_ns` (0: none):
// kDeadlineExceeded or kCancelled. A client that gives up at its deadline resets the call, which on the wire
// is no different from its user's cancelling, and its clock is ahead of the server's: what is sent is the
// time left, which starts again at the server after its way there, and gRPC rounds it up to two or three
// digits.
Reason WhyReset(MonotonicNs arrival_ns, MonotonicNs deadline_ns, MonotonicNs now_ns);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_CALL_DEADLINE_H_
