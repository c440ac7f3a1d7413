#include "client/stream_checker.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace spillway::client {
namespace {

template <typename... Parts>
absl::Status Broken(const Parts&... parts) {
  return absl::InternalError(absl::StrCat("the stream broke its contract: ", parts...));
}

}  // namespace

absl::Status StreamChecker::OnEvent(const v1::StreamEvent& event) {
  if (usage_seen_) return Broken("an event after usage");
  if (event.event_case() == v1::StreamEvent::kStarted) {
    if (started_) return Broken("started twice");
    started_ = true;
    prompt_tokens_ = event.started().prompt_tokens();
    return absl::OkStatus();
  }
  if (!started_) return Broken("an event before started");
  switch (event.event_case()) {
    case v1::StreamEvent::kDelta:
      return OnDelta(event.delta());
    case v1::StreamEvent::kFinished:
      return OnFinished(event.finished());
    case v1::StreamEvent::kUsage:
      return OnUsage(event.usage());
    default:
      return absl::OkStatus();
  }
}

absl::Status StreamChecker::OnDelta(const v1::Delta& delta) {
  const auto index = static_cast<size_t>(delta.index());
  if (index >= finished_.size()) return Broken("a delta of index ", delta.index());
  if (finished_[index]) return Broken("a delta of index ", delta.index(), " after it had finished");
  if (delta.logprobs_size() != 0 && delta.logprobs_size() != delta.token_ids_size()) {
    return Broken(delta.logprobs_size(), " log probabilities for ", delta.token_ids_size(), " tokens");
  }
  generated_tokens_ += delta.token_ids_size();
  return absl::OkStatus();
}

absl::Status StreamChecker::OnFinished(const v1::Finished& finished) {
  const auto index = static_cast<size_t>(finished.index());
  if (index >= finished_.size()) return Broken("index ", finished.index(), " finished");
  if (finished_[index]) return Broken("index ", finished.index(), " finished twice");
  finished_[index] = true;
  if (finished.reason() == v1::FINISH_REASON_STOP_TOKEN) ++stop_tokens_;
  return absl::OkStatus();
}

absl::Status StreamChecker::OnUsage(const v1::Usage& usage) {
  usage_seen_ = true;
  const auto missing = std::find(finished_.begin(), finished_.end(), false);
  if (missing != finished_.end()) {
    return Broken("usage before index ", missing - finished_.begin(), " had finished");
  }
  if (usage.prompt_tokens() != prompt_tokens_) {
    return Broken("started counted ", prompt_tokens_, " prompt tokens, usage ", usage.prompt_tokens());
  }
  // An end token counts as generated and need not be delivered.
  if (usage.generated_tokens() < generated_tokens_ ||
      usage.generated_tokens() > generated_tokens_ + stop_tokens_) {
    return Broken("usage counts ", usage.generated_tokens(), " generated tokens, the deltas ",
                  generated_tokens_);
  }
  return absl::OkStatus();
}

absl::Status StreamChecker::OnEnd() const {
  if (!usage_seen_) return Broken("it ended without usage");
  return absl::OkStatus();
}

}  // namespace spillway::client
