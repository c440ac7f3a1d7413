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
std::unique_ptr<Operation> NewKernel(Machine& machine, CUstream_st& stream, const LaunchGeometry& launch,
                                     std::vector<const void*> pointers, std::function<void()> body);
std::unique_ptr<Operation> NewHostCall(std::function<void()> function);
std::unique_ptr<Operation> NewRecord(std::shared_ptr<EventRecord> record);
std::unique_ptr<Operation> NewWait(std::shared_ptr<EventRecord> record);

// What is wrong with the ends of such a copy, or "".
std::string WrongEnds(const Machine& machine, const CopyPiece& piece, cudaMemcpyKind kind);

// Where memory lies, as `cudaMemcpyDefault` finds out.
cudaMemcpyKind KindOf(const Machine& machine, const void* destination, const void* source);

}  // namespace spillway::fakes::cuda

#endif  // SPILLWAY_TESTS_FAKES_CUDA_OPERATIONS_H_
