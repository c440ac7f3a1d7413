// What a benchmark prints: a table for people, and JSON with what is needed to trust and repeat it.
#ifndef SPILLWAY_BENCH_REPORT_H_
#define SPILLWAY_BENCH_REPORT_H_

#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "bench/latency_histogram.h"
#include "client/console.h"
#include "nlohmann/json.hpp"

namespace spillway::bench {

// 2: inter_token is of tokens (inter_delta is what it was), rates are over the time of sending.
constexpr int kSchemaVersion = 2;

// The machine this process runs on: {"processor", "cores", "kernel", "memory_bytes", "load_average"}.
nlohmann::json DescribeMachine();

// {"schema_version", "benchmark", "command", "time", "machine"}, to which a benchmark adds its results.
nlohmann::json NewReport(absl::string_view benchmark, absl::Span<const std::string> args);

// Where the table goes: stdout, or stderr when the JSON takes stdout.
std::ostream& TableStream(absl::string_view json_path, client::Console& console);
// Writes to `json_path` ("-": stdout; empty: nowhere).
absl::Status WriteReport(const nlohmann::json& report, const std::string& json_path,
                         client::Console& console);

// Processes that ran or waited to run over the last minute (getloadavg(3)).
double LoadAverage();

// "  first token          12.3      15.0 ..." under the heading that PrintLatencyHeading writes.
void PrintLatencyHeading(std::ostream& out);
void PrintLatency(absl::string_view name, const LatencyHistogram& latency, std::ostream& out);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_REPORT_H_
