// Merging unfinished softmax sums by log-sum-exp (ops.h, PartialAttentionArgs).
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_SOFTMAX_MERGE_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_SOFTMAX_MERGE_H_

#include "engine/device/cuda/simt.h"

namespace spillway::device::cuda {

// What sums taken under the maximum `max` weigh under `top`, which is at least as large. Of no key at all: 0.
__device__ inline float WeightOf(float max, float top) { return max == -INFINITY ? 0.0F : expf(max - top); }

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_SOFTMAX_MERGE_H_
