// Residency: which blocks stay on the device, or come to stay, and as what. The planner's targets are shares
// of the cached tokens that work reads; what is stored, carried and read drifts towards them: a block that
// becomes full stays in the form that lacks most, a block that was carried is promoted, and what is beyond
// the targets goes.
//
// Step thread only. Nothing is allocated after the last AddItem.
#ifndef SPILLWAY_ENGINE_EXEC_RESIDENCY_H_
#define SPILLWAY_ENGINE_EXEC_RESIDENCY_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/exec/split_plan.h"
#include "engine/kv/device_cache.h"

namespace spillway::exec {

class Residency {
 public:
  // `targets` hold until a plan brings others; at most `slots_max` slots of a layer are resident. Without
  // `stores_x` X is never resident. `cache` must outlive this.
  Residency(kv::DeviceCache& cache, const ResidencyTargets& targets, int64_t slots_max, bool stores_x);

  // A number for a work item.
  size_t AddItem();
  // Work item `item` begins a step that reads and writes `blocks` distinct blocks of `block_tokens` tokens.
  void OnBegin(size_t item, Phase phase, int64_t blocks, int32_t block_tokens,
               const std::optional<ResidencyTargets>& targets);
  // The step is over, or was given up, and what it read is not pinned any more.
  void OnEnd(size_t item);

  // What of a block that became full stays.
  kv::Residence ForSealed() const;
  // As what a block that was carried, as X or as K and V, should become resident; kNone where there is no
  // room.
  kv::Residence ForCarried(bool as_x) const;
  const ResidencyTargets& targets() const { return targets_; }

 private:
  // What an item reads, by its last step.
  struct Load {
    int64_t blocks = 0;
    Phase phase = Phase::kDecode;
    bool running = false;
    uint32_t ended = 0;  // the number of decode steps begun when it ended
  };

  kv::ResidentLimits LimitsOf(int64_t blocks) const;
  // How much of what should be resident in this form is; 1 where nothing should be.
  double FilledShare(kv::Residence as) const;

  kv::DeviceCache& cache_;
  ResidencyTargets targets_;
  const int64_t slots_max_;
  const bool stores_x_;
  std::vector<Load> loads_;  // by item
  uint32_t decode_steps_ = 0;
};

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_RESIDENCY_H_
