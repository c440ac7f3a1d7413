// What a client waits for in two bad moments: while somebody's long prompt is read, and after a long silence.
#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "bench/command_line.h"
#include "bench/report.h"
#include "bench/serve.h"
#include "bench/server_probe.h"
#include "client/call_error.h"
#include "spillway/v1/inference.grpc.pb.h"

namespace spillway::bench {
namespace {

using client::ExitCode;

// The tokens that a long prompt leaves for the answer.
constexpr int64_t kLongOutputTokens = 1;
constexpr int64_t kDefaultShortRequests = 200;
constexpr int64_t kDefaultIdleCalls = 30;

// Sends long prompts one after the other on a thread of its own, so that one is always being read.
class LongPrompts {
 public:
  LongPrompts(const ServeOptions& options, Workload& workload)
      : run_({client::OpenChannel(options.connection.server, options.access)},
             client::OpenChannel(options.connection.server, options.access), workload,
             OneAfterTheOther(options)),
        thread_([this] { stats_ = run_.Run(stop_, nullptr); }) {}
  ~LongPrompts() { Stop(); }
  LongPrompts(const LongPrompts&) = delete;
  LongPrompts& operator=(const LongPrompts&) = delete;

  const LoadStats& Stop() {
    stop_.store(true);
    if (thread_.joinable()) thread_.join();
    return stats_;
  }

 private:
  static LoadOptions OneAfterTheOther(const ServeOptions& serve) {
    LoadOptions options;
    options.concurrency = 1;
    options.duration_ms = 3'600'000;
    options.timeout_ms = serve.load.timeout_ms;
    return options;
  }

  std::atomic<bool> stop_{false};
  LoadStats stats_;
  LoadRun run_;
  std::thread thread_;
};

absl::Status WaitForPrefill(ServerProbe& probe, const std::atomic<bool>& stop) {
  const MonotonicNs give_up_ns = Clock::Real().NowNs() + 30 * kNsPerSecond;
  while (!stop.load()) {
    const absl::StatusOr<ServerSnapshot> snapshot = probe.Snapshot();
    if (!snapshot.ok()) return snapshot.status();
    if (snapshot->status.prefilling_sequences() > 0) return absl::OkStatus();
    if (Clock::Real().NowNs() > give_up_ns) {
      return absl::DeadlineExceededError(
          "the long prompt is not being read after 30 s; see the daemon's log");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return absl::CancelledError("interrupted");
}

}  // namespace

ExitCode RunLongPromptScenario(const ServeContext& context) {
  const ServeOptions& options = context.options;
  ServerProbe probe(options.connection.server, options.metrics_url, options.access, options.admin);
  const absl::StatusOr<v1::Model> model = probe.GetModel();
  if (!model.ok()) return BenchFailed(model.status().message(), context.console);
  const int64_t room = model->context_tokens() - kLongOutputTokens;
  const int64_t long_tokens = options.long_prompt_tokens > 0 ? options.long_prompt_tokens : room;
  if (long_tokens > room) {
    return BenchFailed(
        absl::StrCat("--long_prompt_tokens=", long_tokens, " exceeds the context; at most ", room),
        context.console);
  }

  WorkloadOptions long_options = options.workload;
  long_options.prompt = LengthDistribution::Fixed(long_tokens);
  long_options.output = LengthDistribution::Fixed(kLongOutputTokens);
  long_options.seed = options.workload.seed + 1;
  absl::StatusOr<Workload> long_prompts = Workload::Create(long_options, *model);
  WorkloadOptions short_options = options.workload;
  // Not all alike, so that the clients do not march in step.
  short_options.prompt = *LengthDistribution::Parse("uniform:24-40");
  short_options.output = *LengthDistribution::Parse("uniform:8-24");
  absl::StatusOr<Workload> short_prompts = Workload::Create(short_options, *model);
  if (!long_prompts.ok()) return BenchFailed(long_prompts.status().message(), context.console);
  if (!short_prompts.ok()) return BenchFailed(short_prompts.status().message(), context.console);

  LoadOptions load = options.load;
  load.rate_per_s = 0;
  load.concurrency = options.short_clients;
  if (load.requests == 0 && load.duration_ms == 0) load.requests = kDefaultShortRequests;
  const auto channels = OpenLoadChannels(options.connection.server, options.connections, options.access);
  const auto slow_channel = OpenSlowChannel(options.connection.server, options.access);
  const auto progress = ProgressOn(context.console);
  const LoadStats alone = LoadRun(channels, slow_channel, *short_prompts, load).Run(context.stop, progress);
  LongPrompts background(options, *long_prompts);
  if (absl::Status reading = WaitForPrefill(probe, context.stop); !reading.ok()) {
    return BenchFailed(reading.message(), context.console);
  }
  const LoadStats beside = LoadRun(channels, slow_channel, *short_prompts, load).Run(context.stop, progress);
  const LoadStats& long_stats = background.Stop();
  ClearProgress(context.console);

  const int64_t chunks = (long_tokens + options.prefill_chunk_tokens - 1) / options.prefill_chunk_tokens;
  const double ratio =
      beside.first_token.PercentileMs(95) / std::max(alone.first_token.PercentileMs(95), 1e-9);
  std::ostream& out = TableStream(options.json, context.console);
  out << absl::StrFormat(
      "%s at %s: %d clients of about 32 + 16 tokens beside one prompt of %d tokens, %d chunks of %d\n",
      model->name(), options.connection.server, options.short_clients, long_tokens, chunks,
      options.prefill_chunk_tokens);
  PrintLatencyHeading(out);
  PrintLatency("first token alone", alone.first_token, out);
  PrintLatency("first token beside", beside.first_token, out);
  PrintLatency("inter-token alone", alone.inter_token, out);
  PrintLatency("inter-token beside", beside.inter_token, out);
  out << absl::StrFormat(
      "  p95 of the time to first token beside the long prompt is %.2f x that without it\n", ratio);
  out << "  short clients' ledgers: " << alone.ledger.Describe() << "; " << beside.ledger.Describe() << "\n";
  out << "  long prompts' ledger:   " << long_stats.ledger.Describe() << "\n";

  nlohmann::json report = NewReport("serve", context.args);
  report["model"] = model->name();
  report["long_prompt_tokens"] = long_tokens;
  report["long_prompt_chunks"] = chunks;
  report["short_clients"] = options.short_clients;
  report["alone"] = alone.ToJson();
  report["beside"] = beside.ToJson();
  report["long_prompts"] = long_stats.ToJson();
  report["first_token_p95_ratio"] = ratio;
  if (absl::Status written = WriteReport(report, options.json, context.console); !written.ok()) {
    return BenchFailed(written.message(), context.console);
  }
  const bool sound = alone.ledger.balanced() && beside.ledger.balanced() && long_stats.ledger.balanced() &&
                     alone.ledger.count(Outcome::kOk) == alone.ledger.sent() &&
                     beside.ledger.count(Outcome::kOk) == beside.ledger.sent();
  return sound ? client::kExitOk
               : BenchFailed("not every request ended well; see the ledgers", context.console);
}

ExitCode RunIdleLatencyScenario(const ServeContext& context) {
  const ServeOptions& options = context.options;
  const auto stub =
      v1::InferenceService::NewStub(client::OpenChannel(options.connection.server, options.access));
  const int64_t calls = options.load.requests > 0 ? options.load.requests : kDefaultIdleCalls;
  const auto progress = ProgressOn(context.console);
  LatencyHistogram after_silence;
  LatencyHistogram at_once;
  const auto call = [&](LatencyHistogram* histogram) -> grpc::Status {
    grpc::ClientContext call_context;
    client::SetDeadline(call_context, {-1}, 15'000);
    v1::GetModelResponse response;
    const MonotonicNs begin_ns = Clock::Real().NowNs();
    grpc::Status status = stub->GetModel(&call_context, {}, &response);
    if (histogram != nullptr) histogram->Add(Clock::Real().NowNs() - begin_ns);
    return status;
  };

  grpc::Status status = call(nullptr);  // connects
  for (int64_t i = 0; i < calls && status.ok() && !context.stop.load(); ++i) {
    const MonotonicNs wake_ns = Clock::Real().NowNs() + options.idle.ms * kNsPerMs;
    while (Clock::Real().NowNs() < wake_ns && !context.stop.load()) {
      std::this_thread::sleep_for(std::chrono::milliseconds(
          std::min<int64_t>(100, (wake_ns - Clock::Real().NowNs()) / kNsPerMs + 1)));
    }
    status = call(&after_silence);
    if (status.ok()) status = call(&at_once);
    if (progress != nullptr) progress(absl::StrCat(i + 1, " of ", calls, " calls"));
  }
  ClearProgress(context.console);
  if (!status.ok()) {
    context.console.err << client::DescribeError(client::DecodeError(status), options.connection.server);
    return client::kExitFailed;
  }

  std::ostream& out = TableStream(options.json, context.console);
  out << absl::StrFormat("GetModel at %s after %g s of silence, and at once after that\n",
                         options.connection.server, static_cast<double>(options.idle.ms) / 1e3);
  PrintLatencyHeading(out);
  PrintLatency("after silence", after_silence, out);
  PrintLatency("at once", at_once, out);
  nlohmann::json report = NewReport("serve", context.args);
  report["idle_ms"] = options.idle.ms;
  report["after_silence"] = after_silence.ToJson();
  report["at_once"] = at_once.ToJson();
  if (absl::Status written = WriteReport(report, options.json, context.console); !written.ok()) {
    return BenchFailed(written.message(), context.console);
  }
  return client::kExitOk;
}

}  // namespace spillway::bench
