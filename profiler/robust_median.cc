#include "profiler/robust_median.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace spillway::profiler {
namespace {

// Of normally distributed values the standard deviation is this many median absolute deviations.
constexpr double kDeviationsOfMad = 1.4826;
constexpr double kOutlierDeviations = 3;

double MedianDeviation(const std::vector<double>& values, double median) {
  std::vector<double> deviations;
  deviations.reserve(values.size());
  for (const double value : values) deviations.push_back(std::abs(value - median));
  return Median(std::move(deviations));
}

}  // namespace

double Median(std::vector<double> values) {
  SPILLWAY_CHECK(!values.empty());
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

double RobustMedian(const std::vector<double>& values) {
  const double median = Median(values);
  const double reach = kOutlierDeviations * kDeviationsOfMad * MedianDeviation(values, median);
  std::vector<double> kept;
  for (const double value : values) {
    if (std::abs(value - median) <= reach) kept.push_back(value);
  }
  return kept.empty() ? median : Median(std::move(kept));
}

double RelativeSpread(const std::vector<double>& values) {
  const double median = Median(values);
  return median > 0 ? MedianDeviation(values, median) / median : 0;
}

}  // namespace spillway::profiler
