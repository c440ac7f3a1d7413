// n / by, rounded up, on the host and on the device.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_CEIL_DIVIDE_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_CEIL_DIVIDE_H_

#include <cstdint>

#include "engine/device/arithmetic/portable.h"

namespace spillway::device::cuda {

SPILLWAY_PORTABLE constexpr int64_t CeilDivide(int64_t n, int64_t by) { return (n + by - 1) / by; }

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_CEIL_DIVIDE_H_
