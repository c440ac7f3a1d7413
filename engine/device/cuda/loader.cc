#include "engine/device/cuda/loader.h"

#include <dlfcn.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <cstring>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "engine/device/cuda/module.h"

namespace spillway::device::cuda {
namespace {

constexpr char kModuleName[] = "libspillway_cuda.so";

// The folder of the running program; empty where the system does not tell.
std::string ProgramFolder() {
  std::array<char, PATH_MAX> path{};
  const ssize_t length = readlink("/proc/self/exe", path.data(), path.size());
  if (length <= 0) return "";
  const std::string program(path.data(), static_cast<size_t>(length));
  return program.substr(0, program.rfind('/'));
}

std::string ModulePath(const CudaLoadOptions& options) {
  if (!options.module_path.empty()) return options.module_path;
  const std::string folder = ProgramFolder();
  for (const std::string& path :
       {absl::StrCat(folder, "/", kModuleName), absl::StrCat(folder, "/../lib/", kModuleName)}) {
    if (access(path.c_str(), R_OK) == 0) return path;
  }
  return kModuleName;
}

// What dlopen says, and what to do about it. The module itself may be missing, or a library that it needs.
absl::Status NotLoaded(const std::string& path, const std::string& cause) {
  // "libcublasLt.so.13: cannot open shared object file: No such file or directory"
  const bool missing = absl::StrContains(cause, "cannot open shared object file");
  if (missing && absl::StartsWith(cause, path)) {
    return absl::NotFoundError(absl::StrCat(
        "this build has no CUDA module (", kModuleName,
        " is neither beside the program nor where libraries are looked for): build where nvcc 13 is found"));
  }
  if (missing) {
    return absl::FailedPreconditionError(
        absl::StrCat("the CUDA module ", path, " needs a library that is not found (", cause,
                     "): install CUDA 13's runtime and cuBLAS, or name their folder in LD_LIBRARY_PATH"));
  }
  return absl::FailedPreconditionError(absl::StrCat("the CUDA module ", path, " cannot be loaded: ", cause));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> LoadCudaDevice(const CudaLoadOptions& options) {
  const std::string path = ModulePath(options);
  // Never closed: the device's code lies in it.
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const cause = dlerror();
    return NotLoaded(path, cause == nullptr ? "unknown" : cause);
  }
  using Door = const SpillwayCudaModule* (*)();
  const Door door = reinterpret_cast<Door>(dlsym(library, "SpillwayCudaModuleDoor"));
  if (door == nullptr) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is no CUDA module of Spillway's"));
  }
  const SpillwayCudaModule* const module = door();
  if (module->version != SPILLWAY_CUDA_MODULE_VERSION ||
      std::strcmp(module->stamp, SPILLWAY_CUDA_MODULE_STAMP) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is of another build: it has door ", module->version, " of \"",
                     module->version == SPILLWAY_CUDA_MODULE_VERSION ? module->stamp : "?",
                     "\", this program wants ", SPILLWAY_CUDA_MODULE_VERSION, " of \"",
                     SPILLWAY_CUDA_MODULE_STAMP, "\"; install both from one build"));
  }
  SpillwayCudaOptions with{};
  with.memory_bytes = options.memory_bytes;
  with.overlap_kernels = options.overlap_kernels ? 1 : 0;
  with.dtype = options.dtype.has_value() ? static_cast<int32_t>(*options.dtype) : -1;
  void* device = nullptr;
  std::array<char, 2048> message{};
  const int32_t code = module->create(&with, &device, message.data(), message.size());
  if (code != 0) return absl::Status(static_cast<absl::StatusCode>(code), message.data());
  SPILLWAY_CHECK(device != nullptr);
  return std::unique_ptr<Device>(static_cast<Device*>(device));
}

}  // namespace spillway::device::cuda
