// SlotAllocator: which slots of an arena are taken. A plane takes one slot or a run of neighbouring ones.
//
// Thread-compatible. After construction nothing here allocates memory.
#ifndef SPILLWAY_ENGINE_KV_SLOT_ALLOCATOR_H_
#define SPILLWAY_ENGINE_KV_SLOT_ALLOCATOR_H_

#include <cstdint>
#include <vector>

namespace spillway::kv {

class SlotAllocator {
 public:
  explicit SlotAllocator(int32_t n_slots);

  // The first slot of `n` neighbouring free ones, which are taken from then on; -1 when there are none. Looks
  // on from where it found the last, so that what is taken together mostly lies together. The first is a
  // multiple of `alignment`. REQUIRES: n > 0.
  int32_t Take(int32_t n, int32_t alignment = 1);
  // The same from the arena's end: runs of another length taken there leave no holes among the others.
  int32_t TakeFromEnd(int32_t n, int32_t alignment = 1);
  // REQUIRES: taken.
  void Give(int32_t first, int32_t n);

  int32_t n_slots() const { return static_cast<int32_t>(taken_.size()); }
  int32_t free_slots() const { return free_; }
  // Of slots 2i and 2i + 1, both free: as many runs of two may be taken, whatever lies where.
  int32_t free_pairs() const { return free_pairs_; }

 private:
  int32_t FindRun(int32_t begin, int32_t end, int32_t n, int32_t alignment) const;
  int32_t FindLastRun(int32_t n, int32_t alignment) const;
  void Mark(int32_t first, int32_t n);
  void Set(int32_t slot, bool taken);

  std::vector<bool> taken_;
  int32_t free_;
  int32_t free_pairs_;
  int32_t end_;  // all slots from here on are taken
  int32_t next_ = 0;
};

}  // namespace spillway::kv

#endif  // SPILLWAY_ENGINE_KV_SLOT_ALLOCATOR_H_
