// The runtime's functions of kernels.
#include <cuda_runtime.h>

#include <algorithm>
#include <string>
#include <utility>

#include "tests/fakes/cuda/capability.h"
#include "tests/fakes/cuda/machine_state.h"
#include "tests/fakes/cuda/operations.h"

namespace fake = spillway::fakes::cuda;
using fake::CompiledFor;
using fake::EnqueueOn;
using fake::HasKernelImage;
using fake::kSharedBytesDefault;
using fake::Machine;
using fake::SharedBytesMax;

namespace {

constexpr size_t kKernelArgumentsBytesMax = 4096;

}  // namespace

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  return Machine::Call("cudaFuncSetAttribute", [&](Machine& machine) {
    if (!HasKernelImage(machine.options)) return cudaErrorNoKernelImageForDevice;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value > SharedBytesMax(machine.options)) {
      return machine.Refuse(cudaErrorInvalidValue,
                            std::to_string(value) + " bytes of shared memory; a block has " +
                                std::to_string(SharedBytesMax(machine.options)) + " at most");
    }
    machine.shared_bytes_allowed[kernel] = value;
    return cudaSuccess;
  });
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* /*kernel*/) {
  return Machine::Call("cudaFuncGetAttributes", [&](Machine& machine) {
    if (!HasKernelImage(machine.options)) return cudaErrorNoKernelImageForDevice;
    const int version = machine.options.major * 10 + machine.options.minor;
    *attributes = {0, 0, 1024, 64, CompiledFor(machine.options), version, kSharedBytesDefault};
    return cudaSuccess;
  });
}

cudaError_t fake::EnqueueKernel(const cudaLaunchConfig_t& config, const void* kernel, size_t arguments_bytes,
                                std::vector<const void*> pointers, std::function<void()> body) {
  return Machine::Call("cudaLaunchKernelEx", [&](Machine& machine) {
    if (!HasKernelImage(machine.options)) return cudaErrorNoKernelImageForDevice;
    const auto refuse = [&](cudaError_t error, const std::string& what) {
      return machine.Refuse(error, "a launch " + what);
    };
    const dim3& g = config.gridDim;
    const dim3& b = config.blockDim;
    if (b.x == 0 || b.y == 0 || b.z == 0 || b.z > 64 || uint64_t{b.x} * b.y * b.z > fake::kBlockThreadsMax) {
      return refuse(cudaErrorInvalidConfiguration, "with " + std::to_string(b.x) + " x " +
                                                       std::to_string(b.y) + " x " + std::to_string(b.z) +
                                                       " threads a block");
    }
    if (g.x == 0 || g.y == 0 || g.z == 0 || g.x > 0x7fffffff || g.y > 65535 || g.z > 65535) {
      return refuse(cudaErrorInvalidConfiguration, "of " + std::to_string(g.x) + " x " + std::to_string(g.y) +
                                                       " x " + std::to_string(g.z) + " blocks");
    }
    int allowed = kSharedBytesDefault;
    if (auto found = machine.shared_bytes_allowed.find(kernel); found != machine.shared_bytes_allowed.end()) {
      allowed = std::max(allowed, found->second);
    }
    if (config.dynamicSmemBytes > static_cast<size_t>(allowed)) {
      return refuse(cudaErrorInvalidValue,
                    "with " + std::to_string(config.dynamicSmemBytes) +
                        " bytes of shared memory where the kernel's attribute allows " +
                        std::to_string(allowed));
    }
    if (arguments_bytes > kKernelArgumentsBytesMax) {
      return refuse(cudaErrorInvalidValue, "with " + std::to_string(arguments_bytes) + " bytes of arguments");
    }
    bool overlaps = false;
    for (unsigned i = 0; i < config.numAttrs; ++i) {
      const cudaLaunchAttribute& attribute = config.attrs[i];
      if (attribute.id == cudaLaunchAttributeIgnore) continue;
      if (attribute.id != cudaLaunchAttributeProgrammaticStreamSerialization) {
        return refuse(cudaErrorInvalidValue, "with an attribute that the fake does not know");
      }
      overlaps = attribute.val.programmaticStreamSerializationAllowed != 0;
    }
    // "Available starting with devices of compute capability 9.0"; what others do with it is said nowhere.
    if (overlaps && machine.options.major < 9) {
      return refuse(cudaErrorNotSupported,
                    "that may overlap with the kernel before it, on a device before 9.0");
    }
    fake::KernelLaunch launch{
        kernel, {g, b, config.dynamicSmemBytes, overlaps}, std::move(pointers), std::move(body)};
    launch.geometry.code_can_wait = CompiledFor(machine.options) >= 90;
    return EnqueueOn(machine, config.stream, [&](CUstream_st& stream) {
      return fake::NewKernel(machine, stream, std::move(launch));
    });
  });
}
