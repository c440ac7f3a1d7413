#include "server/grpc_log.h"

#include <grpc/support/log.h>

#include <atomic>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "base/log.h"

namespace spillway::server {
namespace {

// How gRPC's TLS transport (src/core/tsi/ssl_transport_security.cc) begins its line; it has no other way to
// tell.
constexpr absl::string_view kHandshakeFailed = "Handshake failed";

std::atomic<int64_t> failed_handshakes{0};
std::atomic<MonotonicNs> next_line_ns{0};

void OnFailedHandshake(absl::string_view message) {
  const int64_t failed = failed_handshakes.fetch_add(1, std::memory_order_relaxed) + 1;
  // Whoever floods the port with handshakes does not flood the log.
  const MonotonicNs now_ns = Clock::Real().NowNs();
  MonotonicNs due_ns = next_line_ns.load(std::memory_order_relaxed);
  if (now_ns < due_ns ||
      !next_line_ns.compare_exchange_strong(due_ns, now_ns + kNsPerSecond, std::memory_order_relaxed)) {
    return;
  }
  Log(LogLevel::kWarning, "a TLS handshake failed", {{"cause", message}, {"failed_so_far", failed}});
}

void LogForGrpc(gpr_log_func_args* arguments) {
  if (absl::StartsWith(arguments->message, kHandshakeFailed)) return OnFailedHandshake(arguments->message);
  Log(LogLevel::kDebug, "grpc",
      {{"message", arguments->message}, {"severity", gpr_log_severity_string(arguments->severity)}});
}

}  // namespace

void RouteGrpcLog() {
  gpr_set_log_function(&LogForGrpc);
  gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
}

int64_t FailedHandshakes() { return failed_handshakes.load(std::memory_order_relaxed); }

}  // namespace spillway::server
