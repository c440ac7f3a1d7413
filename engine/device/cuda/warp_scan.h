// Running sums over a warp.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_WARP_SCAN_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_WARP_SCAN_H_

#include "engine/device/cuda/simt.h"

namespace spillway::device::cuda {

// The sum of the values of this lane and of those before it. Every lane of the warp must call it.
template <typename T>
__device__ inline T WarpPrefixSum(T value) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
#pragma unroll
  for (int distance = 1; distance < kWarpThreads; distance *= 2) {
    const T before = __shfl_sync(kWholeWarp, value, lane >= distance ? lane - distance : lane);
    if (lane >= distance) value += before;
  }
  return value;
}

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_WARP_SCAN_H_
