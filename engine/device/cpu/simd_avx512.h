// Sixteen f32 lanes of AVX-512 (F, BW, DQ, VL). Included by kernels_avx512.cc and kernels_avx512_bf16.cc
// only.
//
// The three simd_*.h files define one vocabulary, over which the kernel_*.h files are written once: a vector
// F of kLanes f32, a Mask over its lanes, arithmetic, and a few shuffles. Everything is in an anonymous
// namespace and always inlined: nothing compiled with one instruction set's flags may be linked into
// another's.
//
//   LoadFirst, StoreFirst, First  touch or choose the first n lanes only; the rest load as 0
//   Less, GreaterEqual            are false where a lane is NaN
//   TimesPowerOfTwo(x, n)         x * 2^n for integral n in [-126, 127]
//   Compress                      writes the chosen lanes and their tokens side by side, may write a whole
//                                 vector, and returns how many were chosen
//   Transpose                     of a kLanes x kLanes square in registers
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_SIMD_AVX512_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_SIMD_AVX512_H_

#include <immintrin.h>

#include <cstdint>

#define SPILLWAY_SIMD static inline __attribute__((always_inline, unused))

namespace spillway::device {
namespace {

using F = __m512;
using Mask = __mmask16;
constexpr int64_t kLanes = 16;
constexpr int kAccumulators = 24;  // of 32 registers

SPILLWAY_SIMD F Zero() { return _mm512_setzero_ps(); }
SPILLWAY_SIMD F Splat(float x) { return _mm512_set1_ps(x); }
SPILLWAY_SIMD F Load(const float* p) { return _mm512_loadu_ps(p); }
SPILLWAY_SIMD void Store(float* p, F v) { _mm512_storeu_ps(p, v); }
SPILLWAY_SIMD Mask First(int64_t n) {
  return static_cast<Mask>(n >= kLanes ? 0xffffU : (1U << static_cast<uint32_t>(n)) - 1U);
}
SPILLWAY_SIMD F LoadFirst(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(First(n), p); }
SPILLWAY_SIMD void StoreFirst(float* p, F v, int64_t n) { _mm512_mask_storeu_ps(p, First(n), v); }

SPILLWAY_SIMD F Add(F a, F b) { return _mm512_add_ps(a, b); }
SPILLWAY_SIMD F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
SPILLWAY_SIMD F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
SPILLWAY_SIMD F Div(F a, F b) { return _mm512_div_ps(a, b); }
SPILLWAY_SIMD F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
SPILLWAY_SIMD F Max(F a, F b) { return _mm512_max_ps(a, b); }
SPILLWAY_SIMD F Min(F a, F b) { return _mm512_min_ps(a, b); }
SPILLWAY_SIMD F Round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
SPILLWAY_SIMD float ReduceAdd(F v) { return _mm512_reduce_add_ps(v); }
SPILLWAY_SIMD float ReduceMax(F v) { return _mm512_reduce_max_ps(v); }

SPILLWAY_SIMD Mask Less(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
SPILLWAY_SIMD Mask GreaterEqual(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
SPILLWAY_SIMD Mask Both(Mask a, Mask b) { return static_cast<Mask>(a & b); }
SPILLWAY_SIMD F Select(Mask m, F yes, F no) { return _mm512_mask_blend_ps(m, no, yes); }
SPILLWAY_SIMD uint32_t Bits(Mask m) { return m; }

SPILLWAY_SIMD F TimesPowerOfTwo(F x, F n) { return _mm512_scalef_ps(x, n); }
SPILLWAY_SIMD F SwapNeighbours(F v) { return _mm512_permute_ps(v, _MM_SHUFFLE(2, 3, 0, 1)); }

// Compressing in a register and storing the whole vector: compressing stores are microcoded on Zen 4.
SPILLWAY_SIMD int64_t Compress(F v, Mask m, int32_t first_token, float* values, int32_t* tokens) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  _mm512_storeu_ps(values, _mm512_maskz_compress_ps(m, v));
  _mm512_storeu_si512(tokens,
                      _mm512_maskz_compress_epi32(m, _mm512_add_epi32(lane, _mm512_set1_epi32(first_token))));
  return __builtin_popcount(m);
}

SPILLWAY_SIMD void Transpose(F* rows) {
  F t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
  }
  F u[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      u[i + 2 * j] = _mm512_shuffle_ps(t[i + j], t[i + 2 + j], _MM_SHUFFLE(1, 0, 1, 0));
      u[i + 2 * j + 1] = _mm512_shuffle_ps(t[i + j], t[i + 2 + j], _MM_SHUFFLE(3, 2, 3, 2));
    }
  }
  // u[4b + c] holds column c + 4l of rows 4b..4b+3 in its 128-bit lane l.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const F even01 = _mm512_shuffle_f32x4(u[c], u[4 + c], _MM_SHUFFLE(2, 0, 2, 0));
    const F odd01 = _mm512_shuffle_f32x4(u[c], u[4 + c], _MM_SHUFFLE(3, 1, 3, 1));
    const F even23 = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], _MM_SHUFFLE(2, 0, 2, 0));
    const F odd23 = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], _MM_SHUFFLE(3, 1, 3, 1));
    rows[c] = _mm512_shuffle_f32x4(even01, even23, _MM_SHUFFLE(2, 0, 2, 0));
    rows[4 + c] = _mm512_shuffle_f32x4(odd01, odd23, _MM_SHUFFLE(2, 0, 2, 0));
    rows[8 + c] = _mm512_shuffle_f32x4(even01, even23, _MM_SHUFFLE(3, 1, 3, 1));
    rows[12 + c] = _mm512_shuffle_f32x4(odd01, odd23, _MM_SHUFFLE(3, 1, 3, 1));
  }
}

}  // namespace
}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_SIMD_AVX512_H_
