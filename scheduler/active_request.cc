#include "scheduler/active_request.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace spillway::scheduler {
namespace {

StopRules StopRulesOf(const Request& request, const text::Tokenizer& tokenizer) {
  StopRules rules;
  if (!request.ignore_eos) rules.stop_ids = tokenizer.stop_ids();
  rules.stop_ids.insert(rules.stop_ids.end(), request.stop_ids.begin(), request.stop_ids.end());
  std::sort(rules.stop_ids.begin(), rules.stop_ids.end());
  rules.stop_ids.erase(std::unique(rules.stop_ids.begin(), rules.stop_ids.end()), rules.stop_ids.end());
  rules.max_tokens = request.max_tokens;
  rules.min_tokens = request.min_tokens;
  rules.include_stop = request.include_stop;
  rules.skip_special = request.skip_special;
  return rules;
}

}  // namespace

ActiveRequest::ActiveRequest(Request request, std::shared_ptr<TokenStream> stream, uint64_t number,
                             const text::Tokenizer& tokenizer, text::StopMatcher matcher,
                             const CacheRoom& room, absl::Span<const uint8_t> model_fingerprint)
    : request_(std::move(request)),
      stream_(std::move(stream)),
      number_(number),
      stop_rules_(StopRulesOf(request_, tokenizer)),
      arrival_ns_(request_.arrival_ns) {
  HashPrompt(room, model_fingerprint);
  usage_.prompt_tokens = n_prompt();
  for (int32_t choice = 0; choice < request_.n_choices; ++choice) {
    sequences_.push_back(std::make_unique<Sequence>(*this, choice, tokenizer, matcher, room));
  }
}

void ActiveRequest::HashPrompt(const CacheRoom& room, absl::Span<const uint8_t> model_fingerprint) {
  const int32_t block_tokens = room.block_tokens;
  kv::BlockHasher hasher(block_tokens);
  std::vector<uint8_t> salt = request_.cache_salt;
  if (!room.shares_prefixes) {
    // A salt of its own: the request finds its own blocks again and nobody else's.
    salt.resize(sizeof(number_));
    std::memcpy(salt.data(), &number_, sizeof(number_));
  }
  root_hash_ = hasher.RootHash(model_fingerprint, salt);
  const size_t block_size = static_cast<size_t>(block_tokens);
  const absl::Span<const text::TokenId> prompt = request_.prompt;
  prompt_hashes_.reserve(prompt.size() / block_size);
  for (size_t begin = 0; begin + block_size <= prompt.size(); begin += block_size) {
    const kv::BlockHash& parent = prompt_hashes_.empty() ? root_hash_ : prompt_hashes_.back();
    prompt_hashes_.push_back(hasher.ChainHash(parent, prompt.subspan(begin, block_size)));
  }
}

void ActiveRequest::OnAccepted(int32_t requests_ahead) {
  stream_->Push(StartedEvent{n_prompt()});
  ProgressEvent progress;
  progress.stage = Stage::kQueued;
  progress.requests_ahead = requests_ahead;
  progress.total_tokens = n_prompt();
  stream_->Push(progress);
}

double ActiveRequest::OnFirstScheduled(MonotonicNs now, int32_t cached_tokens) {
  first_scheduled_ns_ = now;
  usage_.cached_tokens = cached_tokens;
  return ToSeconds(now - arrival_ns_);
}

void ActiveRequest::OnPrefillProgress(const Sequence& sequence) {
  ProgressEvent progress;
  progress.stage = Stage::kPrefill;
  progress.index = sequence.index;
  progress.done_tokens = sequence.cache.computed_tokens();
  progress.total_tokens = sequence.n_tokens();
  progress.cached_tokens = sequence.found_tokens;
  stream_->Push(progress);
}

int32_t ActiveRequest::OnPrefixFound(Sequence& sequence, int32_t tokens) {
  sequence.found_tokens += tokens;
  OnPrefillProgress(sequence);
  // Only what others computed counts: further choices find the first one's, a preempted one its own.
  if (sequence.index != 0 || usage_.preemptions > 0) return 0;
  usage_.cached_tokens += tokens;
  return tokens;
}

void ActiveRequest::OnPreempted(const Sequence& sequence) {
  ++usage_.preemptions;
  ProgressEvent progress;
  progress.stage = Stage::kPreempted;
  progress.index = sequence.index;
  progress.total_tokens = sequence.n_tokens();
  stream_->Push(progress);
}

bool ActiveRequest::OnToken(Sequence& sequence, DeltaEvent delta, MonotonicNs now) {
  const bool first = first_token_ns_ == kNotYet;
  if (first) first_token_ns_ = now;
  last_token_ns_ = now;
  sequence.last_token_ns = now;
  ++usage_.generated_tokens;
  stream_->Push(std::move(delta));
  return first;
}

void ActiveRequest::OnChoiceFinished(FinishedEvent finished) {
  finishes_.push_back(finished.reason);
  stream_->Push(std::move(finished));
}

void ActiveRequest::OnAttended(const exec::TokenClasses& step, int32_t cached_tokens) {
  const auto total = static_cast<double>(step.total_tokens());
  if (total <= 0) return;
  // Which of a batch's tokens are of which class is known of the whole batch.
  const double share = cached_tokens / total;
  const auto of = [share](int64_t tokens) {
    return static_cast<int64_t>(std::llround(static_cast<double>(tokens) * share));
  };
  attended_ += {of(step.resident_kv_tokens), of(step.resident_x_tokens), of(step.carried_kv_tokens),
                of(step.carried_x_tokens), of(step.host_attended_tokens)};
}

RequestRecord ActiveRequest::End(absl::Status status, MonotonicNs now) {
  SPILLWAY_CHECK(!ended_);
  ended_ = true;
  Timings& timings = usage_.timings;
  const MonotonicNs scheduled = first_scheduled_ns_ != kNotYet ? first_scheduled_ns_ : now;
  const MonotonicNs first_token = first_token_ns_ != kNotYet ? first_token_ns_ : now;
  timings.queue_ms = ToMs(scheduled - arrival_ns_);
  timings.prefill_ms = ToMs(first_token - scheduled);
  timings.decode_ms = first_token_ns_ != kNotYet ? ToMs(last_token_ns_ - first_token_ns_) : 0;
  timings.first_token_ms = first_token_ns_ != kNotYet ? ToMs(first_token_ns_ - arrival_ns_) : 0;
  timings.total_ms = ToMs(now - arrival_ns_);

  RequestRecord record;
  record.label = request_.label;
  record.method = request_.method;
  record.peer = request_.peer;
  record.tenant = request_.tenant;
  record.trace_id = request_.trace_id;
  record.parent_span_id = request_.parent_span_id;
  record.reason = ReasonOf(status);
  record.finishes = finishes_;
  record.choices = request_.n_choices;
  record.usage = usage_;
  record.attended = attended_;
  for (const auto& sequence : sequences_) {
    record.longest_choice_tokens = std::max(record.longest_choice_tokens, sequence->n_generated());
  }
  record.priority = request_.priority;
  if (status.ok()) stream_->Push(usage_);
  stream_->End(std::move(status));
  return record;
}

bool ActiveRequest::at_rest() const {
  return std::all_of(sequences_.begin(), sequences_.end(),
                     [](const auto& sequence) { return sequence->batch == nullptr; });
}

}  // namespace spillway::scheduler
