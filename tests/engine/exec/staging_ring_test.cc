// StagingRing and SpanTimer over an emulated link: chunks are reused in order and only when they were read,
// and stretches of work take the time that they take.
#include "engine/exec/staging_ring.h"

#include <memory>
#include <vector>

#include "engine/device/cpu/cpu_device.h"
#include "engine/device/cpu/emulated_link_device.h"
#include "engine/exec/span_timer.h"
#include "gtest/gtest.h"

namespace spillway::exec {
namespace {

std::unique_ptr<device::Device> LinkDevice(double bytes_per_s, double jitter_us = 0) {
  device::StreamEngineOptions options;
  options.link_bytes_per_s = bytes_per_s;
  options.jitter_us = jitter_us;
  options.jitter_seed = 3;
  return device::CreateEmulatedLinkDevice(device::CreateCpuDevice({}).value(), options).value();
}

TEST(StagingRingTest, ChunksAreTakenInTheOrderInWhichTheyWereGiven) {
  const auto device = LinkDevice(1e9);
  const auto ring = StagingRing::Create(*device, 3, 256).value();
  EXPECT_EQ(ring->Take(), 0);
  EXPECT_EQ(ring->Take(), 1);
  EXPECT_EQ(ring->Take(), 2);
  EXPECT_TRUE(ring->empty());
  ring->Give(1);
  ring->Give(0);
  EXPECT_EQ(ring->Take(), 1);
  EXPECT_EQ(ring->Take(), 0);
}

// Many more values than chunks go through; every one is read before the next overwrites it, whatever is late.
TEST(StagingRingTest, NothingIsOverwrittenBeforeItWasRead) {
  const auto device = LinkDevice(1e9, /*jitter_us=*/100);
  const auto ring = StagingRing::Create(*device, 2, 4096).value();
  const device::StreamId copies = device->CreateStream("copies");
  const device::StreamId compute = device->CreateStream("compute");
  constexpr int kValues = 40;
  const device::DevicePtr seen = device->Allocate(kValues * 4096, "seen").value();
  std::vector<std::vector<uint8_t>> values;
  for (int i = 0; i < kValues; ++i) values.emplace_back(4096, static_cast<uint8_t>(i + 1));
  for (int i = 0; i < kValues; ++i) {
    const int32_t chunk = ring->Take();
    ring->BeginCopy(copies, chunk);
    device->CopyIn(copies, ring->At(chunk), values[static_cast<size_t>(i)].data(), 4096);
    ring->EndCopy(copies, chunk);
    ring->BeginRead(compute, chunk);
    device->CopyWithin(compute, seen + i * 4096, ring->At(chunk), 4096);
    ring->EndRead(compute, chunk);
    ring->Give(chunk);
  }
  std::vector<uint8_t> got(kValues * 4096);
  device->CopyOut(compute, got.data(), seen, kValues * 4096);
  const device::EventId done = device->CreateEvent();
  device->Record(done, compute);
  ASSERT_TRUE(device->Synchronize(done).ok());
  for (int i = 0; i < kValues; ++i) {
    EXPECT_EQ(got[static_cast<size_t>(i) * 4096], i + 1);
    EXPECT_EQ(got[static_cast<size_t>(i) * 4096 + 4095], i + 1);
  }
  device->Free(seen);
}

TEST(SpanTimerTest, StretchesAddUpToWhatTheLinkTook) {
  const auto device = LinkDevice(/*bytes_per_s=*/1e8);
  const device::StreamId copies = device->CreateStream("copies");
  const device::DevicePtr to = device->Allocate(1 << 20, "target").value();
  std::vector<uint8_t> from(1 << 20);
  TimelineWriter timeline(*device, nullptr, Clock::Real());
  SpanTimer timer(*device, copies, /*capacity=*/2, timeline);
  int64_t ns = 0;
  for (int i = 0; i < 5; ++i) {  // more than the capacity: the oldest are collected on the way
    timer.Begin();
    device->CopyIn(copies, to, from.data(), 1 << 20);
    timer.End(&ns, {});
  }
  ASSERT_TRUE(timer.CollectAll().ok());
  // At least the pace of the link; how much more is the machine's affair.
  EXPECT_GE(ns, static_cast<int64_t>(5 * (1 << 20) / 1e8 * 1e9 * 0.99));
  timer.Collect();
  device->Free(to);
}

}  // namespace
}  // namespace spillway::exec
