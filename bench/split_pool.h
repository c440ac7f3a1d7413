// What the host pool holds at the placement's target ratio of forms, and what steps from it take. A free
// function.
#ifndef SPILLWAY_BENCH_SPLIT_POOL_H_
#define SPILLWAY_BENCH_SPLIT_POOL_H_

#include <atomic>

#include "absl/status/status.h"
#include "bench/split_machine.h"
#include "bench/split_options.h"
#include "bench/split_report.h"

namespace spillway::bench {

// Fills a pool as the daemon does, steered to the placement's target for the sweep's largest batch, and
// counts the tokens that it holds, against K and V alone and against both forms of every block. Then, unless
// it must be quick, steps of the sweep's row whose blocks have both forms, with its blocks stored so. Nothing
// where X is not the smaller form.
absl::Status MeasurePool(const SplitMachine& machine, const SplitBenchOptions& options,
                         const std::atomic<bool>& stop, SplitReport& report);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_SPLIT_POOL_H_
