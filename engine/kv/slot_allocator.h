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
  // on from where it found the last, so that what is taken together mostly lies together. REQUIRES: n > 0.
  int32_t Take(int32_t n);
  // The same from the arena's end: runs of another length taken there leave no holes among the others.
  int32_t TakeFromEnd(int32_t n);
  // REQUIRES: taken.
  void Give(int32_t first, int32_t n);

  int32_t n_slots() const { return static_cast<int32_t>(taken_.size()); }
  int32_t free_slots() const { return free_; }

 private:
  int32_t FindRun(int32_t begin, int32_t end, int32_t n) const;
  int32_t FindLastRun(int32_t n) const;
  void Mark(int32_t first, int32_t n);

  std::vector<bool> taken_;
  int32_t free_;
  int32_t next_ = 0;
};

}  // namespace spillway::kv

#endif  // SPILLWAY_ENGINE_KV_SLOT_ALLOCATOR_H_
