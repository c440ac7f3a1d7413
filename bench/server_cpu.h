// `spillway-bench server_cpu`: what serving a token costs beside computing it.
#ifndef SPILLWAY_BENCH_SERVER_CPU_H_
#define SPILLWAY_BENCH_SERVER_CPU_H_

#include <atomic>
#include <string>

#include "absl/types/span.h"
#include "client/console.h"

namespace spillway::bench {

// The daemon's CPU time per generated token at many concurrent streams, less what the engine alone takes for
// the same steps, which is measured in this process on the same model file.
client::ExitCode RunServerCpu(absl::Span<const std::string> args, client::Console& console,
                              const std::atomic<bool>& stop);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_SERVER_CPU_H_
