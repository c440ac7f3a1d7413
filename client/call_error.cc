#include "client/call_error.h"

#include <algorithm>
#include <array>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "client/console.h"
#include "google/protobuf/any.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace spillway::client {
namespace {

constexpr absl::string_view kErrorDomain = "spillway.dev";

constexpr std::array<absl::string_view, 17> kCodeNames = {
    "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",
    "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
    "ABORTED",   "OUT_OF_RANGE",   "UNIMPLEMENTED",     "INTERNAL",           "UNAVAILABLE",
    "DATA_LOSS", "UNAUTHENTICATED"};

// Of an attempt to connect, in gRPC's words in small letters: somebody took it, and hung up.
bool WasClosed(absl::string_view cause) {
  return absl::StrContains(cause, "failed to connect") &&
         (absl::StrContains(cause, "socket closed") || absl::StrContains(cause, "connection reset") ||
          absl::StrContains(cause, "broken pipe"));
}

// The way out: from the table of reasons, else what the code alone allows to say.
std::string RemedyFor(const CallError& error, absl::string_view server) {
  for (const ReasonInfo& info : AllReasons()) {
    if (info.name == error.reason) return std::string(info.remedy);
  }
  if (!error.reason.empty()) return "";
  switch (error.code) {
    case grpc::StatusCode::UNAVAILABLE:
      if (absl::StrContains(absl::AsciiStrToLower(error.message), "handshake")) {
        return "Check that the daemon speaks TLS, and --tls_ca, --tls_server_name and the certificate of "
               "this client.";
      }
      if (WasClosed(absl::AsciiStrToLower(error.message))) {
        return "Something listens there: does it want TLS (--tls, --tls_ca), or a certificate of this client "
               "(--tls_client_certificate, --tls_client_key)? Or is it full (--max_connections)?";
      }
      return "Start spillwayd, or name its address with --server=HOST:PORT or SPILLWAY_SERVER.";
    case grpc::StatusCode::UNIMPLEMENTED:
      return absl::StrCat("What answers at ", server,
                          " does not serve this call. With --admin_listen spillwayd serves operators' calls "
                          "(status, plan, profile, trace, drain) there alone; else, is it of this version?");
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return "Allow more time with --timeout.";
    default:
      return "";
  }
}

// What went wrong, for a person: what gRPC itself reports is in the words of its channels.
std::string MessageFor(const CallError& error, absl::string_view server) {
  if (!error.reason.empty()) return error.message;
  if (error.code == grpc::StatusCode::DEADLINE_EXCEEDED) {
    return absl::StrCat("the time allowed for the call to ", server, " is over");
  }
  if (error.code != grpc::StatusCode::UNAVAILABLE) return error.message;
  const std::string cause = absl::AsciiStrToLower(error.message);
  const bool connected =
      !absl::StrContains(cause, "failed to connect") && !absl::StrContains(cause, "resolution");
  const absl::string_view what = connected          ? "the connection was lost to "
                                 : WasClosed(cause) ? "the connection was closed at once by "
                                                    : "no daemon answers at ";
  return absl::StrCat(what, server, " (", error.message, ")");
}

}  // namespace

absl::string_view CodeName(grpc::StatusCode code) {
  const auto index = static_cast<size_t>(code);
  return index < kCodeNames.size() ? kCodeNames[index] : "UNKNOWN";
}

CallError DecodeError(const grpc::Status& status) {
  SPILLWAY_CHECK(!status.ok());
  CallError error;
  error.code = status.error_code();
  error.message = status.error_message();

  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return error;
  for (const google::protobuf::Any& detail : details.details()) {
    google::rpc::ErrorInfo info;
    google::rpc::BadRequest bad_request;
    google::rpc::RetryInfo retry;
    if (detail.UnpackTo(&info)) {
      if (info.domain() != kErrorDomain) continue;
      error.reason = info.reason();
      error.metadata.insert(info.metadata().begin(), info.metadata().end());
    } else if (detail.UnpackTo(&bad_request)) {
      for (const auto& violation : bad_request.field_violations()) {
        error.violations.push_back({violation.field(), violation.description()});
      }
    } else if (detail.UnpackTo(&retry)) {
      error.retry_after_ms = retry.retry_delay().seconds() * 1000 + retry.retry_delay().nanos() / 1'000'000;
    }
  }
  return error;
}

std::string DescribeError(const CallError& error, absl::string_view server) {
  std::string text = absl::StrCat("spillway: ", CodeName(error.code));
  if (!error.reason.empty()) absl::StrAppend(&text, " (", EscapeToOneLine(error.reason), ")");
  const size_t n = error.violations.size();
  if (n > 0) {
    // The message repeats the violations.
    absl::StrAppend(&text, ": ", n, n == 1 ? " field is wrong\n" : " fields are wrong\n");
    for (const FieldViolation& violation : error.violations) {
      absl::StrAppend(&text, "  ", EscapeToOneLine(violation.field), ": ",
                      EscapeToOneLine(violation.description), "\n");
    }
  } else {
    absl::StrAppend(&text, ": ", EscapeToOneLine(MessageFor(error, server)), "\n");
  }
  if (error.retry_after_ms.has_value()) {
    absl::StrAppend(&text, "  retry after ", *error.retry_after_ms, " ms\n");
  }
  if (const std::string remedy = RemedyFor(error, server); !remedy.empty()) {
    absl::StrAppend(&text, "  remedy: ", remedy, "\n");
  }
  return text;
}

}  // namespace spillway::client
