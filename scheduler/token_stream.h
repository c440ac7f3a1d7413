// TokenStream: the bounded queue between the step thread and one call. The step thread pushes events and
// never waits; the call's reader takes them when it can write. When the reader does not keep up, the
// scheduler pauses that request's sequences alone, and ends it with kSlowReader after a timeout.
//
// A stream that ends well carries: started, progress*, then per index delta* and finished, and usage last.
// The ids of a choice's deltas are all tokens that it generated, the stop token included; its text ends
// before a stop (after it, where the request includes the stop string).
#ifndef SPILLWAY_SCHEDULER_TOKEN_STREAM_H_
#define SPILLWAY_SCHEDULER_TOKEN_STREAM_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "base/reason.h"
#include "engine/device/ops.h"
#include "engine/text/vocabulary.h"

namespace spillway::scheduler {

enum class Stage : uint8_t { kQueued, kPrefill, kPreempted };

struct StartedEvent {
  int32_t prompt_tokens = 0;
};

// Sent on entering a stage and as prefill advances; droppable when the reader is slow.
struct ProgressEvent {
  Stage stage = Stage::kQueued;
  int32_t index = 0;           // the choice
  int32_t done_tokens = 0;     // of total, those in the cache: computed or found
  int32_t total_tokens = 0;    // before the next token can be drawn
  int32_t cached_tokens = 0;   // of done, those found
  int32_t requests_ahead = 0;  // kQueued
};

struct Logprob {
  text::TokenId token = 0;
  float logprob = 0;
  int32_t rank = 0;
  std::vector<device::TokenLogprob> top;
};

// New tokens of one choice. Text is whole UTF-8 and may lag behind the ids (held back bytes and possible
// stops).
struct DeltaEvent {
  int32_t index = 0;
  std::string text;
  std::vector<text::TokenId> tokens;
  std::vector<Logprob> logprobs;  // one per token when asked for
};

enum class FinishReason : uint8_t { kStopToken, kStopString, kLength };

// Once per index.
struct FinishedEvent {
  int32_t index = 0;
  FinishReason reason = FinishReason::kLength;
  std::string stop_string;        // kStopString
  text::TokenId stop_token = -1;  // kStopToken
};

struct Timings {
  double queue_ms = 0;        // arrival to first scheduled
  double prefill_ms = 0;      // first scheduled to first token
  double decode_ms = 0;       // first to last token
  double first_token_ms = 0;  // arrival to first token
  double total_ms = 0;
};

// Exactly once, last of a stream that ends well.
struct UsageEvent {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
  int32_t generated_tokens = 0;  // of all choices
  int32_t preemptions = 0;
  Timings timings;
};

using Event = std::variant<StartedEvent, ProgressEvent, DeltaEvent, FinishedEvent, UsageEvent>;

// Thread-safe: one pusher (the step thread), one taker.
class TokenStream {
 public:
  static constexpr int64_t kMaxWaitingBytes = 64 << 10;

  // `on_ready` is called by the pusher, outside the lock, when the stream goes from empty to not empty and
  // when it ends; it must neither block nor call back into the scheduler. It may come after a Take that found
  // the end, so it owns, or names weakly, what it touches. A stream is full when `max_events`
  // or `max_waiting_bytes` of text, ids and logprobs wait.
  TokenStream(int32_t max_events, std::function<void()> on_ready,
              int64_t max_waiting_bytes = kMaxWaitingBytes);

  // --- Step thread.
  // A delta joins a waiting delta of the same index, so a full stream means that the reader is far behind;
  // the pusher then stops producing. Progress is dropped by a full stream and replaces waiting progress of
  // the same stage and choice; every other event always fits.
  void Push(Event event);
  // The pusher should pause this sequence. When that is so, the listener hears of the next Take.
  bool Full() const;
  // No event follows; OK after UsageEvent, else why the request failed. The listener is let go.
  void End(absl::Status status);
  // `listener` is called, on the reader's thread and outside the lock, when the reader cancels or takes from
  // a stream that was found full: so the step thread need not look. Set before the first Push; null lets go.
  void SetListener(std::function<void()> listener);

  // --- Reader.
  // Appends everything that waits to `events`. Returns true when the stream has ended and nothing is left;
  // `status` is then set, once.
  bool Take(std::vector<Event>* events, absl::Status* status);
  // Sets the flag that the next visit sees. `why` is what the request ends with; the first one stays.
  void Cancel(Reason why = Reason::kCancelled);
  bool cancelled() const { return why_cancelled() != Reason::kNone; }
  // kNone: it was not.
  Reason why_cancelled() const { return why_cancelled_.load(std::memory_order_acquire); }
  // No more is pushed; what waits is still to be taken.
  bool ended() const;

  // Monotonic count of takes that found events.
  uint64_t takes() const { return takes_.load(std::memory_order_relaxed); }

 private:
  using Listener = std::shared_ptr<const std::function<void()>>;

  bool FullLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // False: dropped.
  bool EnqueueLocked(Event event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int32_t max_events_;
  const int64_t max_waiting_bytes_;
  const std::function<void()> on_ready_;
  std::atomic<Reason> why_cancelled_{Reason::kNone};
  std::atomic<uint64_t> takes_{0};
  mutable Mutex mutex_;
  std::deque<Event> events_ ABSL_GUARDED_BY(mutex_);
  int64_t waiting_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  mutable bool found_full_ ABSL_GUARDED_BY(mutex_) = false;  // the pusher waits for a Take
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  Listener listener_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_TOKEN_STREAM_H_
