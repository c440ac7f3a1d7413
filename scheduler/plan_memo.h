// PlanMemo: split shares by bucketed batch shape, the least recently used dropped. Thread-compatible; nothing
// allocates after construction.
#ifndef SPILLWAY_SCHEDULER_PLAN_MEMO_H_
#define SPILLWAY_SCHEDULER_PLAN_MEMO_H_

#include <cstdint>
#include <vector>

#include "engine/exec/split_plan.h"

namespace spillway::scheduler {

// A split as shares, so that it serves every shape of its bucket.
struct SplitShares {
  double x_of_both = 0;  // of the tokens stored in both forms: carried as X
  double h_of_kv = 0;    // of the tokens that are left in KV: attended on the host
};

class PlanMemo {
 public:
  struct Entry {
    exec::BatchShape bucket;
    SplitShares shares;
    uint64_t solve_id = 0;
    uint32_t factors_version = 0;  // of the feedback that it was solved with
    bool failed = false;           // the shares are others', because the solve failed
    int32_t uses = 0;              // since it was put or asked for again

   private:
    friend class PlanMemo;
    int32_t newer = -1, older = -1;  // in order of use
    int32_t next = -1;               // in the slot
  };

  // REQUIRES: capacity > 0.
  explicit PlanMemo(int32_t capacity);

  // The bucket's entry, now the most recently used, or null. Stays where it is until the next Put.
  Entry* Find(const exec::BatchShape& bucket);
  // Replaces the bucket's entry, or the least recently used one where all are taken.
  Entry& Put(const exec::BatchShape& bucket);
  int32_t size() const { return size_; }

 private:
  int32_t& SlotOf(const exec::BatchShape& bucket);
  void Unlink(int32_t index);
  void PutFirst(int32_t index);
  void Forget(int32_t index);

  std::vector<Entry> entries_;  // [capacity]
  std::vector<int32_t> slots_;  // [a power of two above 2 * capacity]: first entry, or -1
  int32_t size_ = 0;
  int32_t newest_ = -1, oldest_ = -1;
};

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_PLAN_MEMO_H_
