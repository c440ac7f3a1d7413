// Copies of host memory that could not be page-locked, on the CUDA device over the emulated GPU.
#include "engine/device/cuda/staged_copies.h"

#include <cuda_runtime.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/device/cuda/address.h"
#include "engine/device/cuda/cuda_device.h"
#include "tests/fakes/cuda/machine.h"

namespace spillway::device {
namespace {

using cuda::BatchCopies;
using cuda::StagedCopies;
using fakes::cuda::Counts;
using fakes::cuda::MachineOptions;
using fakes::cuda::ResetMachine;
using testing::AllOf;
using testing::HasSubstr;

constexpr int64_t kMemoryBytes = 9 * kMiB;

std::unique_ptr<Device> NewDevice() {
  cuda::CudaDeviceOptions options;
  options.scratch_bytes = 256 * kKiB;
  options.workspace_bytes = 64 * kKiB;
  return cuda::CreateCudaDevice(options).value();
}

// A machine that registers nothing, and page-locks a ring of `ring_bytes` beside the device's own slots.
void UseMachine(uint64_t seed, int64_t ring_bytes, bool lazy = false) {
  ResetMachine({});
  auto device = NewDevice();
  MachineOptions machine;
  machine.seed = seed;
  machine.pinnable_bytes = Counts().pinned_bytes + ring_bytes;
  device.reset();
  machine.registrable_bytes = 0;
  machine.lazy = lazy;
  ResetMachine(machine);
}

// Two streams that copy between a pool in pageable memory and the device, each batch ordered by events behind
// those of the other stream that it has to do with, and a copy of both memories to which the same was done
// one after the other.
class TwoStreams {
 public:
  explicit TwoStreams(uint64_t seed) : random_(seed), device_(NewDevice()) {
    pool_.resize(kMemoryBytes);
    for (uint8_t& byte : pool_) byte = static_cast<uint8_t>(random_());
    pool_expected_ = pool_;
    const absl::Status refused = device_->RegisterHost(pool_.data(), kMemoryBytes);
    EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
    memory_ = device_->Allocate(kMemoryBytes, "memory").value();
    memory_expected_.assign(kMemoryBytes, 7);
    for (Side& side : sides_) {
      side.stream = device_->CreateStream("side");
      side.done = device_->CreateEvent();
    }
    device_->Fill(sides_[0].stream, memory_, 7, kMemoryBytes);
    device_->Record(sides_[0].done, sides_[0].stream);
    device_->Wait(sides_[1].stream, sides_[0].done);
    device_->Record(sides_[1].done, sides_[1].stream);
  }

  // Some bytes of what lies in a random order on both sides.
  void EnqueueBatch() {
    const size_t at = Below(2);
    Side& side = sides_[at];
    // Not always needed, as executors do not always wait either: between what is apart there is no order.
    const std::vector<CopyRun> runs = Runs();
    const bool in = Below(2) == 0;
    if (Touches(sides_[1 - at], runs)) {
      device_->Wait(side.stream, sides_[1 - at].done);
      sides_[1 - at].touched.clear();
    }
    for (const CopyRun& run : runs) side.touched.push_back(run);
    // A small CopyIn may read its source at once: what is still to be stored there is not for it.
    if (runs.size() == 1 && in && runs[0].size_bytes > kMiB) {
      device_->CopyIn(side.stream, runs[0].device, runs[0].host, runs[0].size_bytes);
    } else if (in) {
      device_->CopyInBatch(side.stream, runs);
    } else if (runs.size() == 1) {
      device_->CopyOut(side.stream, runs[0].host, runs[0].device, runs[0].size_bytes);
    } else {
      device_->CopyOutBatch(side.stream, runs);
    }
    device_->Record(side.done, side.stream);
    for (const CopyRun& run : runs) {
      uint8_t* const host = pool_expected_.data() + (static_cast<uint8_t*>(run.host) - pool_.data());
      uint8_t* const device = memory_expected_.data() + (run.device.address - memory_.address);
      std::memcpy(in ? device : host, in ? host : device, static_cast<size_t>(run.size_bytes));
    }
    bytes_ += std::accumulate(runs.begin(), runs.end(), int64_t{0},
                              [](int64_t sum, const CopyRun& run) { return sum + run.size_bytes; });
  }

  void ExpectEqual() {
    for (Side& side : sides_) ASSERT_TRUE(device_->Synchronize(side.done).ok());
    EXPECT_TRUE(pool_ == pool_expected_);
    std::vector<uint8_t> memory(kMemoryBytes);
    ASSERT_EQ(cudaMemcpy(memory.data(), cuda::At<void>(memory_), kMemoryBytes, cudaMemcpyDeviceToHost),
              cudaSuccess);
    EXPECT_TRUE(memory == memory_expected_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  struct Side {
    StreamId stream{};
    EventId done{};
    std::vector<CopyRun> touched;  // since the other side waited for it
  };

  size_t Below(size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random_); }

  // Parts of both memories that are apart, in a random order; at times neighbours.
  std::vector<CopyRun> Runs() {
    std::vector<CopyRun> runs;
    const int64_t most_bytes = std::array{3 * kMiB, 200 * kKiB, 200 * kKiB, 4 * kKiB}[Below(4)];
    int64_t device = static_cast<int64_t>(Below(4 * kMiB)), host = static_cast<int64_t>(Below(4 * kMiB));
    for (size_t n = 1 + Below(Below(3) == 0 ? 200 : 5); n > 0; --n) {
      const int64_t bytes = 1 + static_cast<int64_t>(Below(static_cast<size_t>(most_bytes)));
      if (std::max(device, host) + bytes > kMemoryBytes) break;
      runs.push_back({memory_ + device, pool_.data() + host, bytes});
      device += bytes + (Below(2) == 0 ? static_cast<int64_t>(Below(100)) : 0);
      host += bytes + (Below(2) == 0 ? static_cast<int64_t>(Below(100)) : 0);
    }
    std::shuffle(runs.begin(), runs.end(), random_);
    return runs;
  }

  static bool Touches(const Side& side, const std::vector<CopyRun>& runs) {
    const auto apart = [](uint64_t a, int64_t a_bytes, uint64_t b, int64_t b_bytes) {
      return a + static_cast<uint64_t>(a_bytes) <= b || b + static_cast<uint64_t>(b_bytes) <= a;
    };
    for (const CopyRun& other : side.touched) {
      for (const CopyRun& run : runs) {
        if (!apart(run.device.address, run.size_bytes, other.device.address, other.size_bytes) ||
            !apart(reinterpret_cast<uint64_t>(run.host), run.size_bytes,
                   reinterpret_cast<uint64_t>(other.host), other.size_bytes)) {
          return true;
        }
      }
    }
    return false;
  }

  std::mt19937_64 random_;
  std::unique_ptr<Device> device_;
  std::vector<uint8_t> pool_, pool_expected_;
  DevicePtr memory_;
  std::vector<uint8_t> memory_expected_;
  Side sides_[2];
  int64_t bytes_ = 0;
};

TEST(StagedCopies, RandomBatchesOfTwoStreamsCopyWhatOneAfterTheOtherWould) {
  bool ran_behind = false;
  for (uint64_t seed = 1; seed <= 24; ++seed) {
    UseMachine(seed, StagedCopies::kRingBytesMin);
    TwoStreams streams(seed);
    while (streams.bytes() < 8 * StagedCopies::kRingBytesMin) streams.EnqueueBatch();
    const int64_t copied = Counts().copies;
    ASSERT_NO_FATAL_FAILURE(streams.ExpectEqual());
    ASSERT_FALSE(testing::Test::HasFailure()) << "seed " << seed;
    ran_behind |= Counts().copies > 2 * copied;
    EXPECT_EQ(Counts().pageable_copies, 1) << "the test's own";
    EXPECT_EQ(fakes::cuda::FirstFault(), "");
  }
  EXPECT_TRUE(ran_behind) << "whoever enqueued waited for the copies";
}

class StagedCopiesTest : public testing::Test {
 protected:
  void TearDown() override { ResetMachine({}); }
};

TEST_F(StagedCopiesTest, TheRingIsAsLargeAsTheMachineLocksAndTheRefusalSaysSo) {
  std::vector<uint8_t> host(1 << 16);
  UseMachine(1, 100 * kMiB);
  {
    const auto device = NewDevice();
    const int64_t before = Counts().pinned_bytes;
    const absl::Status refused = device->RegisterHost(host.data(), 1 << 16);
    EXPECT_THAT(std::string(refused.message()),
                AllOf(HasSubstr("ulimit -l"), HasSubstr("a ring of 64.0 MiB")));
    EXPECT_EQ(Counts().pinned_bytes - before, 64 * kMiB);
    EXPECT_FALSE(device->RegisterHost(host.data(), 1 << 16).ok());
    EXPECT_EQ(Counts().pinned_bytes - before, 64 * kMiB) << "one ring";
    EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
  }
  EXPECT_EQ(Counts().pinned_bytes, 0);
  UseMachine(1, 10 * kMiB);
  EXPECT_THAT(std::string(NewDevice()->RegisterHost(host.data(), 1 << 16).message()),
              HasSubstr("a ring of 8.0 MiB"));
  EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
  UseMachine(1, StagedCopies::kRingBytesMin);
  {
    const auto device = NewDevice();
    const int64_t before = Counts().pinned_bytes;
    fakes::cuda::FailCall("cudaEventCreateWithFlags", 3, cudaErrorInvalidValue);
    EXPECT_THAT(std::string(device->RegisterHost(host.data(), 1 << 16).message()),
                AllOf(HasSubstr("not even room for a ring"), HasSubstr("creating an event")));
    EXPECT_EQ(Counts().pinned_bytes, before);
  }
  UseMachine(1, StagedCopies::kRingBytesMin - 1);
  const auto device = NewDevice();
  EXPECT_THAT(std::string(device->RegisterHost(host.data(), 1 << 16).message()),
              AllOf(HasSubstr("ulimit -l"), HasSubstr("not even room for a ring")));
  // The driver does it then.
  const StreamId stream = device->CreateStream("test");
  const EventId done = device->CreateEvent();
  const DevicePtr memory = device->Allocate(1 << 16, "memory").value();
  device->Fill(stream, memory, 5, 1 << 16);
  device->CopyOut(stream, host.data(), memory, 1 << 16);
  device->Record(done, stream);
  ASSERT_TRUE(device->Synchronize(done).ok());
  EXPECT_THAT(host, testing::Each(5));
}

TEST_F(StagedCopiesTest, WhatIsPageLockedIsCopiedAsBeforeInTheSameBatch) {
  MachineOptions machine;
  machine.registrable_bytes = 1 << 20;
  ResetMachine(machine);
  const auto device = NewDevice();
  std::vector<uint8_t> locked(1 << 20, 1), pageable(2 << 20, 2);
  ASSERT_TRUE(device->RegisterHost(locked.data(), 1 << 20).ok());
  ASSERT_FALSE(device->RegisterHost(pageable.data(), 2 << 20).ok());
  const StreamId stream = device->CreateStream("test");
  const EventId done = device->CreateEvent();
  const DevicePtr memory = device->Allocate(3 << 20, "memory").value();
  const int64_t before = Counts().copies;
  const std::vector<CopyRun> in = {{memory, pageable.data(), 2 << 20},
                                   {memory + (2 << 20), locked.data(), 1 << 20}};
  device->CopyInBatch(stream, in);
  device->Record(done, stream);
  ASSERT_TRUE(device->Synchronize(done).ok());
  EXPECT_EQ(Counts().copies - before, 3) << "two pieces and one that needs none";
  EXPECT_EQ(Counts().pageable_copies, 0);
  device->UnregisterHost(locked.data());
}

TEST_F(StagedCopiesTest, MorePiecesThanThereAreAreEnqueuedAllTheSame) {
  constexpr int64_t kRunBytes = 4 * kKiB;
  constexpr int64_t kRuns = 2 * static_cast<int64_t>(StagedCopies::kPiecesMax);
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    UseMachine(seed, StagedCopies::kRingBytesMin, /*lazy=*/seed == 8);
    const auto device = NewDevice();
    std::vector<uint8_t> from(kRuns * kRunBytes), to(kRuns * kRunBytes);
    for (size_t i = 0; i < from.size(); ++i) from[i] = static_cast<uint8_t>(i / 97);
    ASSERT_FALSE(device->RegisterHost(from.data(), kRuns * kRunBytes).ok());
    const DevicePtr memory = device->Allocate(kRuns * kRunBytes, "memory").value();
    const StreamId in = device->CreateStream("in"), out = device->CreateStream("out");
    fakes::cuda::FailCall("cudaStreamCreateWithFlags", 3,
                          cudaErrorMemoryAllocation);  // one beside each, no more
    const EventId done = device->CreateEvent();
    for (int64_t i = 0; i < kRuns; ++i) {
      const CopyRun run = {memory + i * kRunBytes, from.data() + i * kRunBytes, kRunBytes};
      device->CopyInBatch(in, {&run, 1});
    }
    device->Record(done, in);
    device->Wait(out, done);
    for (int64_t i = 0; i < kRuns; ++i) {
      device->CopyOut(out, to.data() + i * kRunBytes, memory + i * kRunBytes, kRunBytes);
    }
    device->Record(done, out);
    ASSERT_TRUE(device->Synchronize(done).ok());
    EXPECT_TRUE(from == to) << "seed " << seed;
    EXPECT_EQ(Counts().pageable_copies, 0);
  }
}

TEST_F(StagedCopiesTest, AfterAStopHostMemoryIsNotTouched) {
  ResetMachine({});
  auto copies = StagedCopies::Create().value();
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  void* memory = nullptr;
  ASSERT_EQ(cudaMalloc(&memory, 4096), cudaSuccess);
  ASSERT_EQ(cudaMemsetAsync(memory, 3, 4096, stream), cudaSuccess);
  std::vector<uint8_t> host(4096);
  const CopyRun run = {DevicePtr{reinterpret_cast<uint64_t>(memory)}, host.data(), 4096};
  ASSERT_TRUE(copies->Enqueue({&run, 1}, BatchCopies::Direction::kOut, stream).ok());
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_THAT(host, testing::Each(3));
  copies->Stop();
  std::fill(host.begin(), host.end(), uint8_t{0});
  ASSERT_TRUE(copies->Enqueue({&run, 1}, BatchCopies::Direction::kOut, stream).ok());
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_THAT(host, testing::Each(0));
  copies.reset();
}

// Of pieces that a thread of the driver's moves none is moved any more when Stop returns.
TEST_F(StagedCopiesTest, AStopWaitsForWhoMoves) {
  constexpr size_t kSlotBytes = StagedCopies::kSlotBytes;
  constexpr size_t kBytes = 4 * kSlotBytes;
  std::vector<uint8_t> host(kBytes);
  MachineOptions machine;
  machine.pinnable_bytes = StagedCopies::kRingBytesMin;
  machine.lazy = true;
  for (int round = 0; round < 30; ++round) {
    ResetMachine(machine);
    auto copies = StagedCopies::Create().value();
    cudaStream_t stream = nullptr;
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    void* memory = nullptr;
    ASSERT_EQ(cudaMalloc(&memory, kBytes), cudaSuccess);
    ASSERT_EQ(cudaMemset(memory, 3, kBytes), cudaSuccess);
    const CopyRun run = {DevicePtr{reinterpret_cast<uint64_t>(memory)}, host.data(), kBytes};
    ASSERT_TRUE(copies->Enqueue({&run, 1}, BatchCopies::Direction::kOut, stream).ok());
    std::thread driver([stream] { EXPECT_EQ(cudaStreamSynchronize(stream), cudaSuccess); });
    std::atomic<int> passed = 0;
    while (passed < round * 10000) ++passed;  // another moment in each round
    copies->Stop();
    for (size_t end = kSlotBytes; end <= kBytes; end += kSlotBytes) host[end - 1] = 0;
    driver.join();
    for (size_t end = kSlotBytes; end <= kBytes; end += kSlotBytes) {
      EXPECT_EQ(host[end - 1], 0) << "round " << round;
    }
  }
}

TEST_F(StagedCopiesTest, AfterAnErrorOfTheDevicesHostMemoryIsNotTouched) {
  for (const auto& [call, polls] : {std::pair{"cudaMemsetAsync", false},
                                    {"cudaMemsetAsync", true},
                                    {"cudaEventSynchronize", false},
                                    {"cudaEventQuery", true}}) {
    UseMachine(1, StagedCopies::kRingBytesMin, /*lazy=*/true);
    const auto device = NewDevice();
    std::vector<uint8_t> host(4096);
    ASSERT_FALSE(device->RegisterHost(host.data(), 4096).ok());
    const StreamId stream = device->CreateStream("test");
    const EventId done = device->CreateEvent();
    const DevicePtr memory = device->Allocate(4096, "memory").value();
    device->Fill(stream, memory, 3, 4096);
    device->CopyOut(stream, host.data(), memory, 4096);
    fakes::cuda::FailCall(call, 1, cudaErrorInvalidValue);  // nothing that keeps the machine from going on
    device->Fill(stream, memory, 4, 4096);
    device->Record(done, stream);
    EXPECT_TRUE(polls ? device->IsComplete(done) : !device->Synchronize(done).ok());
    EXPECT_FALSE(device->status().ok());
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_THAT(host, testing::Each(0)) << call << (polls ? ", polled" : "");
  }
}

TEST_F(StagedCopiesTest, TheFirstErrorIsTheDevices) {
  for (const char* call : {"cudaLaunchHostFunc", "copy"}) {
    UseMachine(1, StagedCopies::kRingBytesMin);
    const auto device = NewDevice();
    std::vector<uint8_t> host(1 << 20);
    ASSERT_FALSE(device->RegisterHost(host.data(), 1 << 20).ok());
    const StreamId stream = device->CreateStream("test");
    const EventId done = device->CreateEvent();
    const DevicePtr memory = device->Allocate(1 << 20, "memory").value();
    fakes::cuda::FailCall(call, 1, cudaErrorLaunchFailure);
    device->CopyIn(stream, memory, host.data(), 1 << 20);
    device->Record(done, stream);
    EXPECT_FALSE(device->Synchronize(done).ok()) << call;
    EXPECT_TRUE(device->IsComplete(done));
  }
}

}  // namespace
}  // namespace spillway::device
