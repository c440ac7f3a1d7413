#include "engine/device/cuda/module.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "engine/device/cuda/cuda_device.h"

namespace {

using spillway::device::Device;
using spillway::device::DType;

int32_t Create(const SpillwayCudaOptions* options, void** device, char* message, size_t message_bytes) {
  spillway::device::cuda::CudaDeviceOptions with;
  with.memory_bytes = options->memory_bytes;
  with.overlap_kernels = options->overlap_kernels != 0;
  if (options->dtype >= 0) with.dtype = static_cast<DType>(options->dtype);
  absl::StatusOr<std::unique_ptr<Device>> made = spillway::device::cuda::CreateCudaDevice(with);
  if (made.ok()) {
    *device = made->release();
    return 0;
  }
  if (message_bytes > 0) {
    const std::string text(made.status().message());
    const size_t length = std::min(text.size(), message_bytes - 1);
    std::memcpy(message, text.data(), length);
    message[length] = '\0';
  }
  return static_cast<int32_t>(made.status().code());
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const SpillwayCudaModule* SpillwayCudaModuleDoor(void) {
  static constexpr SpillwayCudaModule kModule = {SPILLWAY_CUDA_MODULE_VERSION, SPILLWAY_CUDA_MODULE_STAMP,
                                                 &Create};
  return &kModule;
}
