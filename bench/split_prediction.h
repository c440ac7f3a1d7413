// How well steps of shapes that nothing was fitted to are predicted. Free functions.
#ifndef SPILLWAY_BENCH_SPLIT_PREDICTION_H_
#define SPILLWAY_BENCH_SPLIT_PREDICTION_H_

#include <atomic>
#include <vector>

#include "absl/status/status.h"
#include "bench/split_machine.h"
#include "bench/split_options.h"
#include "bench/split_report.h"

namespace spillway::bench {

// |predicted / measured - 1|, one of each shape.
struct PredictionErrors {
  std::vector<double> frozen;  // by the profile alone
  std::vector<double>
      with_feedback;  // of the first steps of a shape, after the steps of the shapes before it
};

// Draws `n` ragged shapes by `seed` and measures steps of each under auto's plans; prints a row of each.
absl::Status PredictUnseen(const SplitMachine& machine, const SplitBenchOptions& options, int n,
                           uint64_t seed, const std::atomic<bool>& stop, SplitReport& report,
                           PredictionErrors* errors);

// Median and 95th percentile of all.
void SummarizeErrors(const PredictionErrors& errors, SplitReport& report);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_SPLIT_PREDICTION_H_
