#include "profiler/copy_meter.h"

#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/bytes.h"
#include "base/numa_node.h"
#include "base/status_macros.h"
#include "profiler/copy_batches.h"

namespace spillway::profiler {
namespace {

constexpr int64_t kBufferBytesMin = kMiB;
// A group of copies in flight moves about so much, and is so many at most.
constexpr int64_t kGroupBytes = 2 * kMiB;
constexpr int64_t kGroupCopiesMax = 16;
constexpr int64_t kSizeMin = 16 * kKiB;
constexpr double kBothSeconds = 0.02;
constexpr int64_t kBothRunsMax = 128;
constexpr double kInFlightSeconds = 0.02;
constexpr double kLoadSeconds = 0.002;
constexpr int64_t kLoadRunsMax = 32;
constexpr int kFillByte = 0x3c;

int64_t GroupCopies(int64_t size_bytes) {
  return std::clamp(kGroupBytes / size_bytes, int64_t{2}, kGroupCopiesMax);
}

// Copies of `size_bytes` that a link of this rate makes in `seconds`.
int64_t CopiesWithin(double seconds, double bytes_per_s, int64_t size_bytes, int64_t most) {
  return static_cast<int64_t>(std::clamp(std::round(bytes_per_s * seconds / static_cast<double>(size_bytes)),
                                         1.0, static_cast<double>(most)));
}

double SecondsAt(const CostCurve& curve, double units) {
  for (const CostSample& sample : curve.samples) {
    if (sample.units == units) return sample.seconds;
  }
  return curve.At(units);
}

}  // namespace

absl::StatusOr<std::unique_ptr<CopyMeter>> CopyMeter::Create(device::Device& device, DeviceTimer& timer,
                                                             const CurveSampler& sampler,
                                                             const kv::Geometry& geometry, bool page_lock,
                                                             int32_t numa_node) {
  const int64_t free_bytes = device.info().memory_bytes - device.allocated_bytes();
  const int64_t buffer_bytes =
      std::clamp(free_bytes / 8 / kBufferBytesMin * kBufferBytesMin, kBufferBytesMin, kBufferBytes);
  const int64_t run_bytes = std::clamp(2 * geometry.slot_bytes(), int64_t{256}, buffer_bytes / 4);
  std::unique_ptr<CopyMeter> meter(new CopyMeter(device, timer, sampler, run_bytes, buffer_bytes));
  SPILLWAY_ASSIGN_OR_RETURN(meter->device_buffer_, device.Allocate(buffer_bytes, "copies of the profile"));
  void* const host = mmap(nullptr, static_cast<size_t>(buffer_bytes), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (host == MAP_FAILED) {
    return absl::ResourceExhaustedError("no host memory for measuring the link (16 MiB)");
  }
  meter->host_buffer_ = static_cast<uint8_t*>(host);
  // Whoever allocates what is served from warns where this cannot be.
  if (numa_node >= 0) (void)PreferNumaNode(meter->host_buffer_, buffer_bytes, numa_node);
  std::memset(host, kFillByte, static_cast<size_t>(buffer_bytes));
  // Copies from memory that cannot be registered are slower, and would be so when serving.
  meter->registered_ = page_lock && device.RegisterHost(host, buffer_bytes).ok();
  device.Fill(timer.compute(), meter->device_buffer_, kFillByte, buffer_bytes);
  SPILLWAY_RETURN_IF_ERROR(timer.Drain(timer.compute()));
  return meter;
}

CopyMeter::CopyMeter(device::Device& device, DeviceTimer& timer, const CurveSampler& sampler,
                     int64_t run_bytes, int64_t buffer_bytes)
    : device_(device), timer_(timer), sampler_(sampler), run_bytes_(run_bytes), buffer_bytes_(buffer_bytes) {}

CopyMeter::~CopyMeter() {
  if (timer_.stalled()) return;
  if (registered_) device_.UnregisterHost(host_buffer_);
  if (host_buffer_ != nullptr) munmap(host_buffer_, static_cast<size_t>(buffer_bytes_));
  if (device_buffer_) device_.Free(device_buffer_);
}

device::StreamId CopyMeter::StreamOf(CopyDirection direction) const {
  return direction == CopyDirection::kIn ? timer_.link_in() : timer_.link_out();
}

device::CopyRun CopyMeter::RunAt(CopyDirection direction, int64_t size_bytes, int64_t i) const {
  const int64_t half_bytes = buffer_bytes_ / 2;
  const int64_t places = std::max<int64_t>(1, half_bytes / size_bytes);
  const int64_t half = direction == CopyDirection::kOut && size_bytes <= half_bytes ? half_bytes : 0;
  const int64_t offset = half + i % places * size_bytes;
  return {device_buffer_ + offset, host_buffer_ + offset, size_bytes};
}

std::vector<device::CopyRun> CopyMeter::Runs(CopyDirection direction, int64_t size_bytes, int64_t n) const {
  std::vector<device::CopyRun> runs;
  for (int64_t i = 0; i < n; ++i) runs.push_back(RunAt(direction, size_bytes, i));
  return runs;
}

void CopyMeter::CopyOne(CopyDirection direction, const device::CopyRun& run) {
  if (direction == CopyDirection::kIn) {
    device_.CopyIn(timer_.link_in(), run.device, run.host, run.size_bytes);
  } else {
    device_.CopyOut(timer_.link_out(), run.host, run.device, run.size_bytes);
  }
}

void CopyMeter::CopyBatch(CopyDirection direction, absl::Span<const device::CopyRun> runs) {
  InRounds(runs, [&](absl::Span<const device::CopyRun> batch) {
    if (direction == CopyDirection::kIn) {
      device_.CopyInBatch(timer_.link_in(), batch);
    } else {
      device_.CopyOutBatch(timer_.link_out(), batch);
    }
  });
}

std::vector<double> CopyMeter::SmallSizes() const {
  std::vector<double> sizes;
  for (const double size :
       {16.0 * kKiB, 64.0 * kKiB, 256.0 * kKiB, 1.0 * kMiB, static_cast<double>(run_bytes_)}) {
    if (size <= static_cast<double>(buffer_bytes_) / 2) sizes.push_back(size);
  }
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  return sizes;
}

absl::StatusOr<CostCurve> CopyMeter::SampleGroups(CopyDirection direction, MonotonicNs until_ns,
                                                  CopyGroup group) {
  SPILLWAY_ASSIGN_OR_RETURN(
      std::vector<CostSample> samples,
      sampler_.Sample(SmallSizes(), until_ns, [&](double units, int n) -> absl::StatusOr<double> {
        const auto size_bytes = static_cast<int64_t>(units);
        return timer_.Time(StreamOf(direction), [&] {
          for (int i = 0; i < n; ++i) group(size_bytes, GroupCopies(size_bytes));
        });
      }));
  for (CostSample& sample : samples) {
    sample.seconds /= static_cast<double>(GroupCopies(static_cast<int64_t>(sample.units)));
  }
  return FitConvex(samples);
}

absl::StatusOr<CopyRates> CopyMeter::Measure(CopyDirection direction, MonotonicNs from_ns,
                                             MonotonicNs until_ns) {
  CopyRates rates;
  const MonotonicNs quarter_ns = (until_ns - from_ns) / 4;
  std::vector<double> sizes;
  for (int64_t size = kSizeMin; size <= buffer_bytes_; size *= 4) sizes.push_back(static_cast<double>(size));
  SPILLWAY_ASSIGN_OR_RETURN(
      const std::vector<CostSample> single,
      sampler_.Sample(sizes, from_ns + quarter_ns, [&](double units, int n) -> absl::StatusOr<double> {
        // Alone: the next one is asked for when the last has arrived.
        double seconds = 0;
        for (int i = 0; i < n; ++i) {
          SPILLWAY_ASSIGN_OR_RETURN(const double one_s, timer_.Time(StreamOf(direction), [&] {
            CopyOne(direction, RunAt(direction, static_cast<int64_t>(units), i));
          }));
          seconds += one_s;
        }
        return seconds;
      }));
  SPILLWAY_ASSIGN_OR_RETURN(rates.single, FitConvex(single));
  SPILLWAY_ASSIGN_OR_RETURN(
      rates.merged, SampleGroups(direction, from_ns + 2 * quarter_ns, [&](int64_t size_bytes, int64_t n) {
        for (int64_t i = 0; i < n; ++i) CopyOne(direction, RunAt(direction, size_bytes, i));
      }));
  SPILLWAY_ASSIGN_OR_RETURN(
      rates.batched, SampleGroups(direction, from_ns + 3 * quarter_ns, [&](int64_t size_bytes, int64_t n) {
        CopyBatch(direction, Runs(direction, size_bytes, n));
      }));
  const auto run = static_cast<double>(run_bytes_);
  const double found = run / std::min(SecondsAt(rates.merged, run), SecondsAt(rates.batched, run));
  SPILLWAY_ASSIGN_OR_RETURN(rates.bytes_per_s, MeasureInFlight(direction, found, until_ns));
  const CostSample& least = rates.merged.samples.front();
  rates.overhead_s = std::max(0.0, least.seconds - rates.merged.pieces.back().per_unit_s * least.units);
  return rates;
}

absl::StatusOr<double> CopyMeter::MeasureInFlight(CopyDirection direction, double bytes_per_s,
                                                  MonotonicNs until_ns) {
  const std::vector<device::CopyRun> ahead =
      Runs(direction, run_bytes_, CopiesWithin(kLoadSeconds, bytes_per_s, run_bytes_, kLoadRunsMax));
  const std::vector<device::CopyRun> runs =
      Runs(direction, run_bytes_, CopiesWithin(kInFlightSeconds, bytes_per_s, run_bytes_, kBothRunsMax));
  const auto bytes = static_cast<double>(static_cast<int64_t>(runs.size()) * run_bytes_);
  SPILLWAY_ASSIGN_OR_RETURN(const double seconds,
                            sampler_.SampleOne(bytes, until_ns, [&](double, int n) -> absl::StatusOr<double> {
                              return timer_.TimeBehind(
                                  StreamOf(direction), [&] { CopyBatch(direction, ahead); },
                                  [&] {
                                    for (int i = 0; i < n; ++i) CopyBatch(direction, runs);
                                  });
                            }));
  return bytes / seconds;
}

absl::StatusOr<double> CopyMeter::MeasureBoth(const CopyRates& in, const CopyRates& out,
                                              MonotonicNs until_ns) {
  // Both take the same time, so that neither direction is ever alone.
  const double most_bytes = static_cast<double>(kBothRunsMax * run_bytes_);
  const double seconds_each = std::min(kBothSeconds, most_bytes / std::max(in.bytes_per_s, out.bytes_per_s));
  const auto runs_of = [&](CopyDirection direction, const CopyRates& rates) {
    return Runs(direction, run_bytes_,
                CopiesWithin(seconds_each, rates.bytes_per_s, run_bytes_, kBothRunsMax));
  };
  const std::vector<device::CopyRun> in_runs = runs_of(CopyDirection::kIn, in);
  const std::vector<device::CopyRun> out_runs = runs_of(CopyDirection::kOut, out);
  const auto bytes = static_cast<double>(static_cast<int64_t>(in_runs.size() + out_runs.size()) * run_bytes_);
  SPILLWAY_ASSIGN_OR_RETURN(
      const double seconds, sampler_.SampleOne(bytes, until_ns, [&](double, int n) -> absl::StatusOr<double> {
        double sum_s = 0;
        for (int i = 0; i < n; ++i) {
          SPILLWAY_ASSIGN_OR_RETURN(const double one_s,
                                    timer_.TimeBoth([&] { CopyBatch(CopyDirection::kIn, in_runs); },
                                                    [&] { CopyBatch(CopyDirection::kOut, out_runs); }));
          sum_s += one_s;
        }
        return sum_s;
      }));
  return bytes / seconds;
}

std::vector<device::CopyRun> CopyMeter::LoadRuns(const CopyRates& in) const {
  return Runs(CopyDirection::kIn, run_bytes_,
              CopiesWithin(kLoadSeconds, in.bytes_per_s, run_bytes_, kLoadRunsMax));
}

}  // namespace spillway::profiler
