// A load run from warm-up to verdict.
#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/bytes.h"
#include "bench/command_line.h"
#include "bench/report.h"
#include "bench/serve.h"
#include "bench/server_probe.h"

namespace spillway::bench {
namespace {

using client::ExitCode;

// What the daemon spent on the run.
struct ServerCost {
  double cpu_s = 0;
  double generated_tokens = 0;  // by the daemon's own count
  double resident_bytes = 0;    // at the end
  double slope_mib_per_min = 0;
  double slope_from_s = 0;
  size_t samples = 0;

  double cpu_us_per_token() const { return generated_tokens > 0 ? cpu_s / generated_tokens * 1e6 : 0; }
};

ServerCost CostBetween(const ServerSnapshot& before, const ServerSnapshot& after,
                       const std::vector<MemorySample>& memory, int64_t skip_ms) {
  const auto grown = [&](absl::string_view name) {
    return after.metrics.Sum(name) - before.metrics.Sum(name);
  };
  ServerCost cost;
  cost.cpu_s = grown("process_cpu_seconds_total");
  cost.generated_tokens = grown("spillway_generated_tokens_total");
  cost.resident_bytes = after.metrics.Sum("process_resident_memory_bytes");
  const double length_s = memory.empty() ? 0 : memory.back().seconds;
  cost.slope_from_s = std::min(static_cast<double>(skip_ms) / 1e3, length_s / 2);
  cost.slope_mib_per_min = ResidentSlope(memory, cost.slope_from_s) * 60 / static_cast<double>(kMiB);
  cost.samples = memory.size();
  return cost;
}

void PrintStats(const LoadStats& stats, const LoadOptions& load, std::ostream& out) {
  out << "  ledger             " << stats.ledger.Describe() << "\n";
  for (const auto& [cause, count] : stats.ledger.causes()) {
    out << absl::StrFormat("  %18s %10d %s\n", "", count, client::EscapeToOneLine(cause));
  }
  if (stats.totals.requests < stats.ledger.sent()) {
    out << absl::StrFormat("  times are of %d of the %d requests sent: those that ended well\n",
                           stats.totals.requests, stats.ledger.sent());
  }
  PrintLatencyHeading(out);
  PrintLatency("first token", stats.first_token, out);
  PrintLatency("inter-delta", stats.inter_delta, out);
  PrintLatency("inter-token", stats.inter_token, out);
  PrintLatency("per output token", stats.per_token, out);
  PrintLatency("end to end", stats.end_to_end, out);
  PrintLatency("sent late by", stats.send_lag, out);
  const LoadRates rates = stats.Rates();
  if (stats.offered_per_s > 0) {
    out << absl::StrFormat("  rate               %.2f requests/s offered, %.2f attained\n",
                           stats.offered_per_s, stats.attained_per_s());
  }
  out << absl::StrFormat(
      "  throughput         %.2f requests/s, %.1f prompt tokens/s (%.1f %% cached), %.1f generated "
      "tokens/s, over the %.1f s %s\n",
      rates.requests_per_s, rates.prompt_tokens_per_s,
      stats.totals.prompt_tokens == 0
          ? 0
          : 100 * static_cast<double>(stats.cached_tokens) / static_cast<double>(stats.totals.prompt_tokens),
      rates.generated_tokens_per_s, rates.over_s, rates.while_sending ? "of sending" : "of the run");
  if (load.slo_ttft_ms > 0 || load.slo_tpot_ms > 0 || load.slo_gap_ms > 0 || load.slo_e2e_ms > 0) {
    out << absl::StrFormat("  goodput            %.1f %% of all sent, %.2f requests/s, within",
                           100 * stats.good_share(), rates.good_per_s);
    if (load.slo_ttft_ms > 0) out << absl::StrFormat(" %.0f ms to the first token", load.slo_ttft_ms);
    if (load.slo_tpot_ms > 0) out << absl::StrFormat(" %.1f ms per later token", load.slo_tpot_ms);
    if (load.slo_gap_ms > 0) out << absl::StrFormat(" %.1f ms from delta to delta", load.slo_gap_ms);
    if (load.slo_e2e_ms > 0) out << absl::StrFormat(" %.0f ms to the end", load.slo_e2e_ms);
    out << "\n";
  }
  out << absl::StrFormat("  this client        %.0f %% of a core, %.2f tokens a delta\n",
                         100 * stats.client_cpu_s / stats.wall_s,
                         stats.deltas == 0 ? 0
                                           : static_cast<double>(stats.totals.generated_tokens) /
                                                 static_cast<double>(stats.deltas));
}

void PrintServer(const ServerCost& cost, bool has_metrics, const v1::GetStatusResponse& after,
                 std::ostream& out) {
  if (has_metrics) {
    out << absl::StrFormat(
        "  daemon             %.1f s of CPU, %.1f us per generated token (engine included); resident %s, "
        "%+.2f "
        "MiB/minute after %.0f s\n",
        cost.cpu_s, cost.cpu_us_per_token(), FormatBytes(static_cast<int64_t>(cost.resident_bytes)),
        cost.slope_mib_per_min, cost.slope_from_s);
  }
  out << "  blocks at the end  " << after.blocks().in_use() << " in use, " << after.blocks().cached()
      << " cached, " << after.blocks().free() << " free; " << after.running_requests()
      << " requests running, " << after.waiting_requests() << " waiting\n";
}

nlohmann::json BlocksJson(const v1::GetStatusResponse& status) {
  return {{"in_use", status.blocks().in_use()},
          {"cached", status.blocks().cached()},
          {"free", status.blocks().free()},
          {"running_requests", status.running_requests()},
          {"running_sequences", status.running_sequences()},
          {"waiting_requests", status.waiting_requests()}};
}

// Everything that makes the run a failure, a line each.
std::vector<std::string> Verdict(const LoadStats& stats, const ServerCost& cost,
                                 const v1::GetStatusResponse& after, const ServeOptions& options) {
  std::vector<std::string> failures;
  if (!stats.ledger.balanced()) {
    failures.push_back(absl::StrCat("the ledger does not balance: ", stats.ledger.Describe()));
  }
  if (stats.ledger.count(Outcome::kFailed) > options.max_failed) {
    failures.push_back(absl::StrCat(stats.ledger.count(Outcome::kFailed),
                                    " requests failed, --max_failed is ", options.max_failed));
  }
  if (stats.ledger.sent() > 0 && stats.ledger.count(Outcome::kOk) == 0) {
    failures.push_back(absl::StrCat("none of ", stats.ledger.sent(), " requests ended well"));
  }
  const int64_t rejected = stats.ledger.count(Outcome::kRejected);
  if (static_cast<double>(rejected) > options.max_rejected * static_cast<double>(stats.ledger.sent())) {
    failures.push_back(absl::StrCat(rejected, " of ", stats.ledger.sent(),
                                    " requests were rejected, --max_rejected is ", options.max_rejected));
  }
  if (!IsIdle(after)) {
    failures.push_back(absl::StrCat("nothing is asked of the daemon, yet ", after.blocks().in_use(),
                                    " blocks are in use and ", after.running_sequences(), " sequences run"));
  }
  const double limit = options.max_resident_slope_mib_per_min;
  if (limit > 0 && cost.samples < 4) {
    failures.push_back("too few samples to judge the daemon's memory: run longer");
  } else if (limit > 0 && cost.slope_mib_per_min > limit) {
    failures.push_back(absl::StrFormat("resident memory grows by %.2f MiB a minute, the limit is %.2f",
                                       cost.slope_mib_per_min, limit));
  }
  return failures;
}

}  // namespace

ExitCode RunLoadScenario(const ServeContext& context) {
  const ServeOptions& options = context.options;
  ServerProbe probe(options.connection.server, options.metrics_url, options.access, options.admin);
  const absl::StatusOr<v1::Model> model = probe.GetModel();
  if (!model.ok()) return BenchFailed(model.status().message(), context.console);
  absl::StatusOr<Workload> workload = Workload::Create(options.workload, *model);
  if (!workload.ok()) return BenchFailed(workload.status().message(), context.console);
  const auto channels = OpenLoadChannels(options.connection.server, options.connections, options.access);
  const auto slow_channel = OpenSlowChannel(options.connection.server, options.access);
  const auto progress = ProgressOn(context.console);

  if (options.warmup > 0) {
    LoadOptions warmup;
    warmup.concurrency = std::min<int64_t>(options.warmup, 8);
    warmup.requests = options.warmup;
    const LoadStats stats = LoadRun(channels, slow_channel, *workload, warmup).Run(context.stop, progress);
    if (!stats.ledger.balanced()) {
      return BenchFailed(absl::StrCat("the warm-up's ledger does not balance: ", stats.ledger.Describe()),
                         context.console);
    }
  }

  const absl::StatusOr<ServerSnapshot> before = probe.Snapshot();
  if (!before.ok()) return BenchFailed(before.status().message(), context.console);
  std::optional<MemorySampler> sampler;
  if (!options.metrics_url.empty()) sampler.emplace(options.metrics_url, options.sample_interval_ms);
  const LoadStats stats =
      LoadRun(channels, slow_channel, *workload, options.load).Run(context.stop, progress);
  std::vector<MemorySample> memory;
  if (sampler.has_value()) memory = sampler->Stop();
  const absl::StatusOr<ServerSnapshot> after = probe.SnapshotWhenIdle(options.settle.ms);
  ClearProgress(context.console);
  if (!after.ok()) return BenchFailed(after.status().message(), context.console);

  const ServerCost cost = CostBetween(*before, *after, memory, options.resident_skip.ms);
  const std::string load = options.load.rate_per_s > 0
                               ? absl::StrFormat("open loop, %g requests/s", options.load.rate_per_s)
                               : absl::StrCat("closed loop, ", options.load.concurrency, " clients");
  std::ostream& out = TableStream(options.json, context.console);
  out << absl::StrFormat("%s at %s on %s\n", model->name(), options.connection.server,
                         after->status.device());
  out << "  load               " << load << ", " << workload->Describe()
      << absl::StrFormat(", %.1f s\n", stats.wall_s);
  PrintStats(stats, options.load, out);
  PrintServer(cost, !options.metrics_url.empty(), after->status, out);
  const std::vector<std::string> failures = Verdict(stats, cost, after->status, options);
  for (const std::string& failure : failures) out << "  FAILED: " << failure << "\n";

  nlohmann::json report = NewReport("serve", context.args);
  report["model"] = model->name();
  report["device"] = after->status.device();
  report["server_version"] = after->status.version();
  report["load"] = load;
  report["workload"] = workload->Describe();
  report["results"] = stats.ToJson();
  report["blocks"] = {{"before", BlocksJson(before->status)}, {"after", BlocksJson(after->status)}};
  if (!options.metrics_url.empty()) {
    nlohmann::json samples = nlohmann::json::array();
    for (const MemorySample& sample : memory) samples.push_back({sample.seconds, sample.resident_bytes});
    report["daemon"] = {{"cpu_s", cost.cpu_s},
                        {"generated_tokens", cost.generated_tokens},
                        {"cpu_us_per_generated_token", cost.cpu_us_per_token()},
                        {"resident_bytes", cost.resident_bytes},
                        {"resident_slope_mib_per_min", cost.slope_mib_per_min},
                        {"resident_slope_from_s", cost.slope_from_s},
                        {"resident_samples", samples}};
  }
  report["failures"] = failures;
  if (absl::Status written = WriteReport(report, options.json, context.console); !written.ok()) {
    return BenchFailed(written.message(), context.console);
  }
  return failures.empty() ? client::kExitOk : client::kExitFailed;
}

}  // namespace spillway::bench
