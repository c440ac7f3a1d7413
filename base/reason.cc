#include "base/reason.h"

#include <array>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/types/optional.h"
#include "base/check.h"
#include "nlohmann/json.hpp"

namespace spillway {
namespace {

constexpr absl::string_view kReasonUrl = "spillway/reason";
constexpr absl::string_view kPayloadUrl = "spillway/details";

using absl::StatusCode;

constexpr std::array<ReasonInfo, kReasons> kTable = {{
    {Reason::kNone, "NONE", StatusCode::kOk, false, "", ""},
    {Reason::kInvalidField, "INVALID_FIELD", StatusCode::kInvalidArgument, false,
     "One or more fields are out of range or malformed; BadRequest lists every one.",
     "Correct the listed fields."},
    {Reason::kUnsupportedFeature, "UNSUPPORTED_FEATURE", StatusCode::kInvalidArgument, false,
     "A field is set that this daemon does not serve, or does not know because the client is newer.",
     "Leave the named field unset; GetModel lists what is served."},
    {Reason::kPromptTooLong, "PROMPT_TOO_LONG", StatusCode::kInvalidArgument, false,
     "The prompt leaves no room for a generated token in the context.",
     "Shorten the prompt to the limit in the metadata. Up to the model's own, a larger --context raises it, "
     "and "
     "--host_pool where the log says that the pool clamped it."},
    {Reason::kRequestTooLarge, "REQUEST_TOO_LARGE", StatusCode::kInvalidArgument, false,
     "Prompt and max_tokens together are more than one sequence can hold: the context, clamped to the host "
     "pool. Or the answer is too large for a unary call.",
     "Lower max_tokens or the prompt to the limit in the metadata, or serve with a larger --context and "
     "--host_pool."},
    {Reason::kModelNotFound, "MODEL_NOT_FOUND", StatusCode::kNotFound, false,
     "The model named in the request is not served here.",
     "Leave `model` empty or use a name that ListModels returns."},
    {Reason::kNoChatTemplate, "NO_CHAT_TEMPLATE", StatusCode::kFailedPrecondition, false,
     "The served model file carries no chat template.",
     "Serve it with --chat_template=FILE; or Tokenize a prompt of your own with parse_special and send "
     "`tokens`."},
    {Reason::kNoTokenizer, "NO_TOKENIZER", StatusCode::kFailedPrecondition, false,
     "The model is served without a tokenizer: it takes and gives token ids only.",
     "Use Complete with `tokens`; GetModel says token_ids_only."},
    {Reason::kChatTemplateRejected, "CHAT_TEMPLATE_REJECTED", StatusCode::kInvalidArgument, false,
     "The model's chat template refused the messages.",
     "Follow the template's message, e.g. alternate user and assistant."},
    {Reason::kUnauthenticated, "UNAUTHENTICATED", StatusCode::kUnauthenticated, false,
     "The daemon wants a token (--tokens_file), and the call shows none that it knows.",
     "Send `authorization: Bearer TOKEN`: spillway --token_file=FILE, or SPILLWAY_TOKEN."},
    {Reason::kPermissionDenied, "PERMISSION_DENIED", StatusCode::kPermissionDenied, false,
     "The call is an operator's, and its token is not of role admin.",
     "Use a token of role admin (spillway token --role=admin makes one)."},
    {Reason::kTenantRequests, "TENANT_REQUESTS", StatusCode::kResourceExhausted, true,
     "The token's tenant has as many requests running as it may.",
     "Retry when one of them has ended, or have max_concurrent_requests raised in --tokens_file."},
    {Reason::kTenantTokens, "TENANT_TOKENS", StatusCode::kResourceExhausted, true,
     "The token's tenant has used its tokens per minute.",
     "Retry after the time in RetryInfo, or have tokens_per_minute raised in --tokens_file."},
    {Reason::kQueueFull, "QUEUE_FULL", StatusCode::kResourceExhausted, true,
     "The queue of waiting requests is full.", "Retry after the time in RetryInfo, or on another daemon."},
    {Reason::kTokenizerBusy, "TOKENIZER_BUSY", StatusCode::kResourceExhausted, true,
     "Too much text is waiting to be tokenised.", "Retry after the time in RetryInfo."},
    {Reason::kPlannerBusy, "PLANNER_BUSY", StatusCode::kResourceExhausted, true,
     "Too many plans are waiting to be explained.", "Retry after the time in RetryInfo."},
    {Reason::kTraceRunning, "TRACE_RUNNING", StatusCode::kResourceExhausted, true,
     "Somebody else's trace is being recorded.", "Retry when it is over."},
    {Reason::kAnswersUnread, "ANSWERS_UNREAD", StatusCode::kResourceExhausted, true,
     "Earlier answers to the tenant, or without tokens to the connection, are not read yet, and this one "
     "would be "
     "too much to keep beside them.",
     "Read answers as they come, and retry; ask for less at a time."},
    {Reason::kNoProfile, "NO_PROFILE", StatusCode::kFailedPrecondition, false,
     "The daemon has no profile of this machine and model, without which nothing can be planned.",
     "Start the daemon with --reprofile, or explain from a saved profile: spillway plan --profile=FILE."},
    {Reason::kMemoryTooSmall, "MEMORY_TOO_SMALL", StatusCode::kFailedPrecondition, false,
     "A plan was asked for memory that does not hold the weights, or not every cached token.",
     "The message says how much would do; ask for more memory, fewer tokens, or streamed weights."},
    {Reason::kDeadlineUnreachable, "DEADLINE_UNREACHABLE", StatusCode::kDeadlineExceeded, true,
     "The predicted time of the first token clearly misses the call's deadline; nothing was computed.",
     "Allow more time, or retry when the queue is shorter."},
    {Reason::kDeadlineExceeded, "DEADLINE_EXCEEDED", StatusCode::kDeadlineExceeded, false,
     "The call's deadline passed while the request ran.", "Allow more time or ask for fewer tokens."},
    {Reason::kCancelled, "CANCELLED", StatusCode::kCancelled, false, "The client cancelled the call.",
     "None needed."},
    {Reason::kSlowReader, "SLOW_READER", StatusCode::kAborted, true,
     "The client did not read its stream for --slow_reader_timeout_ms.",
     "Read faster, or use the unary call."},
    {Reason::kNotReady, "NOT_READY", StatusCode::kUnavailable, true, "The daemon is still loading.",
     "Retry when the health service says SERVING."},
    {Reason::kDraining, "DRAINING", StatusCode::kUnavailable, true, "The daemon is shutting down.",
     "Retry on another daemon."},
    {Reason::kEngineFailed, "ENGINE_FAILED", StatusCode::kUnavailable, true,
     "The device failed; the daemon is about to exit.", "Retry on another daemon; see the daemon's log."},
    {Reason::kInternal, "INTERNAL", StatusCode::kInternal, false, "A defect of the daemon.",
     "Report it with the daemon's log line of this request."},
}};

// Of a name or text that a client sent, which may be megabytes; who reads the error needs its beginning.
constexpr size_t kTextBytesMax = 4096;

std::string Cut(absl::string_view text) { return std::string(text.substr(0, kTextBytesMax)); }

nlohmann::json PayloadOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kPayloadUrl);
  if (!payload.has_value()) return nullptr;
  return nlohmann::json::parse(std::string(*payload), nullptr, /*allow_exceptions=*/false);
}

absl::Status WithPayload(Reason reason, absl::string_view message, const nlohmann::json& extra) {
  absl::Status status(InfoOf(reason).code, message);
  // Asked for often, so it is not in the JSON.
  status.SetPayload(kReasonUrl, absl::Cord(absl::StrCat(static_cast<int>(reason))));
  if (!extra.empty()) {
    status.SetPayload(kPayloadUrl,
                      absl::Cord(extra.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)));
  }
  return status;
}

nlohmann::json MetadataPayload(const ReasonMetadata& metadata) {
  nlohmann::json extra = nlohmann::json::object();
  for (const auto& [name, value] : metadata) extra["metadata"].push_back({name, Cut(value)});
  return extra;
}

}  // namespace

const ReasonInfo& InfoOf(Reason reason) {
  const auto& info = kTable[static_cast<size_t>(reason)];
  SPILLWAY_CHECK(info.reason == reason);
  return info;
}

absl::Span<const ReasonInfo> AllReasons() { return absl::MakeConstSpan(kTable).subspan(1); }

absl::Status MakeError(Reason reason, absl::string_view message, const ReasonMetadata& metadata) {
  SPILLWAY_CHECK(reason != Reason::kNone);
  return WithPayload(reason, Cut(message), MetadataPayload(metadata));
}

absl::Status MakeFieldError(const std::vector<FieldViolation>& violations, Reason reason,
                            const ReasonMetadata& metadata) {
  SPILLWAY_CHECK(!violations.empty());
  SPILLWAY_CHECK(InfoOf(reason).code == StatusCode::kInvalidArgument);
  nlohmann::json extra = MetadataPayload(metadata);
  std::string message;
  for (const FieldViolation& violation : violations) {
    extra["violations"].push_back({Cut(violation.field), Cut(violation.description)});
    if (message.size() >= kTextBytesMax) continue;
    absl::StrAppend(&message, message.empty() ? "" : "; ", Cut(violation.field), ": ",
                    Cut(violation.description));
  }
  return WithPayload(reason, Cut(message), extra);
}

Reason ReasonOf(const absl::Status& status) {
  if (status.ok()) return Reason::kNone;
  const absl::optional<absl::Cord> payload = status.GetPayload(kReasonUrl);
  int reason = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &reason)) return Reason::kInternal;
  return static_cast<Reason>(reason);
}

ReasonMetadata MetadataOf(const absl::Status& status) {
  ReasonMetadata metadata;
  const nlohmann::json payload = PayloadOf(status);
  if (!payload.is_object() || !payload.contains("metadata")) return metadata;
  for (const auto& pair : payload["metadata"]) metadata.emplace_back(pair[0], pair[1]);
  return metadata;
}

std::vector<FieldViolation> ViolationsOf(const absl::Status& status) {
  std::vector<FieldViolation> violations;
  const nlohmann::json payload = PayloadOf(status);
  if (!payload.is_object() || !payload.contains("violations")) return violations;
  for (const auto& pair : payload["violations"]) violations.push_back({pair[0], pair[1]});
  return violations;
}

}  // namespace spillway
