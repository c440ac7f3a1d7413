// RequestTable: every accepted request until nothing runs of it any more, and when the step loop must look at
// one for the time's sake (its deadline, its slow reader).
//
// Step thread only.
#ifndef SPILLWAY_SCHEDULER_REQUEST_TABLE_H_
#define SPILLWAY_SCHEDULER_REQUEST_TABLE_H_

#include <cstdint>
#include <memory>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "scheduler/active_request.h"

namespace spillway::scheduler {

class RequestTable {
 public:
  ActiveRequest& Add(std::unique_ptr<ActiveRequest> request);
  // Null when there is none or it has ended.
  ActiveRequest* Find(uint64_t number) const;
  // Any that has not ended, or null.
  ActiveRequest* Any() const;
  bool empty() const { return live_.empty(); }

  // The request has ended. It stays alive until the next Sweep that finds it at rest.
  void Remove(ActiveRequest& request);
  void Sweep();

  // kNotYet: no timer.
  void SetTimer(ActiveRequest& request, MonotonicNs at);
  // A request whose timer is due, or null. Its timer is gone.
  ActiveRequest* PopDue(MonotonicNs now);
  // kNotYet: none.
  MonotonicNs next_timer() const { return timers_.empty() ? kNotYet : timers_.begin()->first; }

 private:
  std::unordered_map<uint64_t, std::unique_ptr<ActiveRequest>> live_;
  std::vector<std::unique_ptr<ActiveRequest>> ended_;  // few: until their batches are over
  std::set<std::pair<MonotonicNs, uint64_t>> timers_;
};

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_REQUEST_TABLE_H_
