#include "engine/kv/slot_allocator.h"

#include <algorithm>

#include "base/check.h"

namespace spillway::kv {

SlotAllocator::SlotAllocator(int32_t n_slots) : taken_(static_cast<size_t>(n_slots), false), free_(n_slots) {}

int32_t SlotAllocator::FindRun(int32_t begin, int32_t end, int32_t n) const {
  int32_t run = 0;
  for (int32_t slot = begin; slot < end; ++slot) {
    run = taken_[static_cast<size_t>(slot)] ? 0 : run + 1;
    if (run == n) return slot - n + 1;
  }
  return -1;
}

int32_t SlotAllocator::Take(int32_t n) {
  SPILLWAY_CHECK(n > 0);
  if (free_ < n) return -1;
  int32_t first = FindRun(next_, n_slots(), n);
  if (first < 0) first = FindRun(0, std::min(next_ + n - 1, n_slots()), n);
  if (first < 0) return -1;
  Mark(first, n);
  next_ = first + n == n_slots() ? 0 : first + n;
  return first;
}

int32_t SlotAllocator::TakeFromEnd(int32_t n) {
  SPILLWAY_CHECK(n > 0);
  const int32_t first = free_ < n ? -1 : FindLastRun(n);
  if (first >= 0) Mark(first, n);
  return first;
}

int32_t SlotAllocator::FindLastRun(int32_t n) const {
  int32_t run = 0;
  for (int32_t slot = n_slots() - 1; slot >= 0; --slot) {
    run = taken_[static_cast<size_t>(slot)] ? 0 : run + 1;
    if (run == n) return slot;
  }
  return -1;
}

void SlotAllocator::Mark(int32_t first, int32_t n) {
  std::fill_n(taken_.begin() + first, n, true);
  free_ -= n;
}

void SlotAllocator::Give(int32_t first, int32_t n) {
  SPILLWAY_CHECK(first >= 0 && n > 0 && first + n <= n_slots());
  for (int32_t slot = first; slot < first + n; ++slot) {
    SPILLWAY_CHECK_MSG(taken_[static_cast<size_t>(slot)], "giving back a free slot");
    taken_[static_cast<size_t>(slot)] = false;
  }
  // In a full arena what was just given is all there is: look there, not through the whole arena.
  if (free_ < n) next_ = first;
  free_ += n;
}

}  // namespace spillway::kv
