// A real GPU, through the module that the daemon loads.
#include "engine/device/cuda/loader.h"
#include "tests/engine/exec/tiny_link_device.h"

namespace spillway::exec {

absl::StatusOr<std::unique_ptr<device::Device>> CreateTinyLinkDevice(std::unique_ptr<device::Device> cpu,
                                                                     const device::StreamEngineOptions&) {
  device::cuda::CudaLoadOptions options;
  options.dtype = cpu->info().compute_dtype;
  options.memory_bytes = int64_t{1} << 30;
  return device::cuda::LoadCudaDevice(options);
}

double TinyLinkSlack() { return 4; }
bool TinyLinkIsSlow() { return false; }

}  // namespace spillway::exec
