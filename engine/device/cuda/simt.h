// What every kernel includes: the CUDA runtime's device side and the kernel's shared memory. Compiled by
// nvcc, or as plain C++ against tests/fakes/cuda/include, where a small emulator runs a block's threads as
// fibers.
//
// The rules that keep one source good for both: shared memory is dynamic and taken through SharedAs alone;
// kernels are launched through launch.h alone; no cooperative groups, no inline PTX outside tensor_core.h.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_SIMT_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_SIMT_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

namespace spillway::device::cuda {

constexpr int kWarpThreads = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;

// The block's shared memory as a T, aligned to 16 bytes and not initialised. LaunchShape::shared_bytes says
// how much there is: sizeof(T), or more where T is followed by an array whose length is known at launch.
template <typename T>
__device__ inline T& SharedAs() {
  static_assert(std::is_trivially_default_constructible_v<T> && alignof(T) <= 16);
#ifdef __CUDACC__
  extern __shared__ __align__(16) unsigned char spillway_shared_bytes[];
  return *reinterpret_cast<T*>(spillway_shared_bytes);
#else
  return *static_cast<T*>(EmulatedSharedMemory());
#endif
}

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_SIMT_H_
