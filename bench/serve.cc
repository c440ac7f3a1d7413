#include "bench/serve.h"

#include "absl/strings/str_cat.h"
#include "bench/command_line.h"

namespace spillway::bench {
namespace {

using client::ExitCode;
using client::FlagTable;

constexpr absl::string_view kUsage =
    "spillway-bench serve: load on a daemon, and what it makes of it.\n\n"
    "usage: spillway-bench serve (--rate=R | --concurrency=N) (--requests=N | --duration_s=S) [flags]\n\n"
    "Examples:\n"
    "  spillway-bench serve --rate=4 --duration_s=60 --prompt_tokens=lognormal:200,0.8 "
    "--output_tokens=uniform:16-256\n"
    "  spillway-bench serve --concurrency=16 --requests=500 --metrics=127.0.0.1:8091 --json=serve.json\n"
    "  spillway-bench serve --rate=8 --duration_s=60 --slo_ttft_ms=500 --slo_tpot_ms=50\n"
    "  spillway-bench serve --scenario=soak --metrics=127.0.0.1:8091\n"
    "  spillway-bench serve --scenario=long_prompt\n"
    "  spillway-bench serve --scenario=idle_latency\n\n"
    "Latencies count from when a request was due, not from when it was sent. The ledger accounts for every\n"
    "request; the exit code is 1 when it does not balance.\n\n"
    "Scenarios:\n"
    "  soak          200 streams of mixed lengths for ten minutes, a tenth cancelled: ledger, blocks, "
    "memory.\n"
    "                Flags given beside it win.\n"
    "  long_prompt   time to first token of short requests, without and with a long prompt being read.\n"
    "  idle_latency  a trivial call after ten seconds of silence, again and again.\n\n";

void AddFlags(FlagTable& flags, ServeOptions* options) {
  flags.Section("The daemon");
  AddConnectionFlags(flags, &options->connection);
  flags.Add("admin", &options->admin, "HOST:PORT",
            "Its --admin_listen, where it has one: what runs and how many blocks are in use is asked there.");
  flags.Add("metrics", &options->metrics_url, "HOST:PORT",
            "Its --metrics_listen: adds CPU and memory of the daemon to the report.");
  flags.Add("connections", &options->connections, "N",
            "Connections that the streams are spread over. Default: 4.");
  flags.Section("Load");
  flags.Add("rate", &options->load.rate_per_s, "R",
            "Open loop: requests a second, at Poisson arrivals, whatever became of the earlier ones.");
  flags.Add("concurrency", &options->load.concurrency, "N",
            "Closed loop: N clients, each sends its next request when the last one has ended.");
  flags.Add("requests", &options->load.requests, "N", "End after so many requests.");
  flags.AddCall<double>(
      "duration_s", "S", "End after so many seconds; open streams are waited for.",
      [options](double seconds) { options->load.duration_ms = static_cast<int64_t>(seconds * 1e3); });
  flags.Add("warmup", &options->warmup, "N", "Requests before the measured ones, not reported. Default: 0.");
  flags.Add("slow_reader_pause_ms", &options->load.slow_reader_pause_ms, "MS",
            "Between two reads of a slow reader. Default: 2000.");
  flags.Add("max_in_flight", &options->load.max_in_flight, "N",
            "Open loop: so many open streams at most; later arrivals wait, and their latency counts. "
            "Default: 4096.");
  flags.AddChoice("scenario", {"soak", "long_prompt", "idle_latency"}, "See above.", [options](int index) {
    options->scenario = index == 0 ? "soak" : index == 1 ? "long_prompt" : "idle_latency";
  });
  AddWorkloadFlags(flags, &options->workload);
  flags.Section("Report");
  flags.Add("slo_ttft_ms", &options->load.slo_ttft_ms, "MS",
            "Goodput counts requests whose first token came within this.");
  flags.Add("slo_tpot_ms", &options->load.slo_tpot_ms, "MS",
            "Goodput counts requests whose mean time per later token is within this.");
  flags.Add("slo_gap_ms", &options->load.slo_gap_ms, "MS",
            "Goodput counts requests whose longest gap between two deltas is within this.");
  flags.Add("slo_e2e_ms", &options->load.slo_e2e_ms, "MS", "Goodput counts requests that ended within this.");
  AddJson(flags, &options->json);
  flags.Add("max_failed", &options->max_failed, "N", "More failed requests than this exit 1. Default: 0.");
  flags.Add(
      "max_rejected", &options->max_rejected, "SHARE",
      "A larger share of the requests rejected by admission exits 1. Default: 0; an overload run takes 1.");
  flags.Add("settle", &options->settle, "TIME",
            "The daemon may take this long to give back the blocks of the last streams. Default: 10s.");
  flags.Add("resident_skip", &options->resident_skip, "TIME",
            "The slope of resident memory is taken from here on. Default: 2m, or half of a shorter run.");
  flags.Add("max_resident_slope", &options->max_resident_slope_mib_per_min, "MIB_PER_MINUTE",
            "A steeper slope exits 1. Default: only reported; 1 for soak.");
  flags.Add("long_prompt_tokens", &options->long_prompt_tokens, "N",
            "long_prompt: its length. Default: what the context holds.");
  flags.Add("prefill_chunk_tokens", &options->prefill_chunk_tokens, "N",
            "long_prompt: the daemon's flag of this name, for the count of chunks. Default: 256.");
  flags.Add("short_clients", &options->short_clients, "N", "long_prompt: clients beside it. Default: 8.");
  flags.Add("idle", &options->idle, "TIME", "idle_latency: silence before each call. Default: 10s.");
}

// The soak's defaults, parsed before the command line so that this one wins.
std::vector<std::string> SoakArgs() {
  return {"--duration_s=600",
          "--concurrency=200",
          "--prompt_tokens=lognormal:60,1.0",
          "--output_tokens=uniform:1-96",
          "--cancel_fraction=0.1",
          "--cancel_within=20s",
          "--max_resident_slope=1"};
}

std::string Complaint(const ServeOptions& options) {
  const LoadOptions& load = options.load;
  if (options.scenario == "long_prompt" || options.scenario == "idle_latency") {
    return options.short_clients < 1 || options.prefill_chunk_tokens < 1
               ? "--short_clients and --prefill_chunk_tokens must be at least 1"
               : "";
  }
  if ((load.rate_per_s > 0) == (load.concurrency > 0)) return "give one of --rate and --concurrency, above 0";
  if (load.requests <= 0 && load.duration_ms <= 0) return "give --requests or --duration_s, above 0";
  if (options.connections < 1 || options.connections > 1024) return "--connections must be in 1..1024";
  if (options.warmup < 0 || load.max_in_flight < 1 || load.slow_reader_pause_ms < 0) {
    return "--warmup, --max_in_flight and --slow_reader_pause_ms must not be negative";
  }
  if (options.max_resident_slope_mib_per_min > 0 && options.metrics_url.empty()) {
    return "memory is judged by the daemon's metrics: give --metrics=HOST:PORT (its --metrics_listen)";
  }
  return "";
}

}  // namespace

ExitCode RunServe(absl::Span<const std::string> args, client::Console& console,
                  const std::atomic<bool>& stop) {
  ServeOptions options;
  options.connection = client::DefaultConnectionOptions();
  FlagTable flags;
  AddFlags(flags, &options);
  const auto ended = ReadArgs("serve", kUsage, flags, args, console, [&] {
    if (options.scenario == "soak") {
      const bool has_rate = options.load.rate_per_s > 0;
      std::vector<std::string> all = SoakArgs();
      all.insert(all.end(), args.begin(), args.end());
      (void)flags.Parse(all);  // parsed well just before
      if (has_rate) options.load.concurrency = 0;
    }
    options.load.seed = options.workload.seed;
    options.load.timeout_ms = std::max<int64_t>(0, options.connection.timeout.ms);
    return Complaint(options);
  });
  if (ended.has_value()) return *ended;

  absl::StatusOr<client::Access> access = client::ReadAccess(options.connection);
  if (!access.ok()) return BenchFailed(access.status().message(), console);
  options.access = *std::move(access);
  const ServeContext context{options, args, console, stop};
  if (options.scenario == "long_prompt") return RunLongPromptScenario(context);
  if (options.scenario == "idle_latency") return RunIdleLatencyScenario(context);
  return RunLoadScenario(context);
}

std::function<void(absl::string_view)> ProgressOn(client::Console& console) {
  if (!console.err_is_terminal) return nullptr;
  return [&console](absl::string_view line) { console.err << "\r\x1b[K" << line << std::flush; };
}

void ClearProgress(client::Console& console) {
  if (console.err_is_terminal) console.err << "\r\x1b[K" << std::flush;
}

}  // namespace spillway::bench
