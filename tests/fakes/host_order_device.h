// A device that knows what happens before what: it counts copies that read host memory, or write it, without
// having waited for those that wrote it, or read it, before. Every such pair is a mistake, whether its time
// was chosen so that it shows or not.
//
// Of batched copies alone, which is what blocks are moved by. One thread enqueues.
#ifndef SPILLWAY_TESTS_FAKES_HOST_ORDER_DEVICE_H_
#define SPILLWAY_TESTS_FAKES_HOST_ORDER_DEVICE_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <unordered_map>

#include "base/check.h"
#include "tests/fakes/forwarding_device.h"

namespace spillway::fakes {

class HostOrderDevice final : public device::ForwardingDevice {
 public:
  explicit HostOrderDevice(device::Device& target) : ForwardingDevice(target) {}

  int64_t unordered_reads() const { return unordered_reads_; }
  int64_t unordered_writes() const { return unordered_writes_; }

  void Record(device::EventId event, device::StreamId stream) override {
    events_[static_cast<int64_t>(event)] = Enqueue(stream);
    ForwardingDevice::Record(event, stream);
  }
  void Wait(device::StreamId stream, device::EventId event) override {
    Join(Enqueue(stream), events_[static_cast<int64_t>(event)]);
    ForwardingDevice::Wait(stream, event);
  }
  bool IsComplete(device::EventId event) override {
    const bool complete = ForwardingDevice::IsComplete(event);
    if (complete) Join(host_, events_[static_cast<int64_t>(event)]);
    return complete;
  }
  absl::Status Synchronize(device::EventId event) override {
    Join(host_, events_[static_cast<int64_t>(event)]);
    return ForwardingDevice::Synchronize(event);
  }

  void CopyInBatch(device::StreamId stream, absl::Span<const device::CopyRun> runs) override {
    const Times& now = Enqueue(stream);
    for (const device::CopyRun& run : runs) {
      ForEachUnit(run.host, run.size_bytes, [&](Unit& unit) {
        unordered_reads_ += !IsBefore(unit.written, now);
        unit.read[Index(stream)] = now[Index(stream)];
      });
    }
    ForwardingDevice::CopyInBatch(stream, runs);
  }
  void CopyOutBatch(device::StreamId stream, absl::Span<const device::CopyRun> runs) override {
    const Times& now = Enqueue(stream);
    for (const device::CopyRun& run : runs) {
      ForEachUnit(run.host, run.size_bytes, [&](Unit& unit) {
        unordered_writes_ += !IsBefore(unit.written, now) || !IsBefore(unit.read, now);
        unit = {};
        unit.written[Index(stream)] = now[Index(stream)];
      });
    }
    ForwardingDevice::CopyOutBatch(stream, runs);
  }

 private:
  static constexpr size_t kStreams = 16;
  static constexpr uint64_t kUnitBytes = 1024;  // a slot is a multiple
  // Of each stream, how many of its operations.
  using Times = std::array<uint64_t, kStreams>;
  struct Unit {
    Times written{};  // by the last write
    Times read{};     // by the reads since
  };

  static size_t Index(device::StreamId stream) { return static_cast<size_t>(stream); }
  static void Join(Times& into, const Times& other) {
    for (size_t i = 0; i < kStreams; ++i) into[i] = std::max(into[i], other[i]);
  }
  static bool IsBefore(const Times& earlier, const Times& now) {
    for (size_t i = 0; i < kStreams; ++i) {
      if (earlier[i] > now[i]) return false;
    }
    return true;
  }
  // What the stream's next operation comes after.
  Times& Enqueue(device::StreamId stream) {
    SPILLWAY_CHECK(Index(stream) < kStreams);
    Times& times = streams_[Index(stream)];
    Join(times, host_);
    ++times[Index(stream)];
    return times;
  }
  template <typename Function>
  void ForEachUnit(const void* host, int64_t size_bytes, const Function& function) {
    const auto begin = reinterpret_cast<uint64_t>(host);
    for (uint64_t at = begin; at < begin + static_cast<uint64_t>(size_bytes); at += kUnitBytes) {
      function(units_[at]);
    }
  }

  std::array<Times, kStreams> streams_{};
  Times host_{};
  std::unordered_map<int64_t, Times> events_;
  std::unordered_map<uint64_t, Unit> units_;
  int64_t unordered_reads_ = 0;
  int64_t unordered_writes_ = 0;
};

}  // namespace spillway::fakes

#endif  // SPILLWAY_TESTS_FAKES_HOST_ORDER_DEVICE_H_
