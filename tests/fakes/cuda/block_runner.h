// Runs the blocks of a kernel, one after another: the host's side of the emulator (device code's side is
// cuda_fake/simt.h). Owns the fibers and the shared memory.
//
// Thread-compatible, and one block runs at a time in a process: device code finds its block by a global. A
// block that waits for earlier kernels stands still while blocks of others run.
#ifndef SPILLWAY_TESTS_FAKES_CUDA_BLOCK_RUNNER_H_
#define SPILLWAY_TESTS_FAKES_CUDA_BLOCK_RUNNER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cuda_fake/vector_types.h"
#include "tests/fakes/cuda/fiber.h"

namespace spillway::fakes::cuda {

struct LaunchGeometry {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
  bool overlaps = false;  // begins before the kernel ahead of it ends: every thread must wait for that one
  bool code_can_wait = true;  // else the waits are not in the code, as that of before compute capability 9.0
};

constexpr unsigned kBlockThreadsMax = 1024;

class Block;

class BlockRunner {
 public:
  BlockRunner();
  ~BlockRunner();

  // The blocks that run from now on are a kernel: nothing but atomics orders one of them behind another, as
  // far as ThreadSanitizer is told. Their threads are ordered behind what was released at `enqueued` until
  // then, an address that outlives them, and behind what the caller has done.
  void StartKernel(void* enqueued);

  // Runs `body` once for each thread of the block, in an order drawn from `seed`, shared memory filled with
  // NaN. Returns what the kernel did wrong, or "". REQUIRES: at most kBlockThreadsMax threads.
  std::string Run(const LaunchGeometry& launch, uint3 block_index, const std::function<void()>& body,
                  uint64_t seed);

  // The same in two parts: Begin returns when threads wait for earlier kernels (or the block has ended), and
  // Finish runs what is left of it. Meanwhile other runners may run; this one's destruction, and GiveUp,
  // abandon the block.
  std::string Begin(const LaunchGeometry& launch, uint3 block_index, const std::function<void()>& body,
                    uint64_t seed);
  std::string Finish();
  void GiveUp();

  // Whether a kernel has it: it runs one at a time.
  bool taken = false;

 private:
  friend class Block;
  struct Slot {
    BlockRunner* runner;
    unsigned thread;
    std::unique_ptr<Fiber> fiber;
  };
  static void RunSlot(void* slot);
  void NewBlock(const LaunchGeometry& launch, uint3 block_index, const std::function<void()>& body,
                uint64_t seed);
  // Filled with NaN.
  void* NewShared(size_t size_bytes);
  void FreeShared(void* shared);

  std::vector<std::unique_ptr<Slot>> slots_;  // [threads of the largest block so far]
  Fiber host_;
  std::unique_ptr<Block> block_;  // that has begun
  char begin_ = 0;                // an address for ThreadSanitizer
  void* enqueued_ = nullptr;
  char* arena_ = nullptr;  // the shared memory that blocks get under it
  size_t arena_used_bytes_ = 0;
};

}  // namespace spillway::fakes::cuda

#endif  // SPILLWAY_TESTS_FAKES_CUDA_BLOCK_RUNNER_H_
