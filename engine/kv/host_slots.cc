#include "engine/kv/host_slots.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "base/check.h"

namespace spillway::kv {
namespace {

constexpr int64_t kStretchSlots = 64;
constexpr uint64_t kEvenBits = 0x5555555555555555;

uint64_t BitsFrom(int first, int32_t n) { return (~uint64_t{0} >> (kStretchSlots - n)) << first; }

// Bits whose slot and the one after it are free, of pairs that begin at even slots.
uint64_t PairsIn(uint64_t free) { return free & (free >> 1) & kEvenBits; }
// The first slots of runs of n.
uint64_t RunsIn(uint64_t free, int32_t n) {
  if (n == 2) return PairsIn(free);
  uint64_t first = free;
  for (int32_t i = 1; i < n; ++i) first &= free >> i;
  return first;
}
// Free slots whose neighbour in the pair is taken: taking one breaks no pair.
uint64_t SinglesIn(uint64_t free) {
  const uint64_t pairs = PairsIn(free);
  return free & ~(pairs | pairs << 1);
}

}  // namespace

HostSlots::HostSlots(int64_t n_slots, int64_t x_slots)
    : n_slots_(n_slots),
      x_slots_(static_cast<int32_t>(x_slots)),
      stretches_(static_cast<size_t>((n_slots + kStretchSlots - 1) / kStretchSlots)),
      free_(n_slots) {
  SPILLWAY_CHECK(n_slots > 0 && n_slots <= std::numeric_limits<int32_t>::max());
  SPILLWAY_CHECK(x_slots > 0 && x_slots <= kStretchSlots);
  for (Stretch& stretch : stretches_) stretch.free = ~uint64_t{0};
  const int64_t rest = n_slots % kStretchSlots;
  if (rest > 0) stretches_.back().free = (uint64_t{1} << rest) - 1;
  next_[static_cast<size_t>(Kind::kX)] = stretches_.size() / 2;
}

bool HostSlots::IsWhole(size_t stretch) const {
  const int64_t slots = std::min(kStretchSlots, n_slots_ - static_cast<int64_t>(stretch) * kStretchSlots);
  return std::popcount(stretches_[stretch].free) == slots;
}

template <typename Usable>
int64_t HostSlots::FindOwn(Kind kind, Usable usable) {
  const size_t n = stretches_.size();
  size_t at = next_[static_cast<size_t>(kind)];
  for (size_t i = 0; i < n; ++i, at = at + 1 == n ? 0 : at + 1) {
    if (!usable(stretches_[at].free) || (stretches_[at].kind != kind && !IsWhole(at))) continue;
    next_[static_cast<size_t>(kind)] = at;
    return static_cast<int64_t>(at);
  }
  return -1;
}

template <typename Usable>
int64_t HostSlots::FindAny(Usable usable) const {
  for (size_t at = 0; at < stretches_.size(); ++at) {
    if (usable(stretches_[at].free)) return static_cast<int64_t>(at);
  }
  return -1;
}

void HostSlots::Mark(size_t stretch, uint64_t bits, Kind kind) {
  if (IsWhole(stretch)) stretches_[stretch].kind = kind;
  SPILLWAY_DCHECK((stretches_[stretch].free & bits) == bits);
  stretches_[stretch].free &= ~bits;
  free_ -= std::popcount(bits);
}

int32_t HostSlots::TakeRun(Kind kind, int32_t n) {
  const auto has_run = [n](uint64_t free) { return RunsIn(free, n) != 0; };
  int64_t stretch = FindOwn(kind, has_run);
  if (stretch < 0) stretch = FindAny(has_run);
  if (stretch < 0) return -1;
  const int first = std::countr_zero(RunsIn(stretches_[static_cast<size_t>(stretch)].free, n));
  Mark(static_cast<size_t>(stretch), BitsFrom(first, n), kind);
  return static_cast<int32_t>(stretch * kStretchSlots + first);
}

int32_t HostSlots::TakeOne(Kind kind) {
  uint64_t (*slots_in)(uint64_t) = [](uint64_t free) { return free; };
  int64_t stretch = FindOwn(kind, slots_in);
  if (stretch < 0) {
    // Of the other kind's first what leaves its pairs whole.
    stretch = FindAny(SinglesIn);
    if (stretch >= 0) {
      slots_in = SinglesIn;
    } else {
      stretch = FindAny(slots_in);
    }
  }
  if (stretch < 0) return -1;
  const int first = std::countr_zero(slots_in(stretches_[static_cast<size_t>(stretch)].free));
  Mark(static_cast<size_t>(stretch), uint64_t{1} << first, kind);
  return static_cast<int32_t>(stretch * kStretchSlots + first);
}

bool HostSlots::Take(Form form, Planes* planes) {
  const int64_t needed = (form != Form::kX ? 2 : 0) + (form != Form::kKv ? x_slots_ : 0);
  if (free_ < needed) return false;
  *planes = {};
  if (form != Form::kX) {
    planes->k = TakeRun(Kind::kKv, 2);
    if (planes->k >= 0) {
      planes->v = planes->k + 1;
    } else {
      // Only halves of pairs are left, which is enough.
      planes->k = TakeOne(Kind::kKv);
      planes->v = TakeOne(Kind::kKv);
      SPILLWAY_CHECK(planes->k >= 0 && planes->v >= 0);
    }
  }
  if (form != Form::kKv) {
    planes->x = x_slots_ == 1 ? TakeOne(Kind::kX) : TakeRun(Kind::kX, x_slots_);
    if (planes->x < 0) {
      if (planes->has_kv()) GiveKv(planes);
      return false;
    }
  }
  return true;
}

void HostSlots::Give(int32_t slot, int32_t n) {
  const size_t stretch = static_cast<size_t>(slot / kStretchSlots);
  const uint64_t bits = BitsFrom(static_cast<int>(slot % kStretchSlots), n);
  SPILLWAY_CHECK_MSG((stretches_[stretch].free & bits) == 0, "giving back a free slot");
  stretches_[stretch].free |= bits;
  // In a full arena what was just given is all there is: look there, not through the whole arena.
  if (free_ < 2) next_.fill(stretch);
  free_ += n;
}

void HostSlots::GiveKv(Planes* planes) {
  SPILLWAY_CHECK(planes->has_kv());
  Give(planes->k, 1);
  Give(planes->v, 1);
  planes->k = planes->v = -1;
}

void HostSlots::GiveX(Planes* planes) {
  SPILLWAY_CHECK(planes->has_x());
  Give(planes->x, x_slots_);
  planes->x = -1;
}

}  // namespace spillway::kv
