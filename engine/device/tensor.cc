#include "engine/device/tensor.h"

#include <array>
#include <bit>
#include <cstring>

#include "base/check.h"

// The products and sums below are rounded one by one, as the reference does: this file is compiled with
// -ffp-contract=off, so that no compiler fuses them.

namespace spillway::device {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF data is read in place");

// Indexed by Encoding.
constexpr std::array<EncodingInfo, 11> kEncodings = {{
    {"F32", 1, 4},
    {"F16", 1, 2},
    {"BF16", 1, 2},
    {"Q8_0", 32, 34},
    {"Q4_0", 32, 18},
    {"Q4_1", 32, 20},
    {"Q5_0", 32, 22},
    {"Q5_1", 32, 24},
    {"Q4_K", 256, 144},
    {"Q5_K", 256, 176},
    {"Q6_K", 256, 210},
}};

uint16_t LoadU16(const uint8_t* p) {
  uint16_t bits;
  std::memcpy(&bits, p, sizeof(bits));
  return bits;
}

uint32_t LoadU32(const uint8_t* p) {
  uint32_t bits;
  std::memcpy(&bits, p, sizeof(bits));
  return bits;
}

// Without branches, so that rows of F16 vectorise; without denormal operands, so that a thread that flushes
// them to zero gets the same values.
float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  const uint32_t rebased = (magnitude << 13) + 0x38000000u;  // exponent bias 15 -> 127
  const uint32_t inf_or_nan = (magnitude << 13) | 0x7f800000u;
  // A half denormal is magnitude * 2^-24: set it as the fraction of 2^-14 and subtract that.
  const float denormal = std::bit_cast<float>((magnitude << 13) | 0x38800000u) - 0x1p-14f;
  uint32_t bits = magnitude >= 0x7c00u ? inf_or_nan : rebased;
  bits = magnitude < 0x0400u ? std::bit_cast<uint32_t>(denormal) : bits;
  return std::bit_cast<float>(bits | sign);
}

float LoadHalf(const uint8_t* p) { return HalfToFloat(LoadU16(p)); }

void DecodeF16(const uint8_t* __restrict data, int64_t elements, float* __restrict out) {
  for (int64_t i = 0; i < elements; ++i) out[i] = LoadHalf(data + 2 * i);
}

void DecodeBf16(const uint8_t* __restrict data, int64_t elements, float* __restrict out) {
  for (int64_t i = 0; i < elements; ++i) {
    out[i] = std::bit_cast<float>(static_cast<uint32_t>(LoadU16(data + 2 * i)) << 16);
  }
}

// Each of the following decodes one block.

// d, 32 signed bytes.
inline void DecodeQ8_0(const uint8_t* __restrict block, float* __restrict out) {
  const float d = LoadHalf(block);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(static_cast<int8_t>(block[2 + i])) * d;
}

// d, 16 bytes of nibbles: low ones are elements 0..15, high ones 16..31; less 8.
inline void DecodeQ4_0(const uint8_t* __restrict block, float* __restrict out) {
  const float d = LoadHalf(block);
  const uint8_t* q = block + 2;
  for (int i = 0; i < 16; ++i) out[i] = d * static_cast<float>((q[i] & 0x0f) - 8);
  for (int i = 0; i < 16; ++i) out[16 + i] = d * static_cast<float>((q[i] >> 4) - 8);
}

// d, m, nibbles as in Q4_0, plus m.
inline void DecodeQ4_1(const uint8_t* __restrict block, float* __restrict out) {
  const float d = LoadHalf(block);
  const float m = LoadHalf(block + 2);
  const uint8_t* q = block + 4;
  for (int i = 0; i < 16; ++i) out[i] = d * static_cast<float>(q[i] & 0x0f) + m;
  for (int i = 0; i < 16; ++i) out[16 + i] = d * static_cast<float>(q[i] >> 4) + m;
}

// The fifth bits of element i and of element 16 + i, in place: bit i of `high` and bit 16 + i.
inline int FifthBit(uint32_t high, int element) { return static_cast<int>((high >> element) & 1u) << 4; }

// d, 32 fifth bits, nibbles as in Q4_0; less 16.
inline void DecodeQ5_0(const uint8_t* __restrict block, float* __restrict out) {
  const float d = LoadHalf(block);
  const uint32_t high = LoadU32(block + 2);
  const uint8_t* q = block + 6;
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(((q[i] & 0x0f) | FifthBit(high, i)) - 16);
  }
  for (int i = 0; i < 16; ++i) {
    out[16 + i] = d * static_cast<float>(((q[i] >> 4) | FifthBit(high, 16 + i)) - 16);
  }
}

// d, m, 32 fifth bits, nibbles as in Q4_0, plus m.
inline void DecodeQ5_1(const uint8_t* __restrict block, float* __restrict out) {
  const float d = LoadHalf(block);
  const float m = LoadHalf(block + 2);
  const uint32_t high = LoadU32(block + 4);
  const uint8_t* q = block + 8;
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((q[i] & 0x0f) | FifthBit(high, i)) + m;
  }
  for (int i = 0; i < 16; ++i) {
    out[16 + i] = d * static_cast<float>((q[i] >> 4) | FifthBit(high, 16 + i)) + m;
  }
}

// The six-bit scale and minimum of sub-block j of 8, from the 12 bytes of a Q4_K or Q5_K block: bytes 0..3
// hold scales 0..3 and, in their top bits, the top bits of scales 4..7; bytes 4..7 the same for minima;
// bytes 8..11 the low nibbles of both for 4..7.
struct ScaleAndMin {
  float scale;
  float min;
};
inline ScaleAndMin SubBlockScale(const uint8_t* scales, int j) {
  if (j < 4) return {static_cast<float>(scales[j] & 0x3f), static_cast<float>(scales[4 + j] & 0x3f)};
  const int low = scales[4 + j];
  return {static_cast<float>((low & 0x0f) | ((scales[j - 4] >> 2) & 0x30)),
          static_cast<float>((low >> 4) | ((scales[j] >> 2) & 0x30))};
}

// d, dmin, 12 bytes of scales, 128 bytes: sub-blocks 2j and 2j + 1 are the low and high nibbles of 32 bytes.
inline void DecodeQ4_K(const uint8_t* __restrict block, float* __restrict out) {
  const float d = LoadHalf(block);
  const float dmin = LoadHalf(block + 2);
  for (int j = 0; j < 8; ++j) {
    const ScaleAndMin sub = SubBlockScale(block + 4, j);
    const float scale = d * sub.scale;
    const float min = dmin * sub.min;
    const uint8_t* q = block + 16 + 32 * (j / 2);
    const int shift = 4 * (j % 2);
    for (int i = 0; i < 32; ++i) {
      out[32 * j + i] = scale * static_cast<float>((q[i] >> shift) & 0x0f) - min;
    }
  }
}

// As Q4_K, with 32 bytes of fifth bits before the nibbles: bit j of byte i belongs to element i of sub-block
// j.
inline void DecodeQ5_K(const uint8_t* __restrict block, float* __restrict out) {
  const float d = LoadHalf(block);
  const float dmin = LoadHalf(block + 2);
  const uint8_t* high = block + 16;
  for (int j = 0; j < 8; ++j) {
    const ScaleAndMin sub = SubBlockScale(block + 4, j);
    const float scale = d * sub.scale;
    const float min = dmin * sub.min;
    const uint8_t* q = block + 48 + 32 * (j / 2);
    const int shift = 4 * (j % 2);
    for (int i = 0; i < 32; ++i) {
      const int value = ((q[i] >> shift) & 0x0f) | (((high[i] >> j) & 1) << 4);
      out[32 * j + i] = scale * static_cast<float>(value) - min;
    }
  }
}

// 128 bytes of low nibbles, 64 of top bit pairs, 16 signed scales (one per 16 elements), d; less 32.
inline void DecodeQ6_K(const uint8_t* __restrict block, float* __restrict out) {
  const float d = LoadHalf(block + 208);
  for (int j = 0; j < 8; ++j) {  // 32 elements each; four to a half of the block
    const int half = j / 4;
    const uint8_t* low = block + 64 * half + 32 * (j % 2);
    const int low_shift = 4 * ((j / 2) % 2);
    const uint8_t* high = block + 128 + 32 * half;
    const int high_shift = 2 * (j % 4);
    for (int k = 0; k < 2; ++k) {
      const float scale = d * static_cast<float>(static_cast<int8_t>(block[192 + 2 * j + k]));
      for (int i = 16 * k; i < 16 * k + 16; ++i) {
        const int value = ((low[i] >> low_shift) & 0x0f) | (((high[i] >> high_shift) & 3) << 4);
        out[32 * j + i] = scale * static_cast<float>(value - 32);
      }
    }
  }
}

template <void (*DecodeBlock)(const uint8_t*, float*)>
void DecodeBlocks(const EncodingInfo& info, const uint8_t* data, int64_t elements, float* out) {
  for (int64_t done = 0; done < elements; done += info.block_elements) {
    DecodeBlock(data, out + done);
    data += info.block_bytes;
  }
}

}  // namespace

const EncodingInfo& InfoOf(Encoding encoding) { return kEncodings[static_cast<size_t>(encoding)]; }

int64_t EncodedBytes(Encoding encoding, int64_t elements) {
  const EncodingInfo& info = InfoOf(encoding);
  SPILLWAY_CHECK(elements % info.block_elements == 0);
  return elements / info.block_elements * info.block_bytes;
}

void DecodeToF32(Encoding encoding, const uint8_t* data, int64_t elements, float* out) {
  const EncodingInfo& info = InfoOf(encoding);
  SPILLWAY_CHECK(elements % info.block_elements == 0);
  switch (encoding) {
    case Encoding::kF32:
      if (elements > 0) std::memcpy(out, data, static_cast<size_t>(elements) * sizeof(float));
      return;
    case Encoding::kF16:
      return DecodeF16(data, elements, out);
    case Encoding::kBF16:
      return DecodeBf16(data, elements, out);
    case Encoding::kQ8_0:
      return DecodeBlocks<DecodeQ8_0>(info, data, elements, out);
    case Encoding::kQ4_0:
      return DecodeBlocks<DecodeQ4_0>(info, data, elements, out);
    case Encoding::kQ4_1:
      return DecodeBlocks<DecodeQ4_1>(info, data, elements, out);
    case Encoding::kQ5_0:
      return DecodeBlocks<DecodeQ5_0>(info, data, elements, out);
    case Encoding::kQ5_1:
      return DecodeBlocks<DecodeQ5_1>(info, data, elements, out);
    case Encoding::kQ4_K:
      return DecodeBlocks<DecodeQ4_K>(info, data, elements, out);
    case Encoding::kQ5_K:
      return DecodeBlocks<DecodeQ5_K>(info, data, elements, out);
    case Encoding::kQ6_K:
      return DecodeBlocks<DecodeQ6_K>(info, data, elements, out);
  }
}

}  // namespace spillway::device
