// How a warp reads packed weights as fragments of tensor-core products. A span is 256 elements of a row: one
// block of the K encodings, eight of the others. It is read in groups of 32 elements; of each, lanes with the
// same lane % 4 (a pair, in tensor_core.h's terms) hold eight. What is multiplied are the encoded integers,
// which T holds exactly; the scales are applied to the f32 sums:
//   weight = scale * (integer - kZero) - min
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_PACKED_TILE_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_PACKED_TILE_H_

#include "engine/device/cuda/element.h"
#include "engine/device/tensor_encoding.h"

namespace spillway::device::cuda {

constexpr int kSpanElements = 256;
constexpr int kGroupElements = 32;
constexpr int kGroupsOfSpan = kSpanElements / kGroupElements;

// From this T on its units are 1: an integer below 128 is added to it by OR.
template <typename T>
struct Magic;
template <>
struct Magic<__nv_bfloat16> {
  static constexpr uint32_t kTwo = 0x43004300;  // 128 and 128
  static constexpr float kValue = 128;
};
template <>
struct Magic<__half> {
  static constexpr uint32_t kTwo = 0x64006400;  // 1024 and 1024
  static constexpr float kValue = 1024;
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

// Byte i of a word less `zero`, exactly, and without a conversion: as the last bits of 2^23.
__device__ inline float ByteToFloat(uint32_t word, int i, int zero = 0) {
  const uint32_t bits = __byte_perm(word, 0x4b000000u, 0x7440u | static_cast<uint32_t>(i));
  return __uint_as_float(bits) - (8388608.0F + static_cast<float>(zero));
}

// Four integers, those under kMask in the bytes of `bytes` shifted right, to two registers of two T each,
// added to those of `magic`, Magic::kTwo: no constant, because an instruction takes only one of those.
template <uint32_t kMask>
__device__ inline void ToPairs(uint32_t bytes, int shift, uint32_t magic, uint32_t* pairs) {
  const uint32_t apart = __byte_perm(bytes, 0, 0x3120);  // bytes 0, 2, 1, 3
  pairs[0] = ((apart >> shift) & kMask) | magic;
  pairs[1] = ((apart >> (shift + 8)) & kMask) | magic;
}

// Row of one encoding: a span of one row in shared memory, aligned to 16 bytes but where kRunScales.
//   kBytes      of a span in the matrix
//   kStride     between rows in shared memory: lanes of a warp meet no bank twice
//   kMagic      integers come with Magic added
//   kRunScales  a scale is that of 16 elements, and a span may begin at any even address: of a group, a lane
//               holds elements 4 pair .. 4 pair + 3 and the ones 16 behind them. Otherwise 8 pair ..
//               8 pair + 7
//   Group       the pairs of a lane's eight elements, and the scale and minimum of each half of the group
template <typename T, Encoding kEncoding>
struct PackedRow;

struct GroupScale {
  float scale[2];  // of the halves of a group; where not kRunScales the first is that of all
  float min;
};

template <typename T>
struct PackedRow<T, Encoding::kQ4_0> {
  static constexpr int kBytes = 8 * 18;
  static constexpr int kStride = 160;
  static constexpr float kZero = 8;
  static constexpr bool kMagic = true;
  static constexpr bool kHasMin = false;
  static constexpr bool kRunScales = false;

  __device__ explicit PackedRow(const uint8_t* at) : at_(at) {}
  __device__ GroupScale Group(int group, int pair, uint32_t magic, uint32_t (&pairs)[4]) const {
    const uint8_t* block = at_ + 18 * group;
    // Low nibbles are elements 0..15, high ones 16..31.
    uint32_t bytes[2];
    LoadTwoWords(block + 2 + 8 * (pair % 2), group % 2 == 0, bytes);
    const int shift = 4 * (pair / 2);
    ToPairs<0x000f000f>(bytes[0], shift, magic, pairs);
    ToPairs<0x000f000f>(bytes[1], shift, magic, pairs + 2);
    return {{LoadHalfAt(block), 0}, 0};
  }

 private:
  const uint8_t* at_;
};

template <typename T>
struct PackedRow<T, Encoding::kQ8_0> {
  static constexpr int kBytes = 8 * 34;
  static constexpr int kStride = 288;
  static constexpr float kZero = 0;
  static constexpr bool kMagic = false;
  static constexpr bool kHasMin = false;
  static constexpr bool kRunScales = false;

  __device__ explicit PackedRow(const uint8_t* at) : at_(at) {}
  __device__ GroupScale Group(int group, int pair, uint32_t, uint32_t (&pairs)[4]) const {
    const uint8_t* block = at_ + 34 * group;
    uint32_t bytes[2];
    LoadTwoWords(block + 2 + 8 * pair, group % 2 == 0, bytes);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float x[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) x[j] = ByteToFloat(bytes[i] ^ 0x80808080u, j, 128);
      pairs[2 * i] = PackTwo(x[0], x[1], T{});
      pairs[2 * i + 1] = PackTwo(x[2], x[3], T{});
    }
    return {{LoadHalfAt(block), 0}, 0};
  }

 private:
  const uint8_t* at_;
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
  __device__ GroupScale Of(int group) const {
    // Not by an index, which would put them into memory.
    const uint32_t scale = group < 4 ? scales[0] : scales[1];
    const uint32_t min = group < 4 ? mins[0] : mins[1];
    return {{d * ByteToFloat(scale, group % 4), 0}, dmin * ByteToFloat(min, group % 4)};
  }

  float d;
  float dmin;
  uint32_t scales[2];
  uint32_t mins[2];
};

template <typename T>
struct PackedRow<T, Encoding::kQ4_K> {
  static constexpr int kBytes = 144;
  static constexpr int kStride = 160;
  static constexpr float kZero = 0;
  static constexpr bool kMagic = true;
  static constexpr bool kHasMin = true;
  static constexpr bool kRunScales = false;

  __device__ explicit PackedRow(const uint8_t* at) : at_(at), scales_(at) {}
  __device__ GroupScale Group(int group, int pair, uint32_t magic, uint32_t (&pairs)[4]) const {
    // Groups 2j and 2j + 1 are the low and high nibbles of 32 bytes.
    const uint32_t* words = reinterpret_cast<const uint32_t*>(at_ + 16 + 32 * (group / 2) + 8 * pair);
    const int shift = 4 * (group % 2);
    ToPairs<0x000f000f>(words[0], shift, magic, pairs);
    ToPairs<0x000f000f>(words[1], shift, magic, pairs + 2);
    return scales_.Of(group);
  }

 private:
  const uint8_t* at_;
  KScales scales_;
};

template <typename T>
struct PackedRow<T, Encoding::kQ5_K> {
  static constexpr int kBytes = 176;
  static constexpr int kStride = 224;
  static constexpr float kZero = 0;
  static constexpr bool kMagic = true;
  static constexpr bool kHasMin = true;
  static constexpr bool kRunScales = false;

  __device__ explicit PackedRow(const uint8_t* at) : at_(at), scales_(at) {}
  __device__ GroupScale Group(int group, int pair, uint32_t magic, uint32_t (&pairs)[4]) const {
    const uint32_t* words = reinterpret_cast<const uint32_t*>(at_ + 48 + 32 * (group / 2) + 8 * pair);
    // Bit `group` of each of 32 bytes is the fifth.
    const uint32_t* fifths = reinterpret_cast<const uint32_t*>(at_ + 16 + 8 * pair);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t low = (words[i] >> (4 * (group % 2))) & 0x0f0f0f0fu;
      ToPairs<0x001f001f>(low | (((fifths[i] >> group) & 0x01010101u) << 4), 0, magic, pairs + 2 * i);
    }
    return scales_.Of(group);
  }

 private:
  const uint8_t* at_;
  KScales scales_;
};

template <typename T>
struct PackedRow<T, Encoding::kQ6_K> {
  static constexpr int kBytes = 210;
  static constexpr int kStride = 240;
  static constexpr float kZero = 32;
  static constexpr bool kMagic = true;
  static constexpr bool kHasMin = false;
  static constexpr bool kRunScales = true;

  __device__ explicit PackedRow(const uint8_t* at) : at_(at), d_(LoadHalfAt(at + 208)) {}
  __device__ GroupScale Group(int group, int pair, uint32_t magic, uint32_t (&pairs)[4]) const {
    const int half = group / 4;
    const uint8_t* low = at_ + 64 * half + 32 * (group % 2) + 4 * pair;
    const uint8_t* high = at_ + 128 + 32 * half + 4 * pair;
    GroupScale scale{{0, 0}, 0};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t nibbles = (LoadWord(low + 16 * i) >> (4 * (group / 2 % 2))) & 0x0f0f0f0fu;
      const uint32_t tops = (LoadWord(high + 16 * i) >> (2 * (group % 4))) & 0x03030303u;
      ToPairs<0x003f003f>(nibbles | (tops << 4), 0, magic, pairs + 2 * i);
      scale.scale[i] = d_ * static_cast<float>(static_cast<int8_t>(at_[192 + 2 * group + i]));
    }
    return scale;
  }

 private:
  const uint8_t* at_;
  float d_;
};

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_PACKED_TILE_H_
