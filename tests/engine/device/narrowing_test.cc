#include "engine/device/narrowing.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "engine/device/tensor.h"
#include "gtest/gtest.h"

namespace spillway::device {
namespace {

uint16_t Narrow(DType dtype, float value) {
  uint16_t bits = 0;
  NarrowFromF32(dtype, &value, 1, reinterpret_cast<uint8_t*>(&bits));
  return bits;
}

float Widen(Encoding encoding, uint16_t bits) {
  float value = 0;
  DecodeToF32(encoding, reinterpret_cast<const uint8_t*>(&bits), 1, &value);
  return value;
}

class NarrowingTest : public ::testing::TestWithParam<std::pair<DType, Encoding>> {};

INSTANTIATE_TEST_SUITE_P(DTypes, NarrowingTest,
                         ::testing::Values(std::pair{DType::kF16, Encoding::kF16},
                                           std::pair{DType::kBF16, Encoding::kBF16}),
                         [](const ::testing::TestParamInfo<std::pair<DType, Encoding>>& test) {
                           return NameOf(test.param.first);
                         });

TEST_P(NarrowingTest, EveryRepresentableValueIsKept) {
  const auto [dtype, encoding] = GetParam();
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = Widen(encoding, static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(Widen(encoding, Narrow(dtype, value)))) << bits;
    } else {
      EXPECT_EQ(Narrow(dtype, value), bits) << bits;
    }
  }
}

TEST_P(NarrowingTest, BetweenTwoValuesTheNearerWinsAndTiesGoToEven) {
  const auto [dtype, encoding] = GetParam();
  const uint32_t infinity = dtype == DType::kF16 ? 0x7c00 : 0x7f80;
  for (uint32_t low = 0; low + 1 < infinity; ++low) {
    const double a = Widen(encoding, static_cast<uint16_t>(low));
    const double b = Widen(encoding, static_cast<uint16_t>(low + 1));
    const float middle = static_cast<float>((a + b) / 2);      // exact: f32 has more bits
    if (static_cast<double>(middle) != (a + b) / 2) continue;  // below f32's own denormals
    EXPECT_EQ(Narrow(dtype, middle), low + (low & 1)) << low;
    EXPECT_EQ(Narrow(dtype, std::nextafter(middle, 0.0F)), low) << low;
    EXPECT_EQ(Narrow(dtype, -std::nextafter(middle, std::numeric_limits<float>::max())), 0x8000 | (low + 1))
        << low;
  }
}

TEST_P(NarrowingTest, TooLargeBecomesInfinite) {
  const auto [dtype, encoding] = GetParam();
  EXPECT_TRUE(std::isinf(Widen(encoding, Narrow(dtype, std::numeric_limits<float>::max()))));
  EXPECT_TRUE(std::isinf(Widen(encoding, Narrow(dtype, -std::numeric_limits<float>::infinity()))));
  if (dtype == DType::kF16) {
    EXPECT_EQ(Narrow(dtype, 65519.0F), 0x7bff);
    EXPECT_EQ(Narrow(dtype, 65520.0F), 0x7c00);
  }
}

TEST(NarrowingToF32Test, CopiesBits) {
  const std::vector<float> values = {1.5F, -0.0F, 3e-42F};
  std::vector<float> copy(3);
  NarrowFromF32(DType::kF32, values.data(), 3, reinterpret_cast<uint8_t*>(copy.data()));
  EXPECT_EQ(std::memcmp(values.data(), copy.data(), 12), 0);
}

}  // namespace
}  // namespace spillway::device
