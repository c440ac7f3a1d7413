// `spillway trace`: records what the daemon's lanes do, and writes it as Perfetto (and chrome://tracing) read
// it: the Trace Event Format, complete events in microseconds.
#include <algorithm>
#include <array>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/bytes.h"
#include "client/call_error.h"
#include "client/channel.h"
#include "client/commands.h"
#include "nlohmann/json.hpp"
#include "spillway/v1/admin.grpc.pb.h"

namespace spillway::client {
namespace {

constexpr absl::string_view kUsage =
    "spillway trace: what each lane of the daemon did and when, for a while: which copies overlap which "
    "computation,\nand who waits for whom. Open the file at https://ui.perfetto.dev.\n\n"
    "usage: spillway trace [flags]\n\n"
    "Examples:\n"
    "  spillway trace                                  # one second, to trace.json\n"
    "  spillway trace --duration=10s --output=slow.json\n\n";

struct LaneName {
  v1::TraceLane lane;
  const char* name;
};
// From top to bottom: what comes in, what computes, what goes out.
constexpr std::array<LaneName, 6> kLanes = {{{v1::TRACE_LANE_WEIGHT_LOAD, "weight load"},
                                             {v1::TRACE_LANE_X_LOAD, "X load"},
                                             {v1::TRACE_LANE_KV_LOAD, "KV load"},
                                             {v1::TRACE_LANE_COMPUTE, "compute"},
                                             {v1::TRACE_LANE_KV_STORE, "KV store"},
                                             {v1::TRACE_LANE_X_STORE, "X store"}}};

nlohmann::json NameEvent(const char* what, int lane, const std::string& name) {
  return {{"ph", "M"}, {"pid", 1}, {"tid", lane}, {"name", what}, {"args", {{"name", name}}}};
}

nlohmann::json EventOf(const v1::TraceSpan& span, int32_t last_layer) {
  const char* const phase = span.prefill() ? "prefill" : "decode";
  std::string name = span.layer() > last_layer ? "head" : absl::StrCat("layer ", span.layer());
  if (span.waiting())
    name = span.lane() == v1::TRACE_LANE_COMPUTE ? "waits for the link" : "waits for compute";
  nlohmann::json args = {{"layer", span.layer()}};
  if (span.step() > 0) {
    args["step"] = span.step();
    args["phase"] = phase;
  }
  if (span.bytes() > 0) {
    args["bytes"] = span.bytes();
    if (span.duration_ns() > 0) {
      args["mb_per_s"] = static_cast<double>(span.bytes()) * 1e3 / static_cast<double>(span.duration_ns());
    }
  }
  return {{"ph", "X"},
          {"pid", 1},
          {"tid", static_cast<int>(span.lane())},
          {"name", name},
          {"cat", span.waiting()    ? "wait"
                  : span.step() > 0 ? phase
                                    : "weights"},
          {"ts", static_cast<double>(span.begin_ns()) / 1e3},
          {"dur", static_cast<double>(span.duration_ns()) / 1e3},
          {"args", args}};
}

std::string PerfettoTrace(const v1::RecordTraceResponse& response, absl::string_view server) {
  nlohmann::json events = nlohmann::json::array();
  events.push_back(
      NameEvent("process_name", 0, absl::StrCat("spillwayd ", response.model(), " on ", response.device())));
  for (const LaneName& lane : kLanes) {
    events.push_back(NameEvent("thread_name", lane.lane, lane.name));
    events.push_back({{"ph", "M"},
                      {"pid", 1},
                      {"tid", static_cast<int>(lane.lane)},
                      {"name", "thread_sort_index"},
                      {"args", {{"sort_index", &lane - kLanes.data()}}}});
  }
  // Only compute has a head, which bears the number after the last layer's.
  int32_t last_layer = 0;
  for (const v1::TraceSpan& span : response.spans()) last_layer = std::max(last_layer, span.layer() - 1);
  for (const v1::TraceSpan& span : response.spans()) events.push_back(EventOf(span, last_layer));
  const nlohmann::json trace = {{"traceEvents", events},
                                {"displayTimeUnit", "ms"},
                                {"otherData",
                                 {{"schema_version", 1},
                                  {"server", std::string(server)},
                                  {"model", response.model()},
                                  {"device", response.device()},
                                  {"duration_s", response.duration_s()},
                                  {"dropped_spans", response.dropped_spans()}}}};
  // Names come from a server: what is not UTF-8 is replaced.
  return trace.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

// How busy each lane was; waiting is not working.
void PrintSummary(const v1::RecordTraceResponse& response, std::ostream& out) {
  out << absl::StrFormat("  %-12s %8s %8s %12s %14s\n", "lane", "busy", "waits", "bytes", "while busy");
  for (const LaneName& lane : kLanes) {
    double busy_s = 0;
    double waits_s = 0;
    int64_t bytes = 0;
    for (const v1::TraceSpan& span : response.spans()) {
      if (span.lane() != lane.lane) continue;
      (span.waiting() ? waits_s : busy_s) += static_cast<double>(span.duration_ns()) / 1e9;
      bytes += span.bytes();
    }
    // Compute's waits lie within its visits; a copy's come before it.
    if (lane.lane == v1::TRACE_LANE_COMPUTE) busy_s -= waits_s;
    if (busy_s <= 0 && waits_s <= 0) continue;
    const double whole_s = std::max(response.duration_s(), 1e-9);
    out << absl::StrFormat("  %-12s %6.1f %% %6.1f %% %12s %14s\n", lane.name, 100 * busy_s / whole_s,
                           100 * waits_s / whole_s, bytes > 0 ? FormatBytes(bytes) : "-",
                           bytes > 0 && busy_s > 0
                               ? absl::StrFormat("%.1f MB/s", static_cast<double>(bytes) / busy_s / 1e6)
                               : "-");
  }
}

}  // namespace

ExitCode RunTrace(absl::Span<const std::string> args, CommandContext& context) {
  Console& console = context.console;
  FlagDuration duration{1'000};
  std::string output = "trace.json";
  FlagTable flags;
  flags.Section("Flags");
  flags.Add("duration", &duration, "TIME", "How long to record, at most 60s (1s).");
  flags.Add("output", &output, "FILE", "Where the trace goes; - is standard output (trace.json).");
  AddConnectionFlags(flags, &context.connection);
  const absl::StatusOr<ParsedArgs> parsed = flags.Parse(args);
  if (!parsed.ok()) return UsageError("trace", parsed.status().message(), console);
  if (parsed->help) {
    console.out << kUsage << flags.Help();
    return kExitOk;
  }
  if (!parsed->positional.empty()) return UsageError("trace", "no arguments are expected", console);
  if (duration.ms < 1) return UsageError("trace", "--duration is too short", console);

  v1::RecordTraceRequest request;
  request.set_duration_ms(duration.ms);
  const auto channel = OpenChannel(context.connection);
  if (!channel.ok()) return Failed(channel.status().message(), console);
  grpc::ClientContext call;
  SetDeadline(call, context.connection.timeout, duration.ms + kShortCallTimeoutMs);
  ActiveCall::Scope scope(context.active, call);
  v1::RecordTraceResponse response;
  const grpc::Status called = v1::AdminService::NewStub(*channel)->RecordTrace(&call, request, &response);
  if (!called.ok()) return CallFailed(called, context);

  const std::string trace = PerfettoTrace(response, context.connection.server);
  if (output == "-") {
    console.out << trace;
    return kExitOk;
  }
  std::ofstream file(output, std::ios::binary | std::ios::trunc);
  file << trace << std::flush;
  if (!file.good())
    return Failed(absl::StrCat(output, ": cannot be written; --output names another file"), console);
  if (response.dropped_spans() > 0) {
    console.err << "spillway: the recording was full: " << response.dropped_spans()
                << " later stretches are missing; a shorter --duration holds all\n";
  }
  console.out << absl::StrFormat("%d stretches in %.3f s, written to %s\n", response.spans_size(),
                                 response.duration_s(), output);
  PrintSummary(response, console.out);
  if (response.spans_size() == 0)
    console.out << "  nothing was computed meanwhile\n";
  else
    console.out << "open it at https://ui.perfetto.dev\n";
  return kExitOk;
}

}  // namespace spillway::client
