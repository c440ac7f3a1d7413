// Runs the blocks of a kernel, one after another: the host's side of the emulator (device code's side is
// cuda_fake/simt.h). Owns the fibers and the shared memory.
//
// Thread-compatible, and one block runs at a time in a process: device code finds its block by a global.
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
};

constexpr unsigned kBlockThreadsMax = 1024;

class Block;

class BlockRunner {
 public:
  BlockRunner();
  ~BlockRunner();

  // The blocks that run from now on are a kernel: nothing but atomics orders one of them behind another, as
  // far as ThreadSanitizer is told.
  void StartKernel();

  // Runs `body` once for each thread of the block, in an order drawn from `seed`, shared memory filled with
  // NaN. Returns what the kernel did wrong, or "". REQUIRES: at most kBlockThreadsMax threads.
  std::string Run(const LaunchGeometry& launch, uint3 block_index, const std::function<void()>& body,
                  uint64_t seed);

 private:
  friend class Block;
  struct Slot {
    BlockRunner* runner;
    unsigned thread;
    std::unique_ptr<Fiber> fiber;
  };
  static void RunSlot(void* slot);
  // Filled with NaN.
  void* NewShared(size_t size_bytes);
  void FreeShared(void* shared);

  std::vector<std::unique_ptr<Slot>> slots_;  // [threads of the largest block so far]
  Fiber host_;
  char begin_ = 0;         // an address for ThreadSanitizer
  char* arena_ = nullptr;  // the shared memory that blocks get under it
  size_t arena_used_bytes_ = 0;
};

}  // namespace spillway::fakes::cuda

#endif  // SPILLWAY_TESTS_FAKES_CUDA_BLOCK_RUNNER_H_
