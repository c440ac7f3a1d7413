// CurveSampler: measures a cost at ascending sizes within an allowance of time.
//
// A size gets a warm-up run that is not counted and says how many runs to time together (short work is timed
// in bulk, as executors run it: back to back). Then it is repeated until the timings agree, or half of what
// is left of the allowance is used; outliers are dropped and the median is taken. Sizes that would not fit
// the allowance any more are left out, but for the first two: a curve needs them. Thread-compatible.
#ifndef SPILLWAY_PROFILER_CURVE_SAMPLER_H_
#define SPILLWAY_PROFILER_CURVE_SAMPLER_H_

#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "profiler/cost_curve.h"

namespace spillway::profiler {

class CurveSampler {
 public:
  // Seconds that `n` runs of the work at this size take together.
  using TimeRuns = absl::FunctionRef<absl::StatusOr<double>(double units, int n)>;

  // `clock` measures the allowance and must outlive this.
  explicit CurveSampler(const Clock& clock) : clock_(clock) {}

  // Seconds of one run at each size. REQUIRES: `units` ascending, at least two.
  absl::StatusOr<std::vector<CostSample>> Sample(absl::Span<const double> units, MonotonicNs until_ns,
                                                 TimeRuns time) const;
  // Of one size.
  absl::StatusOr<double> SampleOne(double units, MonotonicNs until_ns, TimeRuns time) const;

 private:
  const Clock& clock_;
};

}  // namespace spillway::profiler

#endif  // SPILLWAY_PROFILER_CURVE_SAMPLER_H_
