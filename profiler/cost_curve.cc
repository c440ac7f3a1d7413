#include "profiler/cost_curve.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace spillway::profiler {
namespace {

// The part of the largest size's time that must have come with its units. Timings that agree within 1 % count
// as equal when they are sampled, so two of them show no less.
constexpr double kGrowthMin = 0.02;

absl::Status CheckSamples(absl::Span<const CostSample> samples) {
  if (samples.size() < 2) return absl::InvalidArgumentError("a cost curve needs at least two samples");
  for (size_t i = 0; i < samples.size(); ++i) {
    const CostSample& s = samples[i];
    const bool ascending = i == 0 || s.units > samples[i - 1].units;
    if (std::isfinite(s.units) && std::isfinite(s.seconds) && s.units > 0 && s.seconds > 0 && ascending)
      continue;
    return absl::InvalidArgumentError(absl::StrCat("sample ", i, " (", s.units, " units, ", s.seconds,
                                                   " s) is not positive, finite and ascending"));
  }
  return absl::OkStatus();
}

double SlopeBetween(const CostSample& a, const CostSample& b) {
  return (b.seconds - a.seconds) / (b.units - a.units);
}

// Andrew's monotone chain, lower half.
std::vector<CostSample> LowerHull(absl::Span<const CostSample> samples) {
  std::vector<CostSample> hull;
  for (const CostSample& s : samples) {
    while (hull.size() >= 2 &&
           SlopeBetween(hull[hull.size() - 2], hull.back()) >= SlopeBetween(hull[hull.size() - 2], s)) {
      hull.pop_back();
    }
    hull.push_back(s);
  }
  return hull;
}

// Drops the hull point whose loss moves the curve least until few enough are left.
void Simplify(std::vector<CostSample>& hull) {
  while (hull.size() > CostCurve::kMaxPieces + 1) {
    size_t least = 1;
    double least_gap = std::numeric_limits<double>::infinity();
    for (size_t i = 1; i + 1 < hull.size(); ++i) {
      const double across =
          hull[i - 1].seconds + SlopeBetween(hull[i - 1], hull[i + 1]) * (hull[i].units - hull[i - 1].units);
      const double gap = (across - hull[i].seconds) / hull[i].seconds;
      if (gap < least_gap) least_gap = gap, least = i;
    }
    hull.erase(hull.begin() + static_cast<std::ptrdiff_t>(least));
  }
}

// A cost that grows with its units and was not seen to grow: the samples' noise is as large as what lies
// between them. What is sure is that a unit costs no more than the largest size's share of its own time; that
// is how the curve goes on, behind a flat part. Too dear a unit is corrected by use, a free one makes plans
// that nothing bounds.
void GiveSlope(const CostSample& last, std::vector<CostPiece>& pieces) {
  if (pieces.back().per_unit_s * last.units >= kGrowthMin * last.seconds) return;
  if (pieces.size() == CostCurve::kMaxPieces) pieces.pop_back();
  pieces.push_back({0, last.seconds / last.units});
}

double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

double CostCurve::At(double units) const {
  SPILLWAY_CHECK(!pieces.empty());
  double seconds = 0;
  for (const CostPiece& piece : pieces) seconds = std::max(seconds, piece.fixed_s + piece.per_unit_s * units);
  return seconds;
}

absl::StatusOr<CostCurve> FitConvex(absl::Span<const CostSample> samples) {
  SPILLWAY_RETURN_IF_ERROR(CheckSamples(samples));
  CostCurve curve;
  curve.samples.assign(samples.begin(), samples.end());
  std::vector<CostSample> hull = LowerHull(samples);
  // Where the first line falls below nothing before it reaches 0 units, it goes through the origin instead.
  if (hull[0].seconds < SlopeBetween(hull[0], hull[1]) * hull[0].units) {
    hull.insert(hull.begin(), CostSample{});
  }
  Simplify(hull);
  for (size_t i = 1; i < hull.size(); ++i) {
    // A cost that falls with size is noise; the curve is flat there.
    const double slope = std::max(0.0, SlopeBetween(hull[i - 1], hull[i]));
    curve.pieces.push_back({hull[i].seconds - slope * hull[i].units, slope});
  }
  GiveSlope(hull.back(), curve.pieces);
  std::vector<double> ratios;
  for (const CostSample& s : samples) ratios.push_back(s.seconds / curve.At(s.units));
  const double raise = Median(ratios);
  for (CostPiece& piece : curve.pieces) piece.fixed_s *= raise, piece.per_unit_s *= raise;
  std::vector<double> errors;
  for (const CostSample& s : samples) errors.push_back(std::abs(curve.At(s.units) - s.seconds) / s.seconds);
  curve.fit_error_max = *std::max_element(errors.begin(), errors.end());
  curve.fit_error_median = Median(errors);
  return curve;
}

}  // namespace spillway::profiler
