#include "bench/split_sweep.h"

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "bench/split_session.h"

namespace spillway::bench {
namespace {

using Planners = std::map<std::string, std::unique_ptr<ModePlanner>>;

// By mode, without those that the model cannot be served with.
absl::StatusOr<Planners> MakePlanners(const SplitMachine& machine, const SplitBenchOptions& options) {
  Planners planners;
  for (const std::string& mode : options.modes) {
    auto planner = ModePlanner::Create(machine, mode, /*feedback=*/false);
    if (absl::IsFailedPrecondition(planner.status()) || absl::IsUnimplemented(planner.status())) continue;
    SPILLWAY_RETURN_IF_ERROR(planner.status());
    planners[mode] = *std::move(planner);
  }
  return planners;
}

absl::Status MeasureRow(const SplitMachine& machine, SplitSession& session, ModePlanner& planner,
                        const std::string& mode, double resident, const SplitBatch& batch, int32_t steps,
                        SplitReport& report) {
  SPILLWAY_ASSIGN_OR_RETURN(SplitMeasured measured,
                            MeasureSteps(session, planner.planner(), batch.phase, steps));
  report.Row({machine.options().model.name, machine.options().link_mb_per_s, mode, resident, batch,
              machine.TransferSeconds(static_cast<double>(batch.distinct_tokens())), std::move(measured)});
  return absl::OkStatus();
}

}  // namespace

absl::Status SweepMachine(const SplitMachine& machine, const SplitBenchOptions& options,
                          const std::atomic<bool>& stop, SplitReport& report) {
  SPILLWAY_ASSIGN_OR_RETURN(const Planners planners, MakePlanners(machine, options));
  SplitSessionOptions session_options;
  session_options.max_sequences = options.sequences_max();
  session_options.max_cached_tokens = options.cached_tokens_max();
  report.Heading();
  {
    SPILLWAY_ASSIGN_OR_RETURN(const auto session, SplitSession::Create(machine, session_options));
    for (const int32_t sequences : options.batches) {
      for (const int32_t context : options.contexts) {
        const SplitBatch batch = UniformBatch(sequences, context);
        SPILLWAY_RETURN_IF_ERROR(session->SetBatch(batch));
        for (const std::string& mode : options.modes) {  // in their order
          if (stop.load()) return absl::OkStatus();
          const auto planner = planners.find(mode);
          if (planner == planners.end()) continue;
          SPILLWAY_RETURN_IF_ERROR(
              MeasureRow(machine, *session, *planner->second, mode, 0, batch, options.steps, report));
        }
      }
    }
  }
  if (options.resident == 0) return absl::OkStatus();
  const auto resident_tokens =
      static_cast<int64_t>(options.resident * static_cast<double>(options.cached_tokens_max()));
  session_options.resident_tokens = resident_tokens;
  SPILLWAY_ASSIGN_OR_RETURN(const auto session, SplitSession::Create(machine, session_options));
  const SplitBatch batch = UniformBatch(options.sequences_max(),
                                        *std::max_element(options.contexts.begin(), options.contexts.end()));
  SPILLWAY_RETURN_IF_ERROR(session->SetBatch(batch));
  SPILLWAY_RETURN_IF_ERROR(session->MakeResident(resident_tokens));
  for (const std::string mode : {"transfer", "auto"}) {
    const auto planner = planners.find(mode);
    if (planner == planners.end() || stop.load()) continue;
    SPILLWAY_RETURN_IF_ERROR(MeasureRow(machine, *session, *planner->second, mode, options.resident, batch,
                                        options.steps, report));
  }
  return absl::OkStatus();
}

void CheckLinkIsBusy(SplitReport& report) {
  const SplitRow* worst = nullptr;
  int bound = 0, idle = 0;
  for (const SplitRow& row : report.rows()) {
    if (row.mode == "serial" || !row.measured.link_binds()) continue;
    ++bound;
    idle += row.measured.link_busy_share() < 0.95;
    if (worst == nullptr || row.measured.link_busy_share() < worst->measured.link_busy_share()) worst = &row;
  }
  if (worst == nullptr) return;
  report.Section("Is the link busy where it is predicted to bind (asked: 95 %)?");
  report.Line(absl::StrFormat("%d of %d such rows reach 95 %%; the worst %.1f %%: %s, %g MB/s, %s, %s",
                              bound - idle, bound, 100 * worst->measured.link_busy_share(), worst->model,
                              worst->link_mb_per_s, worst->batch.Describe(), worst->mode));
  report["link_busy"] = {
      {"rows", bound}, {"rows_below_95_percent", idle}, {"worst_share", worst->measured.link_busy_share()}};
  report.Ratio("link_busy_share", worst->measured.link_busy_share());
}

void SweepRatios(double link_mb_per_s, double resident, SplitReport& report) {
  const auto ratio = [&](const std::string& model, const std::string& slow, double slow_resident,
                         const std::string& fast, double fast_resident) -> std::optional<double> {
    const SplitRow* const a = report.Find(model, link_mb_per_s, slow, slow_resident);
    const SplitRow* const b = report.Find(model, link_mb_per_s, fast, fast_resident);
    if (a == nullptr || b == nullptr) return std::nullopt;
    return a->measured.step_s() / b->measured.step_s();
  };
  report.Ratio("mha_auto_over_transfer", ratio("multi-head", "transfer", 0, "auto", 0));
  report.Ratio("mha_auto_over_serial", ratio("multi-head", "serial", 0, "auto", 0));
  report.Ratio("gqa_auto_over_transfer", ratio("grouped-query", "transfer", 0, "auto", 0));
  // Both carry what is not resident as keys and values.
  report.Ratio("resident_half_over_none", ratio("multi-head", "transfer", 0, "transfer", resident));
}

}  // namespace spillway::bench
