#include "bench/server_cpu.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/command_line.h"
#include "bench/engine_session.h"
#include "bench/load_run.h"
#include "bench/report.h"
#include "bench/serve.h"
#include "bench/server_probe.h"
#include "bench/thread_times.h"
#include "bench/workload.h"
#include "client/channel.h"
#include "client/connection.h"
#include "client/flags.h"

namespace spillway::bench {
namespace {

using client::ExitCode;
using client::FlagTable;

constexpr absl::string_view kUsage =
    "spillway-bench server_cpu: what serving a token costs beside computing it.\n\n"
    "usage: spillway-bench server_cpu --metrics=HOST:PORT --model=FILE.gguf [flags]\n\n"
    "Example, with a model so small that serving is most of the work:\n"
    "  spillwayd --model=tiny.gguf --threads=1 --listen=127.0.0.1:8090 --metrics_listen=127.0.0.1:8091 &\n"
    "  spillway-bench server_cpu --metrics=127.0.0.1:8091 --model=tiny.gguf --pid=$!\n\n"
    "The daemon's CPU time (user and system, all threads, by its own process_cpu_seconds_total) over a "
    "closed\n"
    "loop of many streams, less what the engine alone takes for the same steps: as many decode passes of "
    "the\n"
    "mean batch, and as many prefills, as the daemon's metrics count, run here in this process on the same "
    "file\n"
    "with as many threads. Everything else is the server's: gRPC, scheduling, sampling parameters, "
    "detokenising,\n"
    "metrics. Run the daemon with --threads=1: waiting OpenMP threads burn CPU that is nobody's work.\n\n";

struct Options {
  client::ConnectionOptions connection;
  std::string metrics_url;
  std::string json;
  EngineOptions engine;
  int64_t streams = 64;
  double duration_s = 20;
  int32_t prompt_tokens = 8;
  int32_t output_tokens = 128;
  int64_t pid = 0;
  double max_us_per_token = 0;
};

void AddFlags(FlagTable& flags, Options* options) {
  flags.Section("Flags");
  AddConnectionFlags(flags, &options->connection);
  flags.Add("metrics", &options->metrics_url, "HOST:PORT", "The daemon's --metrics_listen.");
  flags.Add("model", &options->engine.model_path, "FILE", "The GGUF file that the daemon serves.");
  flags.Add("threads", &options->engine.threads, "N", "The daemon's --threads. Default: 1.");
  flags.Add("concurrency", &options->streams, "N", "Streams at once. Default: 64.");
  flags.Add("duration_s", &options->duration_s, "S", "Default: 20.");
  flags.Add("prompt_tokens", &options->prompt_tokens, "N", "Of each request. Default: 8.");
  flags.Add("output_tokens", &options->output_tokens, "N", "Of each request. Default: 128.");
  flags.Add("pid", &options->pid, "PID", "The daemon's process, on this machine: adds its threads' shares.");
  flags.Add("max_us_per_token", &options->max_us_per_token, "US", "More than this exits 1.");
  AddJson(flags, &options->json);
}

// What the daemon did between two scrapes.
struct Work {
  double cpu_s = 0;
  double generated_tokens = 0;
  double decode_steps = 0;
  double decode_tokens = 0;
  double prefill_steps = 0;
  double prefill_tokens = 0;
  double step_s = 0;  // its own clock over its passes

  double mean_batch() const { return decode_steps > 0 ? decode_tokens / decode_steps : 0; }
};

Work WorkBetween(const MetricsText& before, const MetricsText& after) {
  const auto grown = [&](absl::string_view name) { return after.Sum(name) - before.Sum(name); };
  const auto grown_by_phase = [&](absl::string_view name, absl::string_view phase) {
    const std::string sample = absl::StrCat(name, "{phase=\"", phase, "\"}");
    return after.Find(sample).value_or(0) - before.Find(sample).value_or(0);
  };
  Work work;
  work.cpu_s = grown("process_cpu_seconds_total");
  work.generated_tokens = grown("spillway_generated_tokens_total");
  work.step_s = grown("spillway_step_seconds_sum");
  work.decode_steps = grown_by_phase("spillway_step_seconds_count", "decode");
  work.decode_tokens = grown_by_phase("spillway_step_tokens_total", "decode");
  work.prefill_steps = grown_by_phase("spillway_step_seconds_count", "prefill");
  work.prefill_tokens = grown_by_phase("spillway_step_tokens_total", "prefill");
  return work;
}

// CPU seconds that the engine alone takes for `work`.
absl::StatusOr<double> EngineCpuSeconds(const Work& work, const Options& options) {
  EngineOptions engine = options.engine;
  engine.max_batch = std::max(1, static_cast<int32_t>(std::lround(work.mean_batch())));
  constexpr int32_t kSteps = 2000;
  const int32_t context = options.prompt_tokens + options.output_tokens / 2;
  const int32_t prefill_tokens =
      std::max(1, static_cast<int32_t>(std::lround(work.prefill_tokens / std::max(work.prefill_steps, 1.0))));
  engine.max_tokens = std::max(context + 2, prefill_tokens);
  absl::StatusOr<std::unique_ptr<EngineSession>> session = EngineSession::Create(engine);
  if (!session.ok()) return session.status();

  double decode_s = 0;
  double prefill_s = 0;
  for (int32_t step = -20; step < kSteps; ++step) {  // the first ones warm up
    const absl::StatusOr<std::vector<StepTime>> decode = (*session)->Decode(engine.max_batch, context, 1);
    if (!decode.ok()) return decode.status();
    const absl::StatusOr<StepTime> prefill = (*session)->Prefill(prefill_tokens);
    if (!prefill.ok()) return prefill.status();
    if (step < 0) continue;
    decode_s += (*decode)[0].cpu_s;
    prefill_s += prefill->cpu_s;
  }
  return (decode_s * work.decode_steps + prefill_s * work.prefill_steps) / kSteps;
}

std::string Complaint(const Options& options) {
  if (options.metrics_url.empty()) return "--metrics=HOST:PORT is needed";
  if (options.engine.model_path.empty()) return "--model=FILE is needed";
  if (options.streams < 1 || options.duration_s <= 0) return "--concurrency and --duration_s must be above 0";
  if (options.prompt_tokens < 1 || options.output_tokens < 1 || options.engine.threads < 1) {
    return "--prompt_tokens, --output_tokens and --threads must be at least 1";
  }
  return "";
}

void PrintThreads(const std::map<std::string, double>& before, const std::map<std::string, double>& after,
                  double tokens, std::ostream& out, nlohmann::json* json) {
  out << "  by thread name, us per token:";
  for (const auto& [name, seconds] : after) {
    const auto found = before.find(name);
    const double us = (seconds - (found == before.end() ? 0 : found->second)) / tokens * 1e6;
    (*json)[name] = us;
    if (us >= 0.1) out << absl::StrFormat(" %s %.1f", client::EscapeToOneLine(name), us);
  }
  out << "\n";
}

}  // namespace

ExitCode RunServerCpu(absl::Span<const std::string> args, client::Console& console,
                      const std::atomic<bool>& stop) {
  Options options;
  options.connection = client::DefaultConnectionOptions();
  options.engine.threads = 1;
  FlagTable flags;
  AddFlags(flags, &options);
  const auto ended =
      ReadArgs("server_cpu", kUsage, flags, args, console, [&options] { return Complaint(options); });
  if (ended.has_value()) return *ended;

  const absl::StatusOr<client::Access> access = client::ReadAccess(options.connection);
  if (!access.ok()) return BenchFailed(access.status().message(), console);
  ServerProbe probe(options.connection.server, options.metrics_url, *access);
  const absl::StatusOr<v1::Model> model = probe.GetModel();
  if (!model.ok()) return BenchFailed(model.status().message(), console);
  WorkloadOptions workload_options;
  workload_options.prompt = LengthDistribution::Fixed(options.prompt_tokens);
  workload_options.output = LengthDistribution::Fixed(options.output_tokens);
  absl::StatusOr<Workload> workload = Workload::Create(workload_options, *model);
  if (!workload.ok()) return BenchFailed(workload.status().message(), console);
  const auto channels = OpenLoadChannels(options.connection.server, 4, *access);
  LoadOptions load;
  load.concurrency = options.streams;
  load.requests = options.streams;
  const LoadStats warm = LoadRun(channels, channels[0], *workload, load).Run(stop, nullptr);
  if (warm.ledger.count(Outcome::kOk) != warm.ledger.sent()) {
    return BenchFailed(absl::StrCat("the warm-up failed: ", warm.ledger.Describe()), console);
  }

  const auto read_threads = [&options]() -> std::map<std::string, double> {
    if (options.pid == 0) return {};
    return ReadThreadTimes("/proc", options.pid).value_or(std::map<std::string, double>{});
  };
  const absl::StatusOr<ServerSnapshot> before = probe.Snapshot();
  const std::map<std::string, double> threads_before = read_threads();
  if (!before.ok()) return BenchFailed(before.status().message(), console);
  load.requests = 0;
  load.duration_ms = static_cast<int64_t>(options.duration_s * 1e3);
  const LoadStats stats = LoadRun(channels, channels[0], *workload, load).Run(stop, ProgressOn(console));
  const absl::StatusOr<ServerSnapshot> after = probe.SnapshotWhenIdle(10'000);
  const std::map<std::string, double> threads_after = read_threads();
  ClearProgress(console);
  if (!after.ok()) return BenchFailed(after.status().message(), console);
  if (!stats.ledger.balanced() || stats.ledger.count(Outcome::kOk) != stats.ledger.sent()) {
    return BenchFailed(absl::StrCat("not every request ended well: ", stats.ledger.Describe()), console);
  }
  const Work work = WorkBetween(before->metrics, after->metrics);
  if (work.generated_tokens <= 0 || work.decode_steps <= 0 || work.cpu_s <= 0) {
    return BenchFailed("the daemon's metrics do not move: is --metrics the metrics address of --server?",
                       console);
  }
  const absl::StatusOr<double> engine_s = EngineCpuSeconds(work, options);
  if (!engine_s.ok()) return BenchFailed(engine_s.status().message(), console);

  const double total_us = work.cpu_s / work.generated_tokens * 1e6;
  const double engine_us = *engine_s / work.generated_tokens * 1e6;
  std::ostream& out = TableStream(options.json, console);
  out << absl::StrFormat("%s at %s, %d streams of %d + %d tokens\n", model->name(), options.connection.server,
                         options.streams, options.prompt_tokens, options.output_tokens);
  out << absl::StrFormat("  %.0f tokens/s; %.0f decode passes of %.1f sequences, %.0f prefill passes\n",
                         static_cast<double>(stats.totals.generated_tokens) / stats.wall_s, work.decode_steps,
                         work.mean_batch(), work.prefill_steps);
  out << absl::StrFormat("  CPU per generated token: %.1f us in all, %.1f us engine, %.1f us server\n",
                         total_us, engine_us, total_us - engine_us);
  const double tokens_per_delta = static_cast<double>(stats.totals.generated_tokens) /
                                  static_cast<double>(std::max<int64_t>(stats.deltas, 1));
  out << absl::StrFormat("  %.2f tokens a delta: %.1f us server per delta\n", tokens_per_delta,
                         (total_us - engine_us) * tokens_per_delta);
  out << absl::StrFormat("  (the daemon's own clock counts %.1f us of passes per token)\n",
                         work.step_s / work.generated_tokens * 1e6);
  nlohmann::json report = NewReport("server_cpu", args);
  report["model"] = model->name();
  report["streams"] = options.streams;
  report["generated_tokens"] = work.generated_tokens;
  report["tokens_per_s"] = static_cast<double>(stats.totals.generated_tokens) / stats.wall_s;
  report["mean_batch"] = work.mean_batch();
  report["cpu_us_per_token"] = {{"total", total_us}, {"engine", engine_us}, {"server", total_us - engine_us}};
  report["tokens_per_delta"] = tokens_per_delta;
  report["server_cpu_us_per_delta"] = (total_us - engine_us) * tokens_per_delta;
  report["step_us_per_token_by_daemon"] = work.step_s / work.generated_tokens * 1e6;
  report["results"] = stats.ToJson();
  if (options.pid != 0) {
    PrintThreads(threads_before, threads_after, work.generated_tokens, out, &report["thread_us_per_token"]);
  }
  if (absl::Status written = WriteReport(report, options.json, console); !written.ok()) {
    return BenchFailed(written.message(), console);
  }
  if (options.max_us_per_token > 0 && total_us - engine_us > options.max_us_per_token) {
    return BenchFailed("the server's share exceeds --max_us_per_token", console);
  }
  return client::kExitOk;
}

}  // namespace spillway::bench
