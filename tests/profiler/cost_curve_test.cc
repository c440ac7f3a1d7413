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

TEST(CostCurve, SawToothShowsAsFitErrorOnBothSides) {
  std::vector<CostSample> samples;
  for (int n = 1; n <= 100; ++n) samples.push_back({1.0 * n, n * (n % 2 == 0 ? 1.0 : 1.2)});
  const auto curve = FitConvex(samples);
  ASSERT_TRUE(curve.ok());
  EXPECT_NEAR(curve->fit_error_max, 0.2, 0.05);
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
