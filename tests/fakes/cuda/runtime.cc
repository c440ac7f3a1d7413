// The runtime's functions of errors, the device and memory (streams.cc and launches.cc have the others): each
// checks its arguments and hands the work to the machine.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/fakes/cuda/capability.h"
#include "tests/fakes/cuda/machine_state.h"
#include "tests/fakes/cuda/operations.h"

namespace fake = spillway::fakes::cuda;
using fake::CopyPiece;
using fake::EnqueueOn;
using fake::kSharedBytesDefault;
using fake::Machine;
using fake::SharedBytesMax;

namespace {

cudaError_t CheckDevice(const Machine& machine, int device) {
  return device >= 0 && device < machine.options.devices ? cudaSuccess : cudaErrorInvalidDevice;
}

bool IsPageable(const Machine& machine, const CopyPiece& piece, cudaMemcpyKind kind) {
  if (kind == cudaMemcpyHostToDevice) return !machine.IsPinned(piece.source, piece.size_bytes);
  if (kind == cudaMemcpyDeviceToHost) return !machine.IsPinned(piece.destination, piece.size_bytes);
  return false;
}

cudaError_t EnqueueCopy(Machine& machine, std::vector<CopyPiece> pieces, cudaMemcpyKind kind,
                        cudaStream_t stream) {
  CUstream_st* found = machine.Find(stream);
  if (found == nullptr) return machine.Refuse(cudaErrorInvalidResourceHandle, "there is no such stream");
  bool pageable = false;
  for (const CopyPiece& piece : pieces) {
    if (const std::string wrong = WrongEnds(machine, piece, kind); !wrong.empty()) {
      return machine.Refuse(cudaErrorInvalidValue, wrong);
    }
    for (const void* end : {static_cast<const void*>(piece.destination), piece.source}) {
      if (!machine.IsPinnedInPart(end, piece.size_bytes)) continue;
      return machine.Refuse(cudaErrorInvalidValue,
                            "a copy of host memory that is registered in part, or piece by piece");
    }
    if (!IsPageable(machine, piece, kind)) continue;
    pageable = true;
    ++machine.counts.pageable_copies;
  }
  machine.Enqueue(*found, fake::NewCopy(machine, std::move(pieces), kind));
  // A copy with host memory that is not registered is staged by the driver: the call returns when the host's
  // side is done with.
  if (pageable) machine.Drain(*found);
  return machine.sticky;
}

bool DestinationsOverlap(std::vector<CopyPiece> pieces) {
  std::sort(pieces.begin(), pieces.end(),
            [](const CopyPiece& a, const CopyPiece& b) { return a.destination < b.destination; });
  for (size_t i = 1; i < pieces.size(); ++i) {
    const auto* end = static_cast<const char*>(pieces[i - 1].destination) + pieces[i - 1].size_bytes;
    if (end > pieces[i].destination) return true;
  }
  return false;
}

}  // namespace

cudaError_t cudaGetLastError() {
  Machine& machine = Machine::Get();
  const std::lock_guard<std::recursive_mutex> lock(machine.mutex_);
  return std::exchange(machine.last_error_, machine.sticky);
}

cudaError_t cudaPeekAtLastError() {
  Machine& machine = Machine::Get();
  const std::lock_guard<std::recursive_mutex> lock(machine.mutex_);
  return machine.last_error_;
}

// ---------------------------------------------------------------------------------------------- the device

cudaError_t cudaDriverGetVersion(int* version) {
  return Machine::Call("cudaDriverGetVersion", [&](Machine& machine) {
    *version = machine.options.driver_version;
    return cudaSuccess;
  });
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  return Machine::Call("cudaRuntimeGetVersion", [&](Machine& /*machine*/) {
    *version = CUDART_VERSION;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDeviceCount(int* count) {
  return Machine::Call("cudaGetDeviceCount", [&](Machine& machine) {
    *count = machine.options.devices;
    return cudaSuccess;
  });
}

cudaError_t cudaGetDevice(int* device) {
  return Machine::Call("cudaGetDevice", [&](Machine& /*machine*/) {
    *device = 0;
    return cudaSuccess;
  });
}

cudaError_t cudaSetDevice(int device) {
  return Machine::Call("cudaSetDevice", [&](Machine& machine) {
    if (device > 0 && device < machine.options.devices) {
      return machine.Refuse(cudaErrorNotSupported, "the emulated machine computes on device 0 only");
    }
    return CheckDevice(machine, device);
  });
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return Machine::Call("cudaGetDeviceProperties", [&](Machine& machine) {
    if (cudaError_t error = CheckDevice(machine, device); error != cudaSuccess) return error;
    *properties = {};
    std::snprintf(properties->name, sizeof properties->name, "%s", machine.options.name.c_str());
    properties->totalGlobalMem = static_cast<size_t>(machine.options.memory_bytes);
    properties->sharedMemPerBlock = kSharedBytesDefault;
    properties->sharedMemPerBlockOptin = static_cast<size_t>(SharedBytesMax(machine.options));
    properties->reservedSharedMemPerBlock = 1024;
    properties->sharedMemPerMultiprocessor = properties->sharedMemPerBlockOptin + 1024;
    properties->regsPerBlock = 65536;
    properties->warpSize = 32;
    properties->maxThreadsPerBlock = 1024;
    properties->maxThreadsPerMultiProcessor = 2048;
    properties->maxBlocksPerMultiProcessor = 32;
    properties->major = machine.options.major;
    properties->minor = machine.options.minor;
    properties->multiProcessorCount = machine.options.processors;
    properties->canMapHostMemory = 1;
    properties->concurrentKernels = 1;
    properties->pciBusID = 1;
    properties->asyncEngineCount = 2;
    properties->unifiedAddressing = 1;
    properties->memoryBusWidth = 5120;
    properties->l2CacheSize = 1 << 20;
    properties->canUseHostPointerForRegisteredMem = machine.options.host_addresses_differ ? 0 : 1;
    properties->hostRegisterSupported = 1;
    properties->hostNumaId = 0;
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceSetCacheConfig(cudaFuncCache /*config*/) {
  return Machine::Call("cudaDeviceSetCacheConfig", [](Machine& /*machine*/) { return cudaSuccess; });
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp p;
  if (cudaError_t error = cudaGetDeviceProperties(&p, device); error != cudaSuccess) return error;
  return Machine::Call("cudaDeviceGetAttribute", [&](Machine& machine) {
    switch (attribute) {
      case cudaDevAttrMaxThreadsPerBlock:
        *value = p.maxThreadsPerBlock;
        break;
      case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = static_cast<int>(p.sharedMemPerBlock);
        break;
      case cudaDevAttrWarpSize:
        *value = p.warpSize;
        break;
      case cudaDevAttrClockRate:
        *value = 1000000;
        break;
      case cudaDevAttrMultiProcessorCount:
        *value = p.multiProcessorCount;
        break;
      case cudaDevAttrIntegrated:
        *value = p.integrated;
        break;
      case cudaDevAttrCanMapHostMemory:
        *value = p.canMapHostMemory;
        break;
      case cudaDevAttrPciBusId:
        *value = p.pciBusID;
        break;
      case cudaDevAttrPciDeviceId:
        *value = p.pciDeviceID;
        break;
      case cudaDevAttrMemoryClockRate:
        *value = 1000000;
        break;
      case cudaDevAttrGlobalMemoryBusWidth:
        *value = p.memoryBusWidth;
        break;
      case cudaDevAttrL2CacheSize:
        *value = p.l2CacheSize;
        break;
      case cudaDevAttrMaxThreadsPerMultiProcessor:
        *value = p.maxThreadsPerMultiProcessor;
        break;
      case cudaDevAttrAsyncEngineCount:
        *value = p.asyncEngineCount;
        break;
      case cudaDevAttrUnifiedAddressing:
        *value = p.unifiedAddressing;
        break;
      case cudaDevAttrPciDomainId:
        *value = p.pciDomainID;
        break;
      case cudaDevAttrComputeCapabilityMajor:
        *value = p.major;
        break;
      case cudaDevAttrComputeCapabilityMinor:
        *value = p.minor;
        break;
      case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = static_cast<int>(p.sharedMemPerMultiprocessor);
        break;
      case cudaDevAttrPageableMemoryAccess:
        *value = p.pageableMemoryAccess;
        break;
      case cudaDevAttrCanUseHostPointerForRegisteredMem:
        *value = p.canUseHostPointerForRegisteredMem;
        break;
      case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = static_cast<int>(p.sharedMemPerBlockOptin);
        break;
      case cudaDevAttrHostRegisterSupported:
        *value = p.hostRegisterSupported;
        break;
      case cudaDevAttrHostNumaId:
        *value = p.hostNumaId;
        break;
      default:
        return machine.Refuse(cudaErrorInvalidValue, "an attribute that the fake does not know");
    }
    return cudaSuccess;
  });
}

cudaError_t cudaDeviceGetPCIBusId(char* id, int length, int device) {
  return Machine::Call("cudaDeviceGetPCIBusId", [&](Machine& machine) {
    if (length < 13) return cudaErrorInvalidValue;
    std::snprintf(id, static_cast<size_t>(length), "0000:01:00.0");
    return CheckDevice(machine, device);
  });
}

cudaError_t cudaDeviceSynchronize() {
  return Machine::Call("cudaDeviceSynchronize", [&](Machine& machine) {
    machine.DrainAll();
    return machine.sticky;
  });
}

cudaError_t cudaDeviceReset() {
  return Machine::Call("cudaDeviceReset", [&](Machine& machine) {
    machine.Reset(fake::MachineOptions(machine.options));
    return cudaSuccess;
  });
}

// ---------------------------------------------------------------------------------------------- memory

cudaError_t cudaMalloc(void** pointer, size_t size_bytes) {
  return Machine::Call("cudaMalloc", [&](Machine& machine) { return machine.Allocate(pointer, size_bytes); });
}

cudaError_t cudaFree(void* pointer) {
  return Machine::Call("cudaFree", [&](Machine& machine) { return machine.Free(pointer); });
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  return Machine::Call("cudaMemGetInfo", [&](Machine& machine) {
    *total_bytes = static_cast<size_t>(machine.options.memory_bytes);
    *free_bytes =
        static_cast<size_t>(machine.options.memory_bytes - machine.options.memory_used_by_others_bytes -
                            machine.counts.device_bytes);
    return cudaSuccess;
  });
}

cudaError_t cudaHostAlloc(void** pointer, size_t size_bytes, unsigned /*flags*/) {
  return Machine::Call("cudaHostAlloc", [&](Machine& machine) {
    if (pointer == nullptr) return cudaErrorInvalidValue;
    *pointer = nullptr;
    if (size_bytes == 0) return cudaSuccess;
    void* memory = nullptr;
    if (posix_memalign(&memory, 256, size_bytes) != 0) return cudaErrorMemoryAllocation;
    std::memset(memory, 0xff, size_bytes);
    cudaError_t error = machine.Pin(memory, size_bytes, /*owned=*/true);
    if (error != cudaSuccess) {
      std::free(memory);
      return error;
    }
    *pointer = memory;
    return cudaSuccess;
  });
}

cudaError_t cudaMallocHost(void** pointer, size_t size_bytes) {
  return cudaHostAlloc(pointer, size_bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void* pointer) {
  return Machine::Call("cudaFreeHost", [&](Machine& machine) {
    return pointer == nullptr ? cudaSuccess : machine.Unpin(pointer, /*owned=*/true);
  });
}

cudaError_t cudaHostRegister(void* pointer, size_t size_bytes, unsigned /*flags*/) {
  return Machine::Call("cudaHostRegister",
                       [&](Machine& machine) { return machine.Pin(pointer, size_bytes, /*owned=*/false); });
}

cudaError_t cudaHostUnregister(void* pointer) {
  return Machine::Call("cudaHostUnregister",
                       [&](Machine& machine) { return machine.Unpin(pointer, /*owned=*/false); });
}

cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned /*flags*/) {
  return Machine::Call("cudaHostGetDevicePointer", [&](Machine& machine) {
    if (!machine.IsPinned(host, 0)) return cudaErrorInvalidValue;
    *device = host;  // one address space for both, as on every 64-bit machine
    return cudaSuccess;
  });
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  return Machine::Call("cudaPointerGetAttributes", [&](Machine& machine) {
    auto* address = const_cast<void*>(pointer);
    *attributes = {cudaMemoryTypeUnregistered, -1, nullptr, address};
    if (machine.IsDevice(pointer, 1)) *attributes = {cudaMemoryTypeDevice, 0, address, nullptr};
    if (machine.IsPinned(pointer, 1)) *attributes = {cudaMemoryTypeHost, 0, address, address};
    return cudaSuccess;
  });
}

cudaError_t cudaMemcpy(void* destination, const void* source, size_t size_bytes, cudaMemcpyKind kind) {
  return Machine::Call("cudaMemcpy", [&](Machine& machine) {
    if (size_bytes == 0) return cudaSuccess;
    if (kind == cudaMemcpyDefault) kind = KindOf(machine, destination, source);
    cudaError_t error = EnqueueCopy(machine, {{destination, source, size_bytes}}, kind, nullptr);
    machine.Drain(*machine.Find(nullptr));
    return error != cudaSuccess ? error : machine.sticky;
  });
}

cudaError_t cudaMemcpyAsync(void* destination, const void* source, size_t size_bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return Machine::Call("cudaMemcpyAsync", [&](Machine& machine) {
    if (size_bytes == 0) return cudaSuccess;
    if (kind == cudaMemcpyDefault) kind = KindOf(machine, destination, source);
    return EnqueueCopy(machine, {{destination, source, size_bytes}}, kind, stream);
  });
}

cudaError_t cudaMemcpyBatchAsync(void* const* destinations, const void* const* sources,
                                 const size_t* sizes_bytes, size_t count, cudaMemcpyAttributes* attributes,
                                 size_t* attribute_indices, size_t n_attributes, cudaStream_t stream) {
  return Machine::Call("cudaMemcpyBatchAsync", [&](Machine& machine) {
    if (stream == nullptr) {
      return machine.Refuse(cudaErrorInvalidValue, "a batch of copies on the default stream");
    }
    if (count == 0 || n_attributes == 0 || n_attributes > count || attribute_indices[0] != 0) {
      return machine.Refuse(cudaErrorInvalidValue, "a batch of copies needs attributes from its first on");
    }
    for (size_t i = 0; i < n_attributes; ++i) {
      const bool ascends = i == 0 || attribute_indices[i] > attribute_indices[i - 1];
      if (!ascends || attribute_indices[i] >= count) {
        return machine.Refuse(cudaErrorInvalidValue,
                              "a batch's attribute indices must ascend below its count");
      }
      const auto order = attributes[i].srcAccessOrder;
      if (order < cudaMemcpySrcAccessOrderStream || order > cudaMemcpySrcAccessOrderAny) {
        return machine.Refuse(cudaErrorInvalidValue, "a batch's attributes name no order of source accesses");
      }
    }
    // All of one direction, as our code's are: the fake's engines are one for each.
    const cudaMemcpyKind kind = KindOf(machine, destinations[0], sources[0]);
    std::vector<CopyPiece> pieces;
    for (size_t i = 0; i < count; ++i) {
      if (sizes_bytes[i] == 0) return machine.Refuse(cudaErrorInvalidValue, "a batch with an empty copy");
      pieces.push_back({destinations[i], sources[i], sizes_bytes[i]});
    }
    if (DestinationsOverlap(pieces)) {
      return machine.Refuse(cudaErrorInvalidValue,
                            "copies of one batch write to one place: they have no order");
    }
    ++machine.counts.batches;
    const CopyPiece& first = pieces.front();
    const void* const host = kind == cudaMemcpyHostToDevice ? first.source : first.destination;
    if (machine.options.host_addresses_differ && machine.IsRegistered(host)) {
      machine.Fail(cudaErrorIllegalAddress, "a batch of copies at addresses that are the host's alone");
      return cudaSuccess;  // it shows later
    }
    return EnqueueCopy(machine, std::move(pieces), kind, stream);
  });
}

cudaError_t cudaMemset(void* destination, int value, size_t size_bytes) {
  return Machine::Call("cudaMemset", [&](Machine& machine) {
    cudaError_t error = cudaMemsetAsync(destination, value, size_bytes, nullptr);
    machine.Drain(*machine.Find(nullptr));
    return error != cudaSuccess ? error : machine.sticky;
  });
}

cudaError_t cudaMemsetAsync(void* destination, int value, size_t size_bytes, cudaStream_t stream) {
  return Machine::Call("cudaMemsetAsync", [&](Machine& machine) {
    if (size_bytes == 0) return cudaSuccess;
    if (!machine.IsDevice(destination, size_bytes)) {
      return machine.Refuse(cudaErrorInvalidValue, "a fill of what is no device memory");
    }
    return EnqueueOn(machine, stream,
                     [&](CUstream_st&) { return fake::NewFill(destination, value, size_bytes); });
  });
}
