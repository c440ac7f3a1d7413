// What a GPU of a compute capability can do, and which of them our build has code for.
#ifndef SPILLWAY_TESTS_FAKES_CUDA_CAPABILITY_H_
#define SPILLWAY_TESTS_FAKES_CUDA_CAPABILITY_H_

#include "tests/fakes/cuda/machine.h"

namespace spillway::fakes::cuda {

bool HasKernelImage(const MachineOptions& machine);
// 10 major + minor, of the code that the machine runs.
int CompiledFor(const MachineOptions& machine);

// Shared memory that a block may ask for.
int SharedBytesMax(const MachineOptions& machine);
constexpr int kSharedBytesDefault = 48 << 10;

}  // namespace spillway::fakes::cuda

#endif  // SPILLWAY_TESTS_FAKES_CUDA_CAPABILITY_H_
