// An NVIDIA GPU as a device. Never run on a GPU so far: its kernels run in tests under an emulator
// (tests/fakes/cuda), which shows logic and ordering, not speed.
//
// The first GPU that the process sees computes (CUDA_VISIBLE_DEVICES chooses). Weights are rows of the
// compute type, products are cuBLASLt's; bulk copies go through the copy engines, small ones and samples
// through mapped host memory that kernels read, so that they do not wait behind the bulk.
//
// Thread-compatible. PackMatrix is thread-safe.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_CUDA_DEVICE_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_CUDA_DEVICE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "base/bytes.h"
#include "engine/device/device.h"

namespace spillway::device::cuda {

struct CudaDeviceOptions {
  int64_t memory_bytes = 0;    // the budget of Allocate; 0: what is free, less a reserve
  std::optional<DType> dtype;  // unset: bf16
  // Of the device's own, beside the budget.
  int64_t scratch_bytes = 64 * kMiB;
  int64_t workspace_bytes = 32 * kMiB;  // cuBLASLt's
  // Kernels of a stream overlap (KernelStream) where the device can, which takes most of the time away that
  // lies between them.
  bool overlap_kernels = true;
  int64_t registered_at_once_bytes = 64 * kGiB;      // of host memory, at most
  std::string pci_devices = "/sys/bus/pci/devices";  // where the machine describes them
};

// FailedPrecondition where no GPU can be used, naming why: no driver, one that is too old, no GPU, one that
// this build has no kernels for. ResourceExhausted where its memory is taken.
absl::StatusOr<std::unique_ptr<Device>> CreateCudaDevice(const CudaDeviceOptions& options);

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_CUDA_DEVICE_H_
