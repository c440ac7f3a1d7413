// The one way to launch a kernel. Its result is the launch's error, or one that an earlier launch left
// behind; what goes wrong while a kernel runs shows at a later call.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_LAUNCH_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_LAUNCH_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <type_traits>

#include "engine/device/cuda/kernel_stream.h"

namespace spillway::device::cuda {

struct LaunchShape {
  dim3 grid;  // blocks; one without any launches nothing
  dim3 block;
  size_t shared_bytes = 0;
};

// Kernels get more shared memory than this only when they are told so.
constexpr size_t kSharedBytesByDefault = size_t{48} << 10;
// And on no device that we compile for less than this (compute capability 8.6, 8.9 and 12.0).
constexpr int kSharedBytesOfAnyBlock = 99 << 10;

// Arguments convert to the kernel's parameters as in a call.
template <typename... Parameters>
cudaError_t Launch(void (*kernel)(Parameters...), const LaunchShape& shape, KernelStream stream,
                   std::type_identity_t<Parameters>... args) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return cudaSuccess;
  if (shape.shared_bytes > kSharedBytesByDefault) {
    const cudaError_t allowed = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                     cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                     static_cast<int>(shape.shared_bytes));
    if (allowed != cudaSuccess) return allowed;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream.handle;
  cudaLaunchAttribute overlap{};
  if (stream.overlaps) {
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &overlap;
    config.numAttrs = 1;
  }
  return cudaLaunchKernelEx(&config, kernel, args...);
}

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_LAUNCH_H_
