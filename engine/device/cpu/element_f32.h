// T = f32 for the kernel_*.h files, over any simd_*.h.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_ELEMENT_F32_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_ELEMENT_F32_H_

namespace spillway::device {
namespace {

using T = float;
constexpr int64_t kGroup = 1;  // values of k side by side in a panel

SPILLWAY_SIMD F LoadT(const T* p) { return Load(p); }
SPILLWAY_SIMD F LoadFirstT(const T* p, int64_t n) { return LoadFirst(p, n); }
SPILLWAY_SIMD void StoreT(T* p, F v) { Store(p, v); }
SPILLWAY_SIMD void StoreFirstT(T* p, F v, int64_t n) { StoreFirst(p, v, n); }

// --- The multiply-add of products: B is a vector of panel columns, A one group of one row in every lane.
using B = F;
using A = F;
SPILLWAY_SIMD B LoadB(const T* p) { return Load(p); }
SPILLWAY_SIMD A SplatA(const T* p) { return Splat(*p); }
SPILLWAY_SIMD F MultiplyAdd(A a, B b, F sum) { return Fma(a, b, sum); }

// --- Layout of K and V panels. kLanes words of 4 bytes, of which `elements` values are there.
SPILLWAY_SIMD F LoadWords(const T* p, int64_t elements) {
  return elements >= kLanes ? Load(p) : LoadFirst(p, elements);
}
SPILLWAY_SIMD B AsB(F words) { return words; }
SPILLWAY_SIMD void StoreB(T* p, B v) { Store(p, v); }
// Columns [d, d + kLanes) of one group of rows as a vector of a panel, `left` of them there.
SPILLWAY_SIMD B ValueColumns(const T* const* rows, int64_t /*n_rows*/, int64_t d, int64_t left) {
  return left >= kLanes ? Load(rows[0] + d) : left > 0 ? LoadFirst(rows[0] + d, left) : Zero();
}

}  // namespace
}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_ELEMENT_F32_H_
