#include "profiler/curve_sampler.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "profiler/robust_median.h"

namespace spillway::profiler {
namespace {

// Runs are timed together until they take so long: an event costs microseconds, and clocks have their grain.
constexpr double kTogetherSeconds = 1e-3;
constexpr double kRunsTogetherMax = 32;
constexpr double kColdSeconds = 0.1;  // a run that takes longer is not short, however cold
constexpr size_t kRepeatsMin = 5;
constexpr size_t kRepeatsMax = 15;
constexpr double kAgreed = 0.01;  // spread at which no more repeats are needed

}  // namespace

absl::StatusOr<double> CurveSampler::SampleOne(double units, MonotonicNs until_ns, TimeRuns time) const {
  SPILLWAY_ASSIGN_OR_RETURN(double warm_s, time(units, 1));
  // The first run loads kernels and chooses algorithms, so it does not say how many runs fill the time: one
  // alone would also be charged for the way from the host to the device.
  if (warm_s < kColdSeconds) {
    SPILLWAY_ASSIGN_OR_RETURN(warm_s, time(units, 1));
  }
  const int together = static_cast<int>(
      warm_s > 0 ? std::clamp(kTogetherSeconds / warm_s, 1.0, kRunsTogetherMax) : kRunsTogetherMax);
  std::vector<double> seconds;
  while (seconds.size() < kRepeatsMax) {
    SPILLWAY_ASSIGN_OR_RETURN(const double taken_s, time(units, together));
    if (!(taken_s > 0)) return absl::InternalError(absl::StrCat("the device's clock says ", taken_s, " s"));
    seconds.push_back(taken_s / together);
    if (ToSeconds(clock_.NowNs()) + taken_s > ToSeconds(until_ns)) break;
    if (seconds.size() >= kRepeatsMin && RelativeSpread(seconds) < kAgreed) break;
  }
  return RobustMedian(seconds);
}

absl::StatusOr<std::vector<CostSample>> CurveSampler::Sample(absl::Span<const double> units,
                                                             MonotonicNs until_ns, TimeRuns time) const {
  SPILLWAY_CHECK(units.size() >= 2);
  std::vector<CostSample> samples;
  for (size_t i = 0; i < units.size(); ++i) {
    const MonotonicNs now_ns = clock_.NowNs();
    const MonotonicNs left_ns = std::max<MonotonicNs>(0, until_ns - now_ns);
    if (samples.size() >= 2) {
      // A warm-up and a repeat at least.
      const double predicted_s = 2 * samples.back().seconds * units[i] / samples.back().units;
      if (predicted_s > ToSeconds(left_ns)) break;
    }
    const MonotonicNs share_ns = i + 1 < units.size() ? left_ns / 2 : left_ns;
    SPILLWAY_ASSIGN_OR_RETURN(const double seconds, SampleOne(units[i], now_ns + share_ns, time));
    samples.push_back({units[i], seconds});
  }
  return samples;
}

}  // namespace spillway::profiler
