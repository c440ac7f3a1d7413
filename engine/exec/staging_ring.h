// StagingRing: device memory that carried blocks pass through on their way to attention, as equal chunks that
// are reused in turn. However long contexts are, staging stays this small.
//
//   copies: Take -> (wait for freed) -> copy -> record arrived     compute: wait for arrived -> read ->
//   record freed -> Give
//
// A chunk may be taken again as soon as its reader was *enqueued*: the copy that reuses it waits for `freed`
// on the device, and since the reader was enqueued first, that event was recorded.
//
// Step thread only. Nothing is allocated after Create.
#ifndef SPILLWAY_ENGINE_EXEC_STAGING_RING_H_
#define SPILLWAY_ENGINE_EXEC_STAGING_RING_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/device/device.h"

namespace spillway::exec {

// Of the ring that an executor makes if it is not told otherwise.
constexpr int32_t kRingChunks = 6;
// Of a ring's chunks, those that may be fetched for the next step.
constexpr int32_t AheadChunksMax(int32_t ring_chunks) { return ring_chunks / 2; }

class StagingRing {
 public:
  // ResourceExhausted without the device memory. `device` must outlive the ring.
  static absl::StatusOr<std::unique_ptr<StagingRing>> Create(device::Device& device, int32_t n_chunks,
                                                             int64_t chunk_bytes);
  ~StagingRing();
  StagingRing(const StagingRing&) = delete;
  StagingRing& operator=(const StagingRing&) = delete;

  bool empty() const { return n_free_ == 0; }  // nothing to take
  // The chunk given back longest ago. REQUIRES: !empty().
  int32_t Take();
  void Give(int32_t chunk);

  device::DevicePtr At(int32_t chunk) const { return memory_ + chunk * chunk_bytes_; }
  int64_t chunk_bytes() const { return chunk_bytes_; }
  int32_t n_chunks() const { return static_cast<int32_t>(events_.size()); }

  // Around a copy into a chunk, on the stream of copies.
  void BeginCopy(device::StreamId copies, int32_t chunk);
  void EndCopy(device::StreamId copies, int32_t chunk);
  // Around the reading of it.
  void BeginRead(device::StreamId compute, int32_t chunk);
  void EndRead(device::StreamId compute, int32_t chunk);

 private:
  struct Events {
    device::EventId arrived;
    device::EventId freed;
    bool was_read = false;  // freed was recorded
  };

  StagingRing(device::Device& device, device::DevicePtr memory, int32_t n_chunks, int64_t chunk_bytes);

  device::Device& device_;
  const device::DevicePtr memory_;
  const int64_t chunk_bytes_;
  std::vector<Events> events_;
  std::vector<int32_t> free_;  // a queue in a circle, the next to take first
  int32_t first_free_ = 0;
  int32_t n_free_;
};

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_STAGING_RING_H_
