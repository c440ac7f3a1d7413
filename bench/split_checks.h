// What must hold of the split whatever the machine's speed is: time grows with distinct tokens, what is
// shared is carried once, contexts are not limited by device memory. Free functions; each prints what it
// found.
#ifndef SPILLWAY_BENCH_SPLIT_CHECKS_H_
#define SPILLWAY_BENCH_SPLIT_CHECKS_H_

#include <atomic>
#include <vector>

#include "absl/status/status.h"
#include "bench/split_machine.h"
#include "bench/split_options.h"
#include "bench/split_report.h"

namespace spillway::bench {

// Least squares: y = intercept + slope * x. REQUIRES: as many as there are of the other, two or more
// different x.
struct LineFit {
  double intercept = 0;
  double slope = 0;
  double r2 = 0;
};
LineFit FitLine(const std::vector<double>& x, const std::vector<double>& y);

// Steps of 8 sequences of several lengths, half of them with a shared prefix, against their distinct tokens.
absl::Status CheckLinear(const SplitMachine& machine, const SplitBenchOptions& options,
                         const std::atomic<bool>& stop, SplitReport& report);

// A prefix that all sequences share: bytes on the link over those of the distinct tokens.
absl::Status CheckSharing(const SplitMachine& machine, SplitReport& report);

// A batch whose keys and values are eight times the device's memory, in the ring that every batch has.
absl::Status CheckLargeContext(const SplitModel& model, const SplitBenchOptions& options,
                               SplitReport& report);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_SPLIT_CHECKS_H_
