#include "engine/device/narrowing.h"

#include <bit>
#include <cstring>

namespace spillway::device {
namespace {

uint16_t ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x0040u);  // quiet NaN
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

uint16_t ToF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;   // NaN
  if (magnitude >= 0x47800000u) return sign | 0x7c00u;  // 2^16 and more
  if (magnitude < 0x38800000u) {                        // below 2^-14: denormal or 0
    // Adding 0.5 leaves value / 2^-24, rounded by the processor, in the fraction's low bits.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0.5F));
  }
  // Rebias the exponent (127 -> 15) and round; a carry into the exponent, even to infinity, is right.
  const uint32_t rebased = magnitude - 0x38000000u;
  return sign | static_cast<uint16_t>((rebased + 0x0fffu + ((rebased >> 13) & 1u)) >> 13);
}

template <uint16_t (*Narrow)(float)>
void NarrowAll(const float* values, int64_t elements, uint8_t* out) {
  for (int64_t i = 0; i < elements; ++i) {
    const uint16_t bits = Narrow(values[i]);
    std::memcpy(out + 2 * i, &bits, sizeof(bits));
  }
}

}  // namespace

void NarrowFromF32(DType dtype, const float* values, int64_t elements, uint8_t* out) {
  switch (dtype) {
    case DType::kF32:
      if (elements > 0) std::memcpy(out, values, static_cast<size_t>(elements) * sizeof(float));
      return;
    case DType::kF16:
      return NarrowAll<ToF16>(values, elements, out);
    case DType::kBF16:
      return NarrowAll<ToBf16>(values, elements, out);
  }
}

}  // namespace spillway::device
