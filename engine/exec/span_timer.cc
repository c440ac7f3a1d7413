#include "engine/exec/span_timer.h"

#include "base/check.h"
#include "base/status_macros.h"

namespace spillway::exec {

SpanTimer::SpanTimer(device::Device& device, device::StreamId stream, int32_t capacity,
                     TimelineWriter& timeline)
    : device_(device), stream_(stream), timeline_(timeline) {
  SPILLWAY_CHECK(capacity > 0);
  spans_.resize(static_cast<size_t>(capacity));
  for (Span& span : spans_) {
    span.begin = device.CreateEvent();
    span.end = device.CreateEvent();
  }
}

void SpanTimer::Begin() {
  if (n_ended_ == static_cast<int32_t>(spans_.size())) {
    // A lost device's error shows where results are asked for.
    (void)device_.Synchronize(At(first_).end);
    CollectFirst();
  }
  device_.Record(At(first_ + n_ended_).begin, stream_);
}

void SpanTimer::End(int64_t* ns, const SpanLabel& label) {
  Span& span = At(first_ + n_ended_);
  device_.Record(span.end, stream_);
  span.ns = ns;
  span.lane = nullptr;
  span.label = label;
  ++n_ended_;
}

void SpanTimer::EndCopies(LaneStats* lane, const SpanLabel& label, int64_t copies) {
  Span& span = At(first_ + n_ended_);
  End(&lane->busy_ns, label);
  span.lane = lane;
  span.copies = copies;
}

void SpanTimer::CollectFirst() {
  Span& span = At(first_);
  *span.ns += device_.ElapsedNs(span.begin, span.end);
  if (span.lane != nullptr) {
    span.lane->bytes += span.label.bytes;
    span.lane->copies += span.copies;
  }
  timeline_.Add(span.label, span.begin, span.end);
  first_ = (first_ + 1) % static_cast<int32_t>(spans_.size());
  --n_ended_;
}

void SpanTimer::Collect() {
  while (n_ended_ > 0 && device_.IsComplete(At(first_).end)) CollectFirst();
}

absl::Status SpanTimer::CollectAll() {
  if (n_ended_ == 0) return absl::OkStatus();
  const absl::Status over = device_.Synchronize(At(first_ + n_ended_ - 1).end);
  while (over.ok() && n_ended_ > 0) CollectFirst();
  n_ended_ = 0;
  return over;
}

}  // namespace spillway::exec
