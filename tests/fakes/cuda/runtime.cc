// The runtime's functions: each checks its arguments and hands the work to the machine.
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/fakes/cuda/machine_state.h"
#include "tests/fakes/cuda/operations.h"

namespace fake = spillway::fakes::cuda;
using fake::CopyPiece;
using fake::Machine;

namespace {

constexpr size_t kKernelArgumentsBytesMax = 4096;

struct ErrorText {
  cudaError_t error;
  const char* name;
  const char* text;
};

constexpr ErrorText kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInvalidMemcpyDirection, "cudaErrorInvalidMemcpyDirection", "invalid copy direction for memcpy"},
    {cudaErrorStubLibrary, "cudaErrorStubLibrary", "CUDA driver is a stub library"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorDevicesUnavailable, "cudaErrorDevicesUnavailable",
     "CUDA-capable device(s) is/are busy or unavailable"},
    {cudaErrorInvalidDeviceFunction, "cudaErrorInvalidDeviceFunction", "invalid device function"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered"},
    {cudaErrorOperatingSystem, "cudaErrorOperatingSystem",
     "OS call failed or operation not supported on this OS"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchOutOfResources, "cudaErrorLaunchOutOfResources",
     "too many resources requested for launch"},
    {cudaErrorLaunchTimeout, "cudaErrorLaunchTimeout", "the launch timed out and was terminated"},
    {cudaErrorHostMemoryAlreadyRegistered, "cudaErrorHostMemoryAlreadyRegistered",
     "part or all of the requested memory range is already mapped"},
    {cudaErrorHostMemoryNotRegistered, "cudaErrorHostMemoryNotRegistered",
     "pointer does not correspond to a registered memory region"},
    {cudaErrorMisalignedAddress, "cudaErrorMisalignedAddress", "misaligned address"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotPermitted, "cudaErrorNotPermitted", "operation not permitted"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorSystemNotReady, "cudaErrorSystemNotReady", "system not yet initialized"},
    {cudaErrorSystemDriverMismatch, "cudaErrorSystemDriverMismatch",
     "system has unsupported display driver / cuda driver combination"},
    {cudaErrorCompatNotSupportedOnDevice, "cudaErrorCompatNotSupportedOnDevice",
     "forward compatibility was attempted on non supported HW"},
    {cudaErrorMpsConnectionFailed, "cudaErrorMpsConnectionFailed",
     "MPS client failed to connect to the MPS control daemon or the MPS server"},
    {cudaErrorMpsServerNotReady, "cudaErrorMpsServerNotReady",
     "the MPS server is not ready to accept new MPS client requests"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

// The architectures that our build compiles for (engine/device/cuda): binary code for one runs on the same
// major version with the same or a later minor.
constexpr struct { int major, minor; } kArchitectures[] = {{8, 0}, {8, 6}, {8, 9}, {9, 0}, {10, 0}, {12, 0}};

bool HasKernelImage(const Machine& machine) {
  return std::any_of(std::begin(kArchitectures), std::end(kArchitectures), [&](const auto& a) {
    return a.major == machine.options.major && a.minor <= machine.options.minor;
  });
}

// Shared memory that a block may ask for, by compute capability (CUDA C++ Programming Guide, "Technical
// Specifications per Compute Capability").
int SharedBytesMax(const Machine& machine) {
  switch (machine.options.major * 10 + machine.options.minor) {
    case 80:
    case 87:
      return 163 << 10;
    case 86:
    case 89:
    case 120:
      return 99 << 10;
    case 90:
    case 100:
      return 227 << 10;
    default:
      return 48 << 10;
  }
}
constexpr int kSharedBytesDefault = 48 << 10;

cudaError_t CheckDevice(const Machine& machine, int device) {
  return device >= 0 && device < machine.options.devices ? cudaSuccess : cudaErrorInvalidDevice;
}

// Finds the stream that a call names, and enqueues what `make` makes for it.
template <typename Make>
cudaError_t EnqueueOn(Machine& machine, cudaStream_t stream, Make make) {
  CUstream_st* found = machine.Find(stream);
  if (found == nullptr) return machine.Refuse(cudaErrorInvalidResourceHandle, "there is no such stream");
  machine.Enqueue(*found, make(*found));
  return machine.sticky;
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

cudaError_t QueryRecord(Machine& machine, fake::EventRecord& record) {
  machine.Progress();
  if (!record.done && machine.random.Below(2) == 0) machine.StepToward(*record.stream);
  if (machine.sticky != cudaSuccess) return machine.sticky;
  if (!record.done) return cudaErrorNotReady;
  fake::TsanAcquire(&record.ran);
  return cudaSuccess;
}

CUevent_st* FindEvent(Machine& machine, cudaEvent_t event) {
  if (machine.IsEvent(event)) return event;
  machine.Refuse(cudaErrorInvalidResourceHandle, "there is no such event");
  return nullptr;
}

}  // namespace

const char* cudaGetErrorName(cudaError_t error) {
  for (const ErrorText& text : kErrors) {
    if (text.error == error) return text.name;
  }
  return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) {
  for (const ErrorText& text : kErrors) {
    if (text.error == error) return text.text;
  }
  return "unrecognized error code";
}

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
    properties->sharedMemPerBlockOptin = static_cast<size_t>(SharedBytesMax(machine));
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

// ---------------------------------------------------------------------------------------------- streams

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return Machine::Call("cudaDeviceGetStreamPriorityRange", [&](Machine& /*machine*/) {
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
  });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return Machine::Call("cudaStreamCreateWithFlags", [&](Machine& machine) {
    if (flags != cudaStreamNonBlocking) {
      return machine.Refuse(cudaErrorNotSupported, "the fake has streams that are non-blocking only");
    }
    *stream = machine.NewStream();
    return cudaSuccess;
  });
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int /*priority*/) {
  return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return Machine::Call("cudaStreamDestroy", [&](Machine& machine) {
    if (stream == nullptr || machine.Find(stream) == nullptr) return cudaErrorInvalidResourceHandle;
    machine.DeleteStream(stream);
    return machine.sticky;
  });
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return Machine::Call("cudaStreamSynchronize", [&](Machine& machine) {
    CUstream_st* found = machine.Find(stream);
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    machine.Drain(*found);
    return machine.sticky;
  });
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return Machine::Call("cudaStreamQuery", [&](Machine& machine) {
    CUstream_st* found = machine.Find(stream);
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    machine.Progress();
    if (machine.random.Below(2) == 0) machine.StepToward(*found);
    if (machine.sticky != cudaSuccess) return machine.sticky;
    if (!found->operations.empty()) return cudaErrorNotReady;
    fake::TsanAcquire(&found->done_so_far);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned /*flags*/) {
  return Machine::Call("cudaStreamWaitEvent", [&](Machine& machine) {
    CUevent_st* found = FindEvent(machine, event);
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    if (found->last == nullptr) return cudaSuccess;  // never recorded: CUDA lets it pass
    return EnqueueOn(machine, stream, [&](CUstream_st&) { return fake::NewWait(found->last); });
  });
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* argument) {
  return Machine::Call("cudaLaunchHostFunc", [&](Machine& machine) {
    return EnqueueOn(machine, stream, [&](CUstream_st&) {
      return fake::NewHostCall([=, &machine] {
        machine.in_host_function = true;
        function(argument);
        machine.in_host_function = false;
      });
    });
  });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  return Machine::Call("cudaEventCreateWithFlags", [&](Machine& machine) {
    auto made = std::make_unique<CUevent_st>();
    made->timing = (flags & cudaEventDisableTiming) == 0;
    *event = made.get();
    machine.events[made.get()] = std::move(made);
    return cudaSuccess;
  });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return Machine::Call("cudaEventDestroy", [&](Machine& machine) {
    return machine.events.erase(event) == 1 ? cudaSuccess : cudaErrorInvalidResourceHandle;
  });
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return Machine::Call("cudaEventRecord", [&](Machine& machine) {
    CUevent_st* found = FindEvent(machine, event);
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    return EnqueueOn(machine, stream, [&](CUstream_st& s) {
      found->last = std::make_shared<fake::EventRecord>();
      found->last->stream = &s;
      return fake::NewRecord(found->last);
    });
  });
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  return Machine::Call("cudaEventQuery", [&](Machine& machine) {
    CUevent_st* found = FindEvent(machine, event);
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    return found->last == nullptr ? cudaSuccess : QueryRecord(machine, *found->last);
  });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return Machine::Call("cudaEventSynchronize", [&](Machine& machine) {
    CUevent_st* found = FindEvent(machine, event);
    if (found == nullptr) return cudaErrorInvalidResourceHandle;
    if (found->last != nullptr) machine.DrainTo(*found->last);
    return machine.sticky;
  });
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t begin, cudaEvent_t end) {
  return Machine::Call("cudaEventElapsedTime", [&](Machine& machine) {
    CUevent_st* b = FindEvent(machine, begin);
    CUevent_st* e = FindEvent(machine, end);
    if (b == nullptr || e == nullptr) return cudaErrorInvalidResourceHandle;
    if (!b->timing || !e->timing || b->last == nullptr || e->last == nullptr) {
      return machine.Refuse(cudaErrorInvalidResourceHandle, "elapsed time of events that measure none");
    }
    if (!b->last->done || !e->last->done) return cudaErrorNotReady;
    *ms = static_cast<float>(e->last->time_ns - b->last->time_ns) / 1e6F;
    return cudaSuccess;
  });
}

// ---------------------------------------------------------------------------------------------- launches

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  return Machine::Call("cudaFuncSetAttribute", [&](Machine& machine) {
    if (!HasKernelImage(machine)) return cudaErrorNoKernelImageForDevice;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    if (value > SharedBytesMax(machine)) {
      return machine.Refuse(cudaErrorInvalidValue, std::to_string(value) +
                                                       " bytes of shared memory; a block has " +
                                                       std::to_string(SharedBytesMax(machine)) + " at most");
    }
    machine.shared_bytes_allowed[kernel] = value;
    return cudaSuccess;
  });
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* /*kernel*/) {
  return Machine::Call("cudaFuncGetAttributes", [&](Machine& machine) {
    if (!HasKernelImage(machine)) return cudaErrorNoKernelImageForDevice;
    const int version = machine.options.major * 10 + machine.options.minor;
    *attributes = {0, 0, 1024, 64, version, version, kSharedBytesDefault};
    return cudaSuccess;
  });
}

cudaError_t fake::EnqueueKernel(const cudaLaunchConfig_t& config, const void* kernel, size_t arguments_bytes,
                                std::vector<const void*> pointers, std::function<void()> body) {
  return Machine::Call("cudaLaunchKernelEx", [&](Machine& machine) {
    if (!HasKernelImage(machine)) return cudaErrorNoKernelImageForDevice;
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
    const fake::LaunchGeometry geometry{g, b, config.dynamicSmemBytes};
    return EnqueueOn(machine, config.stream, [&](CUstream_st& stream) {
      return fake::NewKernel(machine, stream, geometry, std::move(pointers), std::move(body));
    });
  });
}
