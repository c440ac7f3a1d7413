// RequestQueue: sequences that wait for blocks and a place, by priority, then arrival. Those that come back
// after a preemption stand where they stood, before all that arrived later.
//
// Strictly by priority: while higher priorities keep the engine busy, lower ones wait without limit.
// Step thread only. The number of new requests is bounded at the Inbox.
#ifndef SPILLWAY_SCHEDULER_REQUEST_QUEUE_H_
#define SPILLWAY_SCHEDULER_REQUEST_QUEUE_H_

#include <cstdint>
#include <iterator>
#include <set>

#include "base/check.h"
#include "scheduler/active_request.h"
#include "scheduler/sequence.h"

namespace spillway::scheduler {

class RequestQueue {
 public:
  void Add(Sequence& sequence) {
    SPILLWAY_CHECK(sequences_.insert(&sequence).second);
    sequence.state = SequenceState::kWaiting;
    returned_ += sequence.request.scheduled();
  }
  void Remove(Sequence& sequence) {
    SPILLWAY_CHECK(sequences_.erase(&sequence) == 1);
    returned_ -= sequence.request.scheduled();
  }

  Sequence* front() const { return sequences_.empty() ? nullptr : *sequences_.begin(); }
  bool empty() const { return sequences_.empty(); }
  int32_t size() const { return static_cast<int32_t>(sequences_.size()); }
  // Of requests that were scheduled before: preempted ones and further choices.
  int32_t returned() const { return returned_; }
  // Linear in the result; for one event of each request.
  int32_t CountAhead(Sequence& sequence) const {
    return static_cast<int32_t>(std::distance(sequences_.begin(), sequences_.find(&sequence)));
  }

 private:
  std::set<Sequence*, RunsBefore> sequences_;
  int32_t returned_ = 0;
};

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_REQUEST_QUEUE_H_
