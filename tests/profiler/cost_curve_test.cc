#include "profiler/cost_curve.h"

#include <cmath>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace spillway::profiler {
namespace {

TEST(CostCurve, RecoversAConvexCostExactly) {
  std::vector<CostSample> samples;
  for (int n = 1; n <= 64; n *= 2) samples.push_back({1.0 * n, std::max(1e-3, 2e-4 * n - 5e-4)});
  const auto curve = FitConvex(samples);
  ASSERT_TRUE(curve.ok()) << curve.status();
  EXPECT_LT(curve->fit_error_max, 1e-9);
  EXPECT_NEAR(curve->At(128), 2e-4 * 128 - 5e-4, 1e-9);
}

TEST(CostCurve, IsConvexAndGrowsWhateverTheNoise) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> noise(0.7, 1.4);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<CostSample> samples;
    for (int n = 1; n < 60; n += 1 + static_cast<int>(random() % 4))
      samples.push_back({1.0 * n, (1 + 0.1 * n) * noise(random)});
    const auto curve = FitConvex(samples);
    ASSERT_TRUE(curve.ok());
    ASSERT_LE(curve->pieces.size(), static_cast<size_t>(CostCurve::kMaxPieces));
    double slope = 0;
    for (const CostPiece& piece : curve->pieces) {
      ASSERT_GE(piece.per_unit_s, slope);
      slope = piece.per_unit_s;
    }
    EXPECT_LT(curve->fit_error_median, 0.5);
  }
}

// Two sizes within the noise of a busy machine, the larger one by chance no slower. A curve that ends flat
// says that units are free, and no profile passes with it.
TEST(CostCurve, GrowthHiddenByNoiseGoesOnAtTheLargestSizesOwnRate) {
  const std::vector<std::vector<CostSample>> noisy = {
      {{16e3, 5e-4}, {64e3, 5e-4}},
      {{16e3, 9e-4}, {64e3, 5e-4}},
      {{16e3, 5.001e-4}, {64e3, 5.002e-4}},
      {{16e3, 9e-4}, {64e3, 7e-4}, {256e3, 6e-4}, {1e6, 5e-4}},
      {{1, 9}, {2, 8.5}, {3, 8}, {4, 7.6}, {5, 7.2}, {6, 6.8}, {7, 6.5}, {8, 6.2}, {9, 6}, {10, 5.8}}};
  for (const auto& samples : noisy) {
    const auto curve = FitConvex(samples);
    ASSERT_TRUE(curve.ok()) << curve.status();
    ASSERT_LE(curve->pieces.size(), static_cast<size_t>(CostCurve::kMaxPieces));
    const CostSample& last = samples.back();
    const double own_rate_s = last.seconds / last.units;
    EXPECT_GE(curve->pieces.back().per_unit_s, own_rate_s / 2);
    EXPECT_LE(curve->pieces.back().per_unit_s, own_rate_s * 2);
    EXPECT_GE(curve->At(100 * last.units), 50 * last.seconds) << "more work takes longer";
    for (const CostSample& sample : samples) {
      EXPECT_GT(curve->At(sample.units), sample.seconds / 2) << "what was measured stays about what it was";
      EXPECT_LT(curve->At(sample.units), sample.seconds * 2);
    }
    for (size_t i = 1; i < curve->pieces.size(); ++i) {
      EXPECT_GE(curve->pieces[i].per_unit_s, curve->pieces[i - 1].per_unit_s);
    }
  }
}

TEST(CostCurve, GrowthThatWasSeenIsKept) {
  // A link with a large overhead: of the largest size's time a twentieth is the bytes' own.
  const std::vector<CostSample> samples = {{16e3, 1e-3 + 16e-6}, {32e3, 1e-3 + 32e-6}, {50e3, 1e-3 + 50e-6}};
  const auto curve = FitConvex(samples);
  ASSERT_TRUE(curve.ok()) << curve.status();
  EXPECT_NEAR(curve->pieces.back().per_unit_s, 1e-9, 1e-12);
}

TEST(CostCurve, SawToothShowsAsFitErrorOnBothSides) {
  std::vector<CostSample> samples;
  for (int n = 1; n <= 100; ++n) samples.push_back({1.0 * n, n * (n % 2 == 0 ? 1.0 : 1.2)});
  const auto curve = FitConvex(samples);
  ASSERT_TRUE(curve.ok());
  EXPECT_NEAR(curve->fit_error_max, 0.2, 0.05);
}

// A cost that grows faster than its units, seen from 16 on: its first line would meet 0 s at 12 units.
TEST(CostCurve, FewerUnitsThanWereMeasuredDoNotCostLessThanNothing) {
  const std::vector<CostSample> samples = {{16, 1e-6}, {32, 5e-6}, {64, 14e-6}};
  const auto curve = FitConvex(samples);
  ASSERT_TRUE(curve.ok()) << curve.status();
  EXPECT_LT(curve->fit_error_max, 1e-9);
  EXPECT_NEAR(curve->pieces.front().fixed_s, 0, 1e-15);
  EXPECT_NEAR(curve->At(8), 0.5e-6, 1e-12);
}

TEST(CostCurve, RefusesWhatIsNoMeasurement) {
  const std::vector<std::vector<CostSample>> bad = {{},
                                                    {{1, 1}},
                                                    {{1, 1}, {1, 2}},
                                                    {{2, 1}, {1, 2}},
                                                    {{1, 0}, {2, 1}},
                                                    {{1, std::nan("")}, {2, 1}},
                                                    {{1, 1}, {INFINITY, 2}}};
  for (const auto& samples : bad) EXPECT_FALSE(FitConvex(samples).ok());
}

TEST(CostCurve, WhatNoiseMadeFlatGrowsInProportion) {
  const auto curve = FitConvex({{16, 5e-3}, {64, 2e-3}});
  ASSERT_TRUE(curve.ok()) << curve.status();
  EXPECT_GT(curve->pieces.back().per_unit_s, 0);
  EXPECT_NEAR(curve->At(128) / curve->At(64), 2, 1e-9);
}

}  // namespace
}  // namespace spillway::profiler
