#include "engine/exec/span_timer.h"

#include "base/check.h"
#include "base/status_macros.h"

namespace spillway::exec {

SpanTimer::SpanTimer(device::Device& device, device::StreamId stream, int32_t capacity)
    : device_(device), stream_(stream) {
  SPILLWAY_CHECK(capacity > 0);
  for (int32_t i = 0; i < capacity; ++i) spans_.push_back({device.CreateEvent(), device.CreateEvent()});
}

void SpanTimer::Begin() {
  if (n_ended_ == static_cast<int32_t>(spans_.size())) {
    // A lost device's error shows where results are asked for.
    (void)device_.Synchronize(At(first_).end);
    CollectFirst();
  }
  device_.Record(At(first_ + n_ended_).begin, stream_);
}

void SpanTimer::End(int64_t* ns) {
  Span& span = At(first_ + n_ended_);
  device_.Record(span.end, stream_);
  span.ns = ns;
  span.lane = nullptr;
  ++n_ended_;
}

void SpanTimer::EndCopies(LaneStats* lane, int64_t bytes, int64_t copies) {
  Span& span = At(first_ + n_ended_);
  End(&lane->busy_ns);
  span.lane = lane;
  span.bytes = bytes;
  span.copies = copies;
}

void SpanTimer::CollectFirst() {
  Span& span = At(first_);
  *span.ns += device_.ElapsedNs(span.begin, span.end);
  if (span.lane != nullptr) {
    span.lane->bytes += span.bytes;
    span.lane->copies += span.copies;
  }
  first_ = (first_ + 1) % static_cast<int32_t>(spans_.size());
  --n_ended_;
}

void SpanTimer::Collect() {
  while (n_ended_ > 0 && device_.IsComplete(At(first_).end)) CollectFirst();
}

absl::Status SpanTimer::CollectAll() {
  if (n_ended_ == 0) return absl::OkStatus();
  SPILLWAY_RETURN_IF_ERROR(device_.Synchronize(At(first_ + n_ended_ - 1).end));
  while (n_ended_ > 0) CollectFirst();
  return absl::OkStatus();
}

}  // namespace spillway::exec
