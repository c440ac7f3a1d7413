// Sums and maxima over a warp and over a block of whole warps. Every thread gets the result, and the same
// bits.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_BLOCK_REDUCE_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_BLOCK_REDUCE_H_

#include "engine/device/cuda/simt.h"

namespace spillway::device::cuda {

constexpr int kWarpsMax = 32;  // of a block

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Maximum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};
struct Minimum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a < b ? a : b;
  }
};

// Over groups of `kLanes` neighbouring lanes; every lane of the warp must call it.
template <int kLanes = kWarpThreads, typename T, typename Combine>
__device__ inline T WarpReduce(T value, Combine combine) {
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    value = combine(value, __shfl_xor_sync(kWholeWarp, value, distance));
  }
  return value;
}

// `scratch` lies in shared memory; it may be given to the next reduction at once.
template <typename T, typename Combine>
__device__ inline T BlockReduce(T value, T identity, T (&scratch)[kWarpsMax], Combine combine) {
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarpThreads;
  value = WarpReduce(value, combine);
  __syncthreads();
  if (lane == 0) scratch[thread / kWarpThreads] = value;
  __syncthreads();
  const int warps = static_cast<int>(blockDim.x) / kWarpThreads;
  return WarpReduce(lane < warps ? scratch[lane] : identity, combine);
}

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_BLOCK_REDUCE_H_
