#include "server/event_writer.h"

namespace spillway::server {
namespace {

v1::Stage ToWire(scheduler::Stage stage) {
  switch (stage) {
    case scheduler::Stage::kQueued:
      return v1::STAGE_QUEUED;
    case scheduler::Stage::kPrefill:
      return v1::STAGE_PREFILL;
    case scheduler::Stage::kPreempted:
      return v1::STAGE_PREEMPTED;
  }
  return v1::STAGE_UNSPECIFIED;
}

void Write(const scheduler::ProgressEvent& event, v1::Progress* out) {
  out->set_stage(ToWire(event.stage));
  out->set_index(event.index);
  out->set_done_tokens(event.done_tokens);
  out->set_total_tokens(event.total_tokens);
  out->set_cached_tokens(event.cached_tokens);
  out->set_requests_ahead(event.requests_ahead);
}

void Write(scheduler::FinishedEvent& event, v1::Finished* out) {
  out->set_index(event.index);
  switch (event.reason) {
    case scheduler::FinishReason::kStopToken:
      out->set_reason(v1::FINISH_REASON_STOP_TOKEN);
      out->set_stop_token_id(event.stop_token);
      break;
    case scheduler::FinishReason::kStopString:
      out->set_reason(v1::FINISH_REASON_STOP_STRING);
      out->set_stop_string(std::move(event.stop_string));
      break;
    case scheduler::FinishReason::kLength:
      out->set_reason(v1::FINISH_REASON_LENGTH);
      break;
  }
}

void Write(const scheduler::UsageEvent& event, v1::Usage* out) {
  out->set_prompt_tokens(event.prompt_tokens);
  out->set_cached_tokens(event.cached_tokens);
  out->set_generated_tokens(event.generated_tokens);
  out->set_preemptions(event.preemptions);
  v1::Timings& timings = *out->mutable_timings();
  timings.set_queue_ms(event.timings.queue_ms);
  timings.set_prefill_ms(event.timings.prefill_ms);
  timings.set_decode_ms(event.timings.decode_ms);
  timings.set_first_token_ms(event.timings.first_token_ms);
  timings.set_total_ms(event.timings.total_ms);
}

}  // namespace

void EventWriter::Write(const scheduler::StartedEvent& event, v1::Started* out) const {
  out->set_model(model_);
  out->set_prompt_tokens(event.prompt_tokens);
  out->set_seed(seed_);
  out->set_request_id(label_);
}

void EventWriter::Write(scheduler::DeltaEvent& event, v1::Delta* out) const {
  out->set_index(event.index);
  out->set_text(std::move(event.text));
  out->mutable_token_ids()->Add(event.tokens.begin(), event.tokens.end());
  const auto bytes_of = [this](text::TokenId id) { return std::string(tokenizer_.TokenBytes(id)); };
  for (const scheduler::Logprob& logprob : event.logprobs) {
    v1::TokenLogprob& target = *out->add_logprobs();
    target.set_token_id(logprob.token);
    target.set_bytes(bytes_of(logprob.token));
    target.set_logprob(logprob.logprob);
    target.set_rank(logprob.rank);
    for (const device::TokenLogprob& top : logprob.top) {
      v1::TopLogprob& entry = *target.add_top();
      entry.set_token_id(top.token);
      entry.set_bytes(bytes_of(top.token));
      entry.set_logprob(top.logprob);
    }
  }
}

void EventWriter::Write(scheduler::Event& event, v1::StreamEvent* out) const {
  if (const auto* started = std::get_if<scheduler::StartedEvent>(&event)) {
    Write(*started, out->mutable_started());
    return;
  }
  if (auto* delta = std::get_if<scheduler::DeltaEvent>(&event)) {
    // Most events are deltas: keep the message and the strings in it.
    out->mutable_delta()->Clear();
    Write(*delta, out->mutable_delta());
    return;
  }
  out->Clear();
  if (const auto* progress = std::get_if<scheduler::ProgressEvent>(&event)) {
    server::Write(*progress, out->mutable_progress());
  } else if (auto* finished = std::get_if<scheduler::FinishedEvent>(&event)) {
    server::Write(*finished, out->mutable_finished());
  } else {
    server::Write(std::get<scheduler::UsageEvent>(event), out->mutable_usage());
  }
}

}  // namespace spillway::server
