// ResourceFeedback: by how much longer each resource takes than the profile says, learned from what steps
// measure. Each from its own lanes' busy time, so that one resource's error never corrects another's rate.
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
