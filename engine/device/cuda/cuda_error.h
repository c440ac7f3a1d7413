// What the CUDA runtime and cuBLASLt report, as a Status that names the cause and the way out.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_CUDA_ERROR_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_CUDA_ERROR_H_

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace spillway::device::cuda {

// `what` is what was tried: "copying to the device". OK for cudaSuccess.
absl::Status CudaStatus(cudaError_t error, absl::string_view what);
absl::Status CublasStatus(cublasStatus_t status, absl::string_view what);

// 13000 -> "13.0", as CUDA counts versions.
std::string VersionText(int version);

// Why the runtime finds no GPU: `error` is what cudaGetDeviceCount returned. `driver_version` and
// `runtime_version` are CUDA's (13000), 0 where there is no driver.
absl::Status NoGpuStatus(cudaError_t error, int driver_version, int runtime_version);

// The first error of a device, which every later call finds. Errors that leave the device as it was (no room,
// memory that cannot be page-locked) do not belong here.
class StickyError {
 public:
  const absl::Status& status() const { return status_; }
  bool failed() const { return !status_.ok(); }
  // Whether all is well: `error` is none, and there was none before.
  bool Check(cudaError_t error, absl::string_view what);
  bool Check(absl::Status status);

 private:
  absl::Status status_;
};

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_CUDA_ERROR_H_
