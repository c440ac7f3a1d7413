#include "scheduler/request_table.h"

#include "base/check.h"

namespace spillway::scheduler {

ActiveRequest& RequestTable::Add(std::unique_ptr<ActiveRequest> request) {
  const auto [it, added] = live_.emplace(request->number(), nullptr);
  SPILLWAY_CHECK(added);
  it->second = std::move(request);
  return *it->second;
}

ActiveRequest* RequestTable::Find(uint64_t number) const {
  const auto it = live_.find(number);
  return it == live_.end() ? nullptr : it->second.get();
}

ActiveRequest* RequestTable::Any() const { return live_.empty() ? nullptr : live_.begin()->second.get(); }

void RequestTable::Remove(ActiveRequest& request) {
  SetTimer(request, kNotYet);
  const auto it = live_.find(request.number());
  SPILLWAY_CHECK(it != live_.end());
  ended_.push_back(std::move(it->second));
  live_.erase(it);
}

void RequestTable::Sweep() {
  for (size_t i = ended_.size(); i-- > 0;) {
    if (!ended_[i]->at_rest()) continue;
    std::swap(ended_[i], ended_.back());
    ended_.pop_back();
  }
}

void RequestTable::SetTimer(ActiveRequest& request, MonotonicNs at) {
  if (request.timer_ns == at) return;
  if (request.timer_ns != kNotYet) timers_.erase({request.timer_ns, request.number()});
  if (at != kNotYet) timers_.insert({at, request.number()});
  request.timer_ns = at;
}

ActiveRequest* RequestTable::PopDue(MonotonicNs now) {
  if (timers_.empty() || timers_.begin()->first > now) return nullptr;
  ActiveRequest* request = Find(timers_.begin()->second);
  SPILLWAY_CHECK(request != nullptr);
  SetTimer(*request, kNotYet);
  return request;
}

}  // namespace spillway::scheduler
