// Four f32 lanes of SSE4.1, the baseline. Included by kernels_sse4.cc only; simd_avx512.h describes the
// vocabulary that the three simd_*.h files share.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_SIMD_SSE4_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_SIMD_SSE4_H_

#include <smmintrin.h>

#include <cstdint>

#define SPILLWAY_SIMD static inline __attribute__((always_inline, unused))

namespace spillway::device {
namespace {

using F = __m128;
using Mask = __m128;
constexpr int64_t kLanes = 4;
constexpr int kAccumulators = 12;  // of 16 registers

SPILLWAY_SIMD F Zero() { return _mm_setzero_ps(); }
SPILLWAY_SIMD F Splat(float x) { return _mm_set1_ps(x); }
SPILLWAY_SIMD F Load(const float* p) { return _mm_loadu_ps(p); }
SPILLWAY_SIMD void Store(float* p, F v) { _mm_storeu_ps(p, v); }
SPILLWAY_SIMD F LoadFirst(const float* p, int64_t n) {
  alignas(16) float lanes[4] = {0, 0, 0, 0};
  for (int64_t i = 0; i < n; ++i) lanes[i] = p[i];
  return _mm_load_ps(lanes);
}
SPILLWAY_SIMD void StoreFirst(float* p, F v, int64_t n) {
  alignas(16) float lanes[4];
  _mm_store_ps(lanes, v);
  for (int64_t i = 0; i < n; ++i) p[i] = lanes[i];
}

SPILLWAY_SIMD F Add(F a, F b) { return _mm_add_ps(a, b); }
SPILLWAY_SIMD F Sub(F a, F b) { return _mm_sub_ps(a, b); }
SPILLWAY_SIMD F Mul(F a, F b) { return _mm_mul_ps(a, b); }
SPILLWAY_SIMD F Div(F a, F b) { return _mm_div_ps(a, b); }
SPILLWAY_SIMD F Fma(F a, F b, F c) { return _mm_add_ps(_mm_mul_ps(a, b), c); }
SPILLWAY_SIMD F Max(F a, F b) { return _mm_max_ps(a, b); }
SPILLWAY_SIMD F Min(F a, F b) { return _mm_min_ps(a, b); }
SPILLWAY_SIMD F Round(F a) { return _mm_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
SPILLWAY_SIMD float ReduceAdd(F v) {
  const F pairs = _mm_add_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_shuffle_ps(pairs, pairs, 1)));
}
SPILLWAY_SIMD float ReduceMax(F v) {
  const F pairs = _mm_max_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_max_ss(pairs, _mm_shuffle_ps(pairs, pairs, 1)));
}

SPILLWAY_SIMD Mask Less(F a, F b) { return _mm_cmplt_ps(a, b); }
SPILLWAY_SIMD Mask GreaterEqual(F a, F b) { return _mm_cmpge_ps(a, b); }
SPILLWAY_SIMD Mask Both(Mask a, Mask b) { return _mm_and_ps(a, b); }
SPILLWAY_SIMD Mask First(int64_t n) {
  return _mm_castsi128_ps(_mm_cmpgt_epi32(_mm_set1_epi32(static_cast<int>(n)), _mm_setr_epi32(0, 1, 2, 3)));
}
SPILLWAY_SIMD F Select(Mask m, F yes, F no) { return _mm_blendv_ps(no, yes, m); }
SPILLWAY_SIMD uint32_t Bits(Mask m) { return static_cast<uint32_t>(_mm_movemask_ps(m)); }

SPILLWAY_SIMD F TimesPowerOfTwo(F x, F n) {
  const __m128i exponent = _mm_slli_epi32(_mm_add_epi32(_mm_cvtps_epi32(n), _mm_set1_epi32(127)), 23);
  return _mm_mul_ps(x, _mm_castsi128_ps(exponent));
}
SPILLWAY_SIMD F SwapNeighbours(F v) { return _mm_shuffle_ps(v, v, _MM_SHUFFLE(2, 3, 0, 1)); }

SPILLWAY_SIMD int64_t Compress(F v, Mask m, int32_t first_token, float* values, int32_t* tokens) {
  alignas(16) float lanes[4];
  _mm_store_ps(lanes, v);
  int64_t count = 0;
  for (uint32_t bits = Bits(m); bits != 0; bits &= bits - 1) {
    const int lane = __builtin_ctz(bits);
    values[count] = lanes[lane];
    tokens[count++] = first_token + lane;
  }
  return count;
}

SPILLWAY_SIMD void Transpose(F* rows) { _MM_TRANSPOSE4_PS(rows[0], rows[1], rows[2], rows[3]); }

}  // namespace
}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_SIMD_SSE4_H_
