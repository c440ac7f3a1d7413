#include "bench/load_stream.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/call_error.h"

namespace spillway::bench {

void LoadStream::Start(v1::InferenceService::Stub& stub, grpc::CompletionQueue& queue, int64_t timeout_ms) {
  if (timeout_ms > 0) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(timeout_ms));
  }
  reader_ = stub.PrepareAsyncStreamComplete(&context_, planned_.request, &queue);
  reader_->StartCall(this);
}

void LoadStream::Read() {
  state_ = State::kReading;
  reader_->Read(&event_, this);
}

void LoadStream::Finish() {
  state_ = State::kFinishing;
  reader_->Finish(&status_, this);
}

void LoadStream::Cancel(std::string cause) {
  if (!cancel_cause_.empty()) return;
  cancel_cause_ = std::move(cause);
  context_.TryCancel();
}

LoadStream::Next LoadStream::OnCompletion(bool ok, MonotonicNs now_ns, const LoadOptions& options,
                                          LoadStats* stats) {
  switch (state_) {
    case State::kStarting:
      if (ok) {
        Read();
      } else {
        Finish();  // says why it did not start
      }
      return Next::kWait;
    case State::kReading:
      if (!ok) {
        Finish();
        return Next::kWait;
      }
      if (contract_.ok()) contract_ = checker_.OnEvent(event_);
      if (event_.has_delta()) OnDelta(event_.delta(), now_ns, stats);
      if (event_.has_usage()) usage_ = event_.usage();
      if (planned_.reads_slowly) return Next::kPause;
      Read();
      return Next::kWait;
    case State::kFinishing:
      OnFinish(now_ns, options, stats);
      return Next::kEnded;
  }
  return Next::kEnded;
}

void LoadStream::OnDelta(const v1::Delta& delta, MonotonicNs now_ns, LoadStats* stats) {
  if (delta.token_ids_size() == 0) return;
  ++stats->deltas;
  stats->totals.generated_tokens += delta.token_ids_size();
  if (first_token_ns_ == 0) {
    first_token_ns_ = now_ns;
    stats->first_token.Add(now_ns - due_ns_);
  } else if (!planned_.reads_slowly) {
    // A slow reader's gaps are its own.
    const int64_t gap_ns = now_ns - last_token_ns_;
    stats->inter_delta.Add(gap_ns);
    longest_gap_ns_ = std::max(longest_gap_ns_, gap_ns);
    for (int i = 0; i < delta.token_ids_size(); ++i) stats->inter_token.Add(gap_ns / delta.token_ids_size());
  }
  last_token_ns_ = now_ns;
  if (planned_.cancel_after_tokens >= 0 && checker_.generated_tokens() >= planned_.cancel_after_tokens) {
    Cancel("after a number of tokens");
  }
}

void LoadStream::OnFinish(MonotonicNs now_ns, const LoadOptions& options, LoadStats* stats) {
  if (status_.ok()) {
    if (contract_.ok()) contract_ = checker_.OnEnd();
    RecordSuccess(now_ns, options, stats);
    stats->ledger.Ended(request_, Outcome::kOk);
  } else {
    std::string cause;
    const Outcome outcome = OutcomeOfError(&cause);
    stats->ledger.Ended(request_, outcome, cause);
  }
  if (!contract_.ok()) stats->ledger.ContractBroken(std::string(contract_.message()));
}

void LoadStream::RecordSuccess(MonotonicNs now_ns, const LoadOptions& options, LoadStats* stats) {
  if (planned_.to_be_cancelled()) ++stats->cancel_missed;
  ++stats->totals.requests;
  stats->totals.prompt_tokens += usage_.prompt_tokens();
  stats->cached_tokens += usage_.cached_tokens();
  stats->end_to_end.Add(now_ns - due_ns_);
  const int64_t later_tokens = checker_.generated_tokens() - 1;
  double per_token_ms = 0;
  if (later_tokens > 0 && !planned_.reads_slowly) {
    const int64_t per_token_ns = (last_token_ns_ - first_token_ns_) / later_tokens;
    stats->per_token.Add(per_token_ns);
    per_token_ms = ToMs(per_token_ns);
  }
  const bool in_time = options.slo_ttft_ms <= 0 || ToMs(first_token_ns_ - due_ns_) <= options.slo_ttft_ms;
  const bool fluent = options.slo_tpot_ms <= 0 || per_token_ms <= options.slo_tpot_ms;
  const bool steady = options.slo_gap_ms <= 0 || ToMs(longest_gap_ns_) <= options.slo_gap_ms;
  const bool done = options.slo_e2e_ms <= 0 || ToMs(now_ns - due_ns_) <= options.slo_e2e_ms;
  if (in_time && fluent && steady && done) ++stats->totals.good;
}

Outcome LoadStream::OutcomeOfError(std::string* cause) {
  const client::CallError error = client::DecodeError(status_);
  *cause = absl::StrCat(client::CodeName(error.code), error.reason.empty() ? "" : "/", error.reason);
  if (!cancel_cause_.empty() && error.code == grpc::StatusCode::CANCELLED) {
    *cause = absl::StrCat("cancelled ", cancel_cause_);
    return cancel_cause_ == kNeverEnded ? Outcome::kFailed : Outcome::kCancelled;
  }
  if (planned_.reads_slowly && error.reason == "SLOW_READER") return Outcome::kSlowReader;
  static constexpr absl::string_view kRefusals[] = {"QUEUE_FULL", "TOKENIZER_BUSY", "DEADLINE_UNREACHABLE",
                                                    "NOT_READY", "DRAINING"};
  for (const absl::string_view refusal : kRefusals) {
    if (error.reason != refusal || checker_.started()) continue;
    retry_after_ms_ = error.retry_after_ms.value_or(0);
    return Outcome::kRejected;
  }
  return Outcome::kFailed;
}

}  // namespace spillway::bench
