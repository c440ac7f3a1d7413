// PrefillPolicy: which prompt's prefill makes the next visit.
//
// By priority; among equals the one with the least left to compute first, so that a short prompt does not
// wait for a long one. The oldest of them has a quarter of the time whatever arrives, so that a long prompt
// is never starved by short ones. Some work items are kept free: one for the oldest, and one for short
// prompts, which so find a place at once however many long ones are suspended.
//
// Step thread only.
#ifndef SPILLWAY_SCHEDULER_PREFILL_POLICY_H_
#define SPILLWAY_SCHEDULER_PREFILL_POLICY_H_

#include <cstdint>

#include "absl/types/span.h"

namespace spillway::scheduler {

struct PrefillCandidate {
  int32_t priority = 0;
  uint64_t number = 0;  // order of arrival
  int64_t rows_left = 0;
  bool has_item = false;  // in a work item that runs; otherwise it needs a free one
  bool is_long = false;   // more than one visit a layer
  double visit_ns = 1;    // what its next visit costs
};

class PrefillPolicy {
 public:
  static constexpr double kOldestShare = 0.25;
  // What the oldest had beyond its share is held against it up to so many of its visits. In as much time as
  // four times that, a short prompt is computed.
  static constexpr double kMostDebtVisits = 16;
  // Fewer leave nothing for others beside the two that may be kept free.
  static constexpr int32_t kLeastItems = 3;

  struct Choice {
    int index = -1;
    bool is_oldest = false;
    double visit_ns = 0;
    double oldest_visit_ns = 0;
  };

  // REQUIRES: at least one candidate; one that runs, or kLeastItems free items.
  Choice Choose(absl::Span<const PrefillCandidate> candidates, int32_t free_items) const;
  void OnVisited(const Choice& choice);

 private:
  double oldest_credit_ns_ = 0;  // what its share owes the oldest; negative: it had more
};

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_PREFILL_POLICY_H_
