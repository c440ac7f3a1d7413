// The fake of the CUDA runtime: that a forgotten wait is seen, and that it fails as CUDA does.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "engine/device/cuda/simt.h"
#include "tests/fakes/cuda/launch_for_test.h"

namespace spillway::fakes::cuda {
namespace {

using device::cuda::LaunchShape;
using testing::Each;
using testing::HasSubstr;

constexpr uint64_t kSeeds = 40;
constexpr int kNumbers = 256;

__global__ void AddOne(const int* in, int* out) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = in[i] + 1;
}

// Pinned host memory.
int* Pinned(int value) {
  int* memory = nullptr;
  EXPECT_EQ(cudaHostAlloc(&memory, kNumbers * sizeof(int), cudaHostAllocDefault), cudaSuccess);
  for (int i = 0; i < kNumbers; ++i) memory[i] = value;
  return memory;
}

cudaStream_t NewStream() {
  cudaStream_t stream = nullptr;
  EXPECT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  return stream;
}

cudaEvent_t NewEvent() {
  cudaEvent_t event = nullptr;
  EXPECT_EQ(cudaEventCreate(&event), cudaSuccess);
  return event;
}

// Two buffers in turn: a chunk is copied in on one stream and used on another, three times each. `filled`
// makes the use wait for the copy, `freed` the next copy for the use.
std::vector<int> DoubleBuffered(bool wait_filled, bool wait_freed) {
  const cudaStream_t link = NewStream();
  const cudaStream_t compute = NewStream();
  constexpr int kChunks = 6;
  int* buffers[2];
  cudaEvent_t filled[2];
  cudaEvent_t freed[2];
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(cudaMalloc(&buffers[i], kNumbers * sizeof(int)), cudaSuccess);
    filled[i] = NewEvent();
    freed[i] = NewEvent();
  }
  int* out = nullptr;
  EXPECT_EQ(cudaMalloc(&out, kChunks * kNumbers * sizeof(int)), cudaSuccess);
  for (int chunk = 0; chunk < kChunks; ++chunk) {
    const int slot = chunk % 2;
    if (chunk >= 2 && wait_freed) {
      EXPECT_EQ(cudaStreamWaitEvent(link, freed[slot]), cudaSuccess);
    }
    EXPECT_EQ(cudaMemcpyAsync(buffers[slot], Pinned(100 * chunk), kNumbers * sizeof(int),
                              cudaMemcpyHostToDevice, link),
              cudaSuccess);
    EXPECT_EQ(cudaEventRecord(filled[slot], link), cudaSuccess);
    if (wait_filled) {
      EXPECT_EQ(cudaStreamWaitEvent(compute, filled[slot]), cudaSuccess);
    }
    EXPECT_EQ(device::cuda::Launch(AddOne, {dim3(2), dim3(kNumbers / 2)}, compute, buffers[slot],
                                   out + chunk * kNumbers),
              cudaSuccess);
    EXPECT_EQ(cudaEventRecord(freed[slot], compute), cudaSuccess);
  }
  int* host = nullptr;
  EXPECT_EQ(cudaHostAlloc(&host, kChunks * kNumbers * sizeof(int), cudaHostAllocDefault), cudaSuccess);
  EXPECT_EQ(cudaMemcpyAsync(host, out, kChunks * kNumbers * sizeof(int), cudaMemcpyDeviceToHost, compute),
            cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(compute), cudaSuccess);
  const std::vector<int> seen(host, host + kChunks * kNumbers);
  EXPECT_EQ(cudaStreamSynchronize(link), cudaSuccess);  // what never runs races with nothing
  return seen;
}

int WrongSeeds(bool wait_filled, bool wait_freed) {
  std::vector<int> expected;
  for (int chunk = 0; chunk < 6; ++chunk) expected.insert(expected.end(), kNumbers, 100 * chunk + 1);
  int wrong = 0;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    UseSeed(seed);
    wrong += DoubleBuffered(wait_filled, wait_freed) != expected ? 1 : 0;
  }
  return wrong;
}

TEST(FakeRuntime, StreamsThatWaitForEachOtherAreRightForEverySeed) { EXPECT_EQ(WrongSeeds(true, true), 0); }

#ifdef __SANITIZE_THREAD__

// Streams are threads, which events, synchronisation and the order of enqueuing alone order.
TEST(FakeRuntime, WhatAStreamOrTheHostDoesNotWaitForIsARace) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    UseSeed(seed);
    SPILLWAY_EXPECT_RACE([] { DoubleBuffered(false, true); });
    SPILLWAY_EXPECT_RACE([] { DoubleBuffered(true, false); });
    const cudaStream_t stream = NewStream();
    int* device = OnDevice(std::vector<int>(kNumbers, 5));
    int* host = Pinned(-1);
    SPILLWAY_EXPECT_RACE([&] {  // looks too early
      cudaMemcpyAsync(host, device, kNumbers * sizeof(int), cudaMemcpyDeviceToHost, stream);
      const int seen = host[0];
      cudaStreamSynchronize(stream);
      std::printf("%d\n", seen);
    });
    SPILLWAY_EXPECT_RACE([&] {  // changes the source too early
      cudaMemcpyAsync(device, host, kNumbers * sizeof(int), cudaMemcpyHostToDevice, stream);
      host[0] = 2;
      cudaStreamSynchronize(stream);
    });
  }
}

#else

__global__ void NoteKernel(int kernel, int* next, int* order) { order[(*next)++] = kernel; }

// Another stream's blocks come between those of a kernel.
TEST(FakeRuntime, KernelsOfTwoStreamsRunAtOnce) {
  constexpr int kBlocks = 16, kKernels = 16;
  int mixed = 0;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    UseSeed(seed);
    int* next = OnDevice(std::vector<int>(1));
    int* order = OnDevice(std::vector<int>(kKernels * kBlocks));
    const cudaStream_t streams[] = {NewStream(), NewStream()};
    for (int i = 0; i < kKernels; ++i) {
      ASSERT_EQ(device::cuda::Launch(NoteKernel, {dim3(kBlocks), dim3(1)}, streams[i % 2], i, next, order),
                cudaSuccess);
    }
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    const std::vector<int> ran = FromDevice(order, kKernels * kBlocks);
    int changes = 0;
    for (size_t i = 1; i < ran.size(); ++i) changes += ran[i] != ran[i - 1] ? 1 : 0;
    mixed += changes >= kKernels ? 1 : 0;
  }
  EXPECT_GE(mixed, kSeeds / 8);
}

TEST(FakeRuntime, AMissingWaitForACopyIsSeen) { EXPECT_GE(WrongSeeds(false, true), kSeeds / 4); }

TEST(FakeRuntime, AMissingWaitBeforeABufferIsUsedAgainIsSeen) {
  EXPECT_GE(WrongSeeds(true, false), kSeeds / 8);
}

TEST(FakeRuntime, AHostThatDoesNotWaitSeesOldBytes) {
  int old = 0;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    UseSeed(seed);
    const cudaStream_t stream = NewStream();
    int* device = OnDevice(std::vector<int>(kNumbers, 5));
    int* host = Pinned(-1);
    ASSERT_EQ(cudaMemcpyAsync(host, device, kNumbers * sizeof(int), cudaMemcpyDeviceToHost, stream),
              cudaSuccess);
    old += host[kNumbers - 1] == -1 ? 1 : 0;
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    EXPECT_EQ(host[kNumbers - 1], 5);
  }
  EXPECT_GE(old, kSeeds / 4);
  EXPECT_LT(old, kSeeds) << "sometimes the device is quick";
}

TEST(FakeRuntime, ASourceThatChangesTooEarlyIsSeen) {
  int wrong = 0;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    UseSeed(seed);
    const cudaStream_t stream = NewStream();
    int* device = nullptr;
    ASSERT_EQ(cudaMalloc(&device, kNumbers * sizeof(int)), cudaSuccess);
    int* host = Pinned(1);
    ASSERT_EQ(cudaMemcpyAsync(device, host, kNumbers * sizeof(int), cudaMemcpyHostToDevice, stream),
              cudaSuccess);
    host[0] = 2;
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    wrong += FromDevice(device, 1)[0] == 2 ? 1 : 0;
  }
  EXPECT_GE(wrong, kSeeds / 4);
}

#endif

TEST(FakeRuntime, PageableMemoryIsDoneWithWhenTheCallReturns) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    UseSeed(seed);
    const cudaStream_t stream = NewStream();
    int* device = nullptr;
    ASSERT_EQ(cudaMalloc(&device, kNumbers * sizeof(int)), cudaSuccess);
    std::vector<int> host(kNumbers, 1);
    ASSERT_EQ(cudaMemcpyAsync(device, host.data(), kNumbers * sizeof(int), cudaMemcpyHostToDevice, stream),
              cudaSuccess);
    host[0] = 2;
    EXPECT_EQ(Counts().pageable_copies, 1);
    EXPECT_THAT(FromDevice(device, kNumbers), Each(1));
  }
}

TEST(FakeRuntime, HostFunctionsRunInTheirStreamsOrderAndMustNotCallTheRuntime) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    UseSeed(seed);
    const cudaStream_t stream = NewStream();
    int* device = nullptr;
    ASSERT_EQ(cudaMalloc(&device, kNumbers * sizeof(int)), cudaSuccess);
    int* from = Pinned(1);
    int* to = Pinned(0);
    const auto copy = [&](void* destination, const void* source, cudaMemcpyKind kind) {
      ASSERT_EQ(cudaMemcpyAsync(destination, source, kNumbers * sizeof(int), kind, stream), cudaSuccess);
    };
    const auto raise = [](void* numbers) { ++static_cast<int*>(numbers)[0]; };
    ASSERT_EQ(cudaLaunchHostFunc(stream, raise, from), cudaSuccess);
    copy(device, from, cudaMemcpyHostToDevice);
    ASSERT_EQ(cudaLaunchHostFunc(stream, raise, from), cudaSuccess);
    copy(to, device, cudaMemcpyDeviceToHost);
    ASSERT_EQ(cudaLaunchHostFunc(stream, raise, to), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    EXPECT_EQ(from[0], 3);
    EXPECT_EQ(to[0], 3);
    EXPECT_EQ(to[1], 1);
#ifndef __SANITIZE_THREAD__  // it does not see that the machine's mutex is recursive
    cudaError_t error = cudaSuccess;
    const auto call = [](void* told) { *static_cast<cudaError_t*>(told) = cudaStreamQuery(nullptr); };
    ASSERT_EQ(cudaLaunchHostFunc(stream, call, &error), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    EXPECT_EQ(error, cudaErrorNotPermitted);
#endif
  }
}

// ------------------------------------------------------------------------------- events

TEST(FakeRuntime, AnEventRecordedAgainIsAnotherOneForLaterWaitersOnly) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    UseSeed(seed);
    const cudaStream_t a = NewStream();
    const cudaStream_t b = NewStream();
    const cudaStream_t c = NewStream();
    const cudaEvent_t event = NewEvent();
    int* device = nullptr;
    ASSERT_EQ(cudaMalloc(&device, kNumbers * sizeof(int)), cudaSuccess);
    int* seen = Pinned(-1);
    ASSERT_EQ(cudaMemcpyAsync(device, Pinned(1), kNumbers * sizeof(int), cudaMemcpyHostToDevice, a),
              cudaSuccess);
    ASSERT_EQ(cudaEventRecord(event, a), cudaSuccess);
    ASSERT_EQ(cudaStreamWaitEvent(b, event), cudaSuccess);
    ASSERT_EQ(cudaEventRecord(event, c), cudaSuccess);  // runs at once, perhaps; b waits for the other
    ASSERT_EQ(cudaMemcpyAsync(seen, device, kNumbers * sizeof(int), cudaMemcpyDeviceToHost, b), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(b), cudaSuccess);
    EXPECT_EQ(seen[0], 1);
    EXPECT_EQ(seen[kNumbers - 1], 1);
  }
}

TEST(FakeRuntime, PollingAnEventEnds) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    UseSeed(seed);
    const cudaStream_t stream = NewStream();
    const cudaEvent_t event = NewEvent();
    EXPECT_EQ(cudaEventQuery(event), cudaSuccess) << "never recorded";
    int* in = OnDevice(std::vector<int>(kNumbers, 3));
    for (int i = 0; i < 5; ++i) {
      ASSERT_EQ(device::cuda::Launch(AddOne, {dim3(1), dim3(kNumbers)}, stream, in, in), cudaSuccess);
    }
    ASSERT_EQ(cudaEventRecord(event, stream), cudaSuccess);
    int polls = 0;
    while (cudaEventQuery(event) == cudaErrorNotReady) ASSERT_LT(++polls, 1000);
    ASSERT_EQ(cudaEventQuery(event), cudaSuccess);
    EXPECT_THAT(FromDevice(in, kNumbers), Each(8));
  }
}

TEST(FakeRuntime, ALazyMachineDoesWhatIsAwaitedAndNoMore) {
  MachineOptions options;
  options.lazy = true;
  ResetMachine(options);
  const cudaStream_t streams[] = {NewStream(), NewStream()};
  int* seen[] = {Pinned(0), Pinned(0)};
  int* device = OnDevice(std::vector<int>(kNumbers, 5));
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(cudaMemcpyAsync(seen[i], device, kNumbers * sizeof(int), cudaMemcpyDeviceToHost, streams[i]),
              cudaSuccess);
  }
  EXPECT_EQ(Counts().copies, 1) << "the one to the device";
  ASSERT_EQ(cudaStreamSynchronize(streams[1]), cudaSuccess);
  EXPECT_EQ(Counts().copies, 2) << "and the one that was awaited";
  EXPECT_EQ(seen[1][0], 5);
  const cudaEvent_t event = NewEvent();
  ASSERT_EQ(cudaEventRecord(event, streams[0]), cudaSuccess);
  int polls = 0;
  while (cudaEventQuery(event) == cudaErrorNotReady) ASSERT_LT(++polls, 1000);
  EXPECT_EQ(seen[0][0], 5);
}

TEST(FakeRuntime, ElapsedTimeGrowsWithTheWork) {
  UseSeed(1);
  const cudaStream_t stream = NewStream();
  int* device = nullptr;
  int* host = nullptr;
  constexpr size_t kBytes = size_t{50} << 20;
  ASSERT_EQ(cudaMalloc(&device, kBytes), cudaSuccess);
  ASSERT_EQ(cudaHostAlloc(&host, kBytes, cudaHostAllocDefault), cudaSuccess);
  const cudaEvent_t begin = NewEvent();
  const cudaEvent_t middle = NewEvent();
  const cudaEvent_t end = NewEvent();
  ASSERT_EQ(cudaEventRecord(begin, stream), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(device, host, kBytes / 10, cudaMemcpyHostToDevice, stream), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(middle, stream), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(device, host, kBytes, cudaMemcpyHostToDevice, stream), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(end, stream), cudaSuccess);
  ASSERT_EQ(cudaEventSynchronize(end), cudaSuccess);
  float small = 0;
  float large = 0;
  ASSERT_EQ(cudaEventElapsedTime(&small, begin, middle), cudaSuccess);
  ASSERT_EQ(cudaEventElapsedTime(&large, middle, end), cudaSuccess);
  EXPECT_GT(small, 0);
  EXPECT_GT(large, 5 * small);
}

// ------------------------------------------------------------------------------- batches

TEST(FakeRuntime, BatchesCopyEveryPieceInAnyOrder) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    UseSeed(seed);
    const cudaStream_t stream = NewStream();
    int* host = Pinned(0);
    for (int i = 0; i < kNumbers; ++i) host[i] = i;
    int* device = OnDevice(std::vector<int>(kNumbers, -1));
    std::vector<void*> to;
    std::vector<const void*> from;
    std::vector<size_t> sizes;
    for (int i = 0; i < kNumbers; i += 8) {
      to.push_back(device + kNumbers - 8 - i);
      from.push_back(host + i);
      sizes.push_back((i % 16 == 0 ? 8 : 4) * sizeof(int));
    }
    cudaMemcpyAttributes attributes{};
    attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
    size_t first = 0;
    ASSERT_EQ(
        cudaMemcpyBatchAsync(to.data(), from.data(), sizes.data(), to.size(), &attributes, &first, 1, stream),
        cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    const auto got = FromDevice(device, kNumbers);
    for (int i = 0; i < kNumbers; ++i) {
      const int source = kNumbers - 8 - i / 8 * 8 + i % 8;
      EXPECT_EQ(got[i], source % 16 < 12 ? source : -1) << i;
    }
    EXPECT_EQ(Counts().batches, 1);
  }
}

// Who takes one copy of a batch to be behind another is wrong for some seed.
TEST(FakeRuntime, CopiesOfABatchHaveNoOrder) {
  int old = 0;
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    UseSeed(seed);
    const cudaStream_t stream = NewStream();
    int* device = OnDevice(std::vector<int>{1, 2, 3});
    void* to[] = {device + 1, device + 2};
    const void* from[] = {device, device + 1};
    size_t sizes[] = {sizeof(int), sizeof(int)};
    cudaMemcpyAttributes attributes{};
    attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
    size_t first = 0;
    ASSERT_EQ(cudaMemcpyBatchAsync(to, from, sizes, 2, &attributes, &first, 1, stream), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    old += FromDevice(device, 3)[2] == 2 ? 1 : 0;
  }
  EXPECT_GE(old, kSeeds / 4);
  EXPECT_LE(old, kSeeds - kSeeds / 4);
}

TEST(FakeRuntime, BatchesAreRefusedAsCudaDoes) {
  UseSeed(1);
  const cudaStream_t stream = NewStream();
  int* device = OnDevice(std::vector<int>(4));
  void* to = device;
  const void* from = Pinned(1);
  size_t size = 4;
  cudaMemcpyAttributes attributes{};
  size_t first = 0;
  const auto batch = [&](cudaStream_t on) {
    return cudaMemcpyBatchAsync(&to, &from, &size, 1, &attributes, &first, 1, on);
  };
  EXPECT_EQ(batch(stream), cudaErrorInvalidValue) << "no order of accesses";
  attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
  EXPECT_EQ(batch(nullptr), cudaErrorInvalidValue) << "the default stream";
  first = 1;
  EXPECT_EQ(batch(stream), cudaErrorInvalidValue) << "attributes start later";
  first = 0;
  size = 5 * sizeof(int);
  EXPECT_EQ(batch(stream), cudaErrorInvalidValue) << "longer than the memory";
  size = 0;
  EXPECT_EQ(batch(stream), cudaErrorInvalidValue) << "empty";
  size = 4;
  EXPECT_EQ(batch(stream), cudaSuccess);
  void* twice[] = {device, device};
  const void* sources[] = {from, from};
  size_t sizes[] = {4, 4};
  EXPECT_EQ(cudaMemcpyBatchAsync(twice, sources, sizes, 2, &attributes, &first, 1, stream),
            cudaErrorInvalidValue)
      << "two copies to one place";
}

// As under WSL 2. Memory that the runtime allocated has one address for both.
TEST(FakeRuntime, BatchesTakeAddressesAsTheyAre) {
  for (const bool registered : {false, true}) {
    MachineOptions options;
    options.host_addresses_differ = true;
    ResetMachine(options);
    cudaDeviceProp properties;
    EXPECT_EQ(cudaGetDeviceProperties(&properties, 0), cudaSuccess);
    EXPECT_EQ(properties.canUseHostPointerForRegisteredMem, 0);
    const cudaStream_t stream = NewStream();
    std::vector<int> values(8, 3);
    if (registered) {
      EXPECT_EQ(cudaHostRegister(values.data(), 32, cudaHostRegisterDefault), cudaSuccess);
    }
    const int* host = registered ? values.data() : Pinned(3);
    int* device = OnDevice(std::vector<int>(8));
    EXPECT_EQ(cudaMemcpyAsync(device, host, 4, cudaMemcpyHostToDevice, stream), cudaSuccess);
    void* to[] = {device, device + 4};
    const void* from[] = {host, host + 4};
    size_t sizes[] = {4, 4};
    cudaMemcpyAttributes attributes{};
    attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
    size_t first = 0;
    EXPECT_EQ(cudaMemcpyBatchAsync(to, from, sizes, 2, &attributes, &first, 1, stream), cudaSuccess);
    EXPECT_EQ(cudaStreamSynchronize(stream), registered ? cudaErrorIllegalAddress : cudaSuccess);
    ResetMachine({});
  }
}

// ------------------------------------------------------------------------------- memory

TEST(FakeRuntime, MemoryIsFinite) {
  MachineOptions options;
  options.memory_bytes = 1000;
  options.memory_used_by_others_bytes = 300;
  options.pinnable_bytes = 2000;
  options.registrable_bytes = 1600;
  ResetMachine(options);
  void* a = nullptr;
  void* b = &a;
  EXPECT_EQ(cudaMalloc(&a, 600), cudaSuccess);
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  EXPECT_EQ(cudaMemGetInfo(&free_bytes, &total_bytes), cudaSuccess);
  EXPECT_EQ(free_bytes, 100);
  EXPECT_EQ(total_bytes, 1000);
  EXPECT_EQ(cudaMalloc(&b, 101), cudaErrorMemoryAllocation);
  EXPECT_EQ(b, nullptr);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "not sticky";
  EXPECT_EQ(cudaFree(a), cudaSuccess);
  EXPECT_EQ(cudaFree(a), cudaErrorInvalidValue) << "twice";
  EXPECT_EQ(cudaMalloc(&b, 700), cudaSuccess);
  EXPECT_EQ(Counts().device_bytes, 700);
  std::vector<char> host(3000);
  EXPECT_EQ(cudaHostRegister(host.data(), 2001, cudaHostRegisterDefault), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaHostRegister(host.data(), 1500, cudaHostRegisterDefault), cudaSuccess);
  EXPECT_EQ(cudaHostRegister(host.data() + 1499, 10, cudaHostRegisterDefault),
            cudaErrorHostMemoryAlreadyRegistered);
  EXPECT_EQ(cudaHostUnregister(host.data() + 1), cudaErrorHostMemoryNotRegistered);
  EXPECT_EQ(cudaHostUnregister(host.data()), cudaSuccess);
  EXPECT_EQ(cudaHostUnregister(host.data()), cudaErrorHostMemoryNotRegistered);
  EXPECT_EQ(cudaHostRegister(host.data(), 1601, cudaHostRegisterDefault), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaHostRegister(host.data(), 1600, cudaHostRegisterDefault), cudaSuccess);
}

TEST(FakeRuntime, FreeingMemoryWaitsForWhatMayUseIt) {
  MachineOptions options;
  options.lazy = true;
  ResetMachine(options);
  int* numbers = OnDevice(std::vector<int>(kNumbers));
  int* out = Pinned(0);
  ASSERT_EQ(device::cuda::Launch(AddOne, {dim3(1), dim3(kNumbers)}, NewStream(), numbers, out), cudaSuccess);
  EXPECT_EQ(Counts().kernels, 0);
  EXPECT_EQ(cudaFree(numbers), cudaSuccess);
  EXPECT_EQ(Counts().kernels, 1);
}

TEST(FakeRuntime, HostMemoryIsRegisteredByPiecesAndCopiedByThem) {
  MachineOptions options;
  options.registrable_at_once_bytes = 1000;
  ResetMachine(options);
  std::vector<char> host(3000);
  void* device = nullptr;
  EXPECT_EQ(cudaMalloc(&device, 3000), cudaSuccess);
  EXPECT_EQ(cudaHostRegister(host.data(), 1001, cudaHostRegisterDefault), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaHostRegister(host.data(), 1000, cudaHostRegisterDefault), cudaSuccess);
  EXPECT_EQ(cudaHostRegister(host.data() + 1000, 1000, cudaHostRegisterDefault), cudaSuccess);
  const auto copy = [&](size_t first, size_t size_bytes) {
    return cudaMemcpy(device, host.data() + first, size_bytes, cudaMemcpyHostToDevice);
  };
  EXPECT_EQ(copy(0, 1000), cudaSuccess);
  EXPECT_EQ(copy(1000, 1000), cudaSuccess);
  EXPECT_EQ(copy(2000, 1000), cudaSuccess) << "not registered";
  EXPECT_EQ(copy(999, 2), cudaErrorInvalidValue) << "two registrations";
  EXPECT_EQ(copy(1999, 2), cudaErrorInvalidValue) << "registered in part";
  EXPECT_EQ(copy(0, 3000), cudaErrorInvalidValue) << "registered in part";
  EXPECT_EQ(cudaHostUnregister(host.data()), cudaSuccess);
  EXPECT_EQ(copy(999, 2), cudaErrorInvalidValue) << "registered in part";
  EXPECT_EQ(cudaHostUnregister(host.data() + 1000), cudaSuccess);
  EXPECT_EQ(copy(0, 3000), cudaSuccess);
}

TEST(FakeRuntime, CopiesBeyondAnAllocationAreRefused) {
  UseSeed(1);
  int* device = OnDevice(std::vector<int>(4));
  int* host = Pinned(0);
  EXPECT_EQ(cudaMemcpyAsync(device + 1, host, 16, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_THAT(FirstFault(), HasSubstr("a copy's destination, 16 bytes at"));
  EXPECT_EQ(cudaMemcpyAsync(host, device, 16, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpyAsync(device, host, 16, cudaMemcpyHostToDevice), cudaSuccess);
}

TEST(FakeRuntime, KernelsMayOnlyBeGivenPointersThatADeviceCanRead) {
  UseSeed(1);
  int* device = OnDevice(std::vector<int>(kNumbers));
  std::vector<int> host(kNumbers, 4);
  EXPECT_EQ(RunKernel(AddOne, {dim3(1), dim3(kNumbers)}, Pinned(6), device), cudaSuccess) << "mapped";
  EXPECT_THAT(FromDevice(device, kNumbers), Each(7));
  EXPECT_EQ(RunKernel(AddOne, {dim3(1), dim3(kNumbers)}, host.data(), device), cudaErrorIllegalAddress);
  EXPECT_THAT(FirstFault(), HasSubstr("pointer argument 1 of a kernel"));
}

// ------------------------------------------------------------------------------- launches

struct Large {
  char bytes[100 << 10];
};

__global__ void UseMuch(int* out) {
  auto& shared = device::cuda::SharedAs<Large>();
  shared.bytes[sizeof(Large) - 1] = 1;
  out[threadIdx.x] = shared.bytes[sizeof(Large) - 1];
}

__global__ void DoNothing(int* /*out*/) {}

cudaError_t LaunchPlainly(unsigned grid_y, unsigned block, size_t shared_bytes,
                          void (*kernel)(int*) = UseMuch) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(1, grid_y);
  config.blockDim = dim3(block);
  config.dynamicSmemBytes = shared_bytes;
  int* out = nullptr;
  EXPECT_EQ(cudaMalloc(&out, 1024 * sizeof(int)), cudaSuccess);
  return cudaLaunchKernelEx(&config, kernel, out);
}

TEST(FakeRuntime, LaunchesAreRefusedAsCudaDoes) {
  UseSeed(1);
  EXPECT_EQ(LaunchPlainly(1, 1025, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(LaunchPlainly(1, 0, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(LaunchPlainly(65536, 1, 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(LaunchPlainly(1, 1, sizeof(Large)), cudaErrorInvalidValue) << "more than 48 KB, unasked";
  EXPECT_EQ(cudaFuncSetAttribute(UseMuch, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 << 10),
            cudaErrorInvalidValue);
  EXPECT_EQ(cudaFuncSetAttribute(UseMuch, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Large)),
            cudaSuccess);
  EXPECT_EQ(LaunchPlainly(1, 1, sizeof(Large)), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
}

TEST(FakeRuntime, AnArchitectureThatNothingWasCompiledForHasNoKernels) {
  MachineOptions options;
  for (const auto& [major, minor, runs] : std::vector<std::tuple<int, int, bool>>{{7, 5, false},
                                                                                  {8, 0, true},
                                                                                  {8, 7, true},
                                                                                  {9, 0, true},
                                                                                  {10, 0, true},
                                                                                  {11, 0, false},
                                                                                  {12, 1, true}}) {
    options.major = major;
    options.minor = minor;
    ResetMachine(options);
    EXPECT_EQ(LaunchPlainly(1, 1, 0, DoNothing) != cudaErrorNoKernelImageForDevice, runs)
        << major << "." << minor;
  }
}

// ------------------------------------------------------------------------------- what goes wrong

TEST(FakeRuntime, WithoutAFittingDriverEverythingButItsVersionFails) {
  for (int driver : {0, 12080}) {
    MachineOptions options;
    options.driver_version = driver;
    ResetMachine(options);
    int version = -1;
    EXPECT_EQ(cudaDriverGetVersion(&version), cudaSuccess);
    EXPECT_EQ(version, driver);
    int count = -1;
    EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorInsufficientDriver);
    EXPECT_EQ(cudaErrorInsufficientDriver, 35);
    EXPECT_EQ(count, -1);
    void* memory = nullptr;
    EXPECT_EQ(cudaMalloc(&memory, 4), cudaErrorInsufficientDriver);
  }
  MachineOptions options;
  options.devices = 0;
  ResetMachine(options);
  int count = -1;
  EXPECT_EQ(cudaGetDeviceCount(&count), cudaErrorNoDevice);
}

TEST(FakeRuntime, ToldFailuresHappenAtTheirCall) {
  UseSeed(1);
  FailCall("cudaMalloc", 2, cudaErrorMemoryAllocation);
  void* memory = nullptr;
  EXPECT_EQ(cudaMalloc(&memory, 4), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&memory, 4), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaMalloc(&memory, 4), cudaSuccess);
  EXPECT_EQ(Counts().failures, 1);
  FailCall("any", 2, cudaErrorInvalidValue);
  EXPECT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
  EXPECT_EQ(cudaFree(memory), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(memory), cudaSuccess);
  EXPECT_EQ(Counts().failures, 2);
}

TEST(FakeRuntime, AFailedKernelShowsAtALaterCallAndStays) {
  UseSeed(1);
  const cudaStream_t stream = NewStream();
  int* numbers = OnDevice(std::vector<int>(kNumbers));
  FailCall("kernel", 2, cudaErrorECCUncorrectable);
  cudaError_t error = cudaSuccess;
  for (int i = 0; i < 3 && error == cudaSuccess; ++i) {
    error = device::cuda::Launch(AddOne, {dim3(1), dim3(kNumbers)}, stream, numbers, numbers);
  }
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorECCUncorrectable);
  EXPECT_EQ(cudaGetLastError(), cudaErrorECCUncorrectable);
  EXPECT_EQ(cudaGetLastError(), cudaErrorECCUncorrectable) << "sticky";
  EXPECT_EQ(cudaMalloc(&numbers, 4), cudaErrorECCUncorrectable);
  EXPECT_EQ(Counts().kernels, 1);
}

TEST(FakeRuntime, AMachineIsDescribedByAVariable) {
  MachineOptions options;
  ReadEnvironment("seed=9 driver_version=13010 major=8 minor=6 memory_bytes=5000 fail=cudaMalloc:2:2",
                  options);
  EXPECT_EQ(options.seed, 9);
  EXPECT_EQ(options.driver_version, 13010);
  EXPECT_EQ(options.major * 10 + options.minor, 86);
  ResetMachine(options);
  void* memory = nullptr;
  EXPECT_EQ(cudaMalloc(&memory, 4000), cudaSuccess);
  EXPECT_EQ(cudaMalloc(&memory, 4), cudaErrorMemoryAllocation) << "told to";
  EXPECT_EQ(cudaMalloc(&memory, 2000), cudaErrorMemoryAllocation) << "full";
  EXPECT_DEATH(ReadEnvironment("sed=9", options), "'sed=9' is not understood");
  EXPECT_DEATH(ReadEnvironment("seed=9x", options), "not understood");
}

TEST(FakeRuntime, ErrorsHaveTheirNames) {
  EXPECT_STREQ(cudaGetErrorName(cudaErrorInsufficientDriver), "cudaErrorInsufficientDriver");
  EXPECT_STREQ(cudaGetErrorString(cudaErrorIllegalAddress), "an illegal memory access was encountered");
  EXPECT_STREQ(cudaGetErrorString(static_cast<cudaError_t>(12345)), "unrecognized error code");
}

}  // namespace
}  // namespace spillway::fakes::cuda
