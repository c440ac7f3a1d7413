#include "profiler/device_timer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "profiler/copy_batches.h"

namespace spillway::profiler {

DeviceTimer::DeviceTimer(device::Device& device, const Clock& clock, std::function<void()> pause)
    : device_(device),
      clock_(clock),
      pause_(std::move(pause)),
      compute_(device.CreateStream("profile compute")),
      link_in_(device.CreateStream("profile link in")),
      link_out_(device.CreateStream("profile link out")),
      begin_in_(device.CreateEvent()),
      begin_out_(device.CreateEvent()),
      end_in_(device.CreateEvent()),
      end_out_(device.CreateEvent()) {
  for (size_t i = 0; i < kLoadAhead; ++i) load_events_.push_back(device.CreateEvent());
}

void DeviceTimer::TopUpLoad() {
  if (load_.empty()) return;
  while (load_complete_ < load_enqueued_ && device_.IsComplete(load_events_[load_complete_ % kLoadAhead])) {
    ++load_complete_;
  }
  while (load_enqueued_ < load_complete_ + kLoadAhead) {
    InRounds(load_, [&](absl::Span<const device::CopyRun> batch) { device_.CopyInBatch(link_in_, batch); });
    device_.Record(load_events_[load_enqueued_++ % kLoadAhead], link_in_);
  }
}

absl::Status DeviceTimer::Wait(device::EventId event) {
  const MonotonicNs begin_ns = clock_.NowNs();
  while (!device_.IsComplete(event)) {
    // Once is enough: what ends a measurement waits for what is under way.
    if (stalled_ || ToSeconds(clock_.NowNs() - begin_ns) >= stall_s_) {
      stalled_ = true;
      return absl::DeadlineExceededError(
          absl::StrCat("measuring (", phase_, ") got no further for ", stall_s_,
                       " s: the device stalls; see what else uses it, and the system's log"));
    }
    TopUpLoad();
    pause_();
  }
  return device_.Synchronize(event);  // the sticky error, if there is one
}

absl::StatusOr<double> DeviceTimer::Time(device::StreamId stream, absl::FunctionRef<void()> enqueue) {
  return TimeBehind(
      stream, [] {}, enqueue);
}

absl::StatusOr<double> DeviceTimer::TimeBehind(device::StreamId stream, absl::FunctionRef<void()> ahead,
                                               absl::FunctionRef<void()> enqueue) {
  TopUpLoad();
  ahead();
  device_.Record(begin_in_, stream);
  enqueue();
  device_.Record(end_in_, stream);
  SPILLWAY_RETURN_IF_ERROR(Wait(end_in_));
  return ToSeconds(device_.ElapsedNs(begin_in_, end_in_));
}

absl::StatusOr<double> DeviceTimer::TimeBoth(absl::FunctionRef<void()> enqueue_in,
                                             absl::FunctionRef<void()> enqueue_out) {
  device_.Record(begin_in_, link_in_);
  device_.Record(begin_out_, link_out_);
  enqueue_in();
  enqueue_out();
  device_.Record(end_in_, link_in_);
  device_.Record(end_out_, link_out_);
  SPILLWAY_RETURN_IF_ERROR(Wait(end_in_));
  SPILLWAY_RETURN_IF_ERROR(Wait(end_out_));
  // One clock: the device's.
  const int64_t ends[] = {device_.ElapsedNs(begin_in_, end_in_), device_.ElapsedNs(begin_in_, end_out_),
                          device_.ElapsedNs(begin_out_, end_in_), device_.ElapsedNs(begin_out_, end_out_)};
  return ToSeconds(*std::max_element(std::begin(ends), std::end(ends)));
}

absl::Status DeviceTimer::Drain(device::StreamId stream) {
  device_.Record(end_out_, stream);
  return Wait(end_out_);
}

void DeviceTimer::StartLoad(std::vector<device::CopyRun> runs) {
  load_ = std::move(runs);
  load_enqueued_ = 0;
  load_complete_ = 0;
}

absl::Status DeviceTimer::StopLoad() {
  if (load_.empty()) return absl::OkStatus();
  load_.clear();
  return Drain(link_in_);
}

}  // namespace spillway::profiler
