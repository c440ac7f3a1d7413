// CallError: a failed call in full. Decodes the google.rpc details that every error of the daemon carries and
// prints them for a person: what, why, every bad field, and the way out.
#ifndef SPILLWAY_CLIENT_CALL_ERROR_H_
#define SPILLWAY_CLIENT_CALL_ERROR_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "base/reason.h"
#include "grpcpp/support/status.h"

namespace spillway::client {

struct CallError {
  grpc::StatusCode code = grpc::StatusCode::UNKNOWN;
  std::string message;
  // ErrorInfo of domain "spillway.dev"; empty where the error is not the daemon's (a proxy's, the network's).
  std::string reason;
  std::map<std::string, std::string> metadata;
  std::vector<FieldViolation> violations;
  std::optional<int64_t> retry_after_ms;
};

// "INVALID_ARGUMENT". Unknown numbers give "UNKNOWN".
absl::string_view CodeName(grpc::StatusCode code);

// Details that do not parse are left out. REQUIRES: !status.ok().
CallError DecodeError(const grpc::Status& status);

// Lines for a person, each ended by a newline, with nothing in them that a terminal would obey:
//
//   spillway: INVALID_ARGUMENT (INVALID_FIELD): 2 fields are wrong
//     options.sampling.top_p: must be in (0, 1], is 1.5
//     options.max_tokens: must be at least 1, is 0
//     remedy: Correct the listed fields.
//
// `server` is the address that was called; it is named where the error is not the daemon's.
std::string DescribeError(const CallError& error, absl::string_view server);

}  // namespace spillway::client

#endif  // SPILLWAY_CLIENT_CALL_ERROR_H_
