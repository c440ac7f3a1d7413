// The emulator itself: that right kernels come out right for every seed, and that each kind of wrong one is
// seen. A kernel with a mistake is one template with the line that matters left out.
#include "engine/device/cuda/simt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <vector>

#include "tests/fakes/cuda/launch_for_test.h"

namespace spillway::fakes::cuda {
namespace {

using device::cuda::kWholeWarp;
using device::cuda::LaunchShape;
using device::cuda::SharedAs;
using testing::AllOf;
using testing::Each;
using testing::HasSubstr;

constexpr uint64_t kSeeds = 20;

// How many of the seeds give another result than `expected`; `run(seed)` returns the result of one.
template <typename Run, typename T>
int SeedsThatDiffer(const Run& run, const std::vector<T>& expected) {
  int n = 0;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    UseSeed(seed);
    n += run() != expected ? 1 : 0;
  }
  return n;
}

std::vector<int> Iota(int n) {
  std::vector<int> values(static_cast<size_t>(n));
  std::iota(values.begin(), values.end(), 0);
  return values;
}

// ------------------------------------------------------------------------------- indices

__global__ void CountThreads(int* counts) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  ++counts[block * (blockDim.x * blockDim.y * blockDim.z) + thread];
}

TEST(Simt, EveryThreadOfEveryBlockRunsOnce) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    UseSeed(seed);
    int* counts = OnDevice(std::vector<int>(3 * 5 * 2 * 60));
    ASSERT_EQ(RunKernel(CountThreads, {dim3(3, 5, 2), dim3(5, 4, 3)}, counts), cudaSuccess);
    EXPECT_THAT(FromDevice(counts, 3 * 5 * 2 * 60), Each(1));
  }
}

__global__ void NumberBlocks(int* next, int* order) {
  if (threadIdx.x == 0) order[atomicAdd(next, 1)] = static_cast<int>(blockIdx.x);
}

TEST(Simt, BlocksRunInAnOrderOfTheSeed) {
  std::set<std::vector<int>> orders;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    UseSeed(seed);
    int* next = OnDevice(std::vector<int>(1));
    int* order = OnDevice(std::vector<int>(12));
    ASSERT_EQ(RunKernel(NumberBlocks, {dim3(12), dim3(32)}, next, order), cudaSuccess);
    orders.insert(FromDevice(order, 12));
  }
  EXPECT_GE(orders.size(), 5);
  for (std::vector<int> order : orders) {
    std::sort(order.begin(), order.end());
    EXPECT_EQ(order, Iota(12));
  }
}

// ------------------------------------------------------------------------------- memory

struct OneFloatEach {
  float at[64];
};

__global__ void ReadUnwrittenShared(float* out) {
  auto& shared = SharedAs<OneFloatEach>();
  out[blockIdx.x * 64 + threadIdx.x] = shared.at[threadIdx.x];
  shared.at[threadIdx.x] = 1;
}

TEST(Simt, SharedMemoryIsNanForEachBlock) {
  UseSeed(1);
  float* out = OnDevice(std::vector<float>(128));
  ASSERT_EQ(RunKernel(ReadUnwrittenShared, {dim3(2), dim3(64), sizeof(OneFloatEach)}, out), cudaSuccess);
  for (float x : FromDevice(out, 128)) EXPECT_TRUE(std::isnan(x));
}

TEST(Simt, FreshDeviceMemoryIsNan) {
  UseSeed(1);
  float* fresh = nullptr;
  ASSERT_EQ(cudaMalloc(&fresh, 64 * sizeof(float)), cudaSuccess);
  for (float x : FromDevice(fresh, 64)) EXPECT_TRUE(std::isnan(x));
}

#ifdef __SANITIZE_ADDRESS__
__global__ void WriteShared(int at) {
  auto* shared = &SharedAs<unsigned char>();
  shared[at] = 1;
}

TEST(SimtDeathTest, AccessesBeyondSharedMemoryAreSeen) {
  UseSeed(1);
  EXPECT_EQ(RunKernel(WriteShared, {dim3(1), dim3(1), 24}, 23), cudaSuccess);
  EXPECT_DEATH(RunKernel(WriteShared, {dim3(1), dim3(1), 24}, 24), "heap-buffer-overflow");
}

__global__ void WriteAt(char* memory, int at) { memory[at] = 1; }

TEST(SimtDeathTest, AccessesBeyondDeviceMemoryAreSeen) {
  UseSeed(1);
  char* memory = nullptr;
  ASSERT_EQ(cudaMalloc(&memory, 100), cudaSuccess);
  EXPECT_EQ(RunKernel(WriteAt, {dim3(1), dim3(1)}, memory, 99), cudaSuccess);
  EXPECT_DEATH(RunKernel(WriteAt, {dim3(1), dim3(1)}, memory, 100), "heap-buffer-overflow");
}
#endif

// ------------------------------------------------------------------------------- missing barriers

struct Numbers {
  int at[128];
};

template <bool kBarrier>
__global__ void Reverse(int* values) {
  auto& shared = SharedAs<Numbers>();
  shared.at[threadIdx.x] = values[threadIdx.x];
  if (kBarrier) __syncthreads();
  values[threadIdx.x] = shared.at[blockDim.x - 1 - threadIdx.x];
}

template <bool kBarrier>
std::vector<int> Reversed() {
  int* values = OnDevice(Iota(128));
  EXPECT_EQ(RunKernel(Reverse<kBarrier>, {dim3(1), dim3(128), sizeof(Numbers)}, values), cudaSuccess);
  return FromDevice(values, 128);
}

TEST(Simt, AMissingBarrierBetweenWriteAndReadIsSeen) {
  std::vector<int> expected = Iota(128);
  std::reverse(expected.begin(), expected.end());
  EXPECT_EQ(SeedsThatDiffer(Reversed<true>, expected), 0);
  EXPECT_GE(SeedsThatDiffer(Reversed<false>, expected), static_cast<int>(kSeeds) - 2);
}

// Rotates by one place, over and over: each round reads what the neighbour wrote in the last.
template <bool kBarrierAfterReading>
__global__ void Rotate(int* values, int rounds) {
  auto& shared = SharedAs<Numbers>();
  int mine = values[threadIdx.x];
  for (int i = 0; i < rounds; ++i) {
    shared.at[threadIdx.x] = mine;
    __syncthreads();
    mine = shared.at[(threadIdx.x + 1) % blockDim.x];
    if (kBarrierAfterReading) __syncthreads();
  }
  values[threadIdx.x] = mine;
}

template <bool kBarrier>
std::vector<int> Rotated() {
  int* values = OnDevice(Iota(128));
  EXPECT_EQ(RunKernel(Rotate<kBarrier>, {dim3(1), dim3(128), sizeof(Numbers)}, values, 3), cudaSuccess);
  return FromDevice(values, 128);
}

TEST(Simt, AMissingBarrierBetweenReadAndNextWriteIsSeen) {
  std::vector<int> expected = Iota(128);
  std::rotate(expected.begin(), expected.begin() + 3, expected.end());
  EXPECT_EQ(SeedsThatDiffer(Rotated<true>, expected), 0);
  EXPECT_GE(SeedsThatDiffer(Rotated<false>, expected), static_cast<int>(kSeeds) - 2);
}

// One thread alone writes what all read: the least that a barrier can be for.
template <bool kBarrier>
__global__ void Broadcast(int* values) {
  auto& shared = SharedAs<Numbers>();
  if (threadIdx.x == 37) shared.at[0] = 7;
  if (kBarrier) __syncthreads();
  values[threadIdx.x] = shared.at[0];
}

template <bool kBarrier>
std::vector<int> Broadcasted() {
  int* values = OnDevice(std::vector<int>(128));
  EXPECT_EQ(RunKernel(Broadcast<kBarrier>, {dim3(1), dim3(128), sizeof(Numbers)}, values), cudaSuccess);
  return FromDevice(values, 128);
}

TEST(Simt, AMissingBarrierBehindOneWriterIsSeen) {
  EXPECT_EQ(SeedsThatDiffer(Broadcasted<true>, std::vector<int>(128, 7)), 0);
  EXPECT_GE(SeedsThatDiffer(Broadcasted<false>, std::vector<int>(128, 7)), static_cast<int>(kSeeds) - 2);
}

template <bool kBarrier>
__global__ void ReverseInWarp(int* values) {
  auto& shared = SharedAs<Numbers>();
  shared.at[threadIdx.x] = values[threadIdx.x];
  if (kBarrier) __syncwarp();
  values[threadIdx.x] = shared.at[threadIdx.x ^ 31];
}

template <bool kBarrier>
std::vector<int> ReversedInWarps() {
  int* values = OnDevice(Iota(128));
  EXPECT_EQ(RunKernel(ReverseInWarp<kBarrier>, {dim3(1), dim3(128), sizeof(Numbers)}, values), cudaSuccess);
  return FromDevice(values, 128);
}

TEST(Simt, AMissingWarpBarrierIsSeen) {
  std::vector<int> expected = Iota(128);
  for (int i = 0; i < 128; ++i) expected[static_cast<size_t>(i)] = i ^ 31;
  EXPECT_EQ(SeedsThatDiffer(ReversedInWarps<true>, expected), 0);
  EXPECT_GE(SeedsThatDiffer(ReversedInWarps<false>, expected), static_cast<int>(kSeeds) - 2);
}

// Two blocks' worth of work that only atomics keep right.
__global__ void AddToEach(int* sums, float* float_sum) {
  atomicAdd(&sums[threadIdx.x % 4], 1);
  atomicAdd(float_sum, 0.5F);
  atomicMax(&sums[4], static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x));
}

TEST(Simt, AtomicsAddUp) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    UseSeed(seed);
    int* sums = OnDevice(std::vector<int>(5));
    float* float_sum = OnDevice(std::vector<float>(1));
    ASSERT_EQ(RunKernel(AddToEach, {dim3(3), dim3(64)}, sums, float_sum), cudaSuccess);
    EXPECT_EQ(FromDevice(sums, 5), (std::vector<int>{48, 48, 48, 48, 191}));
    EXPECT_EQ(FromDevice(float_sum, 1)[0], 96);
  }
}

// Not atomic: others' additions come between the reading and the writing.
__global__ void AddBetween(int* sum) {
  const int old = *sum;
  atomicAdd(sum + 1, 1);
  *sum = old + 1;
}

TEST(Simt, ThreadsGiveWayAtAtomics) {
  UseSeed(1);
  int* sum = OnDevice(std::vector<int>(2));
  ASSERT_EQ(RunKernel(AddBetween, {dim3(1), dim3(128)}, sum), cudaSuccess);
  EXPECT_LT(FromDevice(sum, 2)[0], 128);
  EXPECT_EQ(FromDevice(sum, 2)[1], 128);
}

__global__ void SpinLock(int* lock, int* count) {
  while (atomicCAS(lock, 0, 1) != 0) {
  }
  ++*count;
  atomicExch(lock, 0);
}

TEST(Simt, ALoopThatWaitsForAnotherThreadEnds) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    UseSeed(seed);
    int* lock = OnDevice(std::vector<int>(1));
    int* count = OnDevice(std::vector<int>(1));
    ASSERT_EQ(RunKernel(SpinLock, {dim3(2), dim3(64)}, lock, count), cudaSuccess);
    EXPECT_EQ(FromDevice(count, 1)[0], 128);
  }
}

// ------------------------------------------------------------------------------- warps

__global__ void EveryShuffle(int* out, int width, int operand) {
  const int lane = static_cast<int>(threadIdx.x);
  out[lane] = __shfl_sync(kWholeWarp, lane, operand, width);
  out[32 + lane] = __shfl_xor_sync(kWholeWarp, lane, operand, width);
  out[64 + lane] = __shfl_up_sync(kWholeWarp, lane, static_cast<unsigned>(operand), width);
  out[96 + lane] = __shfl_down_sync(kWholeWarp, lane, static_cast<unsigned>(operand), width);
}

// The formulas of PTX's shfl.sync: j is the source, and what lies beyond the segment's bound keeps its own.
TEST(Simt, ShufflesTakeTheLaneThatPtxSays) {
  for (int width : {2, 8, 16, 32}) {
    for (int operand : {0, 1, 3, 7, 16, 31}) {
      UseSeed(static_cast<uint64_t>(width + operand));
      int* out = OnDevice(std::vector<int>(128));
      ASSERT_EQ(RunKernel(EveryShuffle, {dim3(1), dim3(32)}, out, width, operand), cudaSuccess);
      const std::vector<int> got = FromDevice(out, 128);
      const int segment_mask = 32 - width;
      for (int lane = 0; lane < 32; ++lane) {
        const int min_lane = lane & segment_mask;
        const int max_lane = min_lane | (31 & ~segment_mask);
        const int index = min_lane | (operand & ~segment_mask);
        EXPECT_EQ(got[lane], index);
        EXPECT_EQ(got[32 + lane], (lane ^ operand) <= max_lane ? lane ^ operand : lane);
        EXPECT_EQ(got[64 + lane], lane - operand >= min_lane ? lane - operand : lane);
        EXPECT_EQ(got[96 + lane], lane + operand <= max_lane ? lane + operand : lane);
      }
    }
  }
}

__global__ void HalvesOnTheirOwn(unsigned* out, double* wide) {
  const unsigned lane = threadIdx.x % 32;
  const unsigned mask = lane < 16 ? 0x0000ffff : 0xffff0000;
  unsigned result = 0;
  if (lane < 16) {
    result = __ballot_sync(mask, lane % 3 == 0);
  } else {
    result = __reduce_max_sync(mask, lane * 2);
  }
  out[threadIdx.x] = result;
  wide[threadIdx.x] = __shfl_xor_sync(mask, 0.5 + lane, 1);
}

TEST(Simt, PartsOfAWarpMayGoDifferentWays) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    UseSeed(seed);
    unsigned* out = OnDevice(std::vector<unsigned>(64));
    double* wide = OnDevice(std::vector<double>(64));
    ASSERT_EQ(RunKernel(HalvesOnTheirOwn, {dim3(1), dim3(64)}, out, wide), cudaSuccess);
    const auto got = FromDevice(out, 64);
    const auto got_wide = FromDevice(wide, 64);
    for (unsigned i = 0; i < 64; ++i) {
      EXPECT_EQ(got[i], i % 32 < 16 ? 0x9249U : 62U);
      EXPECT_EQ(got_wide[i], 0.5 + (i % 32 ^ 1));
    }
  }
}

__global__ void Votes(int* out) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  out[threadIdx.x * 6] = __any_sync(kWholeWarp, lane == 5);
  out[threadIdx.x * 6 + 1] = __all_sync(kWholeWarp, lane < 31);
  out[threadIdx.x * 6 + 2] = static_cast<int>(__match_any_sync(kWholeWarp, lane % 4));
  out[threadIdx.x * 6 + 3] = __syncthreads_or(threadIdx.x == 50);
  out[threadIdx.x * 6 + 4] = __syncthreads_and(threadIdx.x != 50);
  out[threadIdx.x * 6 + 5] = __syncthreads_count(threadIdx.x < 40);
}

TEST(Simt, VotesCountEveryThread) {
  UseSeed(3);
  int* out = OnDevice(std::vector<int>(64 * 6));
  ASSERT_EQ(RunKernel(Votes, {dim3(1), dim3(64)}, out), cudaSuccess);
  const auto got = FromDevice(out, 64 * 6);
  for (int i = 0; i < 64; ++i) {
    const std::vector<int> mine(got.begin() + i * 6, got.begin() + i * 6 + 6);
    EXPECT_EQ(mine, (std::vector<int>{1, 0, 0x11111111 << (i % 4), 1, 0, 40}));
  }
}

// ------------------------------------------------------------------------------- faults

enum class Mistake {
  kOneThreadReturns,
  kTwoBarriers,
  kBarrierAgainstShuffle,
  kLaneReturned,
  kNotInItsMask,
  kReadsUnnamedLane,
  kTwoShuffles,
  kNoWarpThere,
  kNoSharedMemory,
  kTrap,
};

__global__ void Wrong(Mistake mistake) {
  const unsigned lane = threadIdx.x % 32;
  switch (mistake) {
    case Mistake::kOneThreadReturns:
      if (threadIdx.x == 33) return;
      __syncthreads();
      break;
    case Mistake::kTwoBarriers:
      if (threadIdx.x < 32) {
        __syncthreads();
      } else {
        __syncthreads();
      }
      break;
    case Mistake::kBarrierAgainstShuffle:
      if (threadIdx.x == 5) {
        __syncthreads();
      } else {
        __shfl_sync(kWholeWarp, lane, 0);
      }
      break;
    case Mistake::kLaneReturned:
      if (lane == 7) return;
      __shfl_xor_sync(kWholeWarp, lane, 1);
      break;
    case Mistake::kNotInItsMask:
      __ballot_sync(0xfffffffe, 1);
      break;
    case Mistake::kReadsUnnamedLane:
      if (lane < 16) __shfl_sync(0x0000ffff, lane, 20);
      break;
    case Mistake::kTwoShuffles:
      if (lane < 16) {
        __shfl_sync(kWholeWarp, lane, 0);
      } else {
        __shfl_sync(kWholeWarp, lane, 0);
      }
      break;
    case Mistake::kNoWarpThere:
      __syncwarp();
      break;
    case Mistake::kNoSharedMemory:
      SharedAs<Numbers>().at[0] = 1;
      break;
    case Mistake::kTrap:
      if (threadIdx.x == 3) __trap();
      break;
  }
}

std::string FaultOf(Mistake mistake, uint64_t seed, unsigned threads = 64) {
  UseSeed(seed);
  EXPECT_EQ(RunKernel(Wrong, {dim3(1), dim3(threads)}, mistake), cudaErrorLaunchFailure);
  EXPECT_EQ(cudaStreamSynchronize(nullptr), cudaErrorLaunchFailure) << "sticky";
  return FirstFault();
}

TEST(Simt, MistakesWithBarriersAndWarpsAreFaultsOfEverySeed) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    EXPECT_THAT(FaultOf(Mistake::kOneThreadReturns, seed),
                AllOf(HasSubstr("block (0, 0, 0): no thread can go on"), HasSubstr("thread 33 returned"),
                      HasSubstr("threads 0-32, 34-63 at __syncthreads, simt_test.cc:")));
    EXPECT_THAT(FaultOf(Mistake::kTwoBarriers, seed),
                AllOf(HasSubstr("threads meet at different barriers"), HasSubstr("threads 0-31 at"),
                      HasSubstr("threads 32-63 at")));
    EXPECT_THAT(FaultOf(Mistake::kBarrierAgainstShuffle, seed),
                AllOf(HasSubstr("no thread can go on"), HasSubstr("thread 5 at __syncthreads"),
                      HasSubstr("threads 0-4, 6-31 at __shfl_sync with mask 0xffffffff")));
    EXPECT_THAT(FaultOf(Mistake::kLaneReturned, seed), HasSubstr("returned"));
    EXPECT_THAT(FaultOf(Mistake::kNotInItsMask, seed), HasSubstr("which does not name it"));
    EXPECT_THAT(FaultOf(Mistake::kReadsUnnamedLane, seed),
                HasSubstr("reads lane 20, which the mask does not name"));
    EXPECT_THAT(FaultOf(Mistake::kTwoShuffles, seed), HasSubstr("meet at different operations"));
    EXPECT_THAT(FaultOf(Mistake::kNoWarpThere, seed, 48),
                HasSubstr("or are none of the block's: 0xffff0000"));
    EXPECT_THAT(FaultOf(Mistake::kNoSharedMemory, seed), HasSubstr("launched with none"));
    EXPECT_THAT(FaultOf(Mistake::kTrap, seed), HasSubstr("thread 3: __trap()"));
  }
}

TEST(Simt, AfterAFaultANewMachineRunsOn) {
  FaultOf(Mistake::kTwoBarriers, 1);
  UseSeed(2);
  int* values = OnDevice(Iota(128));
  ASSERT_EQ(RunKernel(Reverse<true>, {dim3(1), dim3(128), sizeof(Numbers)}, values), cudaSuccess);
  EXPECT_EQ(FromDevice(values, 128)[0], 127);
  EXPECT_EQ(FirstFault(), "");
}

}  // namespace
}  // namespace spillway::fakes::cuda
