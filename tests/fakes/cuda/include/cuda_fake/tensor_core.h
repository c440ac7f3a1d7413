// The software form of engine/device/cuda/tensor_core.h, which says what each function does.
#ifndef SPILLWAY_TESTS_FAKES_CUDA_INCLUDE_CUDA_FAKE_TENSOR_CORE_H_
#define SPILLWAY_TESTS_FAKES_CUDA_INCLUDE_CUDA_FAKE_TENSOR_CORE_H_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <source_location>
#include <type_traits>

namespace spillway::fakes::cuda {

enum class MatrixElement : uint8_t { kHalf, kBfloat16 };

void Mma(MatrixElement element, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
         const std::source_location& where);
// `n` matrices to r[n]. It is a fault when a row is not aligned to 16 bytes or lies outside of shared memory.
void LoadMatrices(int n, bool transposed, uint32_t* r, const void* row, const std::source_location& where);
// It is a fault when an address is not aligned to 16 bytes, or `shared` lies outside of shared memory.
void AsyncCopy(void* shared, const void* global, int valid_bytes, const std::source_location& where);
void AsyncCommit();
void AsyncWait(size_t newest_left);

// A fault when the address is not aligned to 16 bytes or lies in shared memory.
void CheckStore(const void* global, const std::source_location& where);

}  // namespace spillway::fakes::cuda

namespace spillway::device::cuda {

template <typename T>
void Mma16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
              std::source_location where = std::source_location::current()) {
  static_assert(std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>);
  using fakes::cuda::MatrixElement;
  fakes::cuda::Mma(std::is_same_v<T, __half> ? MatrixElement::kHalf : MatrixElement::kBfloat16, d, a, b,
                   where);
}

inline void LoadMatrix4(uint32_t (&r)[4], const void* row,
                        std::source_location where = std::source_location::current()) {
  fakes::cuda::LoadMatrices(4, false, r, row, where);
}
inline void LoadMatrix4Transposed(uint32_t (&r)[4], const void* row,
                                  std::source_location where = std::source_location::current()) {
  fakes::cuda::LoadMatrices(4, true, r, row, where);
}
inline void LoadMatrix2(uint32_t (&r)[2], const void* row,
                        std::source_location where = std::source_location::current()) {
  fakes::cuda::LoadMatrices(2, false, r, row, where);
}
inline void LoadMatrix2Transposed(uint32_t (&r)[2], const void* row,
                                  std::source_location where = std::source_location::current()) {
  fakes::cuda::LoadMatrices(2, true, r, row, where);
}

inline void AsyncCopy16(void* shared, const void* global, int valid_bytes = 16,
                        std::source_location where = std::source_location::current()) {
  fakes::cuda::AsyncCopy(shared, global, valid_bytes, where);
}
inline void AsyncCommit() { fakes::cuda::AsyncCommit(); }
template <int kNewestLeft>
void AsyncWait() {
  static_assert(kNewestLeft >= 0);
  fakes::cuda::AsyncWait(kNewestLeft);
}

inline float Exp2(float x) {
  const float power = std::exp2(x);
  return power < std::numeric_limits<float>::min() ? 0.0F : power;
}

inline void StoreSixteen(void* global, const uint32_t (&words)[4],
                         std::source_location where = std::source_location::current()) {
  fakes::cuda::CheckStore(global, where);
  std::memcpy(global, words, sizeof(words));  // here, where ThreadSanitizer sees it
}

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_TESTS_FAKES_CUDA_INCLUDE_CUDA_FAKE_TENSOR_CORE_H_
