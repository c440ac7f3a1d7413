#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "engine/device/cpu/cpu_device.h"
#include "engine/device/cpu/emulated_link_device.h"
#include "gtest/gtest.h"

namespace spillway::device {
namespace {

std::unique_ptr<Device> MakeDevice(const StreamEngineOptions& options) {
  CpuDeviceOptions cpu;
  cpu.threads = 1;
  cpu.memory_bytes = 64 << 20;
  cpu.dtype = DType::kF32;
  auto compute = CreateCpuDevice(cpu);
  EXPECT_TRUE(compute.ok()) << compute.status();
  auto device = CreateEmulatedLinkDevice(*std::move(compute), options);
  EXPECT_TRUE(device.ok()) << device.status();
  return *std::move(device);
}

StreamEngineOptions Fast() {
  StreamEngineOptions options;
  options.link_bytes_per_s = 4e9;
  return options;
}

std::vector<uint8_t> ReadBack(Device& device, DevicePtr ptr, int64_t size_bytes) {
  std::vector<uint8_t> out(static_cast<size_t>(size_bytes));
  const StreamId stream = device.CreateStream("read back");
  const EventId done = device.CreateEvent();
  device.CopyOut(stream, out.data(), ptr, size_bytes);
  device.Record(done, stream);
  EXPECT_TRUE(device.Synchronize(done).ok());
  return out;
}

TEST(EmulatedLinkDeathTest, HostDereferenceFaults) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  auto device = MakeDevice(Fast());
  const auto ptr = device->Allocate(256, "test");
  ASSERT_TRUE(ptr.ok());
  EXPECT_DEATH(*reinterpret_cast<volatile uint8_t*>(ptr->address) = 1, "");
}

TEST(EmulatedLinkDeathTest, WaitingForAnEventNeverRecordedDies) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  auto device = MakeDevice(Fast());
  const StreamId stream = device->CreateStream("s");
  const EventId event = device->CreateEvent();
  EXPECT_DEATH(device->Wait(stream, event), "never recorded");
}

TEST(EmulatedLink, FreshMemoryIsNan) {
  auto device = MakeDevice(Fast());
  const auto ptr = device->Allocate(1024, "test");
  ASSERT_TRUE(ptr.ok());
  EXPECT_EQ(ReadBack(*device, *ptr, 1024), std::vector<uint8_t>(1024, 0xff));
}

TEST(EmulatedLink, SourceIsReadWhenTheCopyRunsNotWhenItIsEnqueued) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "the race is the point of this test";
#endif
  StreamEngineOptions slow;
  slow.link_bytes_per_s = 1e5;
  auto device = MakeDevice(slow);
  const auto ptr = device->Allocate(30'000, "test");
  ASSERT_TRUE(ptr.ok());
  std::vector<uint8_t> source(30'000, 1);
  const StreamId stream = device->CreateStream("in");
  device->CopyIn(stream, *ptr, source.data(), 30'000);  // 300 ms on the link
  std::fill(source.begin(), source.end(), uint8_t{2});
  const EventId done = device->CreateEvent();
  device->Record(done, stream);
  ASSERT_TRUE(device->Synchronize(done).ok());
  EXPECT_EQ(ReadBack(*device, *ptr, 16), std::vector<uint8_t>(16, 2));
}

TEST(EmulatedLink, AReaderThatDoesNotWaitFindsNan) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "the race is the point of this test";
#endif
  StreamEngineOptions slow;
  slow.link_bytes_per_s = 1e6;
  const std::vector<uint8_t> source(100'000, 1);  // outlives the device, whose copy this does not wait for
  auto device = MakeDevice(slow);
  const auto target = device->Allocate(100'000, "target");
  const auto seen = device->Allocate(100'000, "seen");
  ASSERT_TRUE(target.ok() && seen.ok());
  const StreamId in = device->CreateStream("in"), compute = device->CreateStream("compute");
  const EventId copied = device->CreateEvent(), done = device->CreateEvent();
  device->CopyIn(in, *target, source.data(), 100'000);  // 100 ms on the link
  device->Record(copied, in);
  device->CopyWithin(compute, *seen, *target, 100'000);  // the missing wait
  device->Record(done, compute);
  ASSERT_TRUE(device->Synchronize(done).ok());
  ASSERT_FALSE(device->IsComplete(copied)) << "the machine stood still for 100 ms; nothing was shown";
  EXPECT_EQ(ReadBack(*device, *seen, 16), std::vector<uint8_t>(16, 0xff));
}

TEST(EmulatedLink, LanesOfOneDirectionShareOneLink) {
  StreamEngineOptions options;
  options.link_bytes_per_s = 50e6;
  auto device = MakeDevice(options);
  const auto ptr = device->Allocate(2'000'000, "test");
  ASSERT_TRUE(ptr.ok());
  const std::vector<uint8_t> source(2'000'000, 1);
  const StreamId a = device->CreateStream("kv"), b = device->CreateStream("x");
  const EventId start = device->CreateEvent(), a_done = device->CreateEvent(), b_done = device->CreateEvent();
  device->Record(start, a);
  device->CopyIn(a, *ptr, source.data(), 1'000'000);
  device->CopyIn(b, *ptr + 1'000'000, source.data(), 1'000'000);
  device->Record(a_done, a);
  device->Record(b_done, b);
  ASSERT_TRUE(device->Synchronize(a_done).ok() && device->Synchronize(b_done).ok());
  // A lower bound holds on a busy machine too: 2 MB cannot take less than 40 ms.
  EXPECT_GE(std::max(device->ElapsedNs(start, a_done), device->ElapsedNs(start, b_done)), 39'900'000);
}

// Each of these copies takes 100 us, and a worker wakes up some microseconds late after each: late by all of
// them together, if what follows a copy were ready only when its worker is.
TEST(EmulatedLink, LateWakeUpsDoNotAddUp) {
  constexpr int64_t kCopies = 100, kBytes = 1000;
  constexpr int64_t kNominalNs = kCopies * 100'000;
  StreamEngineOptions options;
  options.link_bytes_per_s = 10e6;
  auto device = MakeDevice(options);
  const auto ptr = device->Allocate(kBytes, "test");
  ASSERT_TRUE(ptr.ok());
  const std::vector<uint8_t> source(kBytes, 1);
  const StreamId in = device->CreateStream("in");
  const EventId start = device->CreateEvent(), between = device->CreateEvent(), done = device->CreateEvent();
  int64_t least_ns = 1'000'000'000;
  // A busy machine may be late at the end; not every time.
  for (int i = 0; i < 100 && least_ns > kNominalNs * 103 / 100; ++i) {
    device->CopyIn(in, *ptr, source.data(),
                   kBytes);  // makes the worker's first sleep, not the first copy's start
    device->Record(start, in);
    for (int64_t copy = 0; copy < kCopies; ++copy) {
      device->CopyIn(in, *ptr, source.data(), kBytes);
      device->Record(between, in);
    }
    device->Record(done, in);
    ASSERT_TRUE(device->Synchronize(done).ok());
    least_ns = std::min(least_ns, device->ElapsedNs(start, done));
  }
  EXPECT_LE(least_ns, kNominalNs * 103 / 100);
}

// As on CUDA the last record counts, also when an earlier one, on a slower stream, is passed after it.
TEST(EmulatedLink, AnEarlierRecordThatComesLateChangesNothing) {
  StreamEngineOptions options;
  options.link_bytes_per_s = 1e6;
  auto device = MakeDevice(options);
  const StreamId slow = device->CreateStream("slow");
  const StreamId fast = device->CreateStream("fast");
  const EventId event = device->CreateEvent();
  const EventId slow_done = device->CreateEvent();
  const DevicePtr target = device->Allocate(10'000, "target").value();
  std::vector<uint8_t> source(10'000);
  device->CopyIn(slow, target, source.data(), 10'000);  // takes 10 ms
  device->Record(event, slow);
  device->Record(slow_done, slow);
  device->Record(event, fast);
  ASSERT_TRUE(device->Synchronize(event).ok());
  EXPECT_FALSE(device->IsComplete(slow_done));
  ASSERT_TRUE(device->Synchronize(slow_done).ok());
  EXPECT_TRUE(device->IsComplete(event));
  ASSERT_TRUE(device->Synchronize(event).ok());
}

TEST(EmulatedLink, MemoryBudgetIsKept) {
  auto device = MakeDevice(Fast());
  const auto ptr = device->Allocate(int64_t{65} << 20, "the staging ring");
  EXPECT_EQ(ptr.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(ptr.status().message().find("the staging ring"), absl::string_view::npos);
}

// Random programs of copies and fills over four streams, ordered by events exactly where they touch the same
// cell, end as they would one operation at a time, whatever the delays.
TEST(EmulatedLink, EventsAloneOrderStreamsUnderJitter) {
  constexpr int kCells = 6, kStreams = 4, kOps = 120;
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    StreamEngineOptions options = Fast();
    options.jitter_us = 200;
    options.jitter_seed = seed;
    auto device = MakeDevice(options);
    std::mt19937_64 random(seed);
    const auto memory = device->Allocate(kCells * 256, "cells");
    ASSERT_TRUE(memory.ok());
    std::vector<StreamId> streams;
    for (int s = 0; s < kStreams; ++s) streams.push_back(device->CreateStream("s"));
    std::vector<uint8_t> sources(kOps * 256);
    std::vector<uint8_t> expected(kCells, 0xff);
    std::vector<EventId> last_use(kCells);
    std::vector<bool> used(kCells, false);
    for (int i = 0; i < kOps; ++i) {
      const StreamId stream = streams[random() % kStreams];
      const size_t to = random() % kCells, from = random() % kCells;
      const auto value = static_cast<uint8_t>(random() % 200);
      for (const size_t cell : {to, from}) {
        if (used[cell]) device->Wait(stream, last_use[cell]);
      }
      switch (random() % 3) {
        case 0:
          std::fill_n(sources.begin() + i * 256, 256, value);
          device->CopyIn(stream, *memory + static_cast<int64_t>(to) * 256,
                         &sources[static_cast<size_t>(i) * 256], 256);
          expected[to] = value;
          break;
        case 1:
          device->Fill(stream, *memory + static_cast<int64_t>(to) * 256, value, 256);
          expected[to] = value;
          break;
        default:
          device->CopyWithin(stream, *memory + static_cast<int64_t>(to) * 256,
                             *memory + static_cast<int64_t>(from) * 256, 256);
          expected[to] = expected[from];
      }
      for (const size_t cell : {to, from}) {
        last_use[cell] = device->CreateEvent();
        used[cell] = true;
        device->Record(last_use[cell], stream);
      }
    }
    for (int cell = 0; cell < kCells; ++cell) {
      if (used[static_cast<size_t>(cell)]) {
        ASSERT_TRUE(device->Synchronize(last_use[static_cast<size_t>(cell)]).ok());
      }
      EXPECT_EQ(ReadBack(*device, *memory + cell * 256, 256),
                std::vector<uint8_t>(256, expected[static_cast<size_t>(cell)]))
          << "seed " << seed << ", cell " << cell;
    }
  }
}

// An operation over the link computes what it computes without one.
TEST(EmulatedLink, OperationsSeeTheSameNumbersAsWithoutALink) {
  auto device = MakeDevice(Fast());
  constexpr int kRows = 3, kD = 8;
  std::vector<float> hidden(kRows * kD), gain(kD, 1.0F);
  for (int i = 0; i < kRows * kD; ++i) hidden[static_cast<size_t>(i)] = static_cast<float>(i + 1);
  const auto hidden_ptr = device->Allocate(kRows * kD * 4, "hidden");
  const auto gain_ptr = device->Allocate(kD * 4, "gain");
  const auto out_ptr = device->Allocate(kRows * kD * 4, "out");
  ASSERT_TRUE(hidden_ptr.ok() && gain_ptr.ok() && out_ptr.ok());
  const StreamId in = device->CreateStream("in"), compute = device->CreateStream("compute");
  device->CopyIn(in, *hidden_ptr, hidden.data(), kRows * kD * 4);
  device->CopyIn(in, *gain_ptr, gain.data(), kD * 4);
  const EventId copied = device->CreateEvent(), done = device->CreateEvent();
  device->Record(copied, in);
  device->Wait(compute, copied);
  AddNormArgs args;
  args.rows = kRows;
  args.d = kD;
  args.epsilon = 0;
  args.hidden = *hidden_ptr;
  args.gain = *gain_ptr;
  args.out = *out_ptr;
  device->AddNorm(compute, args);
  std::vector<float> out(kRows * kD);
  device->CopyOut(compute, out.data(), *out_ptr, kRows * kD * 4);
  device->Record(done, compute);
  ASSERT_TRUE(device->Synchronize(done).ok());
  for (int r = 0; r < kRows; ++r) {
    double squares = 0;
    for (int i = 0; i < kD; ++i) squares += std::pow(r * kD + i + 1, 2);
    for (int i = 0; i < kD; ++i) {
      EXPECT_NEAR(out[static_cast<size_t>(r * kD + i)], (r * kD + i + 1) / std::sqrt(squares / kD), 1e-4);
    }
  }
}

}  // namespace
}  // namespace spillway::device
