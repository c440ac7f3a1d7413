// `spillway-bench gpu`: what of a GPU's memory, link and matrix units the engine gets, beside what is asked.
#ifndef SPILLWAY_BENCH_GPU_H_
#define SPILLWAY_BENCH_GPU_H_

#include <atomic>
#include <string>

#include "absl/types/span.h"
#include "client/console.h"

namespace spillway::bench {

// Exit codes as usual; what falls short of what is asked is a number, not a failure. `stop` ends it between
// two measurements.
client::ExitCode RunGpu(absl::Span<const std::string> args, client::Console& console,
                        const std::atomic<bool>& stop);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_GPU_H_
