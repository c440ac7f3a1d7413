// The operations that streams run.
#ifndef SPILLWAY_TESTS_FAKES_CUDA_OPERATIONS_H_
#define SPILLWAY_TESTS_FAKES_CUDA_OPERATIONS_H_

#include <cuda_runtime.h>

#include <functional>
#include <memory>
#include <vector>

#include "tests/fakes/cuda/machine_state.h"

namespace spillway::fakes::cuda {

struct CopyPiece {
  void* destination;
  const void* source;
  size_t size_bytes;
};

// The pieces have no order among themselves. Each end must be device memory or host memory, as `kind` says,
// when the copy runs.
std::unique_ptr<Operation> NewCopy(Machine& machine, std::vector<CopyPiece> pieces, cudaMemcpyKind kind);
std::unique_ptr<Operation> NewFill(void* destination, int value, size_t size_bytes);
struct KernelLaunch {
  const void* kernel = nullptr;
  LaunchGeometry geometry;
  std::vector<const void*> pointers;  // of its arguments: null, or of memory when it runs
  std::function<void()> body;         // of one thread
};
std::unique_ptr<Operation> NewKernel(Machine& machine, CUstream_st& stream, KernelLaunch launch);
std::unique_ptr<Operation> NewHostCall(std::function<void()> function);
std::unique_ptr<Operation> NewRecord(std::shared_ptr<EventRecord> record);
std::unique_ptr<Operation> NewWait(std::shared_ptr<EventRecord> record);

// Finds the stream that a call names, and enqueues what `make` makes for it.
template <typename Make>
cudaError_t EnqueueOn(Machine& machine, cudaStream_t stream, Make make) {
  CUstream_st* found = machine.Find(stream);
  if (found == nullptr) return machine.Refuse(cudaErrorInvalidResourceHandle, "there is no such stream");
  machine.Enqueue(*found, make(*found));
  return machine.sticky;
}

// What is wrong with the ends of such a copy, or "".
std::string WrongEnds(const Machine& machine, const CopyPiece& piece, cudaMemcpyKind kind);

// Where memory lies, as `cudaMemcpyDefault` finds out.
cudaMemcpyKind KindOf(const Machine& machine, const void* destination, const void* source);

}  // namespace spillway::fakes::cuda

#endif  // SPILLWAY_TESTS_FAKES_CUDA_OPERATIONS_H_
