#include "scheduler/prefill_policy.h"

#include <algorithm>

#include "base/check.h"

namespace spillway::scheduler {
namespace {

bool IsDueBefore(const PrefillCandidate& a, const PrefillCandidate& b) {
  if (a.due_ns != b.due_ns) return a.due_ns < b.due_ns;
  return a.rows_left != b.rows_left ? a.rows_left < b.rows_left : a.number < b.number;
}

}  // namespace

PrefillPolicy::Choice PrefillPolicy::Choose(absl::Span<const PrefillCandidate> candidates,
                                            int32_t free_items) const {
  SPILLWAY_CHECK(!candidates.empty());
  int oldest = 0;
  int rivals = 0;  // candidates of the highest priority
  for (int i = 0; i < static_cast<int>(candidates.size()); ++i) {
    const PrefillCandidate& candidate = candidates[static_cast<size_t>(i)];
    const PrefillCandidate& first = candidates[static_cast<size_t>(oldest)];
    if (candidate.priority > first.priority) {
      oldest = i;
      rivals = 1;
    } else if (candidate.priority == first.priority) {
      ++rivals;
      if (candidate.number < first.number) oldest = i;
    }
  }
  const PrefillCandidate& first = candidates[static_cast<size_t>(oldest)];
  const auto startable = [&](int i) {
    const PrefillCandidate& candidate = candidates[static_cast<size_t>(i)];
    if (candidate.has_item) return true;
    if (i == oldest) return free_items > 0;
    return free_items > (first.has_item ? 0 : 1) + (candidate.is_long ? 1 : 0);
  };
  const auto choose = [&](int i) {
    return Choice{i, i == oldest, candidates[static_cast<size_t>(i)].visit_ns, first.visit_ns};
  };

  if (rivals > 1 && startable(oldest) && oldest_credit_ns_ > 0 &&
      oldest_credit_ns_ >= (1 - kOldestShare) * first.visit_ns) {
    return choose(oldest);
  }
  int best = -1;
  int best_running = -1;  // of any priority: it will free an item
  for (int i = 0; i < static_cast<int>(candidates.size()); ++i) {
    const PrefillCandidate& candidate = candidates[static_cast<size_t>(i)];
    const auto better_than = [&](int other) {
      return other < 0 || IsDueBefore(candidate, candidates[static_cast<size_t>(other)]);
    };
    if (candidate.priority == first.priority && startable(i) && better_than(best)) best = i;
    if (candidate.has_item && better_than(best_running)) best_running = i;
  }
  if (best < 0) best = best_running;
  SPILLWAY_CHECK_MSG(best >= 0, "no prefill runs and none may start");
  return choose(best);
}

void PrefillPolicy::OnVisited(const Choice& choice) {
  const double due_ns = (choice.is_oldest ? kOldestShare - 1 : kOldestShare) * choice.visit_ns;
  // Bounded above too: an oldest that could not start does not keep the others out once it can.
  oldest_credit_ns_ = std::clamp(oldest_credit_ns_ + due_ns, -kMostDebtVisits * choice.oldest_visit_ns,
                                 2 * choice.oldest_visit_ns);
}

}  // namespace spillway::scheduler
