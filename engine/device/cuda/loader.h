// Loads libspillway_cuda.so and makes the CUDA device of it. The program itself links no CUDA library: it
// runs where there is none.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_LOADER_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_LOADER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/device/device.h"

namespace spillway::device::cuda {

struct CudaLoadOptions {
  // Empty: beside the program, in ../lib from there, else wherever the system's loader looks.
  std::string module_path;
  int64_t memory_bytes = 0;    // of the device; 0: what is free
  std::optional<DType> dtype;  // unset: bf16
  // Kernels may begin before those ahead of them in their stream have ended, where the GPU can do that.
  bool overlap_kernels = true;
};

// NotFound where this build brings no module. FailedPrecondition where a library that it needs is missing, it
// is of another build, or no GPU can be used; ResourceExhausted where the GPU's memory is taken. The module
// stays loaded.
absl::StatusOr<std::unique_ptr<Device>> LoadCudaDevice(const CudaLoadOptions& options);

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_LOADER_H_
