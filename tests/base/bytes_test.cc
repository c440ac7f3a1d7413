#include "base/bytes.h"

#include <string>

#include "gtest/gtest.h"

namespace spillway {
namespace {

TEST(ParseBytes, BinaryAndDecimalUnits) {
  EXPECT_EQ(*ParseBytes("4096"), 4096);
  EXPECT_EQ(*ParseBytes("24GiB"), 24 * kGiB);
  EXPECT_EQ(*ParseBytes("1.5GB"), 1'500'000'000);
  EXPECT_EQ(*ParseBytes("0"), 0);
}

TEST(ParseBytes, RefusesWhatIsNotASize) {
  for (const char* text : {"", "GiB", "-1", "nan", "inf", "1e30", "12 potatoes", "4Gi"}) {
    EXPECT_FALSE(ParseBytes(text).ok()) << text;
  }
}

TEST(FormatBytes, PicksTheLargestUnitThatFits) {
  EXPECT_EQ(FormatBytes(17), "17 B");
  EXPECT_EQ(FormatBytes(512 * kMiB), "512.0 MiB");
  EXPECT_EQ(FormatExactBytes(512 * kMiB), "536870912 bytes (512.0 MiB)");
  EXPECT_EQ(FormatBytes(3 * kGiB / 2), "1.5 GiB");
}

}  // namespace
}  // namespace spillway
