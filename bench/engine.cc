#include "bench/engine.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/bytes.h"
#include "base/status_macros.h"
#include "bench/command_line.h"
#include "bench/engine_session.h"
#include "bench/machine_bounds.h"
#include "bench/report.h"
#include "client/flags.h"

namespace spillway::bench {
namespace {

using client::ExitCode;
using client::FlagTable;

constexpr absl::string_view kUsage =
    "spillway-bench engine: prefill and decode without a network, beside this machine's bounds.\n\n"
    "usage: spillway-bench engine --model=FILE.gguf [flags]\n\n"
    "Examples:\n"
    "  spillway-bench engine --model=$(scripts/fetch-demo-model.sh | tail -1)\n"
    "  spillway-bench engine --model=model.gguf --batches=1,16 --contexts=64,1024 --prefills=512 --json=-\n\n"
    "Columns:\n"
    "  of read bound     the time that reading the weights once takes at this machine's measured read\n"
    "                    bandwidth, of the step's time; lowest and highest of the repeats in brackets\n"
    "  of oneDNN rate    the products of the step at the rate that oneDNN reaches on the same shapes and\n"
    "                    rows, of the step's time; attention and sampling count against the engine\n"
    "  of matrix rate    FLOP a second of the prefill's products, of oneDNN's rate on large square "
    "matrices;\n                    the FLOP of attention are not counted\n"
    "Every row is measured --repeats times, each time beside its bound, so that a disturbance hits both: "
    "the\n"
    "median of the repeats' quotients is shown.\n\n";

// Beyond any cache of a processor's share.
constexpr int64_t kBandwidthBytes = 256 * kMiB;
constexpr int64_t kGemmWeightBytes = 1 * kGiB;
constexpr int64_t kLargeMatrix = 2048;

struct Options {
  EngineOptions engine;
  std::vector<int32_t> batches = {1, 2, 4, 8, 16, 32};
  std::vector<int32_t> contexts = {64, 1024};
  std::vector<int32_t> prefills = {128, 512, 2048, 4096};
  int32_t steps = 32;
  int32_t repeats = 5;
  std::string json;
};

// What the machine can do at most, measured again beside every repeat.
struct Bounds {
  std::unique_ptr<ReadMeter> read;
  std::unique_ptr<GemmMeter> matrix;   // large matrices
  std::vector<double> read_samples;    // bytes a second
  std::vector<double> matrix_samples;  // FLOP a second
};

void AddFlags(FlagTable& flags, Options* options) {
  flags.Section("Flags");
  flags.Add("model", &options->engine.model_path, "FILE", "A GGUF file.");
  flags.Add("threads", &options->engine.threads, "N",
            "Threads that compute. Default: the cores of this process.");
  AddNumbers(flags, "batches", &options->batches, 1, 1'000'000,
             "Sequences of a decode step. Default: 1,2,4,8,16,32.");
  AddNumbers(flags, "contexts", &options->contexts, 1, 1'000'000,
             "Cached tokens of each sequence. Default: 64,1024.");
  AddNumbers(flags, "prefills", &options->prefills, 1, 1'000'000,
             "Prompt lengths. Default: 128,512,2048,4096.");
  flags.Add("steps", &options->steps, "N", "Measured decode steps; their median counts. Default: 32.");
  flags.Add("repeats", &options->repeats, "N", "Times that each row and its bound are measured. Default: 5.");
  flags.Add("chunk_tokens", &options->engine.chunk_rows, "N", "Rows of a prefill's visit. Default: 256.");
  AddJson(flags, &options->json);
}

// The model's products, one entry for each distinct shape.
std::vector<GemmShape> ShapesOf(const model::Model& model) {
  std::vector<GemmShape> shapes;
  const auto add = [&shapes](const device::PackedMatrix& matrix) {
    for (GemmShape& known : shapes) {
      if (known.n == matrix.n && known.k == matrix.k) {
        ++known.count;
        return;
      }
    }
    shapes.push_back({matrix.n, matrix.k, 1});
  };
  for (const model::LayerWeights& layer : model.weights->layers()) {
    for (const device::PackedMatrix* matrix : {&layer.qkv, &layer.attention_output, &layer.up, &layer.down}) {
      add(*matrix);
    }
  }
  add(model.weights->head());
  return shapes;
}

absl::StatusOr<Bounds> MakeBounds(const device::DeviceInfo& info) {
  Bounds bounds;
  bounds.read = std::make_unique<ReadMeter>(info.threads, kBandwidthBytes);
  SPILLWAY_ASSIGN_OR_RETURN(bounds.matrix,
                            GemmMeter::Create(info.threads, info.compute_dtype, kLargeMatrix,
                                              {{kLargeMatrix, kLargeMatrix, 4}}, kGemmWeightBytes));
  return bounds;
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

nlohmann::json Spread(const std::vector<double>& values) {
  return {{"median", Median(values)},
          {"min", *std::min_element(values.begin(), values.end())},
          {"max", *std::max_element(values.begin(), values.end())},
          {"samples", values}};
}

// One row's repeats: seconds, and the quotients of what bounds them.
struct Repeats {
  std::vector<double> seconds;
  std::vector<double> of_read_bound;
  std::vector<double> of_products;
  double cpu_s = 0;
};

absl::StatusOr<Repeats> RepeatDecode(EngineSession& session, const Options& options, int32_t batch,
                                     int32_t context, GemmMeter& products, Bounds& bounds) {
  const auto weight_bytes = static_cast<double>(session.model().weights->read_bytes_per_step());
  const auto row_flop =
      static_cast<double>(LayersFlopPerRow(session.model()) + HeadFlopPerRow(session.model()));
  Repeats repeats;
  for (int32_t i = 0; i < options.repeats; ++i) {
    bounds.read_samples.push_back(bounds.read->Measure(/*passes=*/2));
    SPILLWAY_RETURN_IF_ERROR(session.Decode(batch, context, 3).status());
    SPILLWAY_ASSIGN_OR_RETURN(const std::vector<StepTime> times,
                              session.Decode(batch, context, options.steps));
    SPILLWAY_ASSIGN_OR_RETURN(const double flop_per_s, products.Measure(/*passes=*/3));
    std::vector<double> walls;
    for (const StepTime& time : times) {
      walls.push_back(time.wall_s);
      repeats.cpu_s += time.cpu_s / (options.repeats * options.steps);
    }
    const double step_s = Median(walls);
    repeats.seconds.push_back(step_s);
    repeats.of_read_bound.push_back(weight_bytes / bounds.read_samples.back() / step_s);
    repeats.of_products.push_back(batch * row_flop / flop_per_s / step_s);
  }
  return repeats;
}

absl::Status MeasureDecode(EngineSession& session, const Options& options, Bounds& bounds,
                           const std::atomic<bool>& stop, std::ostream& out, nlohmann::json* rows) {
  const auto weight_bytes = static_cast<double>(session.model().weights->read_bytes_per_step());
  const device::DeviceInfo& info = session.device().info();
  out << absl::StrFormat("  %8s %8s %12s %12s %14s %20s %20s\n", "batch", "context", "ms a step", "tokens/s",
                         "weights GB/s", "of read bound", "of oneDNN rate");
  const auto percent = [](const std::vector<double>& values) {
    return absl::StrFormat("%.1f%% (%.0f-%.0f)", 100 * Median(values),
                           100 * *std::min_element(values.begin(), values.end()),
                           100 * *std::max_element(values.begin(), values.end()));
  };
  for (const int32_t batch : options.batches) {
    SPILLWAY_ASSIGN_OR_RETURN(const std::unique_ptr<GemmMeter> products,
                              GemmMeter::Create(info.threads, info.compute_dtype, batch,
                                                ShapesOf(session.model()), kGemmWeightBytes));
    for (size_t i = 0; i < options.contexts.size() && !stop.load(); ++i) {
      const int32_t context = options.contexts[i];
      SPILLWAY_ASSIGN_OR_RETURN(const Repeats repeats,
                                RepeatDecode(session, options, batch, context, *products, bounds));
      const double step_s = Median(repeats.seconds);
      out << absl::StrFormat("  %8d %8d %12.2f %12.1f %14.2f %20s %20s\n", batch, context, step_s * 1e3,
                             batch / step_s, weight_bytes / step_s / 1e9, percent(repeats.of_read_bound),
                             percent(repeats.of_products))
          << std::flush;
      rows->push_back({{"batch", batch},
                       {"context", context},
                       {"step_ms", step_s * 1e3},
                       {"tokens_per_s", batch / step_s},
                       {"weights_gb_per_s", weight_bytes / step_s / 1e9},
                       {"step_s", Spread(repeats.seconds)},
                       {"of_read_bound", Spread(repeats.of_read_bound)},
                       {"of_onednn_rate", Spread(repeats.of_products)},
                       {"cpu_ms_per_step", repeats.cpu_s * 1e3}});
    }
  }
  return absl::OkStatus();
}

absl::Status MeasurePrefill(EngineSession& session, const Options& options, Bounds& bounds,
                            const std::atomic<bool>& stop, std::ostream& out, nlohmann::json* rows) {
  const auto layers_flop = static_cast<double>(LayersFlopPerRow(session.model()));
  const auto head_flop = static_cast<double>(HeadFlopPerRow(session.model()));
  out << absl::StrFormat("  %8s %21s %12s %14s %15s %18s\n", "prompt", "ms", "tokens/s", "GFLOP/s",
                         "of matrix rate", "attention counted");
  for (const int32_t tokens : options.prefills) {
    if (stop.load()) break;
    const double flop = tokens * layers_flop + head_flop;
    std::vector<double> walls;
    std::vector<double> of_matrix_rate;
    SPILLWAY_RETURN_IF_ERROR(session.Prefill(tokens).status());  // warms up
    for (int32_t i = 0; i < options.repeats; ++i) {
      SPILLWAY_ASSIGN_OR_RETURN(const double flop_per_s, bounds.matrix->Measure(/*passes=*/2));
      bounds.matrix_samples.push_back(flop_per_s);
      SPILLWAY_ASSIGN_OR_RETURN(const StepTime time, session.Prefill(tokens));
      walls.push_back(time.wall_s);
      of_matrix_rate.push_back(flop / time.wall_s / flop_per_s);
    }
    const double seconds = Median(walls);
    // Attention's FLOP grow with the square of the prompt: at some length they are most of the work.
    const double with_attention =
        Median(of_matrix_rate) *
        (1 + static_cast<double>(PromptAttentionFlop(session.model().config, tokens)) / flop);
    out << absl::StrFormat("  %8d %21.1f %12.1f %14.1f %14.1f%% %17.1f%%\n", tokens, seconds * 1e3,
                           tokens / seconds, flop / seconds / 1e9, 100 * Median(of_matrix_rate),
                           100 * with_attention)
        << std::flush;
    rows->push_back({{"prompt_tokens", tokens},
                     {"prefill_ms", seconds * 1e3},
                     {"tokens_per_s", tokens / seconds},
                     {"products_gflop_per_s", flop / seconds / 1e9},
                     {"prefill_s", Spread(walls)},
                     {"of_matrix_rate", Spread(of_matrix_rate)},
                     {"of_matrix_rate_attention_counted", with_attention}});
  }
  return absl::OkStatus();
}

std::string Complaint(const Options& options) {
  if (options.engine.model_path.empty()) return "--model=FILE is needed";
  if (options.steps < 1 || options.steps > 10'000) return "--steps must be in 1..10000";
  if (options.repeats < 1 || options.repeats > 1000) return "--repeats must be in 1..1000";
  if (options.engine.threads < 0) return "--threads must not be negative";
  if (options.engine.chunk_rows < 16 || options.engine.chunk_rows > 8192) {
    return "--chunk_tokens must be in 16..8192";
  }
  return "";
}

}  // namespace

ExitCode RunEngine(absl::Span<const std::string> args, client::Console& console,
                   const std::atomic<bool>& stop) {
  Options options;
  FlagTable flags;
  AddFlags(flags, &options);
  const auto ended =
      ReadArgs("engine", kUsage, flags, args, console, [&options] { return Complaint(options); });
  if (ended.has_value()) return *ended;

  options.engine.max_batch = *std::max_element(options.batches.begin(), options.batches.end());
  options.engine.max_tokens =
      std::max(*std::max_element(options.contexts.begin(), options.contexts.end()) + options.steps + 1,
               *std::max_element(options.prefills.begin(), options.prefills.end()));
  const double busy = LoadAverage();  // before this process adds to it
  const absl::StatusOr<std::unique_ptr<EngineSession>> session = EngineSession::Create(options.engine);
  if (!session.ok()) return BenchFailed(session.status().message(), console);
  absl::StatusOr<Bounds> bounds = MakeBounds((*session)->device().info());
  if (!bounds.ok()) return BenchFailed(bounds.status().message(), console);

  const device::DeviceInfo& info = (*session)->device().info();
  const model::Model& model = (*session)->model();
  std::ostream& out = TableStream(options.json, console);
  out << absl::StrFormat("%s (%s) on %s, computed in %s\n", model.config.name, FormatBytes(model.file_bytes),
                         info.name, device::NameOf(info.compute_dtype));
  out << absl::StrFormat("  weights read a step %s\n", FormatBytes(model.weights->read_bytes_per_step()));
  if (busy > 0.5) {
    out << absl::StrFormat(
        "  NOTE: the machine's load average was %.1f at the start; others take of what is measured\n", busy);
  }
  nlohmann::json report = NewReport("engine", args);
  report["machine"]["load_average"] = busy;
  report["model"] = {{"name", model.config.name},
                     {"file_bytes", model.file_bytes},
                     {"weights_read_bytes_per_step", model.weights->read_bytes_per_step()}};
  report["device"] = {{"name", info.name},
                      {"threads", info.threads},
                      {"isa", info.isa},
                      {"compute_dtype", device::NameOf(info.compute_dtype)}};
  report["decode"] = nlohmann::json::array();
  report["prefill"] = nlohmann::json::array();
  absl::Status measured = MeasureDecode(**session, options, *bounds, stop, out, &report["decode"]);
  if (measured.ok()) measured = MeasurePrefill(**session, options, *bounds, stop, out, &report["prefill"]);
  if (measured.ok() && !bounds->read_samples.empty() && !bounds->matrix_samples.empty()) {
    report["bounds"] = {{"read_bytes_per_s", Spread(bounds->read_samples)},
                        {"matrix_flop_per_s", Spread(bounds->matrix_samples)},
                        {"matrix_rows", kLargeMatrix}};
    out << absl::StrFormat(
        "  memory reads %.1f GB/s (median; best %.1f); oneDNN %.0f GFLOP/s on %d x %d x %d\n",
        Median(bounds->read_samples) / 1e9,
        *std::max_element(bounds->read_samples.begin(), bounds->read_samples.end()) / 1e9,
        Median(bounds->matrix_samples) / 1e9, kLargeMatrix, kLargeMatrix, kLargeMatrix);
  }
  if (measured.ok()) measured = WriteReport(report, options.json, console);
  return measured.ok() ? client::kExitOk : BenchFailed(measured.message(), console);
}

}  // namespace spillway::bench
