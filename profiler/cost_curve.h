// Measured cost against size, and the convex piecewise-linear curve fitted to it: what makes the split a
// linear program. seconds(n) = max over pieces of (fixed_s + per_unit_s * n).
#ifndef SPILLWAY_PROFILER_COST_CURVE_H_
#define SPILLWAY_PROFILER_COST_CURVE_H_

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace spillway::profiler {

struct CostSample {
  double units = 0;  // tokens, rows, reads or bytes
  double seconds = 0;
};

struct CostPiece {
  double fixed_s = 0;
  double per_unit_s = 0;
};

struct CostCurve {
  static constexpr int kMaxPieces = 8;

  std::vector<CostSample> samples;  // medians, ascending in units
  std::vector<CostPiece> pieces;    // 1..kMaxPieces, ascending in slope
  // Largest and median |fit - sample| / sample.
  double fit_error_max = 0;
  double fit_error_median = 0;

  double At(double units) const;  // REQUIRES: !pieces.empty()
};

// Fits samples of a cost that grows with its units. The curve is the samples' lower convex hull, raised by
// one factor so that half of the samples lie on either side of it; what is not convex in the measurement (a
// saw tooth of tile sizes) shows as fit error. The last slope is positive always: where noise hides the
// growth, it is the largest size's time over its units. No number of units costs less than nothing.
// InvalidArgument names a sample that is not finite, not positive, or not ascending.
absl::StatusOr<CostCurve> FitConvex(absl::Span<const CostSample> samples);

}  // namespace spillway::profiler

#endif  // SPILLWAY_PROFILER_COST_CURVE_H_
