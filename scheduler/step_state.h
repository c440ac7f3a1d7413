// StepState: what the step thread tells the others after every step - the snapshot, and the rates from which
// waiting times are predicted.
//
// StepState is a value; SharedStepState is thread-safe.
#ifndef SPILLWAY_SCHEDULER_STEP_STATE_H_
#define SPILLWAY_SCHEDULER_STEP_STATE_H_

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "base/clock.h"
#include "base/mutex.h"
#include "scheduler/pacer.h"
#include "scheduler/scheduler.h"

namespace spillway::scheduler {

// Tokens per second, recent ones weighing most.
class TokenRate {
 public:
  void Add(MonotonicNs now, int64_t tokens) {
    if (begin_ns_ < 0) begin_ns_ = last_ns_ = now;
    value_ = value_ * std::exp(-ToSeconds(now - last_ns_) / kMemorySeconds) +
             static_cast<double>(tokens) / kMemorySeconds;
    last_ns_ = now;
  }
  double PerSecond(MonotonicNs now) const {
    if (begin_ns_ < 0) return 0;
    // At first the memory is only partly filled; a second's worth at least, so that one step is no rate.
    const double age = std::max(1.0, ToSeconds(now - begin_ns_));
    const double filled = 1 - std::exp(-age / kMemorySeconds);
    return value_ * std::exp(-ToSeconds(now - last_ns_) / kMemorySeconds) / filled;
  }

 private:
  static constexpr double kMemorySeconds = 5;
  MonotonicNs begin_ns_ = -1;
  MonotonicNs last_ns_ = -1;
  double value_ = 0;
};

struct StepState {
  SchedulerSnapshot snapshot;  // without what the inbox, the pool and the rate know at the time of asking
  TokenRate prompt_rate;       // rows of prefill: prompts, and what preempted ones compute again
  TokenRate generated_rate;    // tokens drawn
  RecentMean prefill_token_ns{0.1};  // device time of a prompt token computed
  RecentMean hit_share{0.1};         // part of a prompt that was found in the prefix cache
};

class SharedStepState {
 public:
  void Set(const StepState& state) {
    MutexLock lock(mutex_);
    state_ = state;
  }
  StepState Get() const {
    MutexLock lock(mutex_);
    return state_;
  }

 private:
  mutable Mutex mutex_;
  StepState state_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_STEP_STATE_H_
