// Memory, streams, events and copies.
#include <gmock/gmock.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/bytes.h"
#include "tests/engine/device/device_suite.h"

namespace spillway::device {
namespace {

using testing::HasSubstr;

std::vector<uint8_t> Counting(size_t n) {
  std::vector<uint8_t> bytes(n);
  std::iota(bytes.begin(), bytes.end(), uint8_t{1});
  return bytes;
}

TEST_P(DeviceSuite, AllocationsAreAlignedCountedAndFreed) {
  const DevicePtr small = device_->Allocate(1, "one byte").value();
  const DevicePtr large = device_->Allocate(3 << 20, "three megabytes").value();
  EXPECT_EQ(small.address % 256, 0U);
  EXPECT_EQ(large.address % 256, 0U);
  EXPECT_EQ(device_->allocated_bytes(), (3 << 20) + 1);
  device_->Free(small);
  EXPECT_EQ(device_->allocated_bytes(), 3 << 20);
  device_->Free(large);
  device_->Free(DevicePtr{});
  EXPECT_EQ(device_->allocated_bytes(), 0);
}

TEST_P(DeviceSuite, AllocationBeyondTheBudgetIsRefusedByName) {
  auto device = GetParam().create(1 << 20).value();
  EXPECT_EQ(device->info().memory_bytes, 1 << 20);
  const DevicePtr first = device->Allocate(768 << 10, "the pool").value();
  const auto second = device->Allocate(512 << 10, "the staging ring");
  ASSERT_EQ(second.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("the staging ring needs 512.0 KiB"));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("256.0 KiB of 1.0 MiB"));
  EXPECT_FALSE(device->Allocate(std::numeric_limits<int64_t>::max(), "far too much").ok());
  device->Free(first);
  EXPECT_TRUE(device->Allocate(1 << 20, "all of it").ok());
}

TEST_P(DeviceSuite, CopiesComeBackAsTheyWent) {
  const std::vector<uint8_t> bytes = Counting(100001);
  const DevicePtr first = Upload(bytes.data(), 100001);
  const DevicePtr second = Allocate(100001);
  device_->CopyWithin(stream_, second, first, 100001);
  EXPECT_EQ(Download(second, 100001), bytes);
  device_->Fill(stream_, second + 7, 0xab, 13);
  const std::vector<uint8_t> filled = Download(second, 100001);
  EXPECT_EQ(filled[6], bytes[6]);
  EXPECT_EQ(filled[7], 0xab);
  EXPECT_EQ(filled[19], 0xab);
  EXPECT_EQ(filled[20], bytes[20]);
}

TEST_P(DeviceSuite, CopiesInMayLandAnywhere) {
  constexpr int64_t kBytes = 32 << 10;
  const std::vector<uint8_t> source = Counting(kBytes);
  const DevicePtr memory = Allocate(kBytes + 8);
  for (const int64_t shift : {1, 4, 8}) {
    device_->CopyIn(stream_, memory + shift, source.data(), kBytes);
    EXPECT_EQ(Download(memory + shift, kBytes), source) << shift;
  }
}

TEST_P(DeviceSuite, BatchesCopyEveryRun) {
  std::vector<uint8_t> source = Counting(4096);
  const DevicePtr memory = Allocate(4096);
  device_->Fill(stream_, memory, 0, 4096);
  const std::vector<CopyRun> in = {{memory + 256, source.data(), 100},
                                   {memory + 1024, source.data() + 100, 0},
                                   {memory + 2048, source.data() + 1000, 1000}};
  device_->CopyInBatch(stream_, in);
  std::vector<uint8_t> got(1100);
  const std::vector<CopyRun> out = {{memory + 2048, got.data(), 1000},
                                    {memory + 256, got.data() + 1000, 100}};
  device_->CopyOutBatch(stream_, out);
  Synchronize();
  EXPECT_TRUE(std::equal(got.begin(), got.begin() + 1000, source.begin() + 1000));
  EXPECT_TRUE(std::equal(got.begin() + 1000, got.end(), source.begin()));
  EXPECT_EQ(Download(memory + 1024, 1)[0], 0);
}

// More small copies than any device has places to keep them in, enqueued behind work that has not ended.
TEST_P(DeviceSuite, ManySmallCopiesCanBeUnderWay) {
  constexpr int kCopies = 1000;
  constexpr int64_t kBytes = 1000;
  const DevicePtr memory = Allocate(kCopies * kBytes);
  const std::vector<StreamId> streams = {stream_, device_->CreateStream("other")};
  std::vector<uint8_t> source(kCopies * kBytes);
  for (size_t i = 0; i < source.size(); ++i) source[i] = static_cast<uint8_t>(i / kBytes * 7 + i % kBytes);
  for (const StreamId stream : streams) device_->Fill(stream, Allocate(4 << 20), 1, 4 << 20);
  for (int i = 0; i < kCopies; ++i) {
    device_->CopyIn(streams[static_cast<size_t>(i % 2)], memory + i * kBytes, source.data() + i * kBytes,
                    kBytes);
  }
  device_->Record(event_, streams[1]);
  device_->Wait(stream_, event_);
  EXPECT_EQ(Download(memory, kCopies * kBytes), source);
}

TEST_P(DeviceSuite, RegisteredHostMemoryCanBeCopied) {
  std::vector<uint8_t> host = Counting(1 << 16);
  ASSERT_TRUE(device_->RegisterHost(host.data(), 1 << 16).ok());
  const DevicePtr memory = Upload(host.data(), 1 << 16);
  EXPECT_EQ(Download(memory, 1 << 16), host);
  if (device_->info().host_addressable) {
    const DevicePtr copy = Allocate(1 << 16);
    device_->CopyWithin(stream_, copy, device_->HostAddress(host.data()), 1 << 16);
    EXPECT_EQ(Download(copy, 1 << 16), host);
  }
  device_->UnregisterHost(host.data());
}

TEST_P(DeviceSuite, MemoryThatTheMachineDoesNotRegisterIsCopiedInTheStreamsOrder) {
  constexpr int64_t kBytes = 5 * kMiB + 3;
  std::vector<uint8_t> registered(1 << 16);
  ASSERT_TRUE(device_->RegisterHost(registered.data(), 1 << 16).ok());
  // What is registered already is refused by a GPU, as too much is.
  if (device_->RegisterHost(registered.data(), 1 << 16).ok()) device_->UnregisterHost(registered.data());
  std::vector<uint8_t> first = Counting(kBytes), second(kBytes), third(kBytes);
  const DevicePtr memory = Allocate(kBytes);
  const StreamId other = device_->CreateStream("other");
  device_->CopyIn(stream_, memory, first.data(), kBytes);
  device_->CopyOut(stream_, second.data(), memory, kBytes);
  device_->Fill(stream_, memory, 0, kBytes);
  device_->Record(event_, stream_);
  device_->Wait(other, event_);
  const std::vector<CopyRun> in = {{memory, second.data(), 2 * kMiB},
                                   {memory + 3 * kMiB, second.data() + 3 * kMiB, 2 * kMiB + 3}};
  device_->CopyInBatch(other, in);
  device_->CopyOut(other, third.data(), memory, kBytes);
  device_->Record(event_, other);
  ASSERT_TRUE(device_->Synchronize(event_).ok());
  EXPECT_EQ(second, first);
  std::fill(first.begin() + 2 * kMiB, first.begin() + 3 * kMiB, uint8_t{0});
  EXPECT_EQ(third, first);
  device_->UnregisterHost(registered.data());
}

TEST_P(DeviceSuite, EventsFollowTheirStream) {
  const EventId begin = device_->CreateEvent();
  const EventId end = device_->CreateEvent();
  EXPECT_FALSE(device_->IsComplete(begin));
  device_->Record(begin, stream_);
  std::vector<uint8_t> bytes(1 << 20, 3);
  const DevicePtr memory = Allocate(1 << 20);
  device_->CopyIn(stream_, memory, bytes.data(), 1 << 20);
  device_->Record(end, stream_);
  const StreamId other = device_->CreateStream("other");
  device_->Wait(other, end);
  EXPECT_TRUE(device_->Synchronize(end).ok());
  EXPECT_TRUE(device_->IsComplete(begin));
  EXPECT_TRUE(device_->IsComplete(end));
  EXPECT_GE(device_->ElapsedNs(begin, end), 0);
  device_->Record(begin, stream_);
  EXPECT_TRUE(device_->Synchronize(begin).ok());
  EXPECT_LE(device_->ElapsedNs(begin, end), 0);
}

TEST_P(DeviceSuite, WaitOnAnEventNeverRecordedDies) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const EventId event = device_->CreateEvent();
  EXPECT_DEATH(device_->Wait(stream_, event), "never recorded");
}

TEST_P(DeviceSuite, FreeOfAForeignAddressDies) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(device_->Free(DevicePtr{256}), "");
}

}  // namespace
}  // namespace spillway::device
