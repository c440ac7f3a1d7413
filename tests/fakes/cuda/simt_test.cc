// The emulator itself: that right kernels come out right for every seed, and that each kind of wrong one is
// seen. A kernel with a mistake is one template with the line that matters left out.
#include "engine/device/cuda/simt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "engine/device/cuda/tensor_core.h"
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

// That `run`, of a kernel that lacks something, gives another result for `at_least` of the seeds.
// ThreadSanitizer needs no wrong result: it reports the race whatever the order.
template <typename Run, typename T>
void ExpectSeen(const Run& run, [[maybe_unused]] const std::vector<T>& expected,
                [[maybe_unused]] int at_least = static_cast<int>(kSeeds) - 2) {
#ifdef __SANITIZE_THREAD__
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    UseSeed(seed);
    SPILLWAY_EXPECT_RACE(run);
  }
#else
  EXPECT_GE(SeedsThatDiffer(run, expected), at_least);
#endif
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
  ExpectSeen(Reversed<false>, expected);
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
  ExpectSeen(Rotated<false>, expected);
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
  ExpectSeen(Broadcasted<false>, std::vector<int>(128, 7));
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
  ExpectSeen(ReversedInWarps<false>, expected);
}

// Behind a barrier every thread may run: each notes when it does.
__global__ void NoteThreads(int* next, int* order) {
  __syncthreads();
  order[(*next)++] = static_cast<int>(threadIdx.x);
}

// What only one order of a block's threads shows is shown by some seed.
TEST(Simt, ThreadsRunInOrdersOfEveryKind) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "a race on purpose";
#endif
  constexpr size_t kThreads = 96;
  std::set<std::string> kinds;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    UseSeed(seed);
    int* next = OnDevice(std::vector<int>(1));
    int* order = OnDevice(std::vector<int>(kThreads));
    ASSERT_EQ(RunKernel(NoteThreads, {dim3(1), dim3(kThreads)}, next, order), cudaSuccess);
    const std::vector<int> ran = FromDevice(order, kThreads);
    std::vector<int> warps;  // one after the other
    for (int thread : ran) {
      if (warps.empty() || warps.back() != thread / 32) warps.push_back(thread / 32);
    }
    if (std::is_sorted(ran.begin(), ran.end())) {
      kinds.insert("ascending");
    } else if (std::is_sorted(ran.rbegin(), ran.rend())) {
      kinds.insert("descending");
    } else if (warps.size() == 3) {
      kinds.insert("warp by warp");
    } else if (std::count(warps.begin(), warps.end(), warps.back()) == 1) {
      kinds.insert("one warp last");
    } else {
      kinds.insert("any");
    }
  }
  EXPECT_THAT(kinds, testing::ElementsAre("any", "ascending", "descending", "one warp last", "warp by warp"));
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
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "a race on purpose";
#endif
  UseSeed(1);
  int* sum = OnDevice(std::vector<int>(2));
  ASSERT_EQ(RunKernel(AddBetween, {dim3(1), dim3(128)}, sum), cudaSuccess);
  EXPECT_LT(FromDevice(sum, 2)[0], 128);
  EXPECT_EQ(FromDevice(sum, 2)[1], 128);
}

#ifdef __SANITIZE_THREAD__
// Every block adds to the same numbers, without atomics.
__global__ void AddAcrossBlocks(int* sums) { sums[(threadIdx.x + blockIdx.x) % blockDim.x] += 1; }

TEST(Simt, BlocksThatWriteToOnePlaceAreARace) {
  UseSeed(1);
  int* sums = OnDevice(std::vector<int>(64));
  SPILLWAY_EXPECT_RACE([&] { RunKernel(AddAcrossBlocks, {dim3(2), dim3(64)}, sums); });
}
#endif

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

// ------------------------------------------------------------------------------- asynchronous copies

constexpr int kTiles = 6;

struct alignas(16) TwoTiles {
  int at[2][128];
};

// Sums tiles of 128 numbers that come by asynchronous copies into two buffers in turn. Each thread copies
// four numbers and reads its neighbours'.
template <bool kWait, bool kBarrierBehindWait, bool kBarrierBehindUse>
__global__ void SumTiles(const int* tiles, int* sums) {
  auto& shared = SharedAs<TwoTiles>();
  const auto load = [&](int tile) {
    device::cuda::AsyncCopy16(&shared.at[tile % 2][threadIdx.x * 4], tiles + tile * 128 + threadIdx.x * 4);
    device::cuda::AsyncCommit();
  };
  int sum = 0;
  load(0);
  for (int tile = 0; tile < kTiles; ++tile) {
    if (tile + 1 < kTiles) {
      load(tile + 1);
      device::cuda::AsyncWait<kWait ? 1 : 2>();
    } else {
      device::cuda::AsyncWait<0>();
    }
    if (kBarrierBehindWait) __syncwarp();
    for (unsigned i = 0; i < 128; i += 32) sum += shared.at[tile % 2][(threadIdx.x + i) % 128];
    if (kBarrierBehindUse) __syncwarp();
  }
  sums[threadIdx.x] = sum;
}

template <bool kWait, bool kBarrierBehindWait, bool kBarrierBehindUse>
std::vector<int> SummedTiles() {
  const int* tiles = OnDevice(Iota(kTiles * 128));
  int* sums = OnDevice(std::vector<int>(32));
  EXPECT_EQ(RunKernel(SumTiles<kWait, kBarrierBehindWait, kBarrierBehindUse>,
                      {dim3(1), dim3(32), sizeof(TwoTiles)}, tiles, sums),
            cudaSuccess);
  return FromDevice(sums, 32);
}

TEST(Simt, WhatAsynchronousCopiesLackIsSeen) {
  std::vector<int> expected;
  for (int lane = 0; lane < 32; ++lane) {
    int sum = 0;
    for (int i = lane; i < kTiles * 128; i += 32) sum += i;
    expected.push_back(sum);
  }
  EXPECT_EQ(SeedsThatDiffer(SummedTiles<true, true, true>, expected), 0);
  {
    SCOPED_TRACE("the barrier behind the wait");
    ExpectSeen(SummedTiles<true, false, true>, expected);
  }
  {
    SCOPED_TRACE("the barrier before the buffer is filled again");
    ExpectSeen(SummedTiles<true, true, false>, expected);
  }
#ifndef __SANITIZE_THREAD__
  // No race: the bytes are just not there yet, for every seed.
  EXPECT_EQ(SeedsThatDiffer(SummedTiles<false, true, true>, expected), static_cast<int>(kSeeds))
      << "the wait";
#endif
}

__global__ void ReadBeforeAndBehindTheWait(const int* in, int* out) {
  auto& shared = SharedAs<TwoTiles>();
  device::cuda::AsyncCopy16(&shared.at[0][threadIdx.x * 4], in + threadIdx.x * 4);
  device::cuda::AsyncCommit();
  out[threadIdx.x] = shared.at[0][threadIdx.x * 4];
  device::cuda::AsyncWait<0>();
  out[32 + threadIdx.x] = shared.at[0][threadIdx.x * 4];
}

TEST(Simt, AsynchronousCopiesArriveWhenTheyAreAwaited) {
  UseSeed(1);
  int* out = OnDevice(std::vector<int>(64));
  ASSERT_EQ(RunKernel(ReadBeforeAndBehindTheWait, {dim3(1), dim3(32), sizeof(TwoTiles)},
                      OnDevice(std::vector<int>(128, 5)), out),
            cudaSuccess);
  std::vector<int> expected(32, -1);  // the bits of a NaN
  expected.resize(64, 5);
  EXPECT_EQ(FromDevice(out, 64), expected);
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
  kMmaWithoutALane,
  kCopyUnaligned,
  kCopyFromShared,
  kCopyNeverAwaited,
  kMatrixUnaligned,
  kMatrixOutside,
  kStoreUnaligned,
  kStoreToShared,
  kTrap,
};

__global__ void Wrong(Mistake mistake, const char* global) {
  const unsigned lane = threadIdx.x % 32;
  uint32_t a[4] = {};
  uint32_t b[2] = {};
  float d[4] = {};
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
    case Mistake::kMmaWithoutALane:
      if (lane != 9) device::cuda::Mma16816<__half>(d, a, b);
      break;
    case Mistake::kCopyUnaligned:
      device::cuda::AsyncCopy16(SharedAs<TwoTiles>().at[0], global + 8);
      break;
    case Mistake::kCopyFromShared:
      device::cuda::AsyncCopy16(SharedAs<TwoTiles>().at[0], SharedAs<TwoTiles>().at[1]);
      break;
    case Mistake::kCopyNeverAwaited:
      device::cuda::AsyncCopy16(SharedAs<TwoTiles>().at[0], global);
      device::cuda::AsyncCommit();
      break;
    case Mistake::kMatrixUnaligned:
      device::cuda::LoadMatrix4(a, &SharedAs<TwoTiles>().at[0][lane]);
      break;
    case Mistake::kMatrixOutside:
      device::cuda::LoadMatrix2(b, global);
      break;
    case Mistake::kStoreUnaligned:
      device::cuda::StoreSixteen(const_cast<char*>(global) + 8, a);
      break;
    case Mistake::kStoreToShared:
      device::cuda::StoreSixteen(SharedAs<TwoTiles>().at[0], a);
      break;
    case Mistake::kTrap:
      if (threadIdx.x == 3) __trap();
      break;
  }
}

std::string FaultOf(Mistake mistake, uint64_t seed, unsigned threads = 64, size_t shared_bytes = 0) {
  UseSeed(seed);
  const char* global = OnDevice(std::vector<char>(64));
  EXPECT_EQ(RunKernel(Wrong, {dim3(1), dim3(threads), shared_bytes}, mistake, global),
            cudaErrorLaunchFailure);
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

TEST(Simt, MistakesWithMatricesAndCopiesAreFaultsOfEverySeed) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    const auto fault = [&](Mistake mistake) { return FaultOf(mistake, seed, 64, sizeof(TwoTiles)); };
    EXPECT_THAT(fault(Mistake::kMmaWithoutALane),
                testing::AnyOf(HasSubstr("waits at mma of f16"), HasSubstr("calls mma of f16")));
    EXPECT_THAT(fault(Mistake::kCopyUnaligned), HasSubstr("its source is not aligned"));
    EXPECT_THAT(fault(Mistake::kCopyFromShared), HasSubstr("or lies in shared memory"));
    EXPECT_THAT(fault(Mistake::kCopyNeverAwaited), HasSubstr("never awaited"));
    EXPECT_THAT(fault(Mistake::kMatrixUnaligned), HasSubstr("not 16 aligned bytes of shared memory"));
    EXPECT_THAT(fault(Mistake::kMatrixOutside), HasSubstr("not 16 aligned bytes of shared memory"));
    EXPECT_THAT(fault(Mistake::kStoreUnaligned), HasSubstr("not to 16 aligned bytes of global memory"));
    EXPECT_THAT(fault(Mistake::kStoreToShared), HasSubstr("not to 16 aligned bytes of global memory"));
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
