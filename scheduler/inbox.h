// Inbox: the door between all other threads and the step thread. Requests come in and are counted until they
// are first scheduled; readers' cancellations and takes are noted; the step thread empties it at its own pace
// and sleeps on it when there is nothing to do.
//
// Thread-safe. Lives as long as the last stream that may still note something: shared with their listeners.
#ifndef SPILLWAY_SCHEDULER_INBOX_H_
#define SPILLWAY_SCHEDULER_INBOX_H_

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "base/reason.h"
#include "scheduler/active_request.h"
#include "scheduler/request_queue.h"

namespace spillway::scheduler {

class Inbox {
 public:
  // What the step thread takes out at once; reused from visit to visit.
  struct Mail {
    std::vector<std::unique_ptr<ActiveRequest>> arrivals;
    std::vector<uint64_t> moved;  // numbers of requests whose reader cancelled or took
    bool end_all = false;         // the drain's time is over
  };
  struct Waiting {
    int32_t requests = 0;       // not yet scheduled: what the bound of the queue is about
    int64_t tokens = 0;         // their prompt tokens
    int32_t live_requests = 0;  // these, and those that were scheduled and have not ended
    ReturnedSequences returned;
  };

  explicit Inbox(int32_t max_waiting) : max_waiting_(max_waiting) {}

  // --- Any thread.
  // kNone: taken. Otherwise kQueueFull or why the door is closed, and `request` is untouched.
  Reason Offer(std::unique_ptr<ActiveRequest>& request);
  // As Offer would answer now; lets a submitter spare the work of making the request.
  Reason WouldRefuse() const;
  // After NoteMoved of an unknown number nothing happens, so late notes do no harm.
  void NoteMoved(uint64_t number);
  // No request comes in any more. The first reason stays.
  void Close(Reason reason);
  // Asks the step thread to end every request.
  void EndAll();
  // All requests have ended. False: `timeout_ns` passed before.
  bool WaitForAllEnded(int64_t timeout_ns);
  int32_t live_requests() const;
  Waiting waiting() const;
  // Tokens of waiting requests that will be scheduled before a new one of this priority.
  int64_t WaitingTokensFrom(int32_t priority) const;

  // --- Step thread.
  // Moves out what came in.
  void Take(Mail* mail);
  void SetReturned(const ReturnedSequences& returned);
  // A request was scheduled for the first time, or ended before that.
  void OnLeftQueue(const ActiveRequest& request);
  void OnEnded();
  // Until something comes in or `timeout_ns` has passed (negative: no limit).
  void WaitForMail(int64_t timeout_ns);

 private:
  Reason RefusalLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int32_t max_waiting_;
  mutable Mutex mutex_;
  CondVar mail_came_;
  CondVar all_ended_;
  std::vector<std::unique_ptr<ActiveRequest>> arrivals_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint64_t> moved_ ABSL_GUARDED_BY(mutex_);
  bool end_all_ ABSL_GUARDED_BY(mutex_) = false;
  Reason closed_ ABSL_GUARDED_BY(mutex_) = Reason::kNone;
  int32_t live_requests_ ABSL_GUARDED_BY(mutex_) = 0;
  int32_t new_requests_ ABSL_GUARDED_BY(mutex_) = 0;  // not yet scheduled
  ReturnedSequences returned_ ABSL_GUARDED_BY(mutex_);
  std::map<int32_t, int64_t> tokens_by_priority_ ABSL_GUARDED_BY(mutex_);  // of new requests
};

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_INBOX_H_
