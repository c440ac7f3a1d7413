#include "engine/device/cuda/pinned_slots.h"

#include "base/check.h"
#include "base/status_macros.h"
#include "engine/device/cuda/cuda_error.h"

namespace spillway::device::cuda {

absl::StatusOr<std::unique_ptr<PinnedSlots>> PinnedSlots::Create(int32_t n_slots, int64_t slot_bytes) {
  SPILLWAY_CHECK(n_slots > 0 && slot_bytes > 0);
  std::unique_ptr<PinnedSlots> slots(new PinnedSlots(slot_bytes));
  SPILLWAY_RETURN_IF_ERROR(CudaStatus(cudaHostAlloc(&slots->host_, static_cast<size_t>(n_slots * slot_bytes),
                                                    cudaHostAllocMapped | cudaHostAllocPortable),
                                      "allocating page-locked host memory"));
  SPILLWAY_RETURN_IF_ERROR(CudaStatus(cudaHostGetDevicePointer(&slots->device_, slots->host_, 0),
                                      "mapping page-locked host memory"));
  for (int32_t i = 0; i < n_slots; ++i) {
    cudaEvent_t event = nullptr;
    SPILLWAY_RETURN_IF_ERROR(
        CudaStatus(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "creating an event"));
    slots->events_.push_back(event);
    slots->used_.push_back(false);
  }
  return slots;
}

PinnedSlots::~PinnedSlots() {
  for (cudaEvent_t event : events_) (void)cudaEventDestroy(event);
  if (host_ != nullptr) (void)cudaFreeHost(host_);
}

absl::StatusOr<PinnedSlots::Slot> PinnedSlots::Take() {
  const int32_t index = next_;
  next_ = (next_ + 1) % n_slots();
  SPILLWAY_RETURN_IF_ERROR(WaitFor(index));
  return Slot{index, host_ + index * slot_bytes_, device_ + index * slot_bytes_};
}

absl::Status PinnedSlots::Release(int32_t index, cudaStream_t stream) {
  used_[static_cast<size_t>(index)] = true;
  return CudaStatus(cudaEventRecord(events_[static_cast<size_t>(index)], stream), "recording an event");
}

absl::Status PinnedSlots::WaitFor(int32_t index) const {
  if (!used_[static_cast<size_t>(index)]) return absl::OkStatus();
  return CudaStatus(cudaEventSynchronize(events_[static_cast<size_t>(index)]),
                    "waiting for a slot of page-locked memory");
}

absl::StatusOr<bool> PinnedSlots::IsFree(int32_t index) const {
  if (!used_[static_cast<size_t>(index)]) return true;
  const cudaError_t error = cudaEventQuery(events_[static_cast<size_t>(index)]);
  if (error == cudaErrorNotReady) return false;
  SPILLWAY_RETURN_IF_ERROR(CudaStatus(error, "asking for an event"));
  return true;
}

}  // namespace spillway::device::cuda
