// T = bf16 for the kernel_*.h files, over simd_avx512.h and AVX512-BF16. Rounding to bf16 is to nearest even;
// VDPBF16PS adds two products to an f32 sum and treats denormals as zero, as oneDNN's products do.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_ELEMENT_BF16_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_ELEMENT_BF16_H_

namespace spillway::device {
namespace {

using T = uint16_t;
constexpr int64_t kGroup = 2;  // values of k side by side in a panel

SPILLWAY_SIMD F WidenBf16(__m256i v) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
}
SPILLWAY_SIMD __m256i NarrowBf16(F v) { return (__m256i)_mm512_cvtneps_pbh(v); }

SPILLWAY_SIMD F LoadT(const T* p) {
  return WidenBf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
SPILLWAY_SIMD F LoadFirstT(const T* p, int64_t n) { return WidenBf16(_mm256_maskz_loadu_epi16(First(n), p)); }
SPILLWAY_SIMD void StoreT(T* p, F v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), NarrowBf16(v)); }
SPILLWAY_SIMD void StoreFirstT(T* p, F v, int64_t n) { _mm256_mask_storeu_epi16(p, First(n), NarrowBf16(v)); }

// --- The multiply-add of products: B is a vector of panel columns, A one group of one row in every lane.
using B = __m512bh;
using A = __m512bh;
SPILLWAY_SIMD B LoadB(const T* p) { return (__m512bh)_mm512_loadu_si512(p); }
SPILLWAY_SIMD A SplatA(const T* p) {
  int32_t pair;
  __builtin_memcpy(&pair, p, sizeof(pair));
  return (__m512bh)_mm512_set1_epi32(pair);
}
SPILLWAY_SIMD F MultiplyAdd(A a, B b, F sum) { return _mm512_dpbf16_ps(sum, a, b); }

// --- Layout of K and V panels. kLanes words of 4 bytes, of which `elements` values are there.
SPILLWAY_SIMD F LoadWords(const T* p, int64_t elements) {
  if (elements >= 2 * kLanes) return _mm512_loadu_ps(p);
  const __mmask32 there = (1U << static_cast<uint32_t>(elements)) - 1U;
  return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(there, p));
}
SPILLWAY_SIMD B AsB(F words) { return (__m512bh)words; }
SPILLWAY_SIMD void StoreB(T* p, B v) { _mm512_storeu_si512(p, (__m512i)v); }
// Columns [d, d + kLanes) of one group of two rows as a vector of a panel, `left` of them there; the second
// row may be missing.
SPILLWAY_SIMD B ValueColumns(const T* const* rows, int64_t n_rows, int64_t d, int64_t left) {
  const Mask there = First(left);
  const __m256i a = _mm256_maskz_loadu_epi16(there, rows[0] + d);
  const __m256i b = n_rows > 1 ? _mm256_maskz_loadu_epi16(there, rows[1] + d) : _mm256_setzero_si256();
  const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                                              23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(a), b, 1);
  return (__m512bh)_mm512_permutexvar_epi16(interleave, both);
}

}  // namespace
}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_ELEMENT_BF16_H_
