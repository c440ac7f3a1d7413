// What is resident as the linear program chooses, against K and V of equal bytes. A free function.
#ifndef SPILLWAY_BENCH_SPLIT_RESIDENCY_H_
#define SPILLWAY_BENCH_SPLIT_RESIDENCY_H_

#include <atomic>

#include "absl/status/status.h"
#include "bench/split_machine.h"
#include "bench/split_options.h"
#include "bench/split_report.h"

namespace spillway::bench {

// Steps of the sweep's largest batch with device memory for `options.resident` of its tokens as K and V,
// filled with what the placement targets say: blocks climb there from the host, step by step. Printed beside
// the sweep's row where the same memory holds K and V. Nothing where X is not the smaller form.
absl::Status MeasureResidency(const SplitMachine& machine, const SplitBenchOptions& options,
                              const std::atomic<bool>& stop, SplitReport& report);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_SPLIT_RESIDENCY_H_
