// The rows of the split benchmark: every batch, context and mode on one machine. Free functions.
#ifndef SPILLWAY_BENCH_SPLIT_SWEEP_H_
#define SPILLWAY_BENCH_SPLIT_SWEEP_H_

#include <atomic>

#include "absl/status/status.h"
#include "bench/split_machine.h"
#include "bench/split_options.h"
#include "bench/split_report.h"

namespace spillway::bench {

// A row for every batch, context and mode that the model can be served with; then, for the most tokens, rows
// with a share of them resident.
absl::Status SweepMachine(const SplitMachine& machine, const SplitBenchOptions& options,
                          const std::atomic<bool>& stop, SplitReport& report);

// Of the pipelined rows of all machines in which the link was predicted to bind: how busy it was. Its worst
// row is printed.
void CheckLinkIsBusy(SplitReport& report);

// Ratios of the rows of the sweep at this rate.
void SweepRatios(double link_mb_per_s, double resident, SplitReport& report);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_SPLIT_SWEEP_H_
