#include "bench/split_checks.h"

#include <memory>
#include <string>

#include "absl/strings/str_format.h"
#include "base/bytes.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "bench/split_session.h"

namespace spillway::bench {
namespace {

constexpr int32_t kSequences = 8;
constexpr int32_t kLengths[] = {128, 256, 384, 512, 640, 768};

constexpr int64_t kDeviceBytes = 192 * kMiB;
constexpr int32_t kLargeContext = 8192;
constexpr double kLargeLinkMbPerS = 250;
constexpr int32_t kLargeSteps = 2;

}  // namespace

LineFit FitLine(const std::vector<double>& x, const std::vector<double>& y) {
  SPILLWAY_CHECK(x.size() == y.size() && x.size() >= 2);
  const auto n = static_cast<double>(x.size());
  double sum_x = 0, sum_y = 0;
  for (size_t i = 0; i < x.size(); ++i) sum_x += x[i], sum_y += y[i];
  double xx = 0, xy = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double dx = x[i] - sum_x / n, dy = y[i] - sum_y / n;
    xx += dx * dx, xy += dx * dy, yy += dy * dy;
  }
  SPILLWAY_CHECK(xx > 0);
  LineFit fit;
  fit.slope = xy / xx;
  fit.intercept = (sum_y - fit.slope * sum_x) / n;
  fit.r2 = yy > 0 ? xy * xy / (xx * yy) : 1;
  return fit;
}

absl::Status CheckLinear(const SplitMachine& machine, const SplitBenchOptions& options,
                         const std::atomic<bool>& stop, SplitReport& report) {
  SplitSessionOptions session_options;
  session_options.max_cached_tokens = int64_t{kSequences} * kLengths[std::size(kLengths) - 1];
  SPILLWAY_ASSIGN_OR_RETURN(const auto session, SplitSession::Create(machine, session_options));
  report.Section(
      absl::StrFormat("Step time against distinct cached tokens (asked: r2 > 0.99): %s, EMULATED link",
                      machine.options().model.name));
  for (const std::string mode : {"transfer", "auto"}) {
    SPILLWAY_ASSIGN_OR_RETURN(const auto planner, ModePlanner::Create(machine, mode, /*feedback=*/false));
    std::vector<double> tokens, seconds;
    for (const int32_t length : kLengths) {
      for (const int32_t shared : {0, length / 2}) {
        if (stop.load()) return absl::OkStatus();
        const SplitBatch batch = UniformBatch(kSequences, length, shared);
        SPILLWAY_RETURN_IF_ERROR(session->SetBatch(batch));
        SPILLWAY_ASSIGN_OR_RETURN(const SplitMeasured measured,
                                  MeasureSteps(*session, planner->planner(), batch.phase, options.steps));
        tokens.push_back(static_cast<double>(batch.distinct_tokens()));
        seconds.push_back(measured.step_s());
      }
    }
    const LineFit fit = FitLine(tokens, seconds);
    report.Line(absl::StrFormat(
        "%-10s %.2f ms + %.2f us a distinct token, r2 %.5f, %d batches of %.0f to %.0f tokens", mode,
        fit.intercept * 1e3, fit.slope * 1e6, fit.r2, tokens.size(), tokens[1], tokens[tokens.size() - 2]));
    report["linear"].push_back({{"model", machine.options().model.name},
                                {"link_mb_per_s", machine.options().link_mb_per_s},
                                {"mode", mode},
                                {"distinct_tokens", tokens},
                                {"step_s", seconds},
                                {"intercept_s", fit.intercept},
                                {"slope_s_per_token", fit.slope},
                                {"r2", fit.r2}});
  }
  return absl::OkStatus();
}

absl::Status CheckSharing(const SplitMachine& machine, SplitReport& report) {
  const SplitBatch batch = UniformBatch(kSequences, 512, 384);
  SplitSessionOptions session_options;
  session_options.max_cached_tokens = batch.distinct_tokens();
  SPILLWAY_ASSIGN_OR_RETURN(const auto session, SplitSession::Create(machine, session_options));
  SPILLWAY_RETURN_IF_ERROR(session->SetBatch(batch));
  SPILLWAY_ASSIGN_OR_RETURN(const auto planner, ModePlanner::Create(machine, "transfer", /*feedback=*/false));
  SPILLWAY_ASSIGN_OR_RETURN(const SplitStep step, session->Step(planner->planner()));
  const int64_t carried = step.stats.lanes[static_cast<size_t>(exec::Lane::kKvLoad)].bytes;
  const kv::Geometry& geometry = machine.geometry();
  const int64_t distinct = batch.distinct_tokens() * geometry.beta_bytes() * geometry.n_layers;
  report.Section("Is what n readers share carried once?");
  report.Line(
      absl::StrFormat("%d sequences of 512 tokens, 384 of them shared: %s carried, %s are those of the "
                      "distinct tokens, %s those that "
                      "are read",
                      kSequences, FormatBytes(carried), FormatBytes(distinct),
                      FormatBytes(batch.cached_tokens() * geometry.beta_bytes() * geometry.n_layers)));
  report["sharing"] = {{"readers", kSequences}, {"carried_bytes", carried}, {"distinct_bytes", distinct}};
  if (carried == distinct) return absl::OkStatus();
  return absl::InternalError("shared blocks are not carried exactly once");
}

absl::Status CheckLargeContext(const SplitModel& model, const SplitBenchOptions& options,
                               SplitReport& report) {
  SplitMachineOptions machine_options;
  machine_options.model = model;
  machine_options.link_mb_per_s = kLargeLinkMbPerS;
  machine_options.threads = options.threads;
  machine_options.device_memory_bytes = kDeviceBytes;
  machine_options.profile_budget_s = options.profile_s;
  SPILLWAY_ASSIGN_OR_RETURN(const auto machine, SplitMachine::Create(machine_options));
  const kv::Geometry& geometry = machine->geometry();
  const int64_t sequence_bytes = kLargeContext * geometry.beta_bytes() * geometry.n_layers;
  const auto n = static_cast<int32_t>((8 * kDeviceBytes + sequence_bytes - 1) / sequence_bytes);
  const SplitBatch batch = UniformBatch(n, kLargeContext);
  SplitSessionOptions session_options;
  session_options.max_sequences = n;
  session_options.max_cached_tokens = batch.distinct_tokens();
  session_options.prefills = false;
  SPILLWAY_ASSIGN_OR_RETURN(const auto session, SplitSession::Create(*machine, session_options));
  SPILLWAY_RETURN_IF_ERROR(session->SetBatch(batch));
  SPILLWAY_ASSIGN_OR_RETURN(const auto planner, ModePlanner::Create(*machine, "auto", /*feedback=*/false));
  SPILLWAY_ASSIGN_OR_RETURN(const SplitMeasured measured,
                            MeasureSteps(*session, planner->planner(), batch.phase, kLargeSteps));
  const int64_t context_bytes = n * sequence_bytes;
  const double times = static_cast<double>(context_bytes) / static_cast<double>(kDeviceBytes);
  report.Section(absl::StrFormat("A context of eight times the device's memory: %s, EMULATED link of %g MB/s",
                                 model.name, kLargeLinkMbPerS));
  report.Line(absl::StrFormat(
      "%s tokens: %s of keys and values, %.1f times the device's %s; ring %s as for every batch",
      batch.Describe(), FormatBytes(context_bytes), times, FormatBytes(kDeviceBytes),
      FormatBytes(session->ring_bytes())));
  report.Line(absl::StrFormat("%.1f ms a step, predicted %.1f; X share %.2f; link busy %.1f %%",
                              measured.step_s() * 1e3, measured.plan.predicted_step_s * 1e3,
                              measured.x_share(), 100 * measured.link_busy_share()));
  nlohmann::json json = measured.ToJson();
  json["model"] = model.name;
  json["link_mb_per_s"] = kLargeLinkMbPerS;
  json["batch"] = {{"sequences", n}, {"context", kLargeContext}};
  json["context_bytes"] = context_bytes;
  json["device_memory_bytes"] = kDeviceBytes;
  json["device_allocated_bytes"] = session->device_bytes();
  json["ring_bytes"] = session->ring_bytes();
  report["large_context"] = std::move(json);
  return absl::OkStatus();
}

}  // namespace spillway::bench
