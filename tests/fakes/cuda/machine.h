// The machine behind the fake CUDA runtime, as a test sets it up and looks at it.
//
// One machine a process, as with CUDA. Its choices (how streams interleave, how a block's threads do) follow
// one seed; what goes wrong is an error of the CUDA kind for the code under test, and a message for people.
//
// Thread-safe: one lock for the whole machine, held while kernels run.
#ifndef SPILLWAY_TESTS_FAKES_CUDA_MACHINE_H_
#define SPILLWAY_TESTS_FAKES_CUDA_MACHINE_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <string>
#include <vector>

namespace spillway::fakes::cuda {

// The `nth` call from now (1: the next) of the runtime function named `call` fails with `error`, and every
// later call too if the error is one that CUDA makes sticky (an illegal address, a failed launch, an
// uncorrectable memory error). `call` may be "kernel" or "copy": the nth to *run* fails, as a device would;
// or "any": the nth call, whichever it is.
struct Failure {
  std::string call;
  int nth;
  cudaError_t error;
};

struct MachineOptions {
  uint64_t seed = 1;
  int driver_version = 13000;  // 0: there is no driver
  int devices = 1;
  std::string name = "Emulated GPU (tests/fakes/cuda)";
  int major = 9;  // compute capability
  int minor = 0;
  int processors = 40;
  // Compute capability, 10 major + minor, of the code that it runs, translated by the driver; 0: its own.
  int kernels_compiled_for = 0;
  int64_t memory_bytes = int64_t{1} << 30;
  int64_t memory_used_by_others_bytes = 0;
  int64_t pinnable_bytes = int64_t{1} << 40;     // of host memory, in all
  int64_t registrable_bytes = int64_t{1} << 40;  // of host memory that the runtime did not allocate
  int64_t registrable_at_once_bytes = (int64_t{1} << 39) - 1;  // as drivers from 580 on
  // As under WSL 2: the device reaches registered memory elsewhere than the host does, and a batch of copies
  // takes the host's addresses for its own.
  bool host_addresses_differ = false;
  // A product's algorithm does the number of columns that it was asked for, and says no to others.
  bool products_refuse_other_shapes = false;
  // Does nothing until somebody waits for it or asks, and then only what that needs.
  bool lazy = false;
  std::vector<Failure> failures;
};

struct MachineCounts {
  int64_t kernels = 0;              // that ran
  int64_t kernels_begun_early = 0;  // before the one ahead of them had ended
  int64_t products = 0;
  int64_t heuristics = 0;  // algorithms that were asked for
  int64_t copies = 0;      // a batch's are counted each
  int64_t batches = 0;
  int64_t pageable_copies = 0;  // whose host side was not registered
  int64_t allocations = 0;      // of device and pinned memory, registrations too
  int64_t device_bytes = 0;     // allocated now
  int64_t device_bytes_most = 0;
  int64_t pinned_bytes = 0;  // registered or allocated now
  int64_t failures = 0;      // of calls, as told
};

// What the first machine of a process is, for programs that load the emulated module: the variable
// FAKE_CUDA_MACHINE, "seed=3 driver_version=0 major=7 fail=kernel:100:719" (fields of MachineOptions, and
// calls of FailCall). A mistake in it ends the process.
void ReadEnvironment(const char* text, MachineOptions& options);

// Forgets everything and starts a machine anew. What was allocated is freed, what was enqueued is dropped.
void ResetMachine(const MachineOptions& options);

MachineCounts Counts();

// What the kernel, copy or call that failed first did wrong; "" if none did. Reset with the machine.
std::string FirstFault();

// Adds a failure.
void FailCall(const std::string& call, int nth, cudaError_t error);

}  // namespace spillway::fakes::cuda

#endif  // SPILLWAY_TESTS_FAKES_CUDA_MACHINE_H_
