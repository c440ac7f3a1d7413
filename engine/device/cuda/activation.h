// The activations of ops.h. What is not a number stays so.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_ACTIVATION_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_ACTIVATION_H_

#include "engine/device/cuda/simt.h"
#include "engine/device/ops.h"

namespace spillway::device::cuda {

// x * sigmoid(scaled)
__device__ inline float Swish(float x, float scaled) { return x / (1.0F + expf(-scaled)); }

__device__ inline float Activate(Activation activation, float x) {
  switch (activation) {
    case Activation::kRelu:
      return x < 0 ? 0.0F : x;
    case Activation::kSilu:
      return Swish(x, x);
    case Activation::kGelu:
      // (1 + tanh(u)) / 2 = sigmoid(2u) with u = sqrt(2/pi) * (x + 0.044715 x^3).
      return Swish(x, 2 * 0.7978845608F * fmaf(0.044715F * x * x, x, x));
    case Activation::kNone:
      break;
  }
  return x;
}

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_ACTIVATION_H_
