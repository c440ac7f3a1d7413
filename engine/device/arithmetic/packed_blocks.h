// The packed encodings of GGUF (github.com/ggml-org/ggml, docs/gguf.md and ggml-quants), decoded the same on
// every device: a block in runs of 16 elements, each of which needs its block alone. Exact in f32 where no
// product and sum are fused.
#ifndef SPILLWAY_ENGINE_DEVICE_ARITHMETIC_PACKED_BLOCKS_H_
#define SPILLWAY_ENGINE_DEVICE_ARITHMETIC_PACKED_BLOCKS_H_

#include <cstdint>

#include "engine/device/arithmetic/portable.h"

namespace spillway::device::packed {

constexpr int kRunElements = 16;

SPILLWAY_PORTABLE float BitsToFloat(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  return __builtin_bit_cast(float, bits);
#endif
}

SPILLWAY_PORTABLE uint32_t FloatToBits(float value) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(value);
#else
  return __builtin_bit_cast(uint32_t, value);
#endif
}

// On a GPU blocks begin at even addresses, those of Q4_K and Q5_K at multiples of 16: loads are as wide as
// that allows. Elsewhere they may begin anywhere.
#if defined(SPILLWAY_CUDA_EMULATED)
#define SPILLWAY_CHECK_ALIGNMENT(p, alignment) \
  if (reinterpret_cast<uint64_t>(p) % (alignment) != 0) __builtin_trap()
#else
#define SPILLWAY_CHECK_ALIGNMENT(p, alignment)
#endif

SPILLWAY_PORTABLE uint32_t LoadU16(const uint8_t* p) {
  SPILLWAY_CHECK_ALIGNMENT(p, 2);
#ifdef __CUDA_ARCH__
  return *reinterpret_cast<const uint16_t*>(p);
#else
  return uint32_t{p[0]} | (uint32_t{p[1]} << 8);
#endif
}
SPILLWAY_PORTABLE uint32_t LoadU32(const uint8_t* p) { return LoadU16(p) | (LoadU16(p + 2) << 16); }

struct alignas(16) RunBytes {
  uint8_t at[kRunElements];
};
template <int kAlignment>
SPILLWAY_PORTABLE RunBytes LoadRun(const uint8_t* p) {
  SPILLWAY_CHECK_ALIGNMENT(p, kAlignment);
  RunBytes run;
#ifdef __CUDA_ARCH__
  if constexpr (kAlignment == 16) {
    run = *reinterpret_cast<const RunBytes*>(p);
  } else {
#pragma unroll
    for (int i = 0; i < kRunElements; i += 2) {
      const uint32_t two = LoadU16(p + i);
      run.at[i] = static_cast<uint8_t>(two);
      run.at[i + 1] = static_cast<uint8_t>(two >> 8);
    }
  }
#else
  __builtin_memcpy(run.at, p, sizeof(run.at));
#endif
  return run;
}

// Without branches, so that rows of F16 vectorise; without denormal operands, so that a thread that flushes
// them to zero gets the same values.
SPILLWAY_PORTABLE float HalfToFloat(uint32_t half) {
  const uint32_t sign = (half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  const uint32_t rebased = (magnitude << 13) + 0x38000000u;  // exponent bias 15 -> 127
  const uint32_t inf_or_nan = (magnitude << 13) | 0x7f800000u;
  // A half denormal is magnitude * 2^-24: set it as the fraction of 2^-14 and subtract that.
  const float denormal = BitsToFloat((magnitude << 13) | 0x38800000u) - 0x1p-14f;
  uint32_t bits = magnitude >= 0x7c00u ? inf_or_nan : rebased;
  bits = magnitude < 0x0400u ? FloatToBits(denormal) : bits;
  return BitsToFloat(bits | sign);
}
SPILLWAY_PORTABLE float LoadHalf(const uint8_t* p) { return HalfToFloat(LoadU16(p)); }

// d, 32 signed bytes.
SPILLWAY_PORTABLE void DecodeQ8_0(const uint8_t* block, int run, float* out) {
  const float d = LoadHalf(block);
  const RunBytes q = LoadRun<2>(block + 2 + kRunElements * run);
  for (int i = 0; i < kRunElements; ++i) out[i] = static_cast<float>(static_cast<int8_t>(q.at[i])) * d;
}

// d, 16 bytes of nibbles: low ones are elements 0..15, high ones 16..31; less 8.
SPILLWAY_PORTABLE void DecodeQ4_0(const uint8_t* block, int run, float* out) {
  const float d = LoadHalf(block);
  const RunBytes q = LoadRun<2>(block + 2);
  for (int i = 0; i < kRunElements; ++i) {
    out[i] = d * static_cast<float>(((q.at[i] >> (4 * run)) & 0x0f) - 8);
  }
}

// d, m, nibbles as in Q4_0, plus m.
SPILLWAY_PORTABLE void DecodeQ4_1(const uint8_t* block, int run, float* out) {
  const float d = LoadHalf(block);
  const float m = LoadHalf(block + 2);
  const RunBytes q = LoadRun<2>(block + 4);
  for (int i = 0; i < kRunElements; ++i) out[i] = d * static_cast<float>((q.at[i] >> (4 * run)) & 0x0f) + m;
}

// Bit `element` of `high`, as the fifth bit of a value.
SPILLWAY_PORTABLE int FifthBit(uint32_t high, int element) {
  return static_cast<int>((high >> element) & 1u) << 4;
}

// d, 32 fifth bits, nibbles as in Q4_0; less 16.
SPILLWAY_PORTABLE void DecodeQ5_0(const uint8_t* block, int run, float* out) {
  const float d = LoadHalf(block);
  const uint32_t high = LoadU32(block + 2);
  const RunBytes q = LoadRun<2>(block + 6);
  for (int i = 0; i < kRunElements; ++i) {
    const int value = ((q.at[i] >> (4 * run)) & 0x0f) | FifthBit(high, kRunElements * run + i);
    out[i] = d * static_cast<float>(value - 16);
  }
}

// d, m, 32 fifth bits, nibbles as in Q4_0, plus m.
SPILLWAY_PORTABLE void DecodeQ5_1(const uint8_t* block, int run, float* out) {
  const float d = LoadHalf(block);
  const float m = LoadHalf(block + 2);
  const uint32_t high = LoadU32(block + 4);
  const RunBytes q = LoadRun<2>(block + 8);
  for (int i = 0; i < kRunElements; ++i) {
    const int value = ((q.at[i] >> (4 * run)) & 0x0f) | FifthBit(high, kRunElements * run + i);
    out[i] = d * static_cast<float>(value) + m;
  }
}

// The six-bit scale and minimum of sub-block j of 8, from the 12 bytes of a Q4_K or Q5_K block: bytes 0..3
// hold scales 0..3 and, in their top bits, the top bits of scales 4..7; bytes 4..7 the same for minima;
// bytes 8..11 the low nibbles of both for 4..7.
struct ScaleAndMin {
  float scale;
  float min;
};
SPILLWAY_PORTABLE ScaleAndMin SubBlockScale(const uint8_t* scales, int j) {
  if (j < 4) return {static_cast<float>(scales[j] & 0x3f), static_cast<float>(scales[4 + j] & 0x3f)};
  const int low = scales[4 + j];
  return {static_cast<float>((low & 0x0f) | ((scales[j - 4] >> 2) & 0x30)),
          static_cast<float>((low >> 4) | ((scales[j] >> 2) & 0x30))};
}

// d, dmin, 12 bytes of scales, 128 bytes: sub-blocks 2j and 2j + 1 are the low and high nibbles of 32 bytes.
SPILLWAY_PORTABLE void DecodeQ4_K(const uint8_t* block, int run, float* out) {
  const int j = run / 2;
  const ScaleAndMin sub = SubBlockScale(block + 4, j);
  const float scale = LoadHalf(block) * sub.scale;
  const float min = LoadHalf(block + 2) * sub.min;
  const RunBytes q = LoadRun<16>(block + 16 + 32 * (j / 2) + kRunElements * (run % 2));
  const int shift = 4 * (j % 2);
  for (int i = 0; i < kRunElements; ++i) out[i] = scale * static_cast<float>((q.at[i] >> shift) & 0x0f) - min;
}

// As Q4_K, with 32 bytes of fifth bits before the nibbles: bit j of byte i belongs to element i of sub-block
// j.
SPILLWAY_PORTABLE void DecodeQ5_K(const uint8_t* block, int run, float* out) {
  const int j = run / 2;
  const ScaleAndMin sub = SubBlockScale(block + 4, j);
  const float scale = LoadHalf(block) * sub.scale;
  const float min = LoadHalf(block + 2) * sub.min;
  const int half = kRunElements * (run % 2);
  const RunBytes high = LoadRun<16>(block + 16 + half);
  const RunBytes q = LoadRun<16>(block + 48 + 32 * (j / 2) + half);
  const int shift = 4 * (j % 2);
  for (int i = 0; i < kRunElements; ++i) {
    const int value = ((q.at[i] >> shift) & 0x0f) | (((high.at[i] >> j) & 1) << 4);
    out[i] = scale * static_cast<float>(value) - min;
  }
}

// 128 bytes of low nibbles, 64 of top bit pairs, 16 signed scales (one per run), d; less 32.
SPILLWAY_PORTABLE void DecodeQ6_K(const uint8_t* block, int run, float* out) {
  const float scale = LoadHalf(block + 208) * static_cast<float>(static_cast<int8_t>(block[192 + run]));
  const int j = run / 2;  // 32 elements each; four to a half of the block
  const int half = j / 4;
  const int from = kRunElements * (run % 2);
  const RunBytes low = LoadRun<2>(block + 64 * half + 32 * (j % 2) + from);
  const int low_shift = 4 * ((j / 2) % 2);
  const RunBytes high = LoadRun<2>(block + 128 + 32 * half + from);
  const int high_shift = 2 * (j % 4);
  for (int i = 0; i < kRunElements; ++i) {
    const int value = ((low.at[i] >> low_shift) & 0x0f) | (((high.at[i] >> high_shift) & 3) << 4);
    out[i] = scale * static_cast<float>(value - 32);
  }
}

#undef SPILLWAY_CHECK_ALIGNMENT

}  // namespace spillway::device::packed

#endif  // SPILLWAY_ENGINE_DEVICE_ARITHMETIC_PACKED_BLOCKS_H_
