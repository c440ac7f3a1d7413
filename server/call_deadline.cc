#include "server/call_deadline.h"

#include <algorithm>
#include <cstdint>

#include "grpc/support/time.h"

namespace spillway::server {
namespace {

// gRPC's timeout has two digits at least: 1,001 ms are sent as 1,010 ms, 100.1 s as 101 s.
constexpr int64_t kRoundedShare = 100;
// A call's way from the client's clock to the server's, on machines that are busy. Of a short deadline it is
// but a share, so that what is cancelled early on stays cancelled.
constexpr MonotonicNs kLongestWayNs = 100 * kNsPerMs;
constexpr int64_t kWayShare = 10;

}  // namespace

// gRPC has the deadline on the system's clock.
MonotonicNs DeadlineNs(const grpc::ServerContextBase& context, MonotonicNs now_ns) {
  // Not context.deadline(): a client's "for ever" in hours overflows the nanoseconds of a time_point.
  const gpr_timespec deadline = gpr_convert_clock_type(context.raw_deadline(), GPR_CLOCK_REALTIME);
  const gpr_timespec now = gpr_now(GPR_CLOCK_REALTIME);
  constexpr int64_t kFarSeconds = int64_t{365} * 24 * 3600;
  const int64_t left_s =
      std::clamp(deadline.tv_sec, now.tv_sec - kFarSeconds, now.tv_sec + kFarSeconds) - now.tv_sec;
  if (left_s == kFarSeconds) return 0;
  return std::max<MonotonicNs>(1, now_ns + left_s * kNsPerSecond + deadline.tv_nsec - now.tv_nsec);
}

Reason WhyReset(MonotonicNs arrival_ns, MonotonicNs deadline_ns, MonotonicNs now_ns) {
  if (deadline_ns == 0) return Reason::kCancelled;
  const int64_t timeout_ns = std::max<int64_t>(0, deadline_ns - arrival_ns);
  const int64_t early_ns = timeout_ns / kRoundedShare + std::min(kLongestWayNs, timeout_ns / kWayShare);
  return now_ns >= deadline_ns - early_ns ? Reason::kDeadlineExceeded : Reason::kCancelled;
}

}  // namespace spillway::server
