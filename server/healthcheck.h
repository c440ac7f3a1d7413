// `spillwayd --healthcheck`: asks the daemon of the same configuration whether it serves, for supervisors
// that run a command instead of a probe (Docker). Thread-compatible.
#ifndef SPILLWAY_SERVER_HEALTHCHECK_H_
#define SPILLWAY_SERVER_HEALTHCHECK_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace spillway::server {

// Ok where GET /readyz at `metrics_listen` answers 200 within five seconds; all addresses of a wildcard mean
// this machine. Unavailable, in one line, where nobody answers or the answer is another;
// InvalidArgument for port 0, which only the daemon knows.
absl::Status CheckHealth(absl::string_view metrics_listen);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_HEALTHCHECK_H_
