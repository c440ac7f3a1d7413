#include "server/error_status.h"

#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/text/utf8.h"
#include "google/protobuf/any.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace spillway::server {
namespace {

constexpr absl::string_view kDomain = "spillway.dev";
// Together, base64 and the message's percent encoding included, below the 8 KiB of metadata that clients
// accept.
constexpr size_t kMessageBytes = 400;
constexpr size_t kDescriptionBytes = 300;
constexpr size_t kViolationsBytes = 2600;

// Whole UTF-8 of at most `limit` bytes: protobuf strings must be valid, and texts come from several rooms.
std::string Clean(absl::string_view text, size_t limit) {
  std::string clean;
  text::Utf8Repairer repairer;
  repairer.Append(text.substr(0, limit), clean);
  if (text.size() > limit) {
    absl::StrAppend(&clean, "...");
  } else {
    repairer.Flush(clean);
  }
  return clean;
}

// What an INVALID_ARGUMENT without violations of its own is about.
absl::string_view FieldOf(Reason reason) {
  switch (reason) {
    case Reason::kPromptTooLong:
      return "prompt";
    case Reason::kRequestTooLarge:
      return "options.max_tokens";
    case Reason::kChatTemplateRejected:
      return "messages";
    default:
      return "";
  }
}

google::rpc::BadRequest BadRequestOf(const absl::Status& status, Reason reason) {
  std::vector<FieldViolation> violations = ViolationsOf(status);
  if (violations.empty()) {
    violations.push_back({std::string(FieldOf(reason)), std::string(status.message())});
  }
  google::rpc::BadRequest out;
  size_t used = 0;
  for (size_t i = 0; i < violations.size(); ++i) {
    auto* violation = out.add_field_violations();
    violation->set_field(Clean(violations[i].field, kDescriptionBytes));
    violation->set_description(Clean(violations[i].description, kDescriptionBytes));
    used += violation->ByteSizeLong();
    if (used > kViolationsBytes && i > 0) {
      violation->set_field("");
      violation->set_description(absl::StrCat("and ", violations.size() - i, " more"));
      break;
    }
  }
  return out;
}

}  // namespace

int64_t RetryAfterMs(const absl::Status& status, int64_t queue_ms) {
  for (const auto& [name, value] : MetadataOf(status)) {
    int64_t said_ms = 0;
    if (name == "retry_after_ms" && absl::SimpleAtoi(value, &said_ms)) return said_ms;
  }
  switch (ReasonOf(status)) {
    case Reason::kQueueFull:
    case Reason::kDeadlineUnreachable:
      return queue_ms;
    case Reason::kTokenizerBusy:
      return 200;
    case Reason::kSlowReader:
      return 0;
    case Reason::kEngineFailed:
      return 5000;  // a supervisor restarts the daemon
    default:
      return 1000;
  }
}

grpc::Status ToGrpcStatus(const absl::Status& status, int64_t queue_ms) {
  if (status.ok()) return grpc::Status::OK;
  const Reason reason = ReasonOf(status);
  const ReasonInfo& info = InfoOf(reason);

  google::rpc::Status details;
  details.set_code(static_cast<int>(info.code));
  details.set_message(Clean(status.message(), kMessageBytes));

  google::rpc::ErrorInfo error_info;
  error_info.set_reason(std::string(info.name));
  error_info.set_domain(std::string(kDomain));
  for (const auto& [name, value] : MetadataOf(status)) {
    (*error_info.mutable_metadata())[Clean(name, kDescriptionBytes)] = Clean(value, kDescriptionBytes);
  }
  details.add_details()->PackFrom(error_info);
  if (info.code == absl::StatusCode::kInvalidArgument) {
    details.add_details()->PackFrom(BadRequestOf(status, reason));
  }
  if (info.retryable) {
    const int64_t retry_ms = RetryAfterMs(status, queue_ms);
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(retry_ms / 1000);
    retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(retry_ms % 1000 * 1'000'000));
    details.add_details()->PackFrom(retry);
  }
  return {static_cast<grpc::StatusCode>(info.code), details.message(), details.SerializeAsString()};
}

grpc::Status FinishStatus(const absl::Status& status, int64_t queue_ms, grpc::ServerContextBase& context) {
  if (!status.ok() && InfoOf(ReasonOf(status)).retryable) {
    const int64_t retry_ms = RetryAfterMs(status, queue_ms);
    context.AddTrailingMetadata("grpc-retry-pushback-ms", absl::StrCat(retry_ms));
    context.AddTrailingMetadata("retry-after", absl::StrCat((retry_ms + 999) / 1000));
  }
  return ToGrpcStatus(status, queue_ms);
}

}  // namespace spillway::server
