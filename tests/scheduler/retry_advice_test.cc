// When refused clients are told to come back.
#include "scheduler/retry_advice.h"

#include <algorithm>
#include <set>

#include "gtest/gtest.h"

namespace spillway::scheduler {
namespace {

TEST(RetryAdvice, MoreWorkAheadMeansLater) {
  const RetryAdvice advice;
  // An eighth of 80,000 tokens at 1,000 a second is ten seconds.
  for (int i = 0; i < 100; ++i) {
    const int64_t ms = advice.AfterMs(80'000, 1000);
    EXPECT_GE(ms, 8'000);
    EXPECT_LE(ms, 12'000);
    EXPECT_LE(advice.AfterMs(0, 1000), 120);
    EXPECT_GE(advice.AfterMs(0, 1000), 80);
    EXPECT_LE(advice.AfterMs(int64_t{1} << 60, 1e-9), 72'000);
  }
}

TEST(RetryAdvice, AnUnknownSpeedIsASecond) {
  const RetryAdvice advice;
  EXPECT_NEAR(static_cast<double>(advice.AfterMs(1000, 0)), 1000, 200);
}

TEST(RetryAdvice, IsSpreadEvenly) {
  const RetryAdvice advice;
  double sum = 0;
  int64_t least = 1 << 30;
  int64_t most = 0;
  std::set<int64_t> different;
  for (int i = 0; i < 1000; ++i) {
    const int64_t ms = advice.AfterMs(80'000, 1000);
    sum += static_cast<double>(ms);
    least = std::min(least, ms);
    most = std::max(most, ms);
    different.insert(ms);
  }
  EXPECT_NEAR(sum / 1000, 10'000, 150);
  EXPECT_LT(least, 8'100);
  EXPECT_GT(most, 11'900);
  EXPECT_GT(different.size(), 700u);
}

TEST(RetryAdvice, RefusalsInARowRaiseTheFloorAndAcceptancesLowerIt) {
  RetryAdvice advice;
  for (int i = 0; i < 9; ++i) advice.OnRefused();
  EXPECT_NEAR(static_cast<double>(advice.AfterMs(0, 1000)), 1000, 200);
  advice.OnAccepted();
  EXPECT_NEAR(static_cast<double>(advice.AfterMs(0, 1000)), 500, 100);
  for (int i = 0; i < 100'000; ++i) advice.OnRefused();
  EXPECT_NEAR(static_cast<double>(advice.AfterMs(0, 1000)), 10'000, 2000) << "the floor has a ceiling";
  for (int i = 0; i < 7; ++i) advice.OnAccepted();
  EXPECT_NEAR(static_cast<double>(advice.AfterMs(0, 1000)), 100, 20) << "and is soon forgotten";
}

}  // namespace
}  // namespace spillway::scheduler
