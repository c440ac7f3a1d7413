#include "bench/engine.h"

#include <algorithm>
#include <functional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/bytes.h"
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
    "                    bandwidth, of the step's time\n"
    "  of oneDNN rate    the products of the step at the rate that oneDNN reaches on the same shapes and\n"
    "                    rows, of the step's time; attention and sampling count against the engine\n"
    "  of matrix rate    FLOP a second of the prefill's products, of oneDNN's rate on large square "
    "matrices\n\n";

// Beyond any cache of a processor's share.
constexpr int64_t kBandwidthBytes = 768 * kMiB;
constexpr int64_t kGemmWeightBytes = 1 * kGiB;
constexpr int64_t kLargeMatrix = 2048;

struct Options {
  EngineOptions engine;
  std::vector<int32_t> batches = {1, 2, 4, 8, 16, 32};
  std::vector<int32_t> contexts = {64, 1024};
  std::vector<int32_t> prefills = {128, 512, 2048, 4096};
  int32_t steps = 32;
  std::string json;
};

struct Bounds {
  double read_bytes_per_s = 0;
  double matrix_flop_per_s = 0;             // large matrices
  std::vector<double> products_flop_per_s;  // [batches]: the model's shapes at so many rows
};

absl::Status ParseList(absl::string_view text, std::vector<int32_t>* list) {
  list->clear();
  for (const absl::string_view part : absl::StrSplit(text, ',')) {
    int32_t value = 0;
    if (!absl::SimpleAtoi(part, &value) || value < 1 || value > 1'000'000) {
      return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is not a list such as 1,4,16"));
    }
    list->push_back(value);
  }
  return absl::OkStatus();
}

void AddFlags(FlagTable& flags, Options* options) {
  flags.Section("Flags");
  flags.Add("model", &options->engine.model_path, "FILE", "A GGUF file.");
  flags.Add("threads", &options->engine.threads, "N",
            "Threads that compute. Default: the cores of this process.");
  flags.AddSetter("batches", "LIST", "Sequences of a decode step. Default: 1,2,4,8,16,32.",
                  [options](absl::string_view text) { return ParseList(text, &options->batches); });
  flags.AddSetter("contexts", "LIST", "Cached tokens of each sequence. Default: 64,1024.",
                  [options](absl::string_view text) { return ParseList(text, &options->contexts); });
  flags.AddSetter("prefills", "LIST", "Prompt lengths. Default: 128,512,2048,4096.",
                  [options](absl::string_view text) { return ParseList(text, &options->prefills); });
  flags.Add("steps", &options->steps, "N", "Measured decode steps; their median counts. Default: 32.");
  flags.Add("chunk_tokens", &options->engine.chunk_rows, "N", "Rows of a prefill's visit. Default: 256.");
  flags.Add("json", &options->json, "FILE", "The report as JSON; - is stdout, and the table goes to stderr.");
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

absl::StatusOr<Bounds> MeasureBounds(const EngineSession& session, const Options& options) {
  const device::DeviceInfo& info = session.device().info();
  Bounds bounds;
  bounds.read_bytes_per_s = MeasureReadBandwidth(info.threads, kBandwidthBytes, /*passes=*/5);
  const auto rate = [&info](int64_t rows, const std::vector<GemmShape>& shapes, int passes) {
    return MeasureGemmRate(info.threads, info.compute_dtype, rows, shapes, kGemmWeightBytes, passes);
  };
  absl::StatusOr<double> matrix = rate(kLargeMatrix, {{kLargeMatrix, kLargeMatrix, 4}}, 5);
  if (!matrix.ok()) return matrix.status();
  bounds.matrix_flop_per_s = *matrix;
  for (const int32_t batch : options.batches) {
    absl::StatusOr<double> products = rate(batch, ShapesOf(session.model()), 5);
    if (!products.ok()) return products.status();
    bounds.products_flop_per_s.push_back(*products);
  }
  return bounds;
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

absl::Status MeasureDecode(EngineSession& session, const Options& options, const Bounds& bounds,
                           const std::atomic<bool>& stop, std::ostream& out, nlohmann::json* rows) {
  const auto weight_bytes = static_cast<double>(session.model().weights->read_bytes_per_step());
  const auto row_flop =
      static_cast<double>(LayersFlopPerRow(session.model()) + HeadFlopPerRow(session.model()));
  out << absl::StrFormat("  %8s %8s %12s %12s %14s %15s %15s\n", "batch", "context", "ms a step", "tokens/s",
                         "weights GB/s", "of read bound", "of oneDNN rate");
  for (const int32_t context : options.contexts) {
    for (size_t i = 0; i < options.batches.size() && !stop.load(); ++i) {
      const int32_t batch = options.batches[i];
      if (absl::Status warm = session.Decode(batch, context, 3).status(); !warm.ok()) return warm;
      const absl::StatusOr<std::vector<StepTime>> times = session.Decode(batch, context, options.steps);
      if (!times.ok()) return times.status();
      std::vector<double> walls;
      double cpu_s = 0;
      for (const StepTime& time : *times) {
        walls.push_back(time.wall_s);
        cpu_s += time.cpu_s;
      }
      const double step_s = Median(walls);
      const double of_read_bound = weight_bytes / bounds.read_bytes_per_s / step_s;
      const double of_products = batch * row_flop / bounds.products_flop_per_s[i] / step_s;
      out << absl::StrFormat("  %8d %8d %12.2f %12.1f %14.2f %14.1f%% %14.1f%%\n", batch, context,
                             step_s * 1e3, batch / step_s, weight_bytes / step_s / 1e9, 100 * of_read_bound,
                             100 * of_products)
          << std::flush;
      rows->push_back({{"batch", batch},
                       {"context", context},
                       {"step_ms", step_s * 1e3},
                       {"tokens_per_s", batch / step_s},
                       {"weights_gb_per_s", weight_bytes / step_s / 1e9},
                       {"of_read_bound", of_read_bound},
                       {"of_onednn_rate", of_products},
                       {"onednn_gflop_per_s", bounds.products_flop_per_s[i] / 1e9},
                       {"cpu_ms_per_step", cpu_s / options.steps * 1e3}});
    }
  }
  return absl::OkStatus();
}

absl::Status MeasurePrefill(EngineSession& session, const Options& options, const Bounds& bounds,
                            const std::atomic<bool>& stop, std::ostream& out, nlohmann::json* rows) {
  const auto layers_flop = static_cast<double>(LayersFlopPerRow(session.model()));
  const auto head_flop = static_cast<double>(HeadFlopPerRow(session.model()));
  out << absl::StrFormat("  %8s %21s %12s %14s %15s\n", "prompt", "ms", "tokens/s", "GFLOP/s",
                         "of matrix rate");
  for (const int32_t tokens : options.prefills) {
    if (stop.load()) break;
    std::vector<double> walls;
    // At least three, and about two seconds: a single run is at the mercy of its neighbours.
    double total_s = 0;
    for (int run = 0; run < 16 && (run < 4 || total_s < 2); ++run) {
      const absl::StatusOr<StepTime> time = session.Prefill(tokens);
      if (!time.ok()) return time.status();
      if (run > 0) walls.push_back(time->wall_s);
      total_s += time->wall_s;
    }
    const double seconds = Median(walls);
    const double rate = (tokens * layers_flop + head_flop) / seconds;
    out << absl::StrFormat("  %8d %21.1f %12.1f %14.1f %14.1f%%\n", tokens, seconds * 1e3, tokens / seconds,
                           rate / 1e9, 100 * rate / bounds.matrix_flop_per_s)
        << std::flush;
    rows->push_back({{"prompt_tokens", tokens},
                     {"prefill_ms", seconds * 1e3},
                     {"tokens_per_s", tokens / seconds},
                     {"products_gflop_per_s", rate / 1e9},
                     {"of_matrix_rate", rate / bounds.matrix_flop_per_s}});
  }
  return absl::OkStatus();
}

std::string Complaint(const Options& options) {
  if (options.engine.model_path.empty()) return "--model=FILE is needed";
  if (options.steps < 1 || options.steps > 10'000) return "--steps must be in 1..10000";
  if (options.engine.threads < 0) return "--threads must not be negative";
  if (options.engine.chunk_rows < 16 || options.engine.chunk_rows > 8192) {
    return "--chunk_tokens must be in 16..8192";
  }
  return "";
}

ExitCode Fail(absl::string_view message, client::Console& console) {
  console.err << "spillway-bench: " << message << "\n";
  return client::kExitFailed;
}

}  // namespace

ExitCode RunEngine(absl::Span<const std::string> args, client::Console& console,
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
    console.err << "spillway-bench: " << complaint << "\n  remedy: see `spillway-bench engine --help`\n";
    return client::kExitUsage;
  }

  options.engine.max_batch = *std::max_element(options.batches.begin(), options.batches.end());
  options.engine.max_tokens =
      std::max(*std::max_element(options.contexts.begin(), options.contexts.end()) + options.steps + 1,
               *std::max_element(options.prefills.begin(), options.prefills.end()));
  const double busy = LoadAverage();  // before this process adds to it
  const absl::StatusOr<std::unique_ptr<EngineSession>> session = EngineSession::Create(options.engine);
  if (!session.ok()) return Fail(session.status().message(), console);
  const absl::StatusOr<Bounds> bounds = MeasureBounds(**session, options);
  if (!bounds.ok()) return Fail(bounds.status().message(), console);

  const device::DeviceInfo& info = (*session)->device().info();
  const model::Model& model = (*session)->model();
  std::ostream& out = TableStream(options.json, console);
  out << absl::StrFormat("%s (%s) on %s, computed in %s\n", model.config.name, FormatBytes(model.file_bytes),
                         info.name, device::NameOf(info.compute_dtype));
  out << absl::StrFormat(
      "  weights read a step %s; memory reads %.1f GB/s; oneDNN %.0f GFLOP/s on %d x %d x %d\n",
      FormatBytes(model.weights->read_bytes_per_step()), bounds->read_bytes_per_s / 1e9,
      bounds->matrix_flop_per_s / 1e9, kLargeMatrix, kLargeMatrix, kLargeMatrix);
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
  report["bounds"] = {{"read_gb_per_s", bounds->read_bytes_per_s / 1e9},
                      {"matrix_gflop_per_s", bounds->matrix_flop_per_s / 1e9},
                      {"matrix_rows", kLargeMatrix}};
  report["decode"] = nlohmann::json::array();
  report["prefill"] = nlohmann::json::array();
  absl::Status measured = MeasureDecode(**session, options, *bounds, stop, out, &report["decode"]);
  if (measured.ok()) measured = MeasurePrefill(**session, options, *bounds, stop, out, &report["prefill"]);
  if (measured.ok()) measured = WriteReport(report, options.json, console);
  return measured.ok() ? client::kExitOk : Fail(measured.message(), console);
}

}  // namespace spillway::bench
