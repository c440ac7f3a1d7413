#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/device/tensor.h"
#include "gtest/gtest.h"
#include "tests/fakes/encode.h"

namespace spillway::device {
namespace {

constexpr std::array<Encoding, 11> kAll = {Encoding::kF32,  Encoding::kF16,  Encoding::kBF16, Encoding::kQ8_0,
                                           Encoding::kQ4_0, Encoding::kQ4_1, Encoding::kQ5_0, Encoding::kQ5_1,
                                           Encoding::kQ4_K, Encoding::kQ5_K, Encoding::kQ6_K};

std::vector<uint8_t> ReadGolden(absl::string_view name) {
  const std::string path = absl::StrCat(SPILLWAY_TESTDATA, "/gguf/", name);
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in) << path;
  return std::vector<uint8_t>(std::istreambuf_iterator<char>(in), {});
}

class TensorDecode : public ::testing::TestWithParam<Encoding> {};

TEST_P(TensorDecode, EveryBitIsTheReferences) {
  const EncodingInfo& info = InfoOf(GetParam());
  const std::vector<uint8_t> packed = ReadGolden(absl::StrCat(info.name, ".packed"));
  const std::vector<uint8_t> values = ReadGolden(absl::StrCat(info.name, ".f32"));
  const auto elements = static_cast<int64_t>(values.size() / sizeof(float));
  ASSERT_EQ(elements, 1024);
  ASSERT_EQ(EncodedBytes(GetParam(), elements), static_cast<int64_t>(packed.size()));
  std::vector<float> decoded(static_cast<size_t>(elements));
  DecodeToF32(GetParam(), packed.data(), elements, decoded.data());
  for (size_t i = 0; i < decoded.size(); ++i) {
    float wanted;
    std::memcpy(&wanted, values.data() + i * sizeof(float), sizeof(float));
    ASSERT_EQ(std::bit_cast<uint32_t>(decoded[i]), std::bit_cast<uint32_t>(wanted))
        << "element " << i << ": " << decoded[i] << ", reference " << wanted;
  }
}

// A file places a row at any byte when its blocks have an odd size, and a row may be one of many.
TEST_P(TensorDecode, PlaceAndNeighboursDoNotMatter) {
  const EncodingInfo& info = InfoOf(GetParam());
  const std::vector<uint8_t> packed = ReadGolden(absl::StrCat(info.name, ".packed"));
  std::vector<uint8_t> shifted(packed.size() + 1);
  std::memcpy(shifted.data() + 1, packed.data(), packed.size());
  std::vector<float> whole(1024);
  DecodeToF32(GetParam(), packed.data(), 1024, whole.data());
  std::vector<float> piece(static_cast<size_t>(info.block_elements));
  for (int64_t block = 0; block < 1024 / info.block_elements; ++block) {
    DecodeToF32(GetParam(), shifted.data() + 1 + block * info.block_bytes, info.block_elements, piece.data());
    ASSERT_EQ(
        std::memcmp(piece.data(), whole.data() + block * info.block_elements, piece.size() * sizeof(float)),
        0)
        << "block " << block;
  }
}

// The encoder that other tests rely on: what comes back is within the step of the encoding.
TEST_P(TensorDecode, TestEncoderComesBackClose) {
  std::mt19937 random(7);
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  std::vector<float> values(2048);
  for (float& value : values) value = uniform(random);
  const std::vector<uint8_t> packed = fakes::Encode(GetParam(), values);
  std::vector<float> decoded(values.size());
  DecodeToF32(GetParam(), packed.data(), static_cast<int64_t>(values.size()), decoded.data());
  float worst = 0;
  for (size_t i = 0; i < values.size(); ++i) worst = std::max(worst, std::abs(values[i] - decoded[i]));
  // Values span 2: half a step of 4, 5, 6 or 8 bits, and the scales' own rounding.
  const absl::string_view name = InfoOf(GetParam()).name;
  const float allowed = name == "F32"    ? 0.0f
                        : name == "F16"  ? 0.0005f
                        : name == "BF16" ? 0.004f
                        : name == "Q8_0" ? 0.0045f
                        : name[1] == '4' ? 0.09f
                        : name[1] == '5' ? 0.045f
                                         : 0.023f;
  EXPECT_LE(worst, allowed);
  EXPECT_GE(worst, allowed / 10);  // a bound that means something
}

INSTANTIATE_TEST_SUITE_P(Encodings, TensorDecode, ::testing::ValuesIn(kAll),
                         [](const auto& encoding) { return std::string(InfoOf(encoding.param).name); });

TEST(HalfPrecision, EveryPatternHasItsValue) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    float decoded;
    DecodeToF32(Encoding::kF16, reinterpret_cast<const uint8_t*>(&half), 1, &decoded);
    const int exponent = static_cast<int>(bits >> 10 & 31);
    const double fraction = bits & 1023;
    double wanted = exponent == 31  ? (fraction == 0 ? INFINITY : NAN)
                    : exponent == 0 ? std::ldexp(fraction, -24)
                                    : std::ldexp(1024 + fraction, exponent - 25);
    if (bits & 0x8000) wanted = -wanted;
    if (std::isnan(wanted)) {
      ASSERT_TRUE(std::isnan(decoded)) << bits;
    } else {
      ASSERT_EQ(std::bit_cast<uint32_t>(decoded), std::bit_cast<uint32_t>(static_cast<float>(wanted)))
          << bits;
      ASSERT_EQ(fakes::FloatToHalf(decoded), half);
    }
  }
}

TEST(EncodedBytes, CountsWholeBlocks) {
  EXPECT_EQ(EncodedBytes(Encoding::kQ4_K, 512), 288);
  EXPECT_EQ(EncodedBytes(Encoding::kF16, 3), 6);
  EXPECT_EQ(EncodedBytes(Encoding::kQ8_0, 0), 0);
  EXPECT_DEATH(EncodedBytes(Encoding::kQ8_0, 33), "block_elements");
}

}  // namespace
}  // namespace spillway::device
