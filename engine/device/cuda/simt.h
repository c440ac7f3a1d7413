// What every kernel includes: the CUDA runtime's device side, the kernel's shared memory, and its order
// behind the kernels before it. Compiled by nvcc, or as plain C++ against tests/fakes/cuda/include, where a
// small emulator runs a block's threads as fibers.
//
// The rules that keep one source good for both: shared memory is dynamic and taken through SharedAs alone;
// kernels are launched through launch.h alone; no cooperative groups, no inline PTX outside tensor_core.h.
//
// Every kernel begins with WaitForEarlierKernels() and LetLaterKernelsBegin(). What earlier kernels write is
// read by ordinary loads: __ldg and pointers that are __restrict__ would let the compiler take loads from
// before the wait, or from a cache that the wait does not reach.
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

// Until the kernels before this one in its stream have ended and what they wrote is seen. First of all in
// every kernel, by every thread, before anything of global memory is read or written but weights
// (packed_tensor_product.cu), which only copies write; a block that has nothing to do waits too, as who waits
// for this kernel counts on all before it. Does nothing where kernels do not overlap (KernelStream), and
// before compute capability 9.0, which cannot.
__device__ inline void WaitForEarlierKernels() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
}

// The next kernel of the stream may begin, and waits for the end of this one. Said at once, since it costs
// nothing: the device does not begin it before the last block of this kernel is in place (or has ended) and
// said so, and then gives it only what these blocks leave free. Said behind the wait, so that of all kernels
// to come one at most stands there waiting.
__device__ inline void LetLaterKernelsBegin() {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_SIMT_H_
