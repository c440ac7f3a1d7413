// f32 to a device's compute dtype.
#ifndef SPILLWAY_ENGINE_MODEL_NARROWING_H_
#define SPILLWAY_ENGINE_MODEL_NARROWING_H_

#include <cstdint>

#include "engine/device/types.h"

namespace spillway::model {

// Writes `elements` values of `dtype` to `out`, rounded to the nearest, ties to even; what is too large for
// f16 becomes infinite, NaN stays NaN. Thread-safe.
void NarrowFromF32(device::DType dtype, const float* values, int64_t elements, uint8_t* out);

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_NARROWING_H_
