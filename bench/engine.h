// `spillway-bench engine`: prefill and decode without a network, beside this machine's bounds.
#ifndef SPILLWAY_BENCH_ENGINE_H_
#define SPILLWAY_BENCH_ENGINE_H_

#include <atomic>
#include <string>

#include "absl/types/span.h"
#include "client/console.h"

namespace spillway::bench {

// Exit codes as usual; `stop` ends it between two measurements.
client::ExitCode RunEngine(absl::Span<const std::string> args, client::Console& console,
                           const std::atomic<bool>& stop);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_ENGINE_H_
