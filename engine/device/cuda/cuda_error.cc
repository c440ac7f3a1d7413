#include "engine/device/cuda/cuda_error.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace spillway::device::cuda {
namespace {

// What to do about it; empty where only a restart helps.
absl::string_view RemedyOf(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return "free device memory (nvidia-smi shows who holds it) or ask for less: --device_memory bounds "
             "what "
             "the daemon takes";
    case cudaErrorInsufficientDriver:
    case cudaErrorSystemDriverMismatch:
      return "install a newer NVIDIA driver, or use --device=cpu";
    case cudaErrorStubLibrary:
      return "the library of the toolkit was found in place of the driver's: take folders named stubs out of "
             "LD_LIBRARY_PATH";
    case cudaErrorCompatNotSupportedOnDevice:
      return "a libcuda for forward compatibility (cuda-compat) is in the way, which this GPU does not take: "
             "remove it or install a newer NVIDIA driver, or use --device=cpu";
    case cudaErrorSystemNotReady:
      return "where GPUs are joined by NVSwitches, nvidia-fabricmanager of the driver's very version must "
             "run (systemctl status nvidia-fabricmanager); else see whether nvidia-smi works";
    case cudaErrorMpsConnectionFailed:
    case cudaErrorMpsServerNotReady:
      return "see whether nvidia-cuda-mps-control runs, or unset CUDA_MPS_PIPE_DIRECTORY";
    case cudaErrorNoDevice:
      return "see whether nvidia-smi lists a GPU and CUDA_VISIBLE_DEVICES names it; a container must be "
             "given "
             "the GPU";
    case cudaErrorDevicesUnavailable:
      return "another process holds the GPU exclusively (nvidia-smi, compute mode)";
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
      return "this build has no kernels for this GPU: build with its architecture in "
             "SPILLWAY_CUDA_ARCHITECTURES, or use --device=cpu";
    case cudaErrorECCUncorrectable:
      return "the GPU's memory has an uncorrectable error: reset or replace the GPU (nvidia-smi -q -d ECC)";
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorLaunchFailure:
      return "a kernel failed: restart the daemon, and report this with the log (compute-sanitizer names the "
             "kernel)";
    default:
      return "";
  }
}

absl::StatusCode CodeOf(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return absl::StatusCode::kResourceExhausted;
    case cudaErrorInsufficientDriver:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorStubLibrary:
    case cudaErrorCompatNotSupportedOnDevice:
    case cudaErrorSystemNotReady:
    case cudaErrorMpsConnectionFailed:
    case cudaErrorMpsServerNotReady:
    case cudaErrorNoDevice:
    case cudaErrorDevicesUnavailable:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
      return absl::StatusCode::kFailedPrecondition;
    default:
      return absl::StatusCode::kInternal;
  }
}

}  // namespace

std::string VersionText(int version) { return absl::StrCat(version / 1000, ".", version % 1000 / 10); }

absl::Status CudaStatus(cudaError_t error, absl::string_view what) {
  if (error == cudaSuccess) return absl::OkStatus();
  std::string message = absl::StrCat("CUDA error ", static_cast<int>(error), " (", cudaGetErrorName(error),
                                     ": ", cudaGetErrorString(error), ") ", what);
  if (!RemedyOf(error).empty()) absl::StrAppend(&message, "; ", RemedyOf(error));
  return absl::Status(CodeOf(error), message);
}

absl::Status CublasStatus(cublasStatus_t status, absl::string_view what) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("cuBLASLt error ", static_cast<int>(status), " (",
                                          cublasLtGetStatusString(status), ") ", what));
}

absl::Status NoGpuStatus(cudaError_t error, int driver_version, int runtime_version) {
  if (error == cudaErrorInsufficientDriver && driver_version == 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "no NVIDIA driver is loaded (CUDA error 35): install one for CUDA ", VersionText(runtime_version),
        " (nvidia-smi must work), give the container the GPU, or use --device=cpu"));
  }
  if (error == cudaErrorInsufficientDriver) {
    return absl::FailedPreconditionError(
        absl::StrCat("the NVIDIA driver is too old (CUDA error 35): it serves CUDA up to ",
                     VersionText(driver_version), ", this build needs ", VersionText(runtime_version),
                     "; install a newer driver, or use --device=cpu"));
  }
  return CudaStatus(error == cudaSuccess ? cudaErrorNoDevice : error, "looking for a GPU");
}

bool StickyError::Check(cudaError_t error, absl::string_view what) {
  if (failed()) return false;
  if (error == cudaSuccess) return true;
  status_ = CudaStatus(error, what);
  return false;
}

bool StickyError::Check(absl::Status status) {
  if (failed()) return false;
  if (status.ok()) return true;
  status_ = std::move(status);
  return false;
}

}  // namespace spillway::device::cuda
