// The part of StepLoop that deals with requests: how they come in, pause, receive tokens and end.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "scheduler/step_loop.h"

namespace spillway::scheduler {
namespace {

absl::Status StatusOf(Reason reason, const ActiveRequest& request) {
  const auto after = [&request] {
    return request.generated_tokens() > 0 ? absl::StrCat(" after ", request.generated_tokens(), " tokens")
                                          : std::string(" before the first token");
  };
  switch (reason) {
    case Reason::kCancelled:
      return MakeError(reason, absl::StrCat("the call was cancelled", after()));
    case Reason::kDeadlineExceeded:
      return MakeError(reason, absl::StrCat("the deadline passed", after()));
    case Reason::kRequestTooLarge:
      return MakeError(reason, absl::StrCat("the answer grew too large for a unary call", after()));
    case Reason::kSlowReader:
      return MakeError(reason, absl::StrCat("the stream was not read", after()));
    case Reason::kDraining:
      return MakeError(reason, absl::StrCat("the daemon shut down", after()));
    case Reason::kEngineFailed:
      return MakeError(reason, absl::StrCat("the device failed", after()));
    default:
      return MakeError(Reason::kInternal, "ended without a reason");
  }
}

DeltaEvent DeltaOf(int32_t index, std::string text, const device::SampleResult& sample, bool logprobs) {
  DeltaEvent delta;
  delta.index = index;
  delta.text = std::move(text);
  delta.tokens.push_back(sample.token);
  if (logprobs) {
    Logprob& logprob = delta.logprobs.emplace_back();
    logprob.token = sample.token;
    logprob.logprob = sample.logprob;
    logprob.rank = sample.rank;
    logprob.top.assign(sample.top, sample.top + sample.n_top);
  }
  return delta;
}

}  // namespace

void StepLoop::TakeMail() {
  inbox_.Take(&mail_);
  for (auto& arrival : mail_.arrivals) Accept(std::move(arrival));
  for (const uint64_t number : mail_.moved) {
    if (ActiveRequest* request = requests_.Find(number); request != nullptr) OnReaderMoved(*request);
  }
  if (mail_.end_all) EndEvery(Reason::kDraining);
}

void StepLoop::Accept(std::unique_ptr<ActiveRequest> arrival) {
  ActiveRequest& request = requests_.Add(std::move(arrival));
  Sequence& first = *request.sequences()[0];
  admission_->queue().Add(first);
  request.OnAccepted(admission_->queue().CountRequestsAhead(first));
  ResetTimer(request);
  // The note of a cancellation may have come, and been dropped, before the request did.
  if (request.stream().cancelled()) OnReaderMoved(request);
}

void StepLoop::OnReaderMoved(ActiveRequest& request) {
  if (request.stream().cancelled()) {
    EndRequest(request, StatusOf(request.stream().why_cancelled(), request));
  } else if (request.paused() && !request.stream().Full()) {
    Resume(request);
  }
}

void StepLoop::FireTimers() {
  const MonotonicNs now = parts_.clock.NowNs();
  while (ActiveRequest* request = requests_.PopDue(now)) {
    const MonotonicNs deadline = request->request().deadline_ns;
    if (deadline != 0 && now >= deadline) {
      EndRequest(*request, StatusOf(Reason::kDeadlineExceeded, *request));
    } else if (request->paused() && now - request->paused_since_ns() >= slow_reader_timeout_ns_) {
      EndRequest(*request, StatusOf(Reason::kSlowReader, *request));
    } else {
      if (request->paused()) admission_->Reconsider();  // long enough to give way to waiting requests
      ResetTimer(*request);
    }
  }
}

void StepLoop::ResetTimer(ActiveRequest& request) {
  const MonotonicNs deadline = request.request().deadline_ns;
  MonotonicNs at = deadline == 0 ? kNotYet : deadline;
  if (request.paused()) {
    MonotonicNs look = request.paused_since_ns() + Admission::kPauseBeforeParkedNs;
    const MonotonicNs end = request.paused_since_ns() + slow_reader_timeout_ns_;
    if (look <= parts_.clock.NowNs() || end < look) look = end;
    at = at == kNotYet ? look : std::min(at, look);
  }
  requests_.SetTimer(request, at);
}

void StepLoop::Pause(ActiveRequest& request) {
  request.Pause(parts_.clock.NowNs());
  for (const auto& sequence : request.sequences()) admission_->LeaveDecode(*sequence);
  ResetTimer(request);
}

void StepLoop::Resume(ActiveRequest& request) {
  request.Resume();
  for (const auto& sequence : request.sequences()) {
    if (sequence->state == SequenceState::kDecode) admission_->JoinDecode(*sequence);
  }
  admission_->Unpark(request);
  ResetTimer(request);
}

void StepLoop::AdmitWaiting() {
  const MonotonicNs now = parts_.clock.NowNs();
  while (Sequence* sequence = admission_->AdmitNext(now)) {
    ActiveRequest& request = sequence->request;
    sequence->found_tokens = sequence->cache.computed_tokens();
    if (!request.scheduled()) {
      const int32_t cached = sequence->found_tokens;
      inbox_.OnLeftQueue(request);
      parts_.observer.OnScheduled(request.OnFirstScheduled(now, cached));
      if (shares_prefixes_ && !request.request().warm_up) {
        state_.snapshot.prefix_queried_tokens += request.n_prompt();
        admitted_hit_tokens_ += cached;
        state_.hit_share.Add(static_cast<double>(cached) / request.n_prompt());
      }
    }
    request.OnPrefillProgress(*sequence);
  }
}

void StepLoop::Deliver(Sequence& sequence, const device::SampleResult& sample) {
  ActiveRequest& request = sequence.request;
  if (sample.token < 0) {
    // Its request ends when the whole batch is delivered: others of its choices may still be in it.
    sequence.state = SequenceState::kDecode;
    if (std::find(invalid_.begin(), invalid_.end(), &request) == invalid_.end()) invalid_.push_back(&request);
    return;
  }
  const MonotonicNs now = parts_.clock.NowNs();
  if (sequence.last_token_ns != kNotYet) {
    parts_.observer.OnTokens(1, ToSeconds(now - sequence.last_token_ns));
  }
  sequence.tokens.push_back(sample.token);
  ChoiceOutput::Outcome outcome = sequence.output.Append(sample.token);
  const bool logprobs = request.request().sampling.n_logprobs >= 0;
  if (request.OnToken(sequence, DeltaOf(sequence.index, std::move(outcome.text), sample, logprobs), now)) {
    parts_.observer.OnFirstToken(request.seconds_to_first_token());
    parts_.observer.OnPrefilled(request.prefill_seconds(), request.n_prompt(), request.cached_tokens());
    // The prompt's full blocks can be found now; the other choices share them.
    for (const auto& other : request.sequences()) {
      if (other->state == SequenceState::kHeld) admission_->queue().Add(*other);
    }
  }
  if (outcome.finished.has_value()) {
    OnFinished(sequence, *std::move(outcome.finished));
    return;
  }
  sequence.state = SequenceState::kDecode;
  if (!request.paused()) admission_->JoinDecode(sequence);
}

void StepLoop::EndInvalid() {
  for (ActiveRequest* request : invalid_) {
    EndRequest(*request,
               MakeError(Reason::kInternal,
                         "no token could be drawn: the model's logits are not numbers (its weights are "
                         "damaged, or overflow)"));
  }
  invalid_.clear();
}

void StepLoop::OnFinished(Sequence& sequence, FinishedEvent finished) {
  ActiveRequest& request = sequence.request;
  finished.index = sequence.index;
  // From a piece of prefill it comes without being in the queue of those that wait for an item.
  sequence.state = SequenceState::kDecode;
  admission_->Retire(sequence);
  request.OnChoiceFinished(std::move(finished));
  if (request.all_finished()) EndRequest(request, absl::OkStatus());
}

void StepLoop::EndRequest(ActiveRequest& request, absl::Status status) {
  for (const auto& sequence : request.sequences()) admission_->Retire(*sequence);
  if (!request.scheduled()) inbox_.OnLeftQueue(request);
  parts_.observer.OnFinished(request.End(std::move(status), parts_.clock.NowNs()));
  requests_.Remove(request);
  inbox_.OnEnded();
}

void StepLoop::EndEvery(Reason reason) {
  while (ActiveRequest* request = requests_.Any()) EndRequest(*request, StatusOf(reason, *request));
}

void StepLoop::EndAll(Reason reason) {
  TakeMail();
  EndEvery(reason);
  requests_.Sweep();
  PublishState();
}

int64_t StepLoop::NsToNextTimer() const {
  if (requests_.next_timer() == kNotYet) return -1;
  return std::max<int64_t>(0, requests_.next_timer() - parts_.clock.NowNs());
}

}  // namespace spillway::scheduler
