#include "profiler/curve_sampler.h"

#include <vector>

#include "gtest/gtest.h"
#include "profiler/robust_median.h"

namespace spillway::profiler {
namespace {

TEST(RobustMedian, DropsWhatLiesFarOff) {
  EXPECT_EQ(RobustMedian({1, 2, 3}), 2);
  EXPECT_EQ(RobustMedian({1, 2, 3, 4}), 2.5);
  EXPECT_EQ(RobustMedian({1.0, 1.1, 0.9, 1.0, 50, 60}), 1.0) << "the plain median is 1.05";
  EXPECT_EQ(RobustMedian({5}), 5);
  EXPECT_EQ(RelativeSpread({2, 2, 2}), 0);
}

TEST(CurveSampler, ShortWorkIsTimedTogether) {
  ManualClock clock;
  int most = 0;
  const auto samples = CurveSampler(clock).Sample({1, 2}, kNsPerSecond, [&](double units, int n) {
    most = std::max(most, n);
    clock.AdvanceNs(static_cast<int64_t>(1e5 * units * n));
    return absl::StatusOr<double>(1e-4 * units * n);
  });
  ASSERT_TRUE(samples.ok());
  EXPECT_EQ(most, 10);
  EXPECT_NEAR((*samples)[1].seconds, 2e-4, 1e-12);
}

TEST(CurveSampler, AFirstRunThatPreparesSaysNotHowManyRunAtOnce) {
  ManualClock clock;
  int most = 0;
  int runs = 0;
  const auto seconds = CurveSampler(clock).SampleOne(1, kNsPerSecond, [&](double, int n) {
    most = std::max(most, n);
    const double taken_s = 1e-4 * n + (runs++ == 0 ? 0.05 : 0);
    clock.AdvanceNs(static_cast<int64_t>(taken_s * 1e9));
    return absl::StatusOr<double>(taken_s);
  });
  ASSERT_TRUE(seconds.ok());
  EXPECT_EQ(most, 10);
  EXPECT_NEAR(*seconds, 1e-4, 1e-12);
}

TEST(CurveSampler, SizesThatDoNotFitTheTimeAreLeftOutButForTwo) {
  ManualClock clock;
  const auto slow = [&](double units, int n) {
    clock.AdvanceNs(static_cast<int64_t>(1e9 * units * n));
    return absl::StatusOr<double>(units * n);
  };
  const auto none = CurveSampler(clock).Sample({1, 2, 4, 8}, clock.NowNs(), slow);
  ASSERT_TRUE(none.ok());
  EXPECT_EQ(none->size(), 2U);
  EXPECT_EQ(ToSeconds(clock.NowNs()), 6) << "a warm-up and one run of each";
  const auto some = CurveSampler(clock).Sample({1, 2, 4, 8}, clock.NowNs() + 40 * kNsPerSecond, slow);
  ASSERT_TRUE(some.ok());
  EXPECT_EQ(some->size(), 3U);
}

TEST(CurveSampler, AnErrorEndsIt) {
  ManualClock clock;
  const auto samples = CurveSampler(clock).Sample(
      {1, 2}, 0, [](double, int) { return absl::StatusOr<double>(absl::DataLossError("gone")); });
  EXPECT_EQ(samples.status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace spillway::profiler
