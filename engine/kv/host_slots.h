// HostSlots: which slots of the host pool's arenas are taken. A block's K and V planes take two, side by side
// where that can be had, its X plane one, or several in a run.
//
// Slots are dealt with in stretches of 64. A stretch holds planes of one kind as long as another stretch will
// do for the other, and each kind goes on where it last found room: what is taken together lies together,
// whatever the mix of forms, and copies of neighbours merge. When nothing else is left any slot serves, so
// that as many K and V planes fit as there are slots, and of X as well where it takes one or two.
//
// Thread-compatible. After construction nothing here allocates memory.
#ifndef SPILLWAY_ENGINE_KV_HOST_SLOTS_H_
#define SPILLWAY_ENGINE_KV_HOST_SLOTS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/kv/geometry.h"

namespace spillway::kv {

class HostSlots {
 public:
  // REQUIRES: x_slots in 1..64.
  HostSlots(int64_t n_slots, int64_t x_slots);

  // Slots for what `form` says, in `planes`. False, with nothing taken: too few are free.
  bool Take(Form form, Planes* planes);
  // Gives one form's slots back; those planes are not there any more.
  void GiveKv(Planes* planes);
  void GiveX(Planes* planes);

  int64_t n_slots() const { return n_slots_; }
  int64_t free_slots() const { return free_; }

 private:
  enum class Kind : uint8_t { kKv, kX };
  struct Stretch {
    uint64_t free = 0;  // a bit a slot
    Kind kind = Kind::kKv;
  };

  // The first slot of a run of n > 1 (a pair's is even); -1: there is none.
  int32_t TakeRun(Kind kind, int32_t n);
  // One slot of `kind`.
  int32_t TakeOne(Kind kind);
  // The first stretch of which `usable` is true: of those of the kind and those wholly free, from where the
  // kind was last on; of all. -1: none.
  template <typename Usable>
  int64_t FindOwn(Kind kind, Usable usable);
  template <typename Usable>
  int64_t FindAny(Usable usable) const;
  bool IsWhole(size_t stretch) const;
  void Mark(size_t stretch, uint64_t bits, Kind kind);
  void Give(int32_t slot, int32_t n);

  const int64_t n_slots_;
  const int32_t x_slots_;
  std::vector<Stretch> stretches_;
  std::array<size_t, 2> next_{};  // by kind: where it looks first
  int64_t free_;
};

}  // namespace spillway::kv

#endif  // SPILLWAY_ENGINE_KV_HOST_SLOTS_H_
