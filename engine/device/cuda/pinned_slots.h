// A ring of equal slots of page-locked host memory that kernels read and write in place: how small data gets
// to the device and back without queueing behind large copies.
//
// Thread-compatible.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_PINNED_SLOTS_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_PINNED_SLOTS_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace spillway::device::cuda {

class PinnedSlots {
 public:
  static absl::StatusOr<std::unique_ptr<PinnedSlots>> Create(int32_t n_slots, int64_t slot_bytes);
  ~PinnedSlots();
  PinnedSlots(const PinnedSlots&) = delete;
  PinnedSlots& operator=(const PinnedSlots&) = delete;

  struct Slot {
    int32_t index = 0;
    uint8_t* host = nullptr;
    uint8_t* device = nullptr;  // the same memory, as kernels address it
  };
  // The slot that Take gives next. It may still be in use.
  int32_t next() const { return next_; }
  // The next slot, once what used it last has run: waits for it, which is rare.
  absl::StatusOr<Slot> Take();
  // What is enqueued on `stream` so far uses the slot that Take gave; it is free when that has run.
  absl::Status Release(int32_t index, cudaStream_t stream);
  // Waits until what used the slot last has run.
  absl::Status WaitFor(int32_t index) const;
  // Whether it has.
  absl::StatusOr<bool> IsFree(int32_t index) const;

  int64_t slot_bytes() const { return slot_bytes_; }
  int32_t n_slots() const { return static_cast<int32_t>(events_.size()); }

 private:
  explicit PinnedSlots(int64_t slot_bytes) : slot_bytes_(slot_bytes) {}

  const int64_t slot_bytes_;
  uint8_t* host_ = nullptr;
  uint8_t* device_ = nullptr;
  std::vector<cudaEvent_t> events_;  // by slot
  std::vector<bool> used_;           // by slot: its event was recorded
  int32_t next_ = 0;
};

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_PINNED_SLOTS_H_
