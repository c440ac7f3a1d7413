#include "engine/device/tensor.h"

#include <array>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "engine/device/arithmetic/packed_blocks.h"

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

void DecodeF16(const uint8_t* __restrict data, int64_t elements, float* __restrict out) {
  for (int64_t i = 0; i < elements; ++i) out[i] = packed::LoadHalf(data + 2 * i);
}

void DecodeBf16(const uint8_t* __restrict data, int64_t elements, float* __restrict out) {
  for (int64_t i = 0; i < elements; ++i) {
    out[i] = std::bit_cast<float>(packed::LoadU16(data + 2 * i) << 16);
  }
}

template <void (*DecodeRun)(const uint8_t*, int, float*)>
void DecodeBlocks(const EncodingInfo& info, const uint8_t* data, int64_t elements, float* out) {
  const int runs = info.block_elements / packed::kRunElements;
  for (int64_t done = 0; done < elements; done += info.block_elements) {
    for (int run = 0; run < runs; ++run) {
      DecodeRun(data, run, out + done + packed::kRunElements * run);
    }
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
      return DecodeBlocks<packed::DecodeQ8_0>(info, data, elements, out);
    case Encoding::kQ4_0:
      return DecodeBlocks<packed::DecodeQ4_0>(info, data, elements, out);
    case Encoding::kQ4_1:
      return DecodeBlocks<packed::DecodeQ4_1>(info, data, elements, out);
    case Encoding::kQ5_0:
      return DecodeBlocks<packed::DecodeQ5_0>(info, data, elements, out);
    case Encoding::kQ5_1:
      return DecodeBlocks<packed::DecodeQ5_1>(info, data, elements, out);
    case Encoding::kQ4_K:
      return DecodeBlocks<packed::DecodeQ4_K>(info, data, elements, out);
    case Encoding::kQ5_K:
      return DecodeBlocks<packed::DecodeQ5_K>(info, data, elements, out);
    case Encoding::kQ6_K:
      return DecodeBlocks<packed::DecodeQ6_K>(info, data, elements, out);
  }
}

}  // namespace spillway::device
