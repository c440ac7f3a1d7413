// SpanTimer: how long stretches of one stream's work took, by the device's clock, without waiting for them:
// events around each stretch are read once it is over.
//
//   timer.Begin(); (enqueue work) timer.End(&stats.busy_ns, label); ... timer.Collect();
//
// While a timeline is recorded the stretches are its spans too.
//
// Step thread only. Nothing is allocated after construction.
#ifndef SPILLWAY_ENGINE_EXEC_SPAN_TIMER_H_
#define SPILLWAY_ENGINE_EXEC_SPAN_TIMER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "engine/device/device.h"
#include "engine/exec/step_stats.h"
#include "engine/exec/timeline.h"

namespace spillway::exec {

class SpanTimer {
 public:
  // At most `capacity` stretches are uncollected at a time: Begin waits for the oldest when they are.
  // `timeline` outlives the timer.
  SpanTimer(device::Device& device, device::StreamId stream, int32_t capacity, TimelineWriter& timeline);

  void Begin();
  // Collect adds the stretch's nanoseconds to *ns, which must live until then.
  void End(int64_t* ns, const SpanLabel& label);
  // The same of copies: Collect adds the label's bytes and the copies to the lane as well, when they are
  // over.
  void EndCopies(LaneStats* lane, const SpanLabel& label, int64_t copies);

  // Adds up the stretches that are over, oldest first.
  void Collect();
  // Waits for all of them: nothing is added to what they point to after this. A lost device's are forgotten.
  absl::Status CollectAll();

 private:
  struct Span {
    device::EventId begin;
    device::EventId end;
    int64_t* ns = nullptr;
    LaneStats* lane = nullptr;  // of copies
    int64_t copies = 0;
    SpanLabel label;
  };

  Span& At(int32_t index) { return spans_[static_cast<size_t>(index) % spans_.size()]; }
  void CollectFirst();

  device::Device& device_;
  const device::StreamId stream_;
  TimelineWriter& timeline_;
  std::vector<Span> spans_;  // in a circle
  int32_t first_ = 0;
  int32_t n_ended_ = 0;
};

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_SPAN_TIMER_H_
