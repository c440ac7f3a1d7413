// DeviceTimer: how long work on a device's streams takes, by the device's own events, and never waiting for
// ever.
//
// Works alike on a device that runs inline, one behind an emulated link and one of its own. The calling
// thread sleeps between looks at an event, so that it takes no core from what it times. Where a device
// computes inside the call (the CPU without a link), one operation that hangs cannot be left; anywhere else
// it can.
//
// Borrows the device; its streams and events live as long as the device. Thread-compatible.
#ifndef SPILLWAY_PROFILER_DEVICE_TIMER_H_
#define SPILLWAY_PROFILER_DEVICE_TIMER_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "engine/device/device.h"

namespace spillway::profiler {

class DeviceTimer {
 public:
  // `pause` is called between two looks at an event that is not complete.
  DeviceTimer(device::Device& device, const Clock& clock, std::function<void()> pause);

  device::StreamId compute() const { return compute_; }
  device::StreamId link_in() const { return link_in_; }
  device::StreamId link_out() const { return link_out_; }

  // No wait lasts longer.
  void SetStall(double stall_s) { stall_s_ = stall_s; }
  // Names what is being measured, for errors.
  void SetPhase(absl::string_view phase) { phase_ = std::string(phase); }

  // Seconds that what `enqueue` puts on `stream` takes. DeadlineExceeded, naming the phase, where it is
  // given up: then stalled(), and memory that the device may still use must not be freed.
  absl::StatusOr<double> Time(device::StreamId stream, absl::FunctionRef<void()> enqueue);
  // The same with what `ahead` enqueues before it, not timed: the stream is never found idle, as executors,
  // who enqueue ahead, do not find it.
  absl::StatusOr<double> TimeBehind(device::StreamId stream, absl::FunctionRef<void()> ahead,
                                    absl::FunctionRef<void()> enqueue);
  // The same for copies in and out at once: from the first's beginning to the last's end.
  absl::StatusOr<double> TimeBoth(absl::FunctionRef<void()> enqueue_in,
                                  absl::FunctionRef<void()> enqueue_out);
  // Waits for all that was enqueued on `stream`.
  absl::Status Drain(device::StreamId stream);

  // From now on, until StopLoad, copies in are under way whenever something is timed: `runs`, again and
  // again. They must stay valid until StopLoad has returned.
  void StartLoad(std::vector<device::CopyRun> runs);
  absl::Status StopLoad();

  bool stalled() const { return stalled_; }

 private:
  static constexpr size_t kLoadAhead = 3;  // batches enqueued at least, so that the link never waits for us

  void TopUpLoad();
  absl::Status Wait(device::EventId event);

  device::Device& device_;
  const Clock& clock_;
  const std::function<void()> pause_;
  device::StreamId compute_;
  device::StreamId link_in_;
  device::StreamId link_out_;
  device::EventId begin_in_;
  device::EventId begin_out_;
  device::EventId end_in_;
  device::EventId end_out_;
  std::vector<device::EventId> load_events_;  // [kLoadAhead], recorded in turn
  std::vector<device::CopyRun> load_;
  size_t load_enqueued_ = 0;  // batches since StartLoad
  size_t load_complete_ = 0;
  double stall_s_ = 0;
  std::string phase_;
  bool stalled_ = false;
};

}  // namespace spillway::profiler

#endif  // SPILLWAY_PROFILER_DEVICE_TIMER_H_
