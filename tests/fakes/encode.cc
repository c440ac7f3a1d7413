#include "tests/fakes/encode.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/check.h"

namespace spillway::fakes {
namespace {

using device::Encoding;

void PutU16(uint16_t bits, uint8_t* out) { std::memcpy(out, &bits, sizeof(bits)); }
void PutHalf(float value, uint8_t* out) { PutU16(FloatToHalf(value), out); }

int Quantise(float value, float scale, int low, int high) {
  if (scale == 0) return std::clamp(0, low, high);
  return std::clamp(static_cast<int>(std::lround(value / scale)), low, high);
}

float AbsMax(absl::Span<const float> values) {
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(value));
  return largest;
}

void EncodeQ8_0(absl::Span<const float> x, uint8_t* out) {
  const float d = AbsMax(x) / 127;
  PutHalf(d, out);
  for (int i = 0; i < 32; ++i) out[2 + i] = static_cast<uint8_t>(Quantise(x[i], d, -127, 127));
}

// Q4_0 and Q5_0 (`bits` 4 and 5): values around zero. Q4_1 and Q5_1: values above a minimum.
void EncodeNibbles(absl::Span<const float> x, int bits, bool has_min, uint8_t* out) {
  const int levels = 1 << bits;
  float d;
  float min = 0;
  if (has_min) {
    const auto [low, high] = std::minmax_element(x.begin(), x.end());
    min = *low;
    d = (*high - *low) / static_cast<float>(levels - 1);
  } else {
    d = AbsMax(x) / static_cast<float>(levels / 2 - 1);
  }
  PutHalf(d, out);
  out += 2;
  if (has_min) {
    PutHalf(min, out);
    out += 2;
  }
  std::array<int, 32> q;
  uint32_t fifth_bits = 0;
  for (int i = 0; i < 32; ++i) {
    q[i] = has_min ? Quantise(x[i] - min, d, 0, levels - 1)
                   : Quantise(x[i], d, -levels / 2, levels / 2 - 1) + levels / 2;
    fifth_bits |= static_cast<uint32_t>(q[i] >> 4) << i;
  }
  if (bits == 5) {
    std::memcpy(out, &fifth_bits, sizeof(fifth_bits));
    out += sizeof(fifth_bits);
  }
  for (int i = 0; i < 16; ++i) out[i] = static_cast<uint8_t>((q[i] & 15) | ((q[16 + i] & 15) << 4));
}

// Q4_K and Q5_K (`bits` 4 and 5): eight sub-blocks with six-bit scales and minima.
void EncodeSuperBlock(absl::Span<const float> x, int bits, uint8_t* out) {
  const int levels = 1 << bits;
  std::array<float, 8> scale;
  std::array<float, 8> min;
  for (int j = 0; j < 8; ++j) {
    const auto sub = x.subspan(static_cast<size_t>(32 * j), 32);
    min[j] = std::max(0.0f, -*std::min_element(sub.begin(), sub.end()));
    scale[j] =
        std::max(0.0f, *std::max_element(sub.begin(), sub.end()) + min[j]) / static_cast<float>(levels - 1);
  }
  const float d = *std::max_element(scale.begin(), scale.end()) / 63;
  const float dmin = *std::max_element(min.begin(), min.end()) / 63;
  PutHalf(d, out);
  PutHalf(dmin, out + 2);
  uint8_t* scales = out + 4;
  uint8_t* high = out + 16;
  uint8_t* low = bits == 5 ? out + 48 : out + 16;
  std::memset(scales, 0, static_cast<size_t>(low - scales) + 128);
  for (int j = 0; j < 8; ++j) {
    const int s = Quantise(scale[j], d, 0, 63);
    const int m = Quantise(min[j], dmin, 0, 63);
    if (j < 4) {
      scales[j] = static_cast<uint8_t>(scales[j] | s);
      scales[4 + j] = static_cast<uint8_t>(scales[4 + j] | m);
    } else {
      scales[4 + j] = static_cast<uint8_t>((s & 15) | ((m & 15) << 4));
      scales[j - 4] = static_cast<uint8_t>(scales[j - 4] | ((s >> 4) << 6));
      scales[j] = static_cast<uint8_t>(scales[j] | ((m >> 4) << 6));
    }
    for (int i = 0; i < 32; ++i) {
      const float shifted = x[static_cast<size_t>(32 * j + i)] + dmin * static_cast<float>(m);
      const int q = Quantise(shifted, d * static_cast<float>(s), 0, levels - 1);
      uint8_t& nibbles = low[32 * (j / 2) + i];
      nibbles = static_cast<uint8_t>(nibbles | ((q & 15) << (4 * (j % 2))));
      if (bits == 5) high[i] = static_cast<uint8_t>(high[i] | ((q >> 4) << j));
    }
  }
}

void EncodeQ6_K(absl::Span<const float> x, uint8_t* out) {
  std::array<float, 16> scale;
  for (int j = 0; j < 16; ++j) scale[j] = AbsMax(x.subspan(static_cast<size_t>(16 * j), 16)) / 31;
  const float d = *std::max_element(scale.begin(), scale.end()) / 127;
  std::memset(out, 0, 208);
  PutHalf(d, out + 208);
  for (int j = 0; j < 16; ++j) out[192 + j] = static_cast<uint8_t>(Quantise(scale[j], d, 0, 127));
  for (int e = 0; e < 256; ++e) {
    const int q =
        Quantise(x[static_cast<size_t>(e)], d * static_cast<float>(out[192 + e / 16]), -32, 31) + 32;
    const int half = e / 128;
    const int quarter = e / 32 % 4;
    uint8_t& low = out[64 * half + 32 * (quarter % 2) + e % 32];
    uint8_t& high = out[128 + 32 * half + e % 32];
    low = static_cast<uint8_t>(low | ((q & 15) << (4 * (quarter / 2))));
    high = static_cast<uint8_t>(high | ((q >> 4) << (2 * quarter)));
  }
}

void EncodeBlock(Encoding encoding, absl::Span<const float> x, uint8_t* out) {
  switch (encoding) {
    case Encoding::kF32:
      std::memcpy(out, x.data(), sizeof(float));
      return;
    case Encoding::kF16:
      return PutHalf(x[0], out);
    case Encoding::kBF16:
      return PutU16(FloatToBf16(x[0]), out);
    case Encoding::kQ8_0:
      return EncodeQ8_0(x, out);
    case Encoding::kQ4_0:
      return EncodeNibbles(x, 4, false, out);
    case Encoding::kQ4_1:
      return EncodeNibbles(x, 4, true, out);
    case Encoding::kQ5_0:
      return EncodeNibbles(x, 5, false, out);
    case Encoding::kQ5_1:
      return EncodeNibbles(x, 5, true, out);
    case Encoding::kQ4_K:
      return EncodeSuperBlock(x, 4, out);
    case Encoding::kQ5_K:
      return EncodeSuperBlock(x, 5, out);
    case Encoding::kQ6_K:
      return EncodeQ6_K(x, out);
  }
}

}  // namespace

uint16_t FloatToHalf(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const float magnitude = std::abs(value);
  if (std::isnan(value)) return static_cast<uint16_t>(sign | 0x7e00u);
  if (magnitude >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x1p-14f) {  // denormal: a multiple of 2^-24
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(magnitude * 0x1p24f)));
  }
  const uint32_t rounded = (bits & 0x7fffffffu) + 0x0fffu + ((bits >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

uint16_t FloatToBf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

std::vector<uint8_t> Encode(Encoding encoding, absl::Span<const float> values) {
  const device::EncodingInfo& info = device::InfoOf(encoding);
  const auto block_elements = static_cast<size_t>(info.block_elements);
  SPILLWAY_CHECK(values.size() % block_elements == 0);
  std::vector<uint8_t> out(values.size() / block_elements * static_cast<size_t>(info.block_bytes));
  uint8_t* block = out.data();
  for (size_t done = 0; done < values.size(); done += block_elements) {
    EncodeBlock(encoding, values.subspan(done, block_elements), block);
    block += info.block_bytes;
  }
  return out;
}

}  // namespace spillway::fakes
