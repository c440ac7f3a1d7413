// PrefillPolicy: which prompt's prefill makes the next visit.
//
// By priority; among equals the one that is due first: when it came, and kPatience times what is left of it
// takes alone. So a short prompt does not wait for a long one that came shortly before, and where more comes
// than there is time for, waits grow alike instead of the long prompts' alone. The oldest has a quarter of
// the time whatever arrives, so that a long prompt gets on from the beginning. Some work items are kept free:
// one for the oldest, and one for short prompts, which so find a place at once however many long ones are
// suspended.
//
// Step thread only.
#ifndef SPILLWAY_SCHEDULER_PREFILL_POLICY_H_
#define SPILLWAY_SCHEDULER_PREFILL_POLICY_H_

#include <cstdint>

#include "absl/types/span.h"

namespace spillway::scheduler {

struct PrefillCandidate {
  int32_t priority = 0;
  uint64_t number = 0;    // order of arrival
  int64_t rows_left = 0;  // decides between those that are due at once
  double due_ns = 0;      // DueNs of who is due first in it
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
  // A prompt may wait so many times what computing it alone takes, before those that came later and are
  // shorter go behind it.
  static constexpr double kPatience = 200;
  static double DueNs(double arrival_ns, double alone_ns) { return arrival_ns + kPatience * alone_ns; }
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
