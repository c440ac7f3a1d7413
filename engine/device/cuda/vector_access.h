// Eight neighbouring elements at a time, by accesses of 16 bytes where the arrays allow it: their addresses
// and the distances between their rows are multiples of 16 (`aligned`, decided at launch by AllAligned).
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_VECTOR_ACCESS_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_VECTOR_ACCESS_H_

#include "engine/device/cuda/ceil_divide.h"
#include "engine/device/cuda/element.h"
#include "engine/device/cuda/tensor_core.h"

namespace spillway::device::cuda {

constexpr int kVectorElements = 8;
constexpr int kVectorBytes = 16;

template <typename T>
struct alignas(kVectorBytes) SixteenBytes {
  static constexpr int kElements = kVectorBytes / static_cast<int>(sizeof(T));
  T at[kElements];
};

// Of eight elements the `left` first are read, the others are 0.
template <typename T>
__device__ inline void LoadEight(const T* from, int64_t left, bool aligned, float (&to)[kVectorElements]) {
  if (aligned && left >= kVectorElements) {
    constexpr int kElements = SixteenBytes<T>::kElements;
#pragma unroll
    for (int i = 0; i < kVectorElements; i += kElements) {
      const SixteenBytes<T> part = *reinterpret_cast<const SixteenBytes<T>*>(from + i);
#pragma unroll
      for (int j = 0; j < kElements; ++j) to[i + j] = ToFloat(part.at[j]);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kVectorElements; ++i) to[i] = i < left ? ToFloat(from[i]) : 0.0F;
}

// Writes eight elements, anywhere that is aligned to 16 bytes.
template <typename T>
__device__ inline void StoreEight(T* to, const float (&from)[kVectorElements]) {
  constexpr int kElements = SixteenBytes<T>::kElements;
#pragma unroll
  for (int i = 0; i < kVectorElements; i += kElements) {
    SixteenBytes<T> part;
#pragma unroll
    for (int j = 0; j < kElements; ++j) part.at[j] = FromFloat<T>(from[i + j]);
    *reinterpret_cast<SixteenBytes<T>*>(to + i) = part;
  }
}

// Of eight elements the `left` first are written, to global memory. Beside stores of single elements the
// compiler takes those of 16 bytes to pieces, so they are made where it cannot see them.
template <typename T>
__device__ inline void StoreEight(T* to, int64_t left, bool aligned, const float (&from)[kVectorElements]) {
  if (aligned && left >= kVectorElements) {
    constexpr int kElements = SixteenBytes<T>::kElements;
#pragma unroll
    for (int i = 0; i < kVectorElements; i += kElements) {
      uint32_t words[kVectorBytes / 4];
#pragma unroll
      for (int j = 0; j < kVectorBytes / 4; ++j) {
        if constexpr (std::is_same_v<T, float>) {
          words[j] = __float_as_uint(from[i + j]);
        } else {
          words[j] = PackTwo(from[i + 2 * j], from[i + 2 * j + 1], T{});
        }
      }
      StoreSixteen(to + i, words);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kVectorElements; ++i) {
    if (i < left) to[i] = FromFloat<T>(from[i]);
  }
}

// Copies eight elements without looking at them.
template <typename T>
__device__ inline void CopyEight(T* to, const T* from, int64_t left, bool aligned) {
  if (aligned && left >= kVectorElements) {
    constexpr int kElements = SixteenBytes<T>::kElements;
#pragma unroll
    for (int i = 0; i < kVectorElements; i += kElements) {
      *reinterpret_cast<SixteenBytes<T>*>(to + i) = *reinterpret_cast<const SixteenBytes<T>*>(from + i);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kVectorElements; ++i) {
    if (i < left) to[i] = from[i];
  }
}

// Whether all of these, addresses and distances in bytes, are multiples of 16.
template <typename... Values>
bool AllAligned(Values... values) {
  return ((static_cast<uint64_t>(values) % kVectorBytes == 0) && ...);
}

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_VECTOR_ACCESS_H_
