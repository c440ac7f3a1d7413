#include "bench/gpu.h"

#include <algorithm>
#include <fstream>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "bench/command_line.h"
#include "bench/gpu_measurement.h"
#include "bench/gpu_shape.h"
#include "bench/gpu_targets.h"
#include "bench/report.h"
#include "engine/device/cpu/cpu_device.h"
#include "engine/device/cpu/emulated_link_device.h"
#include "engine/device/cuda/loader.h"
#include "nlohmann/json.hpp"

namespace spillway::bench {
namespace {

constexpr absl::string_view kUsage =
    "spillway-bench gpu: what of a GPU's memory, link and matrix units the engine gets, beside what is asked "
    "of\n"
    "it. Everything is a share of what the same run measured of the same GPU. It has not run on a GPU so "
    "far.\n\n"
    "usage: spillway-bench gpu [flags]\n\n"
    "Examples:\n"
    "  spillway-bench gpu --json=gpu.json\n"
    "  spillway-bench split --device=cuda --quick --json=split.json && spillway-bench gpu "
    "--split=split.json\n"
    "  spillway-bench gpu --device=cpu --tiny\n\n"
    "Of what:\n"
    "  memory      bytes read and written a second by copies of 1 GiB within device memory\n"
    "  link        bytes a second of page-locked copies in of 256 MiB\n"
    "  product     FLOP a second of a bf16 product of 8192 x 8192 x 8192\n"
    "Measured:\n"
    "  rebuild     the product alone: K and V of a ring chunk's rows of X, by a slice of q|k|v\n"
    "  attention   one layer's, keys and values only, from memory that no cache of the GPU holds\n"
    "  decode      whole steps through the daemon's executor, all cached tokens on the device, by the "
    "host's\n"
    "              clock; bytes of all weights but the embedding, and of all keys and values\n"
    "  prefill     a prompt through the daemon's executor, piece by piece; FLOP of the matrices, and of\n"
    "              attention over pairs of a token and one before it\n"
    "  link        keys and values that decode steps carried, by all time from the first to the last\n"
    "The model is of Llama-3-8B's shape with fewer layers, and its whole head, with random weights. \"As 32\n"
    "layers\" estimates the whole model: so much more time as these layers took on the device.\n\n";

struct GpuOptions {
  std::string device = "cuda";
  std::string cuda_module;
  int32_t layers = Llama8BShape().layers;
  bool tiny = false;
  double budget_s = 80;
  std::string split;
  std::string json;
};

std::string Complaint(const GpuOptions& options) {
  if (options.device != "cpu" && options.device != "cuda") return "--device must be cpu or cuda";
  if (options.device == "cpu" && !options.tiny) return "--device=cpu is there to try it out: add --tiny";
  if (options.layers < 1 || options.layers > Llama8BShape().whole_layers) return "--layers must be in 1..32";
  if (!(options.budget_s >= 1 && options.budget_s <= 3600)) return "--budget_s must be in 1..3600";
  return "";
}

absl::StatusOr<std::unique_ptr<device::Device>> MakeDevice(const GpuOptions& options) {
  if (options.device == "cuda") {
    device::cuda::CudaLoadOptions gpu;
    gpu.module_path = options.cuda_module;
    return device::cuda::LoadCudaDevice(gpu);
  }
  device::CpuDeviceOptions cpu;
  cpu.threads = 1;
  cpu.memory_bytes = 64 * kMiB;
  SPILLWAY_ASSIGN_OR_RETURN(std::unique_ptr<device::Device> compute, device::CreateCpuDevice(cpu));
  return device::CreateEmulatedLinkDevice(std::move(compute), {});
}

absl::StatusOr<std::vector<GpuTarget>> ReadSplit(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::InvalidArgumentError(absl::StrCat("--split: ", path, " cannot be read"));
  const nlohmann::json report = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  absl::StatusOr<std::vector<GpuTarget>> targets =
      report.is_object() ? TargetsOfSplit(report) : absl::InvalidArgumentError("it is no JSON");
  if (targets.ok()) return targets;
  return absl::InvalidArgumentError(absl::StrCat(
      "--split: ", path, " is no report of `spillway-bench split`: ", targets.status().message()));
}

nlohmann::json Describe(const device::DeviceInfo& info) {
  return {{"kind", info.kind},
          {"name", info.name},
          {"isa", info.isa},
          {"driver", info.driver},
          {"link", info.link},
          {"emulated_link", info.emulated_link},
          {"dtype", device::NameOf(info.compute_dtype)},
          {"memory_bytes", info.memory_bytes}};
}

}  // namespace

client::ExitCode RunGpu(absl::Span<const std::string> args, client::Console& console,
                        const std::atomic<bool>& stop) {
  GpuOptions options;
  client::FlagTable flags;
  flags.Add("device", &options.device, "cuda|cpu",
            "What computes; cpu, behind an emulated link, to try the program out. Default: cuda.");
  flags.Add("cuda_module", &options.cuda_module, "FILE", "As spillwayd's. Default: beside this program.");
  flags.Add("layers", &options.layers, "N",
            "Of the model, fewer where memory is short; all are 32. Default: 8, in bf16 3.3 GiB beside 2 for "
            "embedding and head.");
  flags.Add("budget_s", &options.budget_s, "S", "Nothing is begun after so long. Default: 80.");
  flags.AddSwitch("tiny", &options.tiny,
                  "Everything very small, for the CPU and the emulated GPU: the numbers mean nothing.");
  flags.Add("split", &options.split, "FILE",
            "A report of `spillway-bench split --device=cuda --json=FILE`, whose link and predictions join "
            "the table.");
  AddJson(flags, &options.json);
  std::vector<GpuTarget> of_split;
  const auto ended = ReadArgs("gpu", kUsage, flags, args, console, [&]() -> std::string {
    std::string complaint = Complaint(options);
    if (!complaint.empty() || options.split.empty()) return complaint;
    absl::StatusOr<std::vector<GpuTarget>> read = ReadSplit(options.split);
    if (!read.ok()) return std::string(read.status().message());
    of_split = std::move(read).value();
    return "";
  });
  if (ended.has_value()) return *ended;

  const MonotonicNs begin_ns = Clock::Real().NowNs();
  nlohmann::json report = NewReport("gpu", args);
  const absl::StatusOr<std::unique_ptr<device::Device>> device = MakeDevice(options);
  if (!device.ok()) return BenchFailed(device.status().message(), console);
  GpuShape shape = options.tiny ? TinyShape() : Llama8BShape();
  if (!options.tiny) shape.layers = options.layers;
  report["device"] = Describe((*device)->info());
  report["shape"] = {{"name", shape.name}, {"layers", shape.layers}, {"whole_layers", shape.whole_layers}};
  report["means_nothing"] = options.tiny;

  GpuMeasurement measurement(**device, shape, options.budget_s, stop, console.err);
  const absl::Status status = measurement.Measure();
  std::vector<GpuTarget> targets = measurement.targets();
  targets.insert(targets.end(), of_split.begin(), of_split.end());

  std::ostream& out = TableStream(options.json, console);
  const device::DeviceInfo& info = (*device)->info();
  out << "\n"
      << info.name << (info.link.empty() ? "" : absl::StrCat(", ", info.link))
      << (info.driver.empty() ? "" : absl::StrCat(", ", info.driver)) << "\n";
  if (options.tiny) out << "NOTE: --tiny: these numbers mean nothing\n";
  PrintTargets(targets, shape.whole_layers, out);
  report.update(measurement.json());
  for (const GpuTarget& target : targets) report["targets"].push_back(ToJson(target));
  report["elapsed_s"] = ToSeconds(Clock::Real().NowNs() - begin_ns);
  if (!status.ok()) report["error"] = std::string(status.message());
  const absl::Status written = WriteReport(report, options.json, console);
  for (const absl::Status& each : {status, written}) {
    if (!each.ok()) return BenchFailed(each.message(), console);
  }
  return client::kExitOk;
}

}  // namespace spillway::bench
