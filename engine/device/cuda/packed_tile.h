// How a warp reads packed weights as fragments of tensor-core products. A span is 256 elements of a row: one
// block of the K encodings, eight of the others. It is read in groups of 32 elements; of each, lanes with the
// same lane % 4 (a pair, in tensor_core.h's terms) hold eight. What is multiplied are the encoded integers,
// perhaps with 128 added, which bf16 holds exactly; the f32 sums are scaled:
//   weight = scale * integer - offset
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_PACKED_TILE_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_PACKED_TILE_H_

#include "engine/device/cuda/element.h"
#include "engine/device/cuda/packed_matrix.h"
#include "engine/device/cuda/simt.h"
#include "engine/device/tensor_encoding.h"

namespace spillway::device::cuda {

constexpr int kSpanElements = static_cast<int>(kPackedSpanElements);
constexpr int kGroupElements = 32;
constexpr int kGroupsOfSpan = kSpanElements / kGroupElements;

// What is multiplied are bf16. From 128 on its units are 1: an integer below 128 is added to it by OR.
constexpr uint32_t kMagicTwo = 0x43004300;  // 128 and 128
constexpr float kMagic = 128;

// Constants that integers are unpacked with. An instruction takes one operand that is no register, and that
// is the mask: the compiler must not know that these are constants. All lanes of a warp make them together.
struct UnpackBits {
  uint32_t magic = __reduce_or_sync(kWholeWarp, kMagicTwo);
  uint32_t byte_excess = __reduce_or_sync(kWholeWarp, 0x4b000000u);  // of the f32 2^23
};

// Words of shared memory that begin at any even address, and where that is known to be no multiple of 4.
__device__ inline uint32_t LoadWord(const uint8_t* at) {
  const int behind = static_cast<int>(reinterpret_cast<uintptr_t>(at) % 4);
  const uint32_t* words = reinterpret_cast<const uint32_t*>(at - behind);
  return __funnelshift_r(words[0], words[1], static_cast<uint32_t>(behind) * 8);
}
__device__ inline void LoadTwoWords(const uint8_t* at, bool between, uint32_t (&two)[2]) {
  const uint32_t* words = reinterpret_cast<const uint32_t*>(between ? at - 2 : at);
  two[0] = between ? __funnelshift_r(words[0], words[1], 16) : words[0];
  two[1] = between ? __funnelshift_r(words[1], words[2], 16) : words[1];
}
__device__ inline float LoadHalfAt(const uint8_t* at) {
  return __half2float(__ushort_as_half(*reinterpret_cast<const uint16_t*>(at)));
}

// Byte i of a word, exactly, and without a conversion: 2^23 larger, of which it is the last bits.
constexpr float kByteExcess = 8388608.0F;
__device__ inline float ByteAndExcess(uint32_t excess_bits, uint32_t word, int i) {
  return __uint_as_float(__byte_perm(word, excess_bits, 0x7440u | static_cast<uint32_t>(i)));
}
// factor * byte i, rounded once.
__device__ inline float ScaleByte(float factor, uint32_t excess_bits, uint32_t word, int i) {
  return fmaf(factor, ByteAndExcess(excess_bits, word, i), -kByteExcess * factor);
}

// Four integers, those under kMask in the bytes of `bytes` shifted right, to two registers of two bf16 each,
// added to those of `magic`, kMagicTwo.
template <uint32_t kMask>
__device__ inline void ToPairs(uint32_t bytes, int shift, uint32_t magic, uint32_t* pairs) {
  const uint32_t apart = __byte_perm(bytes, 0, 0x3120);  // bytes 0, 2, 1, 3
  pairs[0] = ((apart >> shift) & kMask) | magic;
  pairs[1] = ((apart >> (shift + 8)) & kMask) | magic;
}

// Takes 128 + kZero from integers that have 128 added, exactly.
template <int kZero>
__device__ inline void Centre(uint32_t (&pairs)[4]) {
#pragma unroll
  for (uint32_t& pair : pairs) {
    __nv_bfloat162 two;
    memcpy(&two, &pair, sizeof(two));
    two = __hsub2(two, __floats2bfloat162_rn(kMagic + kZero, kMagic + kZero));
    memcpy(&pair, &two, sizeof(two));
  }
}

// Bits 0 to 3 to the fifth bits of four bytes.
__device__ inline uint32_t FifthBits(uint32_t bits) {
  return (((bits & 15) * 0x00204081u) & 0x01010101u) << 4;
}

// Row of one encoding: a span of one row in shared memory, aligned to 16 bytes but where kRunScales.
//   kBytes      of a span in the matrix
//   kStride     between rows in shared memory: but for Q8_0 lanes of a warp meet no bank twice
//   kHasOffset  weights have offsets
//   kRunScales  a scale is that of 16 elements (and there are no offsets), and a span may begin at any even
//   address: of a group, a lane
//               holds elements 4 pair .. 4 pair + 3 and the ones 16 behind them. Otherwise 8 pair ..
//               8 pair + 7
//   Group       the pairs of a lane's eight elements, and the scales and the offset of the group
template <Encoding kEncoding>
struct PackedRow;

struct GroupScale {
  float scale[2];  // of the group's halves; where not kRunScales the first is that of both
  float offset;
};

// The encodings of blocks of 32 elements. Low nibbles are elements 0..15 of a block, high ones 16..31.
template <int kBlockBytes, int kRowStride>
struct SmallBlocks {
  static constexpr int kBytes = kGroupsOfSpan * kBlockBytes;
  static constexpr int kStride = kRowStride;
  static constexpr bool kRunScales = false;

  __device__ explicit SmallBlocks(const uint8_t* row) : row_(row) {}
  __device__ const uint8_t* Block(int group) const { return row_ + kBlockBytes * group; }

 private:
  const uint8_t* row_;
};

template <>
struct PackedRow<Encoding::kQ4_0> : SmallBlocks<18, 144> {
  static constexpr bool kHasOffset = false;

  using SmallBlocks::SmallBlocks;
  __device__ GroupScale Group(int group, int pair, const UnpackBits& bits, uint32_t (&pairs)[4]) const {
    uint32_t bytes[2];
    LoadTwoWords(Block(group) + 2 + 8 * (pair % 2), group % 2 == 0, bytes);
    const int shift = 4 * (pair / 2);
    ToPairs<0x000f000f>(bytes[0], shift, bits.magic, pairs);
    ToPairs<0x000f000f>(bytes[1], shift, bits.magic, pairs + 2);
    Centre<8>(pairs);
    return {{LoadHalfAt(Block(group)), 0}, 0};
  }
};

template <>
struct PackedRow<Encoding::kQ4_1> : SmallBlocks<20, 176> {
  static constexpr bool kHasOffset = true;

  using SmallBlocks::SmallBlocks;
  __device__ GroupScale Group(int group, int pair, const UnpackBits& bits, uint32_t (&pairs)[4]) const {
    uint32_t bytes[2];
    LoadTwoWords(Block(group) + 4 + 8 * (pair % 2), false, bytes);
    const int shift = 4 * (pair / 2);
    ToPairs<0x000f000f>(bytes[0], shift, bits.magic, pairs);
    ToPairs<0x000f000f>(bytes[1], shift, bits.magic, pairs + 2);
    const float scale = LoadHalfAt(Block(group));
    return {{scale, 0}, fmaf(scale, kMagic, -LoadHalfAt(Block(group) + 2))};
  }
};

// Nibbles and the byte of fifth bits of a lane's eight elements to pairs.
__device__ inline void FiveBits(const uint32_t (&bytes)[2], uint32_t fifths, int pair, uint32_t magic,
                                uint32_t (&pairs)[4]) {
  const int shift = 4 * (pair / 2);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t low = (bytes[i] >> shift) & 0x0f0f0f0fu;
    ToPairs<0x001f001f>(low | FifthBits(fifths >> (8 * pair + 4 * i)), 0, magic, pairs + 2 * i);
  }
}

template <>
struct PackedRow<Encoding::kQ5_0> : SmallBlocks<22, 176> {
  static constexpr bool kHasOffset = false;

  using SmallBlocks::SmallBlocks;
  __device__ GroupScale Group(int group, int pair, const UnpackBits& bits, uint32_t (&pairs)[4]) const {
    uint32_t bytes[2];
    LoadTwoWords(Block(group) + 6 + 8 * (pair % 2), group % 2 == 0, bytes);
    FiveBits(bytes, LoadWord(Block(group) + 2), pair, bits.magic, pairs);
    Centre<16>(pairs);
    return {{LoadHalfAt(Block(group)), 0}, 0};
  }
};

template <>
struct PackedRow<Encoding::kQ5_1> : SmallBlocks<24, 208> {
  static constexpr bool kHasOffset = true;

  using SmallBlocks::SmallBlocks;
  __device__ GroupScale Group(int group, int pair, const UnpackBits& bits, uint32_t (&pairs)[4]) const {
    uint32_t bytes[2];
    LoadTwoWords(Block(group) + 8 + 8 * (pair % 2), false, bytes);
    FiveBits(bytes, *reinterpret_cast<const uint32_t*>(Block(group) + 4), pair, bits.magic, pairs);
    const float scale = LoadHalfAt(Block(group));
    return {{scale, 0}, fmaf(scale, kMagic, -LoadHalfAt(Block(group) + 2))};
  }
};

template <>
struct PackedRow<Encoding::kQ8_0> : SmallBlocks<34, 288> {
  static constexpr bool kHasOffset = false;

  using SmallBlocks::SmallBlocks;
  __device__ GroupScale Group(int group, int pair, const UnpackBits& bits, uint32_t (&pairs)[4]) const {
    uint32_t bytes[2];
    LoadTwoWords(Block(group) + 2 + 8 * pair, group % 2 == 0, bytes);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float x[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        x[j] = ByteAndExcess(bits.byte_excess, bytes[i] ^ 0x80808080u, j) - (kByteExcess + 128);
      }
      pairs[2 * i] = PackTwo(x[0], x[1], __nv_bfloat16{});
      pairs[2 * i + 1] = PackTwo(x[2], x[3], __nv_bfloat16{});
    }
    return {{LoadHalfAt(Block(group)), 0}, 0};
  }
};

// The header of Q4_K and Q5_K: d, dmin and the six-bit scales and minima of eight groups, which
// packed::SubBlockScale describes, four at a time.
struct KScales {
  __device__ explicit KScales(const uint8_t* at) {
    const uint32_t* words = reinterpret_cast<const uint32_t*>(at);
    d = LoadHalfAt(at);
    dmin = LoadHalfAt(at + 2);
    scales[0] = words[1] & 0x3f3f3f3fu;
    mins[0] = words[2] & 0x3f3f3f3fu;
    scales[1] = (words[3] & 0x0f0f0f0fu) | ((words[1] >> 2) & 0x30303030u);
    mins[1] = ((words[3] >> 4) & 0x0f0f0f0fu) | ((words[2] >> 2) & 0x30303030u);
  }
  __device__ GroupScale Of(int group, const UnpackBits& bits) const {
    // Not by an index, which would put them into memory.
    const float scale = ScaleByte(d, bits.byte_excess, group < 4 ? scales[0] : scales[1], group % 4);
    const float min = ScaleByte(dmin, bits.byte_excess, group < 4 ? mins[0] : mins[1], group % 4);
    return {{scale, 0}, fmaf(scale, kMagic, min)};
  }

  float d;
  float dmin;
  uint32_t scales[2];
  uint32_t mins[2];
};

template <>
struct PackedRow<Encoding::kQ4_K> {
  static constexpr int kBytes = 144;
  static constexpr int kStride = 160;
  static constexpr bool kHasOffset = true;
  static constexpr bool kRunScales = false;

  __device__ explicit PackedRow(const uint8_t* at) : at_(at), scales_(at) {}
  __device__ GroupScale Group(int group, int pair, const UnpackBits& bits, uint32_t (&pairs)[4]) const {
    // Groups 2j and 2j + 1 are the low and high nibbles of 32 bytes.
    const uint32_t* words = reinterpret_cast<const uint32_t*>(at_ + 16 + 32 * (group / 2) + 8 * pair);
    const int shift = 4 * (group % 2);
    ToPairs<0x000f000f>(words[0], shift, bits.magic, pairs);
    ToPairs<0x000f000f>(words[1], shift, bits.magic, pairs + 2);
    return scales_.Of(group, bits);
  }

 private:
  const uint8_t* at_;
  KScales scales_;
};

template <>
struct PackedRow<Encoding::kQ5_K> {
  static constexpr int kBytes = 176;
  static constexpr int kStride = 224;
  static constexpr bool kHasOffset = true;
  static constexpr bool kRunScales = false;

  __device__ explicit PackedRow(const uint8_t* at) : at_(at), scales_(at) {}
  __device__ GroupScale Group(int group, int pair, const UnpackBits& bits, uint32_t (&pairs)[4]) const {
    const uint32_t* words = reinterpret_cast<const uint32_t*>(at_ + 48 + 32 * (group / 2) + 8 * pair);
    // Bit `group` of each of 32 bytes is the fifth.
    const uint32_t* fifths = reinterpret_cast<const uint32_t*>(at_ + 16 + 8 * pair);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t low = (words[i] >> (4 * (group % 2))) & 0x0f0f0f0fu;
      ToPairs<0x001f001f>(low | (((fifths[i] >> group) & 0x01010101u) << 4), 0, bits.magic, pairs + 2 * i);
    }
    return scales_.Of(group, bits);
  }

 private:
  const uint8_t* at_;
  KScales scales_;
};

template <>
struct PackedRow<Encoding::kQ6_K> {
  static constexpr int kBytes = 210;
  static constexpr int kStride = 240;
  static constexpr bool kHasOffset = false;
  static constexpr bool kRunScales = true;

  __device__ explicit PackedRow(const uint8_t* at) : at_(at), d_(LoadHalfAt(at + 208)) {}
  __device__ GroupScale Group(int group, int pair, const UnpackBits& bits, uint32_t (&pairs)[4]) const {
    const int half = group / 4;
    const uint8_t* low = at_ + 64 * half + 32 * (group % 2) + 4 * pair;
    const uint8_t* high = at_ + 128 + 32 * half + 4 * pair;
    GroupScale scale{};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t nibbles = (LoadWord(low + 16 * i) >> (4 * (group / 2 % 2))) & 0x0f0f0f0fu;
      const uint32_t tops = (LoadWord(high + 16 * i) >> (2 * (group % 4))) & 0x03030303u;
      ToPairs<0x003f003f>(nibbles | (tops << 4), 0, bits.magic, pairs + 2 * i);
      scale.scale[i] = d_ * static_cast<float>(static_cast<int8_t>(at_[192 + 2 * group + i]));
    }
    Centre<32>(pairs);
    return scale;
  }

 private:
  const uint8_t* at_;
  float d_;
};

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_PACKED_TILE_H_
