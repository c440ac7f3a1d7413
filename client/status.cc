#include <chrono>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/bytes.h"
#include "client/answer.h"
#include "client/call_error.h"
#include "client/channel.h"
#include "client/commands.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "spillway/v1/admin.grpc.pb.h"

namespace spillway::client {
namespace {

constexpr absl::string_view kUsage =
    "spillway status: what the daemon is doing. Exits 0 when it is serving, else 1.\n\n"
    "usage: spillway status [flags]\n\n"
    "Examples:\n"
    "  spillway status\n"
    "  spillway status --json | jq .status.blocks\n"
    "  spillway status --wait=2m        # until a starting daemon serves\n\n";

using Health = grpc::health::v1::Health;
using HealthResponse = grpc::health::v1::HealthCheckResponse;

constexpr std::chrono::milliseconds kPollInterval{200};

std::string DescribeUptime(double seconds) {
  const auto whole = static_cast<int64_t>(seconds);
  if (whole < 60) return absl::StrFormat("%.0f s", seconds);
  if (whole < 3600) return absl::StrCat(whole / 60, " min");
  if (whole < 86400) return absl::StrCat(whole / 3600, " h ", whole / 60 % 60, " min");
  return absl::StrCat(whole / 86400, " d ", whole / 3600 % 24, " h");
}

absl::string_view StateName(v1::ServerState state) {
  switch (state) {
    case v1::SERVER_STATE_LOADING:
      return "LOADING";
    case v1::SERVER_STATE_SERVING:
      return "SERVING";
    case v1::SERVER_STATE_DRAINING:
      return "DRAINING";
    case v1::SERVER_STATE_FAILED:
      return "FAILED";
    default:
      return "in an unknown state";
  }
}

std::string DescribeBlocks(const v1::BlockUsage& blocks) {
  std::string forms;
  if (blocks.stored_as_x() + blocks.stored_as_both() > 0) {
    forms = absl::StrCat("; stored as X ", blocks.stored_as_x(), ", as KV and X ", blocks.stored_as_both());
  }
  return absl::StrCat(blocks.total(), " of ", blocks.block_tokens(), " tokens (",
                      FormatBytes(blocks.block_bytes()), " each): ", blocks.in_use(), " in use, ",
                      blocks.cached(), " cached, ", blocks.free(), " free", forms);
}

void PrintTable(const v1::GetStatusResponse& status, absl::string_view server, std::ostream& out) {
  const auto row = [&out](absl::string_view name, absl::string_view value) {
    out << absl::StrFormat("  %-10s %s\n", name, EscapeToOneLine(value));
  };
  out << "spillwayd " << EscapeToOneLine(status.version()) << " at " << server << ": "
      << StateName(status.state()) << ", up " << DescribeUptime(status.uptime_s()) << "\n";
  row("model", status.model());
  row("device", status.device());
  row("requests", absl::StrCat(status.running_requests(), " running, ", status.waiting_requests(),
                               " waiting (", status.waiting_tokens(), " tokens)"));
  row("sequences",
      absl::StrCat(status.running_sequences(), " running, of them ", status.prefilling_sequences(),
                   " reading their prompt, ", status.paused_sequences(), " paused; ",
                   status.returned_sequences(), " waiting for a place"));
  row("speed", absl::StrFormat("%.1f tokens/s read, %.1f generated", status.prompt_tokens_per_s(),
                               status.generated_tokens_per_s()));
  row("blocks", DescribeBlocks(status.blocks()));
  if (status.prefix_queried_tokens() > 0) {
    row("prefixes", absl::StrFormat("%.1f %% of %d prompt tokens found in the cache",
                                    100.0 * static_cast<double>(status.prefix_hit_tokens()) /
                                        static_cast<double>(status.prefix_queried_tokens()),
                                    status.prefix_queried_tokens()));
  }
  row("preempted", absl::StrCat(status.preemptions(), " times"));
  if (const v1::Limits& limits = status.limits(); status.has_limits()) {
    row("limits", absl::StrFormat("%d sequences, %d waiting requests, %d tokens each, %d connections",
                                  limits.max_sequences(), limits.max_queue(), limits.context_tokens(),
                                  limits.max_connections()));
  }
  absl::string_view title = "memory";
  for (const v1::MemoryUse& use : status.memory()) {
    row(title, absl::StrFormat("%-7s %-10s %10s", use.place(), use.use(), FormatBytes(use.bytes())));
    title = "";
  }
}

// One question of the daemon's health.
grpc::Status CheckHealth(Health::Stub& stub, CommandContext& context, HealthResponse* response) {
  grpc::ClientContext call;
  SetDeadline(call, context.connection.timeout, kShortCallTimeoutMs);
  ActiveCall::Scope scope(context.active, call);
  return stub.Check(&call, {}, response);
}

}  // namespace

ExitCode RunStatus(absl::Span<const std::string> args, CommandContext& context) {
  Console& console = context.console;
  bool json = false;
  FlagDuration wait;
  FlagTable flags;
  flags.Section("Flags");
  flags.AddSwitch("json", &json, "One JSON object: the health service's word, and the daemon's status.");
  flags.Add("wait", &wait, "TIME", "Ask again for up to this long until the daemon is serving.");
  AddConnectionFlags(flags, &context.connection);
  const absl::StatusOr<ParsedArgs> parsed = flags.Parse(args);
  if (!parsed.ok()) return UsageError("status", parsed.status().message(), console);
  if (parsed->help) {
    console.out << kUsage << flags.Help();
    return kExitOk;
  }
  if (!parsed->positional.empty()) return UsageError("status", "no arguments are expected", console);

  const auto channel = OpenChannel(context.connection);
  if (!channel.ok()) return Failed(channel.status().message(), console);
  const auto health_stub = Health::NewStub(*channel);
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::milliseconds(wait.ms);
  HealthResponse health;
  grpc::Status called = CheckHealth(*health_stub, context, &health);
  while ((!called.ok() || health.status() != HealthResponse::SERVING) && !context.active.cancelled() &&
         std::chrono::steady_clock::now() < give_up) {
    std::this_thread::sleep_for(kPollInterval);
    called = CheckHealth(*health_stub, context, &health);
  }
  if (!called.ok()) return CallFailed(called, context);

  grpc::ClientContext call;
  SetDeadline(call, context.connection.timeout, kShortCallTimeoutMs);
  ActiveCall::Scope scope(context.active, call);
  v1::GetStatusResponse status;
  called = v1::AdminService::NewStub(*channel)->GetStatus(&call, {}, &status);
  if (!called.ok()) return CallFailed(called, context);

  const std::string& health_name = HealthResponse::ServingStatus_Name(health.status());
  if (json) {
    console.out << absl::StrCat("{\"health\":\"", health_name, "\",\"status\":", ToJson(status), "}\n");
  } else {
    PrintTable(status, context.connection.server, console.out);
    if (health.status() != HealthResponse::SERVING) {
      console.out << "  health     " << health_name << "\n";
    }
  }
  return health.status() == HealthResponse::SERVING ? kExitOk : kExitFailed;
}

}  // namespace spillway::client
