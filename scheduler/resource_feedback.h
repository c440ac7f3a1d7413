// ResourceFeedback: by how much longer each resource takes than the profile says, learned from what steps
// measure. Each from its own lanes' busy time, so that one resource's error never corrects another's rate.
//
// Compute that waits for the link most of the time says nothing of its rate: it is idle before every piece of
// work, so that each begins with a wake-up and cold caches, and is timed with them. (Decoding a grouped-query
// model over an emulated link took 2.5 times what the profile says of its 4 ms of compute in a step of 75;
// corrected by that, prefill, which is all compute, was predicted to take 1.65 times what it took.) A copy's
// time has no such part.
//
// Step thread only.
#ifndef SPILLWAY_SCHEDULER_RESOURCE_FEEDBACK_H_
#define SPILLWAY_SCHEDULER_RESOURCE_FEEDBACK_H_

#include <cstdint>

#include "engine/exec/step_stats.h"
#include "scheduler/plan_inputs.h"

namespace spillway::scheduler {

class ResourceFeedback {
 public:
  // A profile that is off by more is to be measured again, not corrected.
  static constexpr double kLeastFactor = 0.5;
  static constexpr double kMostFactor = 2;
  // A step's ratio counts for this much of the mean (of logarithms), and no further off than this.
  static constexpr double kWeight = 0.1;
  static constexpr double kMostSample = 4;
  // Lanes of which less than this was predicted or measured say nothing: a clock read is a part of it.
  static constexpr double kLeastSeconds = 20e-6;
  // Compute that was busy for less than this part of the link's time had slack.
  static constexpr double kBusyShare = 0.5;
  // Plans are solved anew when a factor has moved by more than this since the last version.
  static constexpr double kNewVersion = 0.03;

  // What the profile predicts for what the step did, and what it measured.
  void OnStep(const StepTimes& predicted, const exec::StepStats& measured);

  const ResourceFactors& factors() const { return factors_; }
  // The factors that plans are solved with: those of the latest version.
  const ResourceFactors& solved_factors() const { return solved_factors_; }
  uint32_t version() const { return version_; }

 private:
  static void Add(double predicted_s, double measured_s, double* factor);

  ResourceFactors factors_;
  ResourceFactors solved_factors_;
  uint32_t version_ = 1;
};

// Busy seconds of the lanes that make up a resource.
double LinkInSeconds(const exec::StepStats& stats);
double LinkOutSeconds(const exec::StepStats& stats);
double ComputeSeconds(const exec::StepStats& stats);

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_RESOURCE_FEEDBACK_H_
