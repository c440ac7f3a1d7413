// ActiveRequest: a request from its acceptance to its end - what the client asked, its choices' sequences,
// and what its stream has been told.
//
// Made by the submitting thread, then owned by the step loop; step thread only.
#ifndef SPILLWAY_SCHEDULER_ACTIVE_REQUEST_H_
#define SPILLWAY_SCHEDULER_ACTIVE_REQUEST_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "engine/kv/block_hasher.h"
#include "engine/text/stop_matcher.h"
#include "engine/text/tokenizer.h"
#include "scheduler/request.h"
#include "scheduler/scheduler.h"
#include "scheduler/sequence.h"
#include "scheduler/token_stream.h"

namespace spillway::scheduler {

class ActiveRequest {
 public:
  // Hashes the prompt, which for a long one takes milliseconds: on the submitting thread. `number` orders
  // requests by arrival. `tokenizer` and `room` must outlive the request; of `room` nothing is touched here.
  ActiveRequest(Request request, std::shared_ptr<TokenStream> stream, uint64_t number,
                const text::Tokenizer& tokenizer, text::StopMatcher matcher, const CacheRoom& room,
                absl::Span<const uint8_t> model_fingerprint);
  ActiveRequest(const ActiveRequest&) = delete;
  ActiveRequest& operator=(const ActiveRequest&) = delete;

  const Request& request() const { return request_; }
  uint64_t number() const { return number_; }
  TokenStream& stream() { return *stream_; }
  const StopRules& stop_rules() const { return stop_rules_; }
  const kv::BlockHash& root_hash() const { return root_hash_; }
  const std::vector<kv::BlockHash>& prompt_hashes() const { return prompt_hashes_; }
  std::vector<std::unique_ptr<Sequence>>& sequences() { return sequences_; }
  int32_t n_prompt() const { return static_cast<int32_t>(request_.prompt.size()); }
  int32_t most_tokens() const { return n_prompt() + request_.max_tokens; }

  // --- What happens to it, in order; each tells the stream.
  void OnAccepted(int32_t requests_ahead);
  // First time; returns seconds since arrival.
  double OnFirstScheduled(MonotonicNs now, int32_t cached_tokens);
  void OnPrefillProgress(const Sequence& sequence);
  // `tokens` that were in the cache by the time it came to them. Returns how many of them are of the prompt
  // and were computed for others.
  int32_t OnPrefixFound(Sequence& sequence, int32_t tokens);
  void OnPreempted(const Sequence& sequence);
  // Returns true for the request's very first token.
  bool OnToken(Sequence& sequence, DeltaEvent delta, MonotonicNs now);
  void OnChoiceFinished(FinishedEvent finished);
  // A step attended to so many cached tokens for one of its sequences; `step`: to what, for all of them.
  void OnAttended(const exec::TokenClasses& step, int32_t cached_tokens);
  bool all_finished() const { return finishes_.size() == sequences_.size(); }
  // Ends the stream: with usage when well. REQUIRES: not ended.
  RequestRecord End(absl::Status status, MonotonicNs now);

  bool scheduled() const { return first_scheduled_ns_ != kNotYet; }
  bool ended() const { return ended_; }
  MonotonicNs arrival_ns() const { return arrival_ns_; }
  double seconds_to_first_token() const { return ToSeconds(first_token_ns_ - arrival_ns_); }
  double prefill_seconds() const { return ToSeconds(first_token_ns_ - first_scheduled_ns_); }
  int32_t cached_tokens() const { return usage_.cached_tokens; }
  int32_t generated_tokens() const { return usage_.generated_tokens; }
  // No batch computes rows of it any more: it may be destroyed once ended.
  bool at_rest() const;

  // A slow reader: none of the choices decodes meanwhile.
  bool paused() const { return paused_since_ns_ != kNotYet; }
  MonotonicNs paused_since_ns() const { return paused_since_ns_; }
  void Pause(MonotonicNs now) { paused_since_ns_ = now; }
  void Resume() { paused_since_ns_ = kNotYet; }

  MonotonicNs timer_ns = kNotYet;  // where the step loop's timers have it

 private:
  void HashPrompt(const CacheRoom& room, absl::Span<const uint8_t> model_fingerprint);

  const Request request_;
  const std::shared_ptr<TokenStream> stream_;
  const uint64_t number_;
  StopRules stop_rules_;
  kv::BlockHash root_hash_;
  std::vector<kv::BlockHash> prompt_hashes_;
  std::vector<std::unique_ptr<Sequence>> sequences_;  // [n_choices]

  bool ended_ = false;
  MonotonicNs paused_since_ns_ = kNotYet;
  MonotonicNs arrival_ns_ = 0;
  MonotonicNs first_scheduled_ns_ = kNotYet;
  MonotonicNs first_token_ns_ = kNotYet;
  MonotonicNs last_token_ns_ = kNotYet;
  UsageEvent usage_;
  exec::TokenClasses attended_;
  std::vector<FinishReason> finishes_;
};

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_ACTIVE_REQUEST_H_
