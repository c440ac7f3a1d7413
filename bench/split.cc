#include "bench/split.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "bench/report.h"
#include "bench/split_session.h"
#include "client/flags.h"
#include "scheduler/split_problem.h"

namespace spillway::bench {
namespace {

using client::ExitCode;
using client::FlagTable;

constexpr absl::string_view kUsage =
    "spillway-bench split: decode steps of random-weight models behind an EMULATED link, by how cached "
    "tokens\n"
    "reach attention. It proves byte accounting, overlap and the linear program, not PCIe.\n\n"
    "usage: spillway-bench split [flags]\n\n"
    "Examples:\n"
    "  spillway-bench split\n"
    "  spillway-bench split --quick --json=-\n\n"
    "Columns:\n"
    "  x share     of the carried tokens, carried as X and rebuilt\n"
    "  predicted   the busiest resource by the linear program's rows, from two calibrating steps (all K and "
    "V, all X)\n"
    "  link busy   of the step\n\n";

struct Options {
  double link_mb_per_s = 100;
  int32_t sequences = 8;
  int32_t context = 512;
  int32_t steps = 5;
  int32_t threads = 0;
  bool quick = false;
  std::string json;
};

void AddFlags(FlagTable& flags, Options* options) {
  flags.Section("Flags");
  flags.Add("link_mb_per_s", &options->link_mb_per_s, "MB", "Rate of the emulated link. Default: 100.");
  flags.Add("sequences", &options->sequences, "N", "Sequences of a step. Default: 8.");
  flags.Add("context", &options->context, "N", "Cached tokens of each, a multiple of 32. Default: 512.");
  flags.Add("steps", &options->steps, "N", "Measured steps of each row; their median counts. Default: 5.");
  flags.Add("threads", &options->threads, "N", "Threads that compute. Default: the cores of this process.");
  flags.AddSwitch("quick", &options->quick,
                  "Fewer rows and three steps of each: under a minute on two cores.");
  flags.Add("json", &options->json, "FILE", "The report as JSON; - is stdout, and the table goes to stderr.");
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Steps of one kind.
struct Measured {
  std::vector<double> wall_s;
  exec::StepStats last;

  double step_s() const { return Median(wall_s); }
  double Lane(exec::Lane lane) const {
    return static_cast<double>(last.lanes[static_cast<size_t>(lane)].busy_ns) / 1e9;
  }
  double link_busy_share() const {
    return (Lane(exec::Lane::kKvLoad) + Lane(exec::Lane::kXLoad)) / (static_cast<double>(last.wall_ns) / 1e9);
  }
};

absl::StatusOr<Measured> Measure(SplitSession& session, const SplitBatch& batch, double x_share,
                                 int32_t steps, exec::SplitMode mode = exec::SplitMode::kAuto) {
  Measured measured;
  SPILLWAY_RETURN_IF_ERROR(session.Step(batch, x_share, mode).status());  // warm
  for (int32_t i = 0; i < steps; ++i) {
    SPILLWAY_ASSIGN_OR_RETURN(measured.last, session.Step(batch, x_share, mode));
    measured.wall_s.push_back(static_cast<double>(measured.last.wall_ns) / 1e9);
  }
  return measured;
}

// The step as the linear program sees it: rates from a step that carries everything as K and V and, where X
// is stored, one that carries everything as X.
scheduler::SplitInputs Calibrate(const SplitSession& session, const Options& options, const Measured& as_kv,
                                 const Measured* as_x, double carried_tokens) {
  const kv::Geometry& geometry = session.geometry();
  const double layers = geometry.n_layers;
  scheduler::SplitInputs in;
  in.beta_bytes = static_cast<double>(geometry.beta_bytes());
  in.chi_bytes = static_cast<double>(geometry.chi_bytes());
  in.head_s = static_cast<double>(as_kv.last.head_ns) / 1e9;
  in.rates.link_in_bytes_per_s = options.link_mb_per_s * 1e6;
  in.rates.link_out_bytes_per_s = in.rates.link_in_bytes_per_s;
  in.rates.link_both_bytes_per_s = 2 * in.rates.link_in_bytes_per_s;
  in.rates.host_memory_bytes_per_s = 1e11;
  const double compute_s = as_kv.Lane(exec::Lane::kCompute);
  double rebuild_s = 1;  // of no use where there is no X
  if (as_x != nullptr) {
    const double more_s = as_x->Lane(exec::Lane::kCompute) - compute_s;
    rebuild_s = std::max(more_s, 1e-9) / layers / carried_tokens;
  }
  in.rates.rebuild.pieces = {{0, rebuild_s}};
  scheduler::LayerGroup group;
  group.n_layers = geometry.n_layers;
  group.linear_s = std::max(0.0, compute_s - in.head_s) / layers;
  (session.form() == kv::Form::kBoth ? group.host_both_tokens : group.host_kv_tokens) = carried_tokens;
  in.groups = {group};
  return in;
}

double PredictedStep(const scheduler::SplitInputs& in, double x_share) {
  scheduler::GroupSplit split;
  const scheduler::LayerGroup& group = in.groups.front();
  const double tokens = group.host_both_tokens + group.host_kv_tokens;
  split.carried_x_tokens = x_share * tokens;
  split.carried_kv_tokens = tokens - split.carried_x_tokens;
  split.host_both_tokens = group.host_both_tokens;
  split.host_kv_tokens = group.host_kv_tokens;
  return scheduler::EvaluateSplit(in, {split}).step_s;
}

class SplitBenchmark {
 public:
  SplitBenchmark(const Options& options, std::ostream& out, nlohmann::json* report,
                 const std::atomic<bool>& stop)
      : options_(options), out_(out), report_(*report), stop_(stop) {}

  absl::Status Run() {
    report_["rows"] = nlohmann::json::array();
    report_["ratios"] = nlohmann::json::object();
    SPILLWAY_RETURN_IF_ERROR(MultiHead());
    SPILLWAY_RETURN_IF_ERROR(Grouped());
    if (!errors_.empty()) Ratio("prediction_error_median", Median(errors_));
    return absl::OkStatus();
  }

 private:
  SplitBatch Batch() const { return {options_.sequences, options_.context, 0}; }
  int64_t Tokens() const { return int64_t{options_.sequences} * options_.context; }

  absl::StatusOr<std::unique_ptr<SplitSession>> Session(const SplitShape& shape, int64_t resident_tokens) {
    SplitOptions options;
    options.shape = shape;
    options.link_bytes_per_s = options_.link_mb_per_s * 1e6;
    options.threads = options_.threads;
    options.max_sequences = options_.sequences;
    options.max_cached_tokens = Tokens();
    options.resident_tokens = resident_tokens;
    return SplitSession::Create(options);
  }

  void Heading(const std::string& shape) {
    out_ << absl::StrFormat("\n%s, %d sequences of %d cached tokens, link %.0f MB/s (emulated)\n", shape,
                            options_.sequences, options_.context, options_.link_mb_per_s);
    out_ << "  mode                x share    ms a step   predicted   link busy\n";
  }

  void Row(const std::string& shape, const std::string& mode, double x_share, const Measured& measured,
           double predicted_s) {
    out_ << absl::StrFormat("  %-18s %8.2f %12.1f %11.1f %10.1f %%\n", mode, x_share, measured.step_s() * 1e3,
                            predicted_s * 1e3, measured.link_busy_share() * 100);
    report_["rows"].push_back({{"shape", shape},
                               {"mode", mode},
                               {"sequences", options_.sequences},
                               {"context", options_.context},
                               {"link_mb_per_s", options_.link_mb_per_s},
                               {"x_share", x_share},
                               {"step_s", measured.wall_s},
                               {"predicted_s", predicted_s},
                               {"compute_busy_s", measured.Lane(exec::Lane::kCompute)},
                               {"kv_load_busy_s", measured.Lane(exec::Lane::kKvLoad)},
                               {"x_load_busy_s", measured.Lane(exec::Lane::kXLoad)},
                               {"link_busy_share", measured.link_busy_share()}});
  }

  void Ratio(const std::string& name, double value) {
    out_ << absl::StrFormat("  %-30s %.3f\n", name, value);
    report_["ratios"][name] = value;
  }

  absl::Status MultiHead() {
    const SplitShape shape = MultiHeadShape();
    SPILLWAY_ASSIGN_OR_RETURN(const std::unique_ptr<SplitSession> session, Session(shape, 0));
    const int32_t steps = options_.quick ? 3 : options_.steps;
    SPILLWAY_ASSIGN_OR_RETURN(const Measured as_kv, Measure(*session, Batch(), 0, steps));
    SPILLWAY_ASSIGN_OR_RETURN(const Measured as_x, Measure(*session, Batch(), 1, steps));
    scheduler::SplitInputs in = Calibrate(*session, options_, as_kv, &as_x, static_cast<double>(Tokens()));
    SPILLWAY_ASSIGN_OR_RETURN(const scheduler::SplitSolution best, scheduler::SolveSplit(in));
    const double best_share = best.groups.front().carried_x_tokens / static_cast<double>(Tokens());

    Heading(shape.name);
    Row(shape.name, "transfer", 0, as_kv, PredictedStep(in, 0));
    const std::vector<double> shares =
        options_.quick ? std::vector<double>{0.5} : std::vector<double>{0.25, 0.5, 0.75};
    for (const double share : shares) {
      if (stop_) return absl::OkStatus();
      SPILLWAY_ASSIGN_OR_RETURN(const Measured measured, Measure(*session, Batch(), share, steps));
      Row(shape.name, "fixed", share, measured, PredictedStep(in, share));
      errors_.push_back(std::abs(PredictedStep(in, share) / measured.step_s() - 1));
    }
    Row(shape.name, "rebuild", 1, as_x, PredictedStep(in, 1));
    SPILLWAY_ASSIGN_OR_RETURN(const Measured chosen, Measure(*session, Batch(), best_share, steps));
    Row(shape.name, "auto", best_share, chosen, best.step_s);
    errors_.push_back(std::abs(best.step_s / chosen.step_s() - 1));
    SPILLWAY_RETURN_IF_ERROR(Serial(*session, shape, in, chosen.step_s()));
    Ratio("mha_auto_over_transfer", as_kv.step_s() / chosen.step_s());
    Ratio("link_busy_share", chosen.link_busy_share());
    return Resident(shape, as_kv.step_s());
  }

  // The KVPR paper's form at its own optimum.
  absl::Status Serial(SplitSession& session, const SplitShape& shape, scheduler::SplitInputs in,
                      double auto_s) {
    in.mode = exec::SplitMode::kSerial;
    SPILLWAY_ASSIGN_OR_RETURN(const scheduler::SplitSolution best, scheduler::SolveSplit(in));
    const double share = best.groups.front().carried_x_tokens / static_cast<double>(Tokens());
    SPILLWAY_ASSIGN_OR_RETURN(const Measured serial,
                              Measure(session, Batch(), share, options_.quick ? 3 : options_.steps, in.mode));
    Row(shape.name, "serial", share, serial, best.step_s);
    Ratio("mha_auto_over_serial", serial.step_s() / auto_s);
    Ratio("serial_over_predicted", serial.step_s() / best.step_s);
    return absl::OkStatus();
  }

  // Half of the tokens resident as K and V against none, both carrying the rest as K and V.
  absl::Status Resident(const SplitShape& shape, double none_s) {
    SPILLWAY_ASSIGN_OR_RETURN(const std::unique_ptr<SplitSession> session, Session(shape, Tokens() / 2));
    SPILLWAY_RETURN_IF_ERROR(session->MakeResident(Batch(), Tokens() / 2));
    SPILLWAY_ASSIGN_OR_RETURN(const Measured half,
                              Measure(*session, Batch(), 0, options_.quick ? 3 : options_.steps));
    const int64_t resident = half.last.tokens.resident_kv_tokens;
    Row(shape.name, absl::StrCat("resident ", resident * 100 / Tokens(), " %"), 0, half, 0);
    Ratio("resident_half_over_none", none_s / half.step_s());
    return absl::OkStatus();
  }

  absl::Status Grouped() {
    const SplitShape shape = GroupedShape();
    SPILLWAY_ASSIGN_OR_RETURN(const std::unique_ptr<SplitSession> session, Session(shape, 0));
    const int32_t steps = options_.quick ? 3 : options_.steps;
    SPILLWAY_ASSIGN_OR_RETURN(const Measured as_kv, Measure(*session, Batch(), 0, steps));
    const scheduler::SplitInputs in =
        Calibrate(*session, options_, as_kv, nullptr, static_cast<double>(Tokens()));
    SPILLWAY_ASSIGN_OR_RETURN(const scheduler::SplitSolution best, scheduler::SolveSplit(in));
    const double share = best.groups.front().carried_x_tokens / static_cast<double>(Tokens());
    Heading(shape.name);
    Row(shape.name, "transfer", 0, as_kv, PredictedStep(in, 0));
    SPILLWAY_ASSIGN_OR_RETURN(const Measured chosen, Measure(*session, Batch(), share, steps));
    Row(shape.name, "auto", share, chosen, best.step_s);
    Ratio("gqa_auto_over_transfer", as_kv.step_s() / chosen.step_s());
    return absl::OkStatus();
  }

  const Options options_;
  std::ostream& out_;
  nlohmann::json& report_;
  const std::atomic<bool>& stop_;
  std::vector<double> errors_;
};

std::string Complaint(const Options& options) {
  if (!(options.link_mb_per_s >= 1 && options.link_mb_per_s <= 1e5))
    return "--link_mb_per_s must be in 1..100000";
  if (options.sequences < 1 || options.sequences > 64) return "--sequences must be in 1..64";
  if (options.context < 32 || options.context > 8192 || options.context % 32 != 0) {
    return "--context must be a multiple of 32 in 32..8192";
  }
  if (options.steps < 1 || options.steps > 1000) return "--steps must be in 1..1000";
  return "";
}

}  // namespace

ExitCode RunSplit(absl::Span<const std::string> args, client::Console& console,
                  const std::atomic<bool>& stop) {
  Options options;
  FlagTable flags;
  AddFlags(flags, &options);
  const absl::StatusOr<client::ParsedArgs> parsed = flags.Parse(args);
  std::string complaint;
  if (!parsed.ok()) {
    complaint = std::string(parsed.status().message());
  } else if (parsed->help) {
    console.out << kUsage << flags.Help();
    return client::kExitOk;
  } else {
    complaint = parsed->positional.empty() ? Complaint(options) : "no arguments are expected";
  }
  if (!complaint.empty()) {
    console.err << "spillway-bench: " << complaint << "\n  remedy: see `spillway-bench split --help`\n";
    return client::kExitUsage;
  }
  std::ostream& out = TableStream(options.json, console);
  nlohmann::json report = NewReport("split", args);
  report["machine"]["load_average"] = LoadAverage();
  report["link"] = "emulated";
  SplitBenchmark benchmark(options, out, &report, stop);
  absl::Status status = benchmark.Run();
  if (status.ok()) status = WriteReport(report, options.json, console);
  if (status.ok()) return client::kExitOk;
  console.err << "spillway-bench: " << status.message() << "\n";
  return client::kExitFailed;
}

}  // namespace spillway::bench
