// The runtime's functions of streams and events.
#include <cuda_runtime.h>

#include <memory>

#include "tests/fakes/cuda/machine_state.h"
#include "tests/fakes/cuda/operations.h"

namespace fake = spillway::fakes::cuda;
using fake::EnqueueOn;
using fake::Machine;

namespace {

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
