#include "engine/device/cuda/gpu.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/status_macros.h"
#include "engine/device/cuda/cuda_error.h"
#include "engine/device/cuda/kernels.h"
#include "engine/device/cuda/pci_link.h"

namespace spillway::device::cuda {
namespace {

// Compute capability 8.0: bf16 matrix products and asynchronous copies to shared memory.
constexpr int kMajorMin = 8;

// For the context, cuBLASLt's kernels and whatever else the driver takes while work runs.
constexpr int64_t kReserveBytes = 512 * kMiB;

}  // namespace

absl::StatusOr<Gpu> FindGpu(absl::string_view pci_devices) {
  int driver_version = 0;
  int runtime_version = 0;
  (void)cudaDriverGetVersion(&driver_version);  // stays 0 where there is none
  (void)cudaRuntimeGetVersion(&runtime_version);
  int n_gpus = 0;
  const cudaError_t counted = cudaGetDeviceCount(&n_gpus);
  if (counted != cudaSuccess || n_gpus == 0) return NoGpuStatus(counted, driver_version, runtime_version);
  SPILLWAY_RETURN_IF_ERROR(CudaStatus(cudaSetDevice(0), "starting the GPU"));
  cudaDeviceProp properties{};
  SPILLWAY_RETURN_IF_ERROR(CudaStatus(cudaGetDeviceProperties(&properties, 0), "asking what the GPU is"));

  Gpu gpu;
  gpu.name = properties.name;
  gpu.isa = absl::StrCat("sm_", properties.major, properties.minor);
  gpu.processors = properties.multiProcessorCount;
  gpu.reaches_host_addresses = properties.canUseHostPointerForRegisteredMem != 0;
  if (properties.major < kMajorMin) {
    return absl::FailedPreconditionError(absl::StrCat(
        gpu.name, " has compute capability ", properties.major, ".", properties.minor, "; Spillway needs ",
        kMajorMin, ".0 (Ampere) or later: use another GPU or --device=cpu"));
  }
  int compiled_for = 0;
  SPILLWAY_RETURN_IF_ERROR(CudaStatus(
      ProbeKernels(&compiled_for), absl::StrCat("looking for kernels for ", gpu.name, " (", gpu.isa, ")")));
  gpu.kernels_can_overlap =
      std::min(compiled_for, 10 * properties.major + properties.minor) >= kOverlapCapabilityMin;
  std::string driver = NvidiaDriverVersion();
  if (driver.empty()) driver = absl::StrCat("for CUDA ", VersionText(driver_version));
  gpu.driver = absl::StrCat("CUDA ", VersionText(runtime_version), ", driver ", driver);
  char bus_id[32] = {};
  (void)cudaDeviceGetPCIBusId(bus_id, sizeof(bus_id), 0);  // stays empty where it does not say
  gpu.link = DescribePciLink(bus_id, pci_devices);
  gpu.numa_node = NumaNodeOf(bus_id, pci_devices);
  return gpu;
}

absl::StatusOr<int64_t> UsableBytes(int64_t wanted_bytes, int64_t own_bytes) {
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  SPILLWAY_RETURN_IF_ERROR(CudaStatus(cudaMemGetInfo(&free_bytes, &total_bytes), "asking for free memory"));
  const int64_t usable_bytes = std::max<int64_t>(static_cast<int64_t>(free_bytes) - own_bytes, 0);
  if (wanted_bytes == 0) return std::max<int64_t>(usable_bytes - kReserveBytes, 0);
  if (wanted_bytes > usable_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "--device_memory asks for ", FormatBytes(wanted_bytes), ", but of the GPU's ",
        FormatBytes(static_cast<int64_t>(total_bytes)), " only ", FormatBytes(usable_bytes),
        " can be had (nvidia-smi shows who holds the rest); lower --device_memory or free memory"));
  }
  return wanted_bytes;
}

}  // namespace spillway::device::cuda
