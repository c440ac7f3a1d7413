#include "scheduler/inbox.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/check.h"

namespace spillway::scheduler {

Reason Inbox::RefusalLocked() const {
  if (closed_ != Reason::kNone) return closed_;
  return new_requests_ >= max_waiting_ ? Reason::kQueueFull : Reason::kNone;
}

Reason Inbox::WouldRefuse() const {
  MutexLock lock(mutex_);
  return RefusalLocked();
}

Reason Inbox::Offer(std::unique_ptr<ActiveRequest>& request) {
  MutexLock lock(mutex_);
  const Reason refusal = RefusalLocked();
  if (refusal != Reason::kNone) return refusal;
  ++live_requests_;
  ++new_requests_;
  tokens_by_priority_[request->request().priority] += request->n_prompt();
  arrivals_.push_back(std::move(request));
  mail_came_.NotifyOne();
  return Reason::kNone;
}

void Inbox::NoteMoved(uint64_t number) {
  MutexLock lock(mutex_);
  // One note is enough until the step thread looks; others of the same request in between do no harm.
  if (!moved_.empty() && moved_.back() == number) return;
  moved_.push_back(number);
  mail_came_.NotifyOne();
}

void Inbox::Close(Reason reason) {
  MutexLock lock(mutex_);
  if (closed_ == Reason::kNone) closed_ = reason;
}

void Inbox::EndAll() {
  MutexLock lock(mutex_);
  end_all_ = true;
  mail_came_.NotifyOne();
}

bool Inbox::WaitForAllEnded(int64_t timeout_ns) {
  const Clock& clock = Clock::Real();
  const MonotonicNs until = clock.NowNs() + timeout_ns;
  MutexLock lock(mutex_);
  while (live_requests_ > 0) {
    const int64_t left_ns = until - clock.NowNs();
    if (left_ns <= 0) return false;
    all_ended_.WaitFor(mutex_, std::chrono::nanoseconds(left_ns));
  }
  return true;
}

int32_t Inbox::live_requests() const {
  MutexLock lock(mutex_);
  return live_requests_;
}

Inbox::Waiting Inbox::waiting() const {
  MutexLock lock(mutex_);
  Waiting waiting;
  waiting.requests = new_requests_;
  waiting.live_requests = live_requests_;
  waiting.returned = returned_;
  for (const auto& [priority, tokens] : tokens_by_priority_) waiting.tokens += tokens;
  return waiting;
}

int64_t Inbox::WaitingTokensFrom(int32_t priority) const {
  MutexLock lock(mutex_);
  int64_t tokens = 0;
  for (auto it = tokens_by_priority_.lower_bound(priority); it != tokens_by_priority_.end(); ++it) {
    tokens += it->second;
  }
  return tokens;
}

void Inbox::Take(Mail* mail) {
  mail->arrivals.clear();
  mail->moved.clear();
  MutexLock lock(mutex_);
  mail->end_all = std::exchange(end_all_, false);
  std::swap(arrivals_, mail->arrivals);
  std::swap(moved_, mail->moved);
}

void Inbox::SetReturned(const ReturnedSequences& returned) {
  MutexLock lock(mutex_);
  returned_ = returned;
}

void Inbox::OnLeftQueue(const ActiveRequest& request) {
  MutexLock lock(mutex_);
  --new_requests_;
  const auto it = tokens_by_priority_.find(request.request().priority);
  SPILLWAY_CHECK(it != tokens_by_priority_.end() && new_requests_ >= 0);
  it->second -= request.n_prompt();
  if (it->second == 0) tokens_by_priority_.erase(it);  // a prompt has at least one token
}

void Inbox::OnEnded() {
  MutexLock lock(mutex_);
  if (--live_requests_ == 0) all_ended_.NotifyAll();
}

void Inbox::WaitForMail(int64_t timeout_ns) {
  MutexLock lock(mutex_);
  while (!end_all_ && arrivals_.empty() && moved_.empty()) {
    if (timeout_ns < 0) {
      mail_came_.Wait(mutex_);
    } else if (!mail_came_.WaitFor(mutex_, std::chrono::nanoseconds(timeout_ns))) {
      return;
    }
  }
}

}  // namespace spillway::scheduler
