// Events of the scheduler to events of the wire. Streamed calls write them; unary calls fold them into their
// answer, so that both say the same.
#ifndef SPILLWAY_SERVER_EVENT_WRITER_H_
#define SPILLWAY_SERVER_EVENT_WRITER_H_

#include <cstdint>
#include <string>
#include <utility>

#include "engine/text/tokenizer.h"
#include "scheduler/token_stream.h"
#include "spillway/v1/inference.pb.h"

namespace spillway::server {

// One per call; thread-compatible.
class EventWriter {
 public:
  // `tokenizer` must outlive the writer.
  EventWriter(const text::Tokenizer& tokenizer, std::string model, std::string label, uint64_t seed)
      : tokenizer_(tokenizer), model_(std::move(model)), label_(std::move(label)), seed_(seed) {}

  // Replaces what `out` holds. Takes what it can use out of `event`.
  void Write(scheduler::Event& event, v1::StreamEvent* out) const;

 private:
  void Write(const scheduler::StartedEvent& event, v1::Started* out) const;
  void Write(scheduler::DeltaEvent& event, v1::Delta* out) const;

  const text::Tokenizer& tokenizer_;
  const std::string model_;
  const std::string label_;
  const uint64_t seed_;
};

// Puts a stream's events together into the unary answer (CompleteResponse or ChatResponse): text and tokens
// of a choice are the deltas' in order.
template <typename Response>
void FoldEvent(v1::StreamEvent& event, Response* response) {
  const auto choice = [response](int32_t index) {
    while (response->choices_size() <= index) {
      response->add_choices()->set_index(response->choices_size() - 1);
    }
    return response->mutable_choices(index);
  };
  switch (event.event_case()) {
    case v1::StreamEvent::kStarted:
      response->set_model(event.started().model());
      response->set_seed(event.started().seed());
      response->set_request_id(event.started().request_id());
      break;
    case v1::StreamEvent::kDelta: {
      v1::Delta& delta = *event.mutable_delta();
      v1::Choice& target = *choice(delta.index());
      target.mutable_text()->append(delta.text());
      target.mutable_token_ids()->MergeFrom(delta.token_ids());
      for (v1::TokenLogprob& logprob : *delta.mutable_logprobs()) {
        target.add_logprobs()->Swap(&logprob);
      }
      break;
    }
    case v1::StreamEvent::kFinished:
      choice(event.finished().index())->mutable_finished()->Swap(event.mutable_finished());
      break;
    case v1::StreamEvent::kUsage:
      response->mutable_usage()->Swap(event.mutable_usage());
      break;
    case v1::StreamEvent::kProgress:
    case v1::StreamEvent::EVENT_NOT_SET:
      break;
  }
}

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_EVENT_WRITER_H_
