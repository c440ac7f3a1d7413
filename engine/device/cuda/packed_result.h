// Where sums of a product with packed weights go.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_PACKED_RESULT_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_PACKED_RESULT_H_

#include "engine/device/cuda/activation.h"
#include "engine/device/cuda/element.h"
#include "engine/device/cuda/kernels.h"

namespace spillway::device::cuda {

// With bias and activation, as the output's type, in place of what is there or added to it.
__device__ inline void StoreOutput(const PackedProductArgs& args, int64_t row, int64_t feature, float sum) {
  if (args.bias != nullptr) sum += args.bias[feature];
  const float value = Activate(args.activation, sum);
  const int64_t at = row * args.weight.n + feature;
  if (args.out_is_f32 || args.type == DType::kF32) {
    float* out = static_cast<float*>(args.out) + at;
    *out = args.accumulate ? *out + value : value;
  } else if (args.type == DType::kF16) {
    static_cast<__half*>(args.out)[at] = FromFloat<__half>(value);
  } else {
    static_cast<__nv_bfloat16*>(args.out)[at] = FromFloat<__nv_bfloat16>(value);
  }
}

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_PACKED_RESULT_H_
