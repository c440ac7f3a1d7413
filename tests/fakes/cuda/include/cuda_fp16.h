// IEEE half precision of CUDA, as far as our device code uses it. Conversions round to nearest even, and what
// is too large becomes an infinity.
#ifndef SPILLWAY_TESTS_FAKES_CUDA_INCLUDE_CUDA_FP16_H_
#define SPILLWAY_TESTS_FAKES_CUDA_INCLUDE_CUDA_FP16_H_

#include <bit>
#include <cmath>
#include <cstdint>

#include "cuda_fake/vector_types.h"

struct alignas(2) __half {
  uint16_t bits;
};
struct alignas(4) __half2 {
  __half x, y;
};

inline float __half2float(__half value) {
  const uint32_t sign = uint32_t{value.bits & 0x8000U} << 16;
  const uint32_t exponent = value.bits >> 10 & 31;
  const uint32_t mantissa = value.bits & 0x3ff;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24, exactly
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  const uint32_t rebased = exponent == 31 ? 255 : exponent + 112;
  return std::bit_cast<float>(sign | rebased << 23 | mantissa << 13);
}

inline __half __float2half_rn(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  const auto signed_half = [sign](uint32_t half) { return __half{static_cast<uint16_t>(sign | half)}; };
  if (magnitude > 0x7f800000) return {0x7fff};                       // NaN, as a device makes it
  if (magnitude >= 0x477ff000) return signed_half(0x7c00);           // 65520 and above round to infinity
  if (magnitude < 0x38800000) {                                      // below 2^-14: a subnormal
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p24F;  // exact
    return signed_half(static_cast<uint32_t>(std::nearbyintf(scaled)));
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return signed_half((rounded - 0x38000000) >> 13);
}
inline __half __float2half(float value) { return __float2half_rn(value); }
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline float __low2float(__half2 value) { return __half2float(value.x); }
inline float __high2float(__half2 value) { return __half2float(value.y); }
inline float2 __half22float2(__half2 value) { return {__half2float(value.x), __half2float(value.y)}; }
inline uint16_t __half_as_ushort(__half value) { return value.bits; }
inline __half __ushort_as_half(uint16_t bits) { return {bits}; }

#endif  // SPILLWAY_TESTS_FAKES_CUDA_INCLUDE_CUDA_FP16_H_
