// Carries rows to be sampled to the kernel and their results back, through page-locked memory that the kernel
// reads and writes in place: only ids and the logprobs that were asked for cross the link, and none of it
// queues behind bulk copies.
//
// Thread-compatible.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_SAMPLE_BATCHES_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_SAMPLE_BATCHES_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/cuda/kernel_stream.h"
#include "engine/device/cuda/kernels.h"
#include "engine/device/cuda/pinned_slots.h"
#include "engine/device/ops.h"

namespace spillway::device::cuda {

class SampleBatches {
 public:
  // `scratch` is device memory that other operations use in between.
  static absl::StatusOr<std::unique_ptr<SampleBatches>> Create(void* scratch, int64_t scratch_bytes);

  // Enqueues the rows in as many launches as their histories and masks need. Reads all that `args` points to
  // at once; results come by Deliver.
  absl::Status Enqueue(const SampleArgs& args, KernelStream stream);
  // Writes the results of what has run to where the callers want them.
  absl::Status Deliver();

 private:
  struct Pending {
    int32_t slot;
    const SampleResult* from;
    SampleResult* to;
    int32_t count;
  };

  SampleBatches(void* scratch, int64_t scratch_bytes) : scratch_(scratch), scratch_bytes_(scratch_bytes) {}
  absl::StatusOr<int32_t> EnqueueSome(const SampleArgs& args, int32_t first, KernelStream stream);
  absl::Status MakeRoom(int64_t bytes);
  absl::Status Retire(int32_t slot);

  void* const scratch_;
  const int64_t scratch_bytes_;
  std::unique_ptr<PinnedSlots> slots_;
  std::vector<Pending> pending_;  // in order
};

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_SAMPLE_BATCHES_H_
