#include "bench/split.h"

#include <algorithm>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "bench/command_line.h"
#include "bench/report.h"
#include "bench/split_checks.h"
#include "bench/split_equality.h"
#include "bench/split_machine.h"
#include "bench/split_options.h"
#include "bench/split_pool.h"
#include "bench/split_prediction.h"
#include "bench/split_report.h"
#include "bench/split_residency.h"
#include "bench/split_streamed.h"
#include "bench/split_sweep.h"

namespace spillway::bench {
namespace {

constexpr absl::string_view kUsage =
    "spillway-bench split: steps of random-weight models behind an EMULATED link, by how cached tokens "
    "reach\n"
    "attention, and how well they were predicted. It proves byte accounting, overlap and the linear "
    "program,\n"
    "not PCIe. With --device=cuda the link is a GPU's own (not run on a GPU so far).\n\n"
    "usage: spillway-bench split [flags]\n\n"
    "Examples:\n"
    "  spillway-bench split --json=split.json && python3 bench/plot_split.py split.json\n"
    "  spillway-bench split --quick --json=-\n"
    "  spillway-bench split --quick --device=cuda --contexts=4096 --json=-\n\n"
    "Columns:\n"
    "  X share     of the carried tokens, carried as X and rebuilt\n"
    "  predicted   by the linear program's rows from the machine's profile alone, which is measured first, "
    "as the\n"
    "              daemon does; no row of the table is part of it\n"
    "  link busy   of the step\n\n";

SplitModel ModelOf(const std::string& name) {
  return name == "multi-head" ? MultiHeadModel() : GroupedQueryModel();
}

// What is measured at one rate of the link: everything but the sweep.
struct AtFirstRate {
  PredictionErrors errors;
  TokenEquality equality;
};

absl::Status MeasureMachine(const std::string& model, double link_mb_per_s, const SplitBenchOptions& options,
                            const std::atomic<bool>& stop, SplitReport& report, AtFirstRate* first) {
  SplitMachineOptions machine_options;
  machine_options.model = ModelOf(model);
  machine_options.cuda = options.device == "cuda";
  machine_options.cuda_module = options.cuda_module;
  machine_options.overlap_kernels = options.overlap_kernels == "auto";
  machine_options.link_mb_per_s = link_mb_per_s;
  machine_options.threads = options.threads;
  machine_options.profile_budget_s = options.profile_s;
  SPILLWAY_ASSIGN_OR_RETURN(const auto machine, SplitMachine::Create(machine_options));
  report.Machine(*machine);
  SPILLWAY_RETURN_IF_ERROR(SweepMachine(*machine, options, stop, report));
  SPILLWAY_RETURN_IF_ERROR(MeasureResidency(*machine, options, stop, report));
  SPILLWAY_RETURN_IF_ERROR(MeasurePool(*machine, options, stop, report));
  if (first == nullptr || stop.load()) return absl::OkStatus();
  // The shapes are divided among the models.
  const auto n_models = static_cast<int>(options.models.size());
  const int n = (options.unseen + n_models - 1) / n_models;
  const uint64_t seed = options.seed + report.json()["machines"].size();
  SPILLWAY_RETURN_IF_ERROR(PredictUnseen(*machine, options, n, seed, stop, report, &first->errors));
  SPILLWAY_RETURN_IF_ERROR(CompareTokens(*machine, options, report, &first->equality));
  if (model != options.models.front()) return absl::OkStatus();
  SPILLWAY_RETURN_IF_ERROR(CheckSharing(*machine, report));
  return options.quick ? absl::OkStatus() : CheckLinear(*machine, options, stop, report);
}

absl::Status Measure(const SplitBenchOptions& options, const std::atomic<bool>& stop, SplitReport& report) {
  AtFirstRate first;
  for (const std::string& model : options.models) {
    for (const double link : options.links_mb_per_s) {
      if (stop.load()) break;
      const bool is_first = link == options.links_mb_per_s.front();
      SPILLWAY_RETURN_IF_ERROR(
          MeasureMachine(model, link, options, stop, report, is_first ? &first : nullptr));
    }
  }
  const bool emulated = options.device == "cpu";
  if (emulated && !options.quick && !stop.load()) {
    SPILLWAY_RETURN_IF_ERROR(CheckLargeContext(ModelOf(options.models.front()), options, report));
  }
  SweepRatios(options.links_mb_per_s.front(), options.resident, report);
  CheckLinkIsBusy(report);
  SummarizeErrors(first.errors, report);
  SummarizeEquality(first.equality, report);
  if (emulated) {
    StreamedOptions streamed;
    streamed.config_json = ModelOf(options.models.front()).config_json;
    streamed.threads = options.threads;
    SPILLWAY_ASSIGN_OR_RETURN(const StreamedResult result, MeasureStreamed(streamed, stop));
    ReportStreamed(streamed, result, report);
  }
  report.PrintRatios();
  return absl::OkStatus();
}

}  // namespace

client::ExitCode RunSplit(absl::Span<const std::string> args, client::Console& console,
                          const std::atomic<bool>& stop) {
  SplitBenchOptions options;
  client::FlagTable flags;
  AddSplitFlags(flags, &options);
  const auto ended = ReadArgs("split", kUsage, flags, args, console, [&] {
    if (options.quick) MakeQuick(&options, SplitBenchOptions(options));
    if (options.device == "cuda") options.links_mb_per_s = {0};  // it is as it is
    return Complaint(options);
  });
  if (ended.has_value()) return *ended;

  const double busy = LoadAverage();  // before this process adds to it
  nlohmann::json head = NewReport("split", args);
  head["machine"]["load_average"] = busy;
  head["link"] = options.device == "cuda" ? "cuda" : "emulated";
  std::ostream& out = TableStream(options.json, console);
  if (busy > 0.5) {
    out << absl::StrFormat(
        "NOTE: the machine's load average was %.1f at the start; others take of what is measured\n", busy);
  }
  SplitReport report(std::move(head), out);
  const MonotonicNs begin_ns = Clock::Real().NowNs();
  absl::Status status = Measure(options, stop, report);
  const double elapsed_s = ToSeconds(Clock::Real().NowNs() - begin_ns);
  report["elapsed_s"] = elapsed_s;
  report.Line(absl::StrFormat("all of it took %.0f s", elapsed_s));
  if (status.ok()) status = WriteReport(report.json(), options.json, console);
  return status.ok() ? client::kExitOk : BenchFailed(status.message(), console);
}

}  // namespace spillway::bench
