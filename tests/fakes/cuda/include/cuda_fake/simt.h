// What device code that runs on the emulator sees of it: who the running thread is, and the points where a
// thread gives way to others. Everything here may be called from inside a kernel only.
//
// A block's threads are fibers of one OS thread. Between two points where it gives way a thread runs alone,
// and at each point the next one is drawn by the block's seed: what lacks a barrier is seen in another order
// soon.
#ifndef SPILLWAY_TESTS_FAKES_CUDA_INCLUDE_CUDA_FAKE_SIMT_H_
#define SPILLWAY_TESTS_FAKES_CUDA_INCLUDE_CUDA_FAKE_SIMT_H_

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string>

#include "cuda_fake/vector_types.h"

namespace spillway::fakes::cuda {

constexpr unsigned kWarpThreads = 32;

unsigned Lane();

enum class BarrierKind : uint8_t { kPlain, kOr, kAnd, kCount };

// Waits for every thread of the block; returns the combined predicate. It is a fault when threads meet at
// different barriers (another line or another kind), and when some return while others wait.
int Barrier(BarrierKind kind, int predicate, const std::source_location& where);

// One operation of the lanes in `mask`: each brings `lane`, an argument of its own, and waits until all have
// come; the last one runs `combine` for all of them. It is a fault when the mask does not name the caller,
// when a named lane has returned or can never come, and when named lanes meet at different operations.
using Combine = void (*)(void* const (&lanes)[kWarpThreads], uint32_t mask);
void Collective(const char* name, uint32_t mask, void* lane, Combine combine,
                const std::source_location& where);

// Lets others run, sometimes: called by atomics, so that a loop that waits for another thread ends.
void GiveWay();

// Waits until the kernels before this one in its stream have ended, where it was launched to begin before
// (cudaLaunchAttributeProgrammaticStreamSerialization); else does nothing. With that it is a fault when a
// thread ends without having called it.
void AwaitEarlierKernels();

// The block's dynamic shared memory; a fault when the launch asked for less than `size_bytes`.
void* SharedMemory(size_t size_bytes);

bool IsShared(const void* pointer, size_t size_bytes);

// Copies that the running thread has issued and not yet awaited (cp.async). At the issue the destination
// becomes NaN; the bytes arrive when the group is awaited.
void IssueCopy(void* shared, const void* global, size_t size_bytes, size_t valid_bytes);
void CommitCopies();
void AwaitCopies(size_t newest_groups_left);

// The launch has failed, with this message; EndKernel() must follow. (Nothing on the thread's stack is
// destroyed by that, so the message must be gone by then.)
void SetFault(const std::string& message);
[[noreturn]] void EndKernel();

// "file.cu:12"
std::string Describe(const std::source_location& where);

}  // namespace spillway::fakes::cuda

#endif  // SPILLWAY_TESTS_FAKES_CUDA_INCLUDE_CUDA_FAKE_SIMT_H_
