#include "scheduler/token_stream.h"

#include <iterator>
#include <utility>

#include "base/check.h"

namespace spillway::scheduler {
namespace {

int64_t BytesOf(const DeltaEvent& delta) {
  size_t bytes = delta.text.size() + delta.tokens.size() * sizeof(text::TokenId);
  for (const Logprob& logprob : delta.logprobs) {
    bytes += sizeof(Logprob) + logprob.top.size() * sizeof(device::TokenLogprob);
  }
  return static_cast<int64_t>(bytes);
}

void Join(DeltaEvent& into, DeltaEvent&& delta) {
  into.text += delta.text;
  into.tokens.insert(into.tokens.end(), delta.tokens.begin(), delta.tokens.end());
  into.logprobs.insert(into.logprobs.end(), std::make_move_iterator(delta.logprobs.begin()),
                       std::make_move_iterator(delta.logprobs.end()));
}

}  // namespace

TokenStream::TokenStream(int32_t max_events, std::function<void()> on_ready, int64_t max_waiting_bytes)
    : max_events_(max_events), max_waiting_bytes_(max_waiting_bytes), on_ready_(std::move(on_ready)) {
  SPILLWAY_CHECK(max_events > 0 && max_waiting_bytes > 0);
}

bool TokenStream::FullLocked() const {
  return events_.size() >= static_cast<size_t>(max_events_) || waiting_bytes_ >= max_waiting_bytes_;
}

bool TokenStream::EnqueueLocked(Event event) {
  if (auto* delta = std::get_if<DeltaEvent>(&event)) {
    waiting_bytes_ += BytesOf(*delta);
    // At most one delta of each index waits, so this looks at few events.
    for (auto it = events_.rbegin(); it != events_.rend(); ++it) {
      auto* waiting = std::get_if<DeltaEvent>(&*it);
      if (waiting == nullptr || waiting->index != delta->index) continue;
      Join(*waiting, std::move(*delta));
      return true;
    }
  } else if (auto* progress = std::get_if<ProgressEvent>(&event)) {
    auto* last = events_.empty() ? nullptr : std::get_if<ProgressEvent>(&events_.back());
    if (last != nullptr && last->stage == progress->stage && last->index == progress->index) {
      *last = *progress;
      return true;
    }
    if (FullLocked()) return false;
  }
  events_.push_back(std::move(event));
  return true;
}

void TokenStream::Push(Event event) {
  {
    MutexLock lock(mutex_);
    SPILLWAY_CHECK_MSG(!ended_, "an event after the stream's end");
    const bool was_empty = events_.empty();
    if (!EnqueueLocked(std::move(event)) || !was_empty) return;
  }
  on_ready_();
}

bool TokenStream::Full() const {
  MutexLock lock(mutex_);
  if (!FullLocked()) return false;
  found_full_ = true;
  return true;
}

void TokenStream::End(absl::Status status) {
  {
    MutexLock lock(mutex_);
    SPILLWAY_CHECK_MSG(!ended_, "a stream ends once");
    ended_ = true;
    status_ = std::move(status);
    listener_ = nullptr;
  }
  on_ready_();
}

bool TokenStream::ended() const {
  MutexLock lock(mutex_);
  return ended_;
}

void TokenStream::SetListener(std::function<void()> listener) {
  MutexLock lock(mutex_);
  listener_ =
      listener == nullptr ? nullptr : std::make_shared<const std::function<void()>>(std::move(listener));
}

bool TokenStream::Take(std::vector<Event>* events, absl::Status* status) {
  Listener listener;
  bool ended = false;
  {
    MutexLock lock(mutex_);
    if (!events_.empty()) takes_.fetch_add(1, std::memory_order_relaxed);
    events->insert(events->end(), std::make_move_iterator(events_.begin()),
                   std::make_move_iterator(events_.end()));
    events_.clear();
    waiting_bytes_ = 0;
    if (found_full_) listener = listener_;
    found_full_ = false;
    ended = ended_;
    if (ended) *status = std::move(status_);
  }
  if (listener != nullptr) (*listener)();
  return ended;
}

void TokenStream::Cancel(Reason why) {
  SPILLWAY_CHECK(why != Reason::kNone);
  Reason not_yet = Reason::kNone;
  why_cancelled_.compare_exchange_strong(not_yet, why, std::memory_order_acq_rel);
  Listener listener;
  {
    MutexLock lock(mutex_);
    listener = listener_;
  }
  if (listener != nullptr) (*listener)();
}

}  // namespace spillway::scheduler
