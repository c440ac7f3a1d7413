// RequestQueue: sequences that wait for blocks and a place, by priority, then arrival. Those that come back
// after a preemption stand where they stood, before all that arrived later.
//
// Strictly by priority: while higher priorities keep the engine busy, lower ones wait without limit.
// Step thread only. The number of new requests is bounded at the Inbox; that of the sequences of running ones
// by those requests' choices.
#ifndef SPILLWAY_SCHEDULER_REQUEST_QUEUE_H_
#define SPILLWAY_SCHEDULER_REQUEST_QUEUE_H_

#include <algorithm>
#include <cstdint>
#include <set>

#include "base/check.h"
#include "scheduler/active_request.h"
#include "scheduler/sequence.h"

namespace spillway::scheduler {

// Sequences that wait although their request was scheduled: further choices, and preempted ones.
struct ReturnedSequences {
  int32_t sequences = 0;
  // What they have to compute before the queue behind them moves: known tokens that a preempted one computes
  // again, and the output that is reserved for each.
  int64_t tokens = 0;
};

class RequestQueue {
 public:
  explicit RequestQueue(int32_t reserve_output_tokens) : reserve_output_tokens_(reserve_output_tokens) {}

  void Add(Sequence& sequence) {
    SPILLWAY_CHECK(sequences_.insert(&sequence).second);
    sequence.state = SequenceState::kWaiting;
    if (sequence.request.scheduled()) Count(sequence, 1);
  }
  void Remove(Sequence& sequence) {
    SPILLWAY_CHECK(sequences_.erase(&sequence) == 1);
    if (sequence.request.scheduled()) Count(sequence, -1);
  }

  Sequence* front() const { return sequences_.empty() ? nullptr : *sequences_.begin(); }
  bool empty() const { return sequences_.empty(); }
  int32_t size() const { return static_cast<int32_t>(sequences_.size()); }
  const ReturnedSequences& returned() const { return returned_; }
  // Requests with sequences before this one. Linear in these; for one event of each request.
  int32_t CountRequestsAhead(Sequence& sequence) const {
    int32_t requests = 0;
    const ActiveRequest* last = nullptr;  // sequences of one request are neighbours
    for (auto it = sequences_.begin(); *it != &sequence; ++it) {
      requests += &(*it)->request != last;
      last = &(*it)->request;
    }
    return requests;
  }

 private:
  void Count(const Sequence& sequence, int32_t sign) {
    const ActiveRequest& request = sequence.request;
    const int32_t generated = sequence.n_generated();
    // A further choice finds its prompt in the cache.
    const int32_t known = sequence.index > 0 && generated == 0 ? 0 : request.n_prompt() + generated;
    const int32_t output = std::min(reserve_output_tokens_, request.request().max_tokens - generated);
    returned_.sequences += sign;
    returned_.tokens += int64_t{sign} * (known + output);
  }

  const int32_t reserve_output_tokens_;
  std::set<Sequence*, RunsBefore> sequences_;
  ReturnedSequences returned_;
};

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_REQUEST_QUEUE_H_
