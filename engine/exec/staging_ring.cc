#include "engine/exec/staging_ring.h"

#include <numeric>

#include "base/check.h"
#include "base/status_macros.h"

namespace spillway::exec {

absl::StatusOr<std::unique_ptr<StagingRing>> StagingRing::Create(device::Device& device, int32_t n_chunks,
                                                                 int64_t chunk_bytes) {
  SPILLWAY_CHECK(n_chunks > 0 && chunk_bytes > 0);
  SPILLWAY_ASSIGN_OR_RETURN(const device::DevicePtr memory,
                            device.Allocate(n_chunks * chunk_bytes, "staging ring"));
  return std::unique_ptr<StagingRing>(new StagingRing(device, memory, n_chunks, chunk_bytes));
}

StagingRing::StagingRing(device::Device& device, device::DevicePtr memory, int32_t n_chunks,
                         int64_t chunk_bytes)
    : device_(device),
      memory_(memory),
      chunk_bytes_(chunk_bytes),
      free_(static_cast<size_t>(n_chunks)),
      n_free_(n_chunks) {
  for (int32_t i = 0; i < n_chunks; ++i) events_.push_back({device.CreateEvent(), device.CreateEvent()});
  std::iota(free_.begin(), free_.end(), 0);
}

StagingRing::~StagingRing() { device_.Free(memory_); }

int32_t StagingRing::Take() {
  SPILLWAY_CHECK(n_free_ > 0);
  const int32_t chunk = free_[static_cast<size_t>(first_free_)];
  first_free_ = (first_free_ + 1) % n_chunks();
  --n_free_;
  return chunk;
}

void StagingRing::Give(int32_t chunk) {
  SPILLWAY_CHECK(n_free_ < n_chunks());
  free_[static_cast<size_t>((first_free_ + n_free_) % n_chunks())] = chunk;
  ++n_free_;
}

void StagingRing::BeginCopy(device::StreamId copies, int32_t chunk) {
  const Events& events = events_[static_cast<size_t>(chunk)];
  if (events.was_read) device_.Wait(copies, events.freed);
}

void StagingRing::EndCopy(device::StreamId copies, int32_t chunk) {
  device_.Record(events_[static_cast<size_t>(chunk)].arrived, copies);
}

void StagingRing::BeginRead(device::StreamId compute, int32_t chunk) {
  device_.Wait(compute, events_[static_cast<size_t>(chunk)].arrived);
}

void StagingRing::EndRead(device::StreamId compute, int32_t chunk) {
  Events& events = events_[static_cast<size_t>(chunk)];
  device_.Record(events.freed, compute);
  events.was_read = true;
}

}  // namespace spillway::exec
