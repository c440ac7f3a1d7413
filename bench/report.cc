#include "bench/report.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace spillway::bench {
namespace {

std::string ProcessorName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (!absl::StartsWith(line, "model name")) continue;
    return std::string(absl::StripAsciiWhitespace(line.substr(line.find(':') + 1)));
  }
  return "unknown";
}

}  // namespace

nlohmann::json DescribeMachine() {
  utsname system{};
  uname(&system);
  return {{"processor", ProcessorName()},
          {"cores", std::thread::hardware_concurrency()},
          {"kernel", system.release},
          {"load_average", LoadAverage()},
          {"memory_bytes", int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE)}};
}

nlohmann::json NewReport(absl::string_view benchmark, absl::Span<const std::string> args) {
  std::string command = absl::StrCat("spillway-bench ", benchmark);
  for (const std::string& arg : args) absl::StrAppend(&command, " ", arg);
  return {{"schema_version", kSchemaVersion},
          {"benchmark", std::string(benchmark)},
          {"command", command},
          {"time", absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone())},
          {"machine", DescribeMachine()}};
}

std::ostream& TableStream(absl::string_view json_path, client::Console& console) {
  return json_path == "-" ? console.err : console.out;
}

absl::Status WriteReport(const nlohmann::json& report, const std::string& json_path,
                         client::Console& console) {
  if (json_path.empty()) return absl::OkStatus();
  const std::string text =
      absl::StrCat(report.dump(2, ' ', false, nlohmann::json::error_handler_t::replace), "\n");
  if (json_path == "-") {
    console.out << text << std::flush;
    return console.out.good() ? absl::OkStatus() : absl::DataLossError("cannot write to standard output");
  }
  std::ofstream file(json_path);
  file << text;
  file.close();
  if (!file) return absl::DataLossError(absl::StrCat("--json: cannot write ", json_path));
  return absl::OkStatus();
}

double LoadAverage() {
  double one_minute = 0;
  return getloadavg(&one_minute, 1) == 1 ? one_minute : 0;
}

void PrintLatencyHeading(std::ostream& out) {
  out << absl::StrFormat("  %-18s %10s %10s %10s %10s %10s %10s\n", "milliseconds", "p50", "p90", "p95",
                         "p99", "max", "samples");
}

void PrintLatency(absl::string_view name, const LatencyHistogram& latency, std::ostream& out) {
  out << absl::StrFormat("  %-18s %10.2f %10.2f %10.2f %10.2f %10.2f %10d\n", name, latency.PercentileMs(50),
                         latency.PercentileMs(90), latency.PercentileMs(95), latency.PercentileMs(99),
                         latency.max_ms(), latency.count());
}

}  // namespace spillway::bench
