#include "scheduler/resource_feedback.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "base/clock.h"

namespace spillway::scheduler {
namespace {

using exec::Lane;
using exec::Resource;

double BusySeconds(const exec::StepStats& stats, std::initializer_list<Lane> lanes) {
  int64_t busy_ns = 0;
  for (const Lane lane : lanes) busy_ns += stats.lanes[static_cast<size_t>(lane)].busy_ns;
  return ToSeconds(busy_ns);
}

bool Moved(double from, double to) { return std::abs(to / from - 1) > ResourceFeedback::kNewVersion; }

}  // namespace

double LinkInSeconds(const exec::StepStats& stats) {
  return BusySeconds(stats, {Lane::kKvLoad, Lane::kXLoad, Lane::kWeightLoad});
}
double LinkOutSeconds(const exec::StepStats& stats) {
  return BusySeconds(stats, {Lane::kKvStore, Lane::kXStore});
}
double ComputeSeconds(const exec::StepStats& stats) { return BusySeconds(stats, {Lane::kCompute}); }

void ResourceFeedback::Add(double predicted_s, double measured_s, double* factor) {
  if (!(predicted_s >= kLeastSeconds) || !(measured_s >= kLeastSeconds) || !std::isfinite(predicted_s))
    return;
  const double ratio = std::clamp(measured_s / predicted_s, 1 / kMostSample, kMostSample);
  *factor = std::clamp(std::exp((1 - kWeight) * std::log(*factor) + kWeight * std::log(ratio)), kLeastFactor,
                       kMostFactor);
}

void ResourceFeedback::OnStep(const StepTimes& predicted, const exec::StepStats& measured) {
  const auto seconds = [&](Resource resource) { return predicted.resource_s[static_cast<size_t>(resource)]; };
  const double in_s = LinkInSeconds(measured), out_s = LinkOutSeconds(measured);
  const double compute_s = ComputeSeconds(measured);
  Add(seconds(Resource::kLinkIn), in_s, &factors_.link_in);
  Add(seconds(Resource::kLinkOut), out_s, &factors_.link_out);
  if (compute_s >= kBusyShare * in_s) Add(seconds(Resource::kCompute), compute_s, &factors_.compute);
  if (Moved(solved_factors_.link_in, factors_.link_in) ||
      Moved(solved_factors_.link_out, factors_.link_out) ||
      Moved(solved_factors_.compute, factors_.compute)) {
    solved_factors_ = factors_;
    ++version_;
  }
}

}  // namespace spillway::scheduler
