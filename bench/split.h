// `spillway-bench split`: time per decode step by how cached tokens reach attention, over an emulated link.
#ifndef SPILLWAY_BENCH_SPLIT_H_
#define SPILLWAY_BENCH_SPLIT_H_

#include <atomic>
#include <string>

#include "absl/types/span.h"
#include "client/console.h"

namespace spillway::bench {

// Exit codes as usual; `stop` ends it between two measurements.
client::ExitCode RunSplit(absl::Span<const std::string> args, client::Console& console,
                          const std::atomic<bool>& stop);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_SPLIT_H_
