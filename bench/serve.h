// `spillway-bench serve`: load on a daemon, and what it makes of it.
#ifndef SPILLWAY_BENCH_SERVE_H_
#define SPILLWAY_BENCH_SERVE_H_

#include <atomic>
#include <cstdint>
#include <string>

#include "absl/types/span.h"
#include "bench/load_run.h"
#include "bench/workload.h"
#include "client/channel.h"
#include "client/connection.h"
#include "client/console.h"
#include "client/flags.h"

namespace spillway::bench {

struct ServeOptions {
  client::ConnectionOptions connection;
  client::Access access;  // of it
  std::string admin;      // of AdminService; empty: the server's
  std::string metrics_url;
  std::string json;
  std::string scenario;
  LoadOptions load;
  WorkloadOptions workload;
  int64_t connections = 4;
  int64_t warmup = 0;
  int64_t sample_interval_ms = 5000;
  int64_t max_failed = 0;
  double max_rejected = 0;  // share of the requests sent
  client::FlagDuration resident_skip{120'000};
  client::FlagDuration settle{10'000};
  double max_resident_slope_mib_per_min = 0;  // 0: reported, not judged

  // --scenario=long_prompt
  int64_t long_prompt_tokens = 0;      // 0: what the context holds
  int64_t prefill_chunk_tokens = 256;  // the daemon's
  int64_t short_clients = 8;
  // --scenario=idle_latency
  client::FlagDuration idle{10'000};
};

// What every part of `serve` works with. Borrowed for its call.
struct ServeContext {
  const ServeOptions& options;
  absl::Span<const std::string> args;
  client::Console& console;
  const std::atomic<bool>& stop;
};

// Exit codes: 0 ok; 1 the ledger does not balance, blocks stay in use, more failed or were
// rejected than allowed, or the daemon cannot be reached; 2 usage. `stop` ends a run early, with its report.
client::ExitCode RunServe(absl::Span<const std::string> args, client::Console& console,
                          const std::atomic<bool>& stop);

// --- The scenarios; each prints and writes its report.
client::ExitCode RunLoadScenario(const ServeContext& context);
client::ExitCode RunLongPromptScenario(const ServeContext& context);
client::ExitCode RunIdleLatencyScenario(const ServeContext& context);

// A line on stderr that is rewritten each second, on a terminal only.
std::function<void(absl::string_view)> ProgressOn(client::Console& console);
void ClearProgress(client::Console& console);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_SERVE_H_
