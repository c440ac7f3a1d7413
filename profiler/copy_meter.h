// CopyMeter: how fast a device's link carries bytes, by direction, size and way of asking.
//
// Memory: kBufferBytes on the device (an eighth of what is free there, where that is less) and as much on the
// host, freed with the meter (kept, where the device stalled: it may still use it). Thread-compatible; the
// device and the timer must outlive it.
#ifndef SPILLWAY_PROFILER_COPY_METER_H_
#define SPILLWAY_PROFILER_COPY_METER_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "engine/device/device.h"
#include "engine/kv/geometry.h"
#include "profiler/curve_sampler.h"
#include "profiler/device_timer.h"
#include "profiler/machine_profile.h"

namespace spillway::profiler {

enum class CopyDirection : uint8_t { kIn, kOut };

class CopyMeter {
 public:
  static constexpr int64_t kBufferBytes = int64_t{16} << 20;

  // `page_lock`: of host memory that is registered, where the device does; else of memory that is not. Of
  // `numa_node`; -1: of any.
  // ResourceExhausted where there is no memory to measure with.
  static absl::StatusOr<std::unique_ptr<CopyMeter>> Create(device::Device& device, DeviceTimer& timer,
                                                           const CurveSampler& sampler,
                                                           const kv::Geometry& geometry, bool page_lock,
                                                           int32_t numa_node);
  ~CopyMeter();
  CopyMeter(const CopyMeter&) = delete;
  CopyMeter& operator=(const CopyMeter&) = delete;

  // Single copies of 16 KiB to 16 MiB, as far as time allows; merged and batched ones of 16 KiB to 1 MiB, and
  // of the run that executors carry: K and V of a block in one layer.
  absl::StatusOr<CopyRates> Measure(CopyDirection direction, MonotonicNs from_ns, MonotonicNs until_ns);
  // Bytes per second in and out together, both directions busy all the time.
  absl::StatusOr<double> MeasureBoth(const CopyRates& in, const CopyRates& out, MonotonicNs until_ns);

  // Copies in of about two milliseconds, as DeviceTimer::StartLoad wants them.
  std::vector<device::CopyRun> LoadRuns(const CopyRates& in) const;

 private:
  using CopyGroup = absl::FunctionRef<void(int64_t size_bytes, int64_t n)>;

  CopyMeter(device::Device& device, DeviceTimer& timer, const CurveSampler& sampler, int64_t run_bytes,
            int64_t buffer_bytes);

  device::StreamId StreamOf(CopyDirection direction) const;
  // The i-th of a row of copies, going round half of the buffer (the halves are apart: one for each way).
  device::CopyRun RunAt(CopyDirection direction, int64_t size_bytes, int64_t i) const;
  std::vector<device::CopyRun> Runs(CopyDirection direction, int64_t size_bytes, int64_t n) const;
  void CopyOne(CopyDirection direction, const device::CopyRun& run);
  void CopyBatch(CopyDirection direction, absl::Span<const device::CopyRun> runs);
  std::vector<double> SmallSizes() const;
  // Bytes per second of batches of the run that executors carry, one enqueued behind the other as they do, so
  // that the link never waits; about `bytes_per_s`.
  absl::StatusOr<double> MeasureInFlight(CopyDirection direction, double bytes_per_s, MonotonicNs until_ns);
  // Seconds of one copy against its size, when `group` makes n of them.
  absl::StatusOr<CostCurve> SampleGroups(CopyDirection direction, MonotonicNs until_ns, CopyGroup group);

  device::Device& device_;
  DeviceTimer& timer_;
  const CurveSampler& sampler_;
  const int64_t run_bytes_;
  const int64_t buffer_bytes_;
  device::DevicePtr device_buffer_;  // [buffer_bytes_]
  uint8_t* host_buffer_ = nullptr;   // [buffer_bytes_], a mapping
  bool registered_ = false;
};

}  // namespace spillway::profiler

#endif  // SPILLWAY_PROFILER_COPY_METER_H_
