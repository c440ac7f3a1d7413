// The GPU that this process computes on: the first that it sees (CUDA_VISIBLE_DEVICES chooses).
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_GPU_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_GPU_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace spillway::device::cuda {

struct Gpu {
  std::string name;        // "NVIDIA H100 80GB HBM3"
  std::string isa;         // "sm_90"
  std::string driver;      // "CUDA 13.0, driver 580.65.06"
  std::string link;        // "PCIe 5.0 x16"; empty where the machine does not say
  int32_t numa_node = -1;  // that the link leads to; -1 where the machine does not say
  int32_t processors = 1;  // multiprocessors
  // The device reaches registered host memory at the host's own addresses. Not so where the GPU is lent by
  // Windows (WSL 2): what takes such addresses as they are, a batch of copies, fails there.
  bool reaches_host_addresses = true;
  // Kernels of this build may begin before those ahead of them have ended (KernelStream).
  bool kernels_can_overlap = false;
};

// Makes it current. FailedPrecondition where none can be used, naming why: no driver, one that is too old, no
// GPU, one that is too old or that this build has no kernels for. `pci_devices`: the folder where the machine
// describes them.
absl::StatusOr<Gpu> FindGpu(absl::string_view pci_devices);

// Memory of the GPU that may be allocated beside `own_bytes` of the device's own: `wanted_bytes`, or with 0
// what is free, less a reserve. ResourceExhausted where there is not so much.
absl::StatusOr<int64_t> UsableBytes(int64_t wanted_bytes, int64_t own_bytes);

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_GPU_H_
