// f32 to a device's compute dtype.
#ifndef SPILLWAY_ENGINE_DEVICE_NARROWING_H_
#define SPILLWAY_ENGINE_DEVICE_NARROWING_H_

#include <cstdint>

#include "engine/device/types.h"

namespace spillway::device {

// Writes `elements` values of `dtype` to `out`, rounded to the nearest, ties to even; what is too large for
// f16 becomes infinite, NaN stays NaN. Thread-safe.
void NarrowFromF32(DType dtype, const float* values, int64_t elements, uint8_t* out);

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_NARROWING_H_
