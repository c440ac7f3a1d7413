// Eight f32 lanes of AVX2 with FMA. Included by kernels_avx2.cc only; simd_avx512.h describes the vocabulary
// that the three simd_*.h files share.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_SIMD_AVX2_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_SIMD_AVX2_H_

#include <immintrin.h>

#include <cstdint>

#define SPILLWAY_SIMD static inline __attribute__((always_inline, unused))

namespace spillway::device {
namespace {

using F = __m256;
using Mask = __m256;
constexpr int64_t kLanes = 8;
constexpr int kAccumulators = 12;  // of 16 registers

SPILLWAY_SIMD F Zero() { return _mm256_setzero_ps(); }
SPILLWAY_SIMD F Splat(float x) { return _mm256_set1_ps(x); }
SPILLWAY_SIMD F Load(const float* p) { return _mm256_loadu_ps(p); }
SPILLWAY_SIMD void Store(float* p, F v) { _mm256_storeu_ps(p, v); }
SPILLWAY_SIMD __m256i FirstLanes(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
SPILLWAY_SIMD F LoadFirst(const float* p, int64_t n) { return _mm256_maskload_ps(p, FirstLanes(n)); }
SPILLWAY_SIMD void StoreFirst(float* p, F v, int64_t n) { _mm256_maskstore_ps(p, FirstLanes(n), v); }

SPILLWAY_SIMD F Add(F a, F b) { return _mm256_add_ps(a, b); }
SPILLWAY_SIMD F Sub(F a, F b) { return _mm256_sub_ps(a, b); }
SPILLWAY_SIMD F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
SPILLWAY_SIMD F Div(F a, F b) { return _mm256_div_ps(a, b); }
SPILLWAY_SIMD F Fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
SPILLWAY_SIMD F Max(F a, F b) { return _mm256_max_ps(a, b); }
SPILLWAY_SIMD F Min(F a, F b) { return _mm256_min_ps(a, b); }
SPILLWAY_SIMD F Round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
SPILLWAY_SIMD float ReduceAdd(F v) {
  const __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 pairs = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_shuffle_ps(pairs, pairs, 1)));
}
SPILLWAY_SIMD float ReduceMax(F v) {
  const __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 pairs = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(pairs, _mm_shuffle_ps(pairs, pairs, 1)));
}

SPILLWAY_SIMD Mask Less(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
SPILLWAY_SIMD Mask GreaterEqual(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }
SPILLWAY_SIMD Mask Both(Mask a, Mask b) { return _mm256_and_ps(a, b); }
SPILLWAY_SIMD Mask First(int64_t n) { return _mm256_castsi256_ps(FirstLanes(n)); }
SPILLWAY_SIMD F Select(Mask m, F yes, F no) { return _mm256_blendv_ps(no, yes, m); }
SPILLWAY_SIMD uint32_t Bits(Mask m) { return static_cast<uint32_t>(_mm256_movemask_ps(m)); }

SPILLWAY_SIMD F TimesPowerOfTwo(F x, F n) {
  const __m256i exponent =
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(x, _mm256_castsi256_ps(exponent));
}
SPILLWAY_SIMD F SwapNeighbours(F v) { return _mm256_permute_ps(v, _MM_SHUFFLE(2, 3, 0, 1)); }

SPILLWAY_SIMD int64_t Compress(F v, Mask m, int32_t first_token, float* values, int32_t* tokens) {
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, v);
  int64_t count = 0;
  for (uint32_t bits = Bits(m); bits != 0; bits &= bits - 1) {
    const int lane = __builtin_ctz(bits);
    values[count] = lanes[lane];
    tokens[count++] = first_token + lane;
  }
  return count;
}

SPILLWAY_SIMD void Transpose(F* rows) {
  F t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
  F u[8];
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      u[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + 2 + j], _MM_SHUFFLE(1, 0, 1, 0));
      u[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + 2 + j], _MM_SHUFFLE(3, 2, 3, 2));
    }
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
    rows[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
  }
}

}  // namespace
}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_SIMD_AVX2_H_
