// Repeated timings of one thing, made one number on a machine where other things happen too. Free functions.
#ifndef SPILLWAY_PROFILER_ROBUST_MEDIAN_H_
#define SPILLWAY_PROFILER_ROBUST_MEDIAN_H_

#include <vector>

namespace spillway::profiler {

double Median(std::vector<double> values);  // REQUIRES: !values.empty()

// The median of `values` without those that lie more than three (robust) standard deviations from it, by the
// median absolute deviation (Hampel's identifier). REQUIRES: !values.empty()
double RobustMedian(const std::vector<double>& values);

// Median absolute deviation over median: how far a value typically lies from the middle one.
double RelativeSpread(const std::vector<double>& values);

}  // namespace spillway::profiler

#endif  // SPILLWAY_PROFILER_ROBUST_MEDIAN_H_
