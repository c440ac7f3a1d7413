// spillwayd: reads the configuration, chooses the device and serves. The only place that names a device.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "engine/device/cpu/cpu_device.h"
#include "engine/device/cpu/emulated_link_device.h"
#include "engine/device/cuda/loader.h"
#include "google/protobuf/stubs/logging.h"
#include "server/configuration.h"
#include "server/daemon.h"
#include "server/grpc_log.h"
#include "server/healthcheck.h"
#include "server/process_setup.h"
#include "server/settings.h"
#include "server/signal_watch.h"

extern char** environ;

namespace spillway::server {
namespace {

// Under WSL 2 there is only the driver's library, which Windows lends.
bool HasNvidiaGpu() {
  for (const char* path : {"/dev/nvidia0", "/proc/driver/nvidia", "/usr/lib/wsl/lib/libcuda.so.1"}) {
    if (access(path, F_OK) == 0) return true;
  }
  return false;
}

absl::StatusOr<std::unique_ptr<device::Device>> CreateCpuDevice(const Settings& settings) {
  if (settings.weights == "packed") {
    return absl::UnimplementedError(
        "--weights=packed: the CPU does not multiply packed weights; use --weights=expanded");
  }
  device::CpuDeviceOptions options;
  options.threads = static_cast<int32_t>(settings.threads);
  if (settings.dtype == "bf16") options.dtype = device::DType::kBF16;
  if (settings.dtype == "f32") options.dtype = device::DType::kF32;
  options.memory_bytes = settings.device_memory_bytes;
  if (settings.emulated_link_mb_per_s == 0) return device::CreateCpuDevice(options);
  if (settings.device_memory_bytes == 0) {
    return absl::InvalidArgumentError(
        "--emulated_link_mb_per_s needs --device_memory: how much of the host's memory plays the device's");
  }
  SPILLWAY_ASSIGN_OR_RETURN(std::unique_ptr<device::Device> compute, device::CreateCpuDevice(options));
  Log(LogLevel::kWarning,
      "the link between host and device is emulated: timings say nothing of real hardware",
      {{"mb_per_s", settings.emulated_link_mb_per_s}});
  device::StreamEngineOptions link;
  link.link_bytes_per_s = static_cast<double>(settings.emulated_link_mb_per_s) * 1e6;
  link.copy_overhead_us = static_cast<double>(settings.emulated_copy_overhead_us);
  return device::CreateEmulatedLinkDevice(std::move(compute), link);
}

absl::StatusOr<std::unique_ptr<device::Device>> CreateCudaDevice(const Settings& settings) {
  if (settings.emulated_link_mb_per_s != 0) {
    return absl::InvalidArgumentError("--emulated_link_mb_per_s is for the CPU: a GPU has a link of its own");
  }
  device::cuda::CudaLoadOptions options;
  options.module_path = settings.cuda_module;
  options.memory_bytes = settings.device_memory_bytes;
  options.overlap_kernels = settings.overlap_kernels != "off";
  if (settings.dtype == "bf16") options.dtype = device::DType::kBF16;
  if (settings.dtype == "f32") options.dtype = device::DType::kF32;
  SPILLWAY_ASSIGN_OR_RETURN(std::unique_ptr<device::Device> device, device::cuda::LoadCudaDevice(options));
  Log(LogLevel::kInfo, "the GPU computes",
      {{"name", device->info().name}, {"driver", device->info().driver}, {"link", device->info().link}});
  return device;
}

absl::StatusOr<std::unique_ptr<device::Device>> CreateDevice(const Settings& settings) {
  if (settings.device == "cuda") {
    absl::StatusOr<std::unique_ptr<device::Device>> device = CreateCudaDevice(settings);
    if (device.ok()) return device;
    return absl::Status(device.status().code(), absl::StrCat("--device=cuda: ", device.status().message(),
                                                             "; --device=cpu computes without a GPU"));
  }
  if (settings.device == "auto" && HasNvidiaGpu() && settings.emulated_link_mb_per_s == 0) {
    absl::StatusOr<std::unique_ptr<device::Device>> device = CreateCudaDevice(settings);
    if (device.ok()) return device;
    Log(LogLevel::kWarning,
        "AN NVIDIA GPU IS PRESENT BUT NOT USED, the CPU computes; --device=cpu silences this",
        {{"cause", device.status().message()}});
  }
  return CreateCpuDevice(settings);
}

void StartLogging(const Settings& settings) {
  LogLevel level = LogLevel::kInfo;
  if (settings.log_level == "debug") level = LogLevel::kDebug;
  if (settings.log_level == "warning") level = LogLevel::kWarning;
  if (settings.log_level == "error") level = LogLevel::kError;
  SetLogging(level, settings.log_format == "json" ? LogFormat::kJson : LogFormat::kText);
  RouteGrpcLog();
  // Messages that do not parse are the client's to hear of, not the log's.
  google::protobuf::SetLogHandler(nullptr);
}

int Fail(const absl::Status& status) {
  LogLast("spillwayd", status.message());
  return EXIT_FAILURE;
}

int Main(int argc, char** argv) {
  BlockSignals();
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) environment.emplace_back(*entry);
  const absl::StatusOr<Configuration> configuration = ReadConfiguration(arguments, environment);
  if (!configuration.ok()) return Fail(configuration.status());
  switch (configuration->action) {
    case Action::kHelp:
      std::fputs(HelpText().c_str(), stdout);
      return EXIT_SUCCESS;
    case Action::kVersion:
      std::puts("spillwayd " SPILLWAY_VERSION);
      return EXIT_SUCCESS;
    case Action::kPrintConfig:
      std::fputs(PrintedConfiguration(*configuration).c_str(), stdout);
      return EXIT_SUCCESS;
    case Action::kHealthcheck: {
      const absl::Status health = CheckHealth(configuration->settings.metrics_listen);
      return health.ok() ? EXIT_SUCCESS : Fail(health);
    }
    case Action::kServe:
      break;
  }
  StartLogging(configuration->settings);
  RaiseOpenFileLimit();
  ExplainBusErrors();
  const absl::Status status = Serve(configuration->settings, &CreateDevice);
  return status.ok() ? EXIT_SUCCESS : Fail(status);
}

}  // namespace
}  // namespace spillway::server

int main(int argc, char** argv) { return spillway::server::Main(argc, argv); }
