// StepStats: what one work item's pass through the layers really did. Returned by the executor; the scheduler
// turns it into metrics, traces and feedback. Counts are of the whole pass (all layers) unless they say per
// layer.
#ifndef SPILLWAY_ENGINE_EXEC_STEP_STATS_H_
#define SPILLWAY_ENGINE_EXEC_STEP_STATS_H_

#include <array>
#include <cstdint>

#include "engine/exec/split_plan.h"

namespace spillway::exec {

struct LaneStats {
  int64_t busy_ns = 0;   // working
  int64_t stall_ns = 0;  // had work, waited for another lane or for a slot
  int64_t bytes = 0;
  int64_t copies = 0;
};

struct StepStats {
  Phase phase = Phase::kDecode;
  Schedule schedule = Schedule::kRow;
  int32_t sequences = 0;
  int32_t rows = 0;  // tokens computed
  int32_t sampled_rows = 0;
  int32_t visits = 0;
  int64_t begin_ns = 0;   // monotonic, at Begin
  int64_t wall_ns = 0;    // Begin to Finish, other items' visits in between included
  int64_t active_ns = 0;  // within this item's own visits, Begin and Finish
  int64_t head_ns = 0;    // final norm, head and sampling

  TokenClasses tokens;          // tokens cached before the step, per layer, distinct
  int64_t reads_tokens = 0;     // per layer, as BatchShape counts them
  int64_t promoted_tokens = 0;  // carried ones that become resident by it
  int64_t stored_tokens = 0;    // rows whose K and V were appended
  std::array<LaneStats, kLanes> lanes{};
  // Carried chunks that were fetched before the step began; and chunks, of this step's or ahead for it, whose
  // copies nobody read: they were not needed, or were fetched again.
  int64_t chunks_ahead = 0;
  int64_t chunks_dropped = 0;
  int64_t ring_waits = 0;  // carried chunks for which the staging ring had no free slot when they came next

  // Visits whose layer's weights were not even on their way to the device.
  int32_t weight_waits = 0;

  double predicted_step_s = 0;  // copied from the plan
  double corrected_step_s = 0;

  // What the prediction is of. An item of a column cannot end before the others' visits are done.
  int64_t predicted_ns() const { return schedule == Schedule::kColumn ? wall_ns : active_ns; }
};

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_STEP_STATS_H_
