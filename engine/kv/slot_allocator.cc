#include "engine/kv/slot_allocator.h"

#include <algorithm>

#include "base/check.h"

namespace spillway::kv {

SlotAllocator::SlotAllocator(int32_t n_slots)
    : taken_(static_cast<size_t>(n_slots), false), free_(n_slots), free_pairs_(n_slots / 2), end_(n_slots) {}

int32_t SlotAllocator::FindRun(int32_t begin, int32_t end, int32_t n, int32_t alignment) const {
  int32_t run = 0;
  for (int32_t slot = begin; slot < end; ++slot) {
    run = taken_[static_cast<size_t>(slot)] ? 0 : run + 1;
    if (run >= n && (slot - n + 1) % alignment == 0) return slot - n + 1;
  }
  return -1;
}

int32_t SlotAllocator::Take(int32_t n, int32_t alignment) {
  SPILLWAY_CHECK(n > 0 && alignment > 0);
  if (free_ < n) return -1;
  int32_t first = FindRun(next_, n_slots(), n, alignment);
  if (first < 0) first = FindRun(0, std::min(next_ + n - 1, n_slots()), n, alignment);
  if (first < 0) return -1;
  Mark(first, n);
  next_ = first + n == n_slots() ? 0 : first + n;
  return first;
}

int32_t SlotAllocator::TakeFromEnd(int32_t n, int32_t alignment) {
  SPILLWAY_CHECK(n > 0 && alignment > 0);
  const int32_t first = free_ < n ? -1 : FindLastRun(n, alignment);
  if (first >= 0) Mark(first, n);
  return first;
}

int32_t SlotAllocator::FindLastRun(int32_t n, int32_t alignment) const {
  int32_t run = 0;
  for (int32_t slot = end_ - 1; slot >= 0; --slot) {
    run = taken_[static_cast<size_t>(slot)] ? 0 : run + 1;
    if (run >= n && slot % alignment == 0) return slot;
  }
  return -1;
}

void SlotAllocator::Mark(int32_t first, int32_t n) {
  for (int32_t slot = first; slot < first + n; ++slot) Set(slot, true);
  while (end_ > 0 && taken_[static_cast<size_t>(end_ - 1)]) --end_;
}

void SlotAllocator::Set(int32_t slot, bool taken) {
  const int32_t buddy = slot ^ 1;
  if (buddy < n_slots() && !taken_[static_cast<size_t>(buddy)]) free_pairs_ += taken ? -1 : 1;
  taken_[static_cast<size_t>(slot)] = taken;
  free_ += taken ? -1 : 1;
}

void SlotAllocator::Give(int32_t first, int32_t n) {
  SPILLWAY_CHECK(first >= 0 && n > 0 && first + n <= n_slots());
  // In a full arena what is given now is all there is: look there, not through the whole arena.
  if (free_ < n) next_ = first;
  for (int32_t slot = first; slot < first + n; ++slot) {
    SPILLWAY_CHECK_MSG(taken_[static_cast<size_t>(slot)], "giving back a free slot");
    Set(slot, false);
  }
  end_ = std::max(end_, first + n);
}

}  // namespace spillway::kv
