#include "engine/exec/timeline.h"

#include <utility>

#include "base/check.h"

namespace spillway::exec {

bool Timeline::Start(size_t spans_max) {
  std::vector<TimelineSpan> room;
  room.reserve(spans_max);
  MutexLock lock(mutex_);
  if (recording() != 0) return false;
  spans_ = Recording{};
  spans_.spans = std::move(room);
  spans_.begin_ns = clock_.NowNs();
  recording_.store(++last_recording_, std::memory_order_release);
  return true;
}

Recording Timeline::Stop() {
  MutexLock lock(mutex_);
  SPILLWAY_CHECK_MSG(recording() != 0, "no recording is under way");
  recording_.store(0, std::memory_order_release);
  spans_.end_ns = clock_.NowNs();
  return std::exchange(spans_, Recording{});
}

void Timeline::Add(uint64_t recording, const TimelineSpan& span) {
  MutexLock lock(mutex_);
  if (recording != this->recording()) return;
  if (spans_.spans.size() == spans_.spans.capacity()) {
    ++spans_.dropped_spans;
    return;
  }
  spans_.spans.push_back(span);
}

TimelineWriter::TimelineWriter(device::Device& device, Timeline* timeline, const Clock& clock)
    : device_(device), timeline_(timeline), clock_(clock) {
  if (timeline_ == nullptr) return;
  stream_ = device_.CreateStream("timeline");
  anchor_ = device_.CreateEvent();
  trial_ = device_.CreateEvent();
}

void TimelineWriter::Follow() {
  if (timeline_ == nullptr) return;
  const uint64_t recording = timeline_->recording();
  if (recording == recording_) return;
  recording_ = recording;
  if (recording == 0) return;
  if (!TieClocks()) recording_ = 0;
}

bool TimelineWriter::TieClocks() {
  MonotonicNs least_ns = 0;
  for (int look = 0; look < kLooks; ++look) {
    const MonotonicNs before_ns = clock_.NowNs();
    device_.Record(trial_, stream_);
    // A lost device's error shows where results are asked for.
    if (!device_.Synchronize(trial_).ok()) return false;
    const MonotonicNs took_ns = clock_.NowNs() - before_ns;
    if (look > 0 && took_ns >= least_ns) continue;
    least_ns = took_ns;
    anchor_ns_ = before_ns;
    std::swap(anchor_, trial_);
  }
  return true;
}

void TimelineWriter::Add(const SpanLabel& label, device::EventId begin, device::EventId end) {
  if (recording_ == 0) return;
  timeline_->Add(recording_, {label, anchor_ns_ + device_.ElapsedNs(anchor_, begin),
                              anchor_ns_ + device_.ElapsedNs(anchor_, end)});
}

}  // namespace spillway::exec
