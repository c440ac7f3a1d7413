// T of the kernels: f32, f16 or bf16. Arithmetic is in f32; rounding to T is to nearest even.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_ELEMENT_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_ELEMENT_H_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstring>

#include "engine/device/cuda/address.h"
#include "engine/device/cuda/simt.h"
#include "engine/device/types.h"

namespace spillway::device::cuda {

__device__ inline float ToFloat(float value) { return value; }
__device__ inline float ToFloat(__half value) { return __half2float(value); }
__device__ inline float ToFloat(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T>
__device__ inline T FromFloat(float value) {
  if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(value);
  } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    return __float2bfloat16_rn(value);
  } else {
    return value;
  }
}

// Two neighbouring elements in a register, the first in its lower half.
__device__ inline uint32_t PackTwo(float low, float high, __nv_bfloat16) {
  const __nv_bfloat162 two = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &two, sizeof(bits));
  return bits;
}
__device__ inline uint32_t PackTwo(float low, float high, __half) {
  const __half2 two = __floats2half2_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &two, sizeof(bits));
  return bits;
}

template <typename T>
struct ElementTag {
  using Type = T;
};

// Calls launch(ElementTag<T>()) for the T that `type` names.
template <typename Callable>
cudaError_t WithElement(DType type, const Callable& launch) {
  switch (type) {
    case DType::kF32:
      return launch(ElementTag<float>());
    case DType::kF16:
      return launch(ElementTag<__half>());
    case DType::kBF16:
      return launch(ElementTag<__nv_bfloat16>());
  }
  return cudaErrorInvalidValue;
}

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_ELEMENT_H_
