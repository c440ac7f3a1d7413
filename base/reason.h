// Why a call was refused or ended badly: one table of reasons, from which wire codes, ErrorInfo, metric
// labels and docs/api.md are made. Rooms below the server say the reason; the server's one converter makes
// the gRPC status.
#ifndef SPILLWAY_BASE_REASON_H_
#define SPILLWAY_BASE_REASON_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace spillway {

enum class Reason : uint8_t {
  kNone = 0,
  kInvalidField,
  kUnsupportedFeature,
  kPromptTooLong,
  kRequestTooLarge,
  kModelNotFound,
  kNoChatTemplate,
  kNoTokenizer,
  kChatTemplateRejected,
  kUnauthenticated,
  kPermissionDenied,
  kTenantRequests,
  kTenantTokens,
  kQueueFull,
  kTokenizerBusy,
  kPlannerBusy,
  kTraceRunning,
  kAnswersUnread,
  kNoProfile,
  kMemoryTooSmall,
  kDeadlineUnreachable,
  kDeadlineExceeded,
  kCancelled,
  kSlowReader,
  kNotReady,
  kDraining,
  kEngineFailed,
  kInternal,
};
constexpr int kReasons = static_cast<int>(Reason::kInternal) + 1;

struct ReasonInfo {
  Reason reason;
  absl::string_view name;  // ErrorInfo.reason and metric label: "QUEUE_FULL"
  absl::StatusCode code;
  bool retryable;             // the same call may succeed later, on this or another daemon
  absl::string_view meaning;  // for docs/api.md
  absl::string_view remedy;
};

const ReasonInfo& InfoOf(Reason reason);
absl::Span<const ReasonInfo> AllReasons();  // without kNone

// One bad field of a request: google.rpc.BadRequest.FieldViolation.
struct FieldViolation {
  std::string field;  // proto path: "sampling.top_p", "stop.strings[3]"
  std::string description;
};

// Name and value for ErrorInfo.metadata, e.g. {"limit", "8192"}, {"value", "9000"}.
using ReasonMetadata = std::vector<std::pair<std::string, std::string>>;

// A status of the reason's code that carries the reason, metadata and violations as payloads.
absl::Status MakeError(Reason reason, absl::string_view message, const ReasonMetadata& metadata = {});
// REQUIRES: the reason's code is INVALID_ARGUMENT.
absl::Status MakeFieldError(const std::vector<FieldViolation>& violations,
                            Reason reason = Reason::kInvalidField, const ReasonMetadata& metadata = {});

// kNone for OK; kInternal for a status that no MakeError made.
Reason ReasonOf(const absl::Status& status);
ReasonMetadata MetadataOf(const absl::Status& status);
std::vector<FieldViolation> ViolationsOf(const absl::Status& status);

}  // namespace spillway

#endif  // SPILLWAY_BASE_REASON_H_
