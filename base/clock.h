// Time as a dependency, so that tests turn it by hand instead of sleeping.
#ifndef SPILLWAY_BASE_CLOCK_H_
#define SPILLWAY_BASE_CLOCK_H_

#include <atomic>
#include <cstdint>

namespace spillway {

// Nanoseconds on a monotonic clock, from an arbitrary start.
using MonotonicNs = int64_t;

constexpr int64_t kNsPerMs = 1'000'000;
constexpr int64_t kNsPerSecond = 1'000'000'000;

constexpr double ToMs(int64_t duration_ns) { return static_cast<double>(duration_ns) / 1e6; }
constexpr double ToSeconds(int64_t duration_ns) { return static_cast<double>(duration_ns) / 1e9; }

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual MonotonicNs NowNs() const = 0;

  // The machine's steady clock; lives for ever.
  static const Clock& Real();
};

// Thread-safe. Stands still until told otherwise.
class ManualClock : public Clock {
 public:
  MonotonicNs NowNs() const override { return now_ns_.load(std::memory_order_relaxed); }
  void AdvanceNs(int64_t duration_ns) { now_ns_.fetch_add(duration_ns, std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> now_ns_{0};
};

}  // namespace spillway

#endif  // SPILLWAY_BASE_CLOCK_H_
