// Timeline: what each lane did when, recorded for as long as somebody looks. Off, it costs a look at one
// number per step.
//
// Timeline is the recording, which any thread may start and take; TimelineWriter is an executor's side of it,
// which turns pairs of device events into spans on the host's clock.
#ifndef SPILLWAY_ENGINE_EXEC_TIMELINE_H_
#define SPILLWAY_ENGINE_EXEC_TIMELINE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "engine/device/device.h"
#include "engine/exec/split_plan.h"

namespace spillway::exec {

// What a stretch of a lane's time was spent on.
struct SpanLabel {
  Lane lane = Lane::kCompute;
  bool waiting = false;  // for another lane, with work at hand
  Phase phase = Phase::kDecode;
  // Passes through the layers, counted from 1 in the order in which they began; 0: of none alone, as a
  // layer's weights are that several passes share.
  uint64_t step = 0;
  // n_layers: the head and sampling.
  int32_t layer = 0;
  int64_t bytes = 0;  // copied; 0 of compute
};

struct TimelineSpan {
  SpanLabel label;
  MonotonicNs begin_ns = 0;
  MonotonicNs end_ns = 0;
};

struct Recording {
  MonotonicNs begin_ns = 0;
  MonotonicNs end_ns = 0;
  std::vector<TimelineSpan> spans;  // in the order in which they were collected; a lane's own are in order
  int64_t dropped_spans = 0;        // that there was no room for
};

// Thread-safe.
class Timeline {
 public:
  explicit Timeline(const Clock& clock = Clock::Real()) : clock_(clock) {}

  // Begins a recording of at most `spans_max` spans, whose memory is allocated here. False: one is under way.
  bool Start(size_t spans_max);
  // Ends it. REQUIRES: Start returned true, and Stop was not called since.
  Recording Stop();

  // The number of the recording that is under way, counted from 1; 0: none is.
  uint64_t recording() const { return recording_.load(std::memory_order_acquire); }
  // Dropped where `recording` is over or has no room.
  void Add(uint64_t recording, const TimelineSpan& span);

 private:
  const Clock& clock_;
  std::atomic<uint64_t> recording_{0};
  Mutex mutex_;
  uint64_t last_recording_ ABSL_GUARDED_BY(mutex_) = 0;
  Recording spans_ ABSL_GUARDED_BY(mutex_);
};

// Step thread only. Allocates nothing after construction.
class TimelineWriter {
 public:
  // `timeline` may be null: nothing is ever recorded. All outlive the writer.
  TimelineWriter(device::Device& device, Timeline* timeline, const Clock& clock);

  // Takes note of a recording that began or ended. Once a step, before its first span. Spans lie on the
  // host's clock as early as the host came late to an event of an idle stream, by the best of a few looks:
  // some microseconds, and never later than they were.
  void Follow();
  bool recording() const { return recording_ != 0; }
  // REQUIRES: both events are complete.
  void Add(const SpanLabel& label, device::EventId begin, device::EventId end);

 private:
  static constexpr int kLooks = 8;

  // Finds anchor_ and when it was, within what the quickest look took. False: the device failed.
  bool TieClocks();

  device::Device& device_;
  Timeline* const timeline_;
  const Clock& clock_;
  uint64_t recording_ = 0;
  // Ties the device's clock to the host's: recorded on an idle stream when a recording begins.
  device::StreamId stream_{};
  device::EventId anchor_{};
  device::EventId trial_{};
  MonotonicNs anchor_ns_ = 0;  // no later than the anchor was
};

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_TIMELINE_H_
