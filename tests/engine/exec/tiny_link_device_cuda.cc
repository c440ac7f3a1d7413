// The CUDA device over the emulated GPU of tests/fakes/cuda: no GPU is involved.
#include "engine/device/cuda/cuda_device.h"
#include "tests/engine/exec/tiny_link_device.h"

namespace spillway::exec {

absl::StatusOr<std::unique_ptr<device::Device>> CreateTinyLinkDevice(std::unique_ptr<device::Device> cpu,
                                                                     const device::StreamEngineOptions&) {
  device::cuda::CudaDeviceOptions options;
  options.dtype = cpu->info().compute_dtype;
  options.memory_bytes = 256 * kMiB;
  options.scratch_bytes = kMiB;
  options.workspace_bytes = 64 * kKiB;
  return device::cuda::CreateCudaDevice(options);
}

double TinyLinkSlack() { return 4; }
bool TinyLinkIsSlow() { return true; }

}  // namespace spillway::exec
