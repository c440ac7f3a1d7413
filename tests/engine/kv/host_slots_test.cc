#include "engine/kv/host_slots.h"

#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace spillway::kv {
namespace {

Planes Taken(HostSlots& slots, Form form) {
  Planes planes;
  EXPECT_TRUE(slots.Take(form, &planes));
  return planes;
}

TEST(HostSlotsTest, EachFormsPlanesFollowOneAnotherHoweverFormsAlternate) {
  HostSlots slots(640, 1);
  int32_t kv = Taken(slots, Form::kKv).k, x = Taken(slots, Form::kX).x;
  int kv_breaks = 0, x_breaks = 0;
  for (int i = 0; i < 150; ++i) {
    const Planes pair = Taken(slots, Form::kKv);
    EXPECT_EQ(pair.v, pair.k + 1);
    kv_breaks += pair.k != kv + 2;
    kv = pair.k;
    const int32_t one = Taken(slots, Form::kX).x;
    x_breaks += one != x + 1;
    x = one;
  }
  EXPECT_LE(kv_breaks, 1);
  EXPECT_LE(x_breaks, 1);
}

TEST(HostSlotsTest, EverySlotServesEveryForm) {
  for (const Form form : {Form::kKv, Form::kX, Form::kBoth}) {
    for (const int64_t n_slots : {6, 126, 128, 132}) {
      HostSlots slots(n_slots, 1);
      const int64_t each = form == Form::kKv ? 2 : form == Form::kX ? 1 : 3;
      std::set<int32_t> seen;
      Planes planes;
      int64_t n = 0;
      for (; slots.Take(form, &planes); ++n) {
        for (const int32_t slot : {planes.k, planes.v, planes.x}) {
          if (slot < 0) continue;
          EXPECT_LT(slot, n_slots);
          EXPECT_TRUE(seen.insert(slot).second) << slot;
        }
      }
      EXPECT_EQ(n, n_slots / each);
    }
  }
}

TEST(HostSlotsTest, KAndVComeApartOnlyWhereNoPairIsLeft) {
  HostSlots slots(8, 1);
  std::vector<Planes> held;
  for (int i = 0; i < 8; ++i) held.push_back(Taken(slots, Form::kX));
  std::sort(held.begin(), held.end(), [](const Planes& a, const Planes& b) { return a.x < b.x; });
  slots.GiveX(&held[1]);
  slots.GiveX(&held[4]);
  slots.GiveX(&held[5]);
  slots.GiveX(&held[6]);
  const Planes pair = Taken(slots, Form::kKv);
  EXPECT_EQ(pair.k, 4);
  EXPECT_EQ(pair.v, 5);
  const Planes apart = Taken(slots, Form::kKv);
  EXPECT_EQ(std::min(apart.k, apart.v), 1);
  EXPECT_EQ(std::max(apart.k, apart.v), 6);
  EXPECT_EQ(slots.free_slots(), 0);
}

TEST(HostSlotsTest, XTakesHalvesBeforeItBreaksPairsOfTheOtherKind) {
  HostSlots slots(64, 1);
  std::vector<Planes> pairs;
  for (int i = 0; i < 32; ++i) pairs.push_back(Taken(slots, Form::kKv));  // the stretch is of K and V
  slots.GiveKv(&pairs[3]);
  slots.GiveKv(&pairs[9]);
  const int32_t first = Taken(slots, Form::kX).x;
  const int32_t second = Taken(slots, Form::kX).x;
  EXPECT_EQ(first / 2, second / 2) << "the other half of the pair that the first one broke";
  EXPECT_EQ(Taken(slots, Form::kKv).k % 2, 0);
}

// Any order of takes and gives: what is taken is apart, and a take fails only when too few slots are free.
TEST(HostSlotsTest, RandomTakesNeverOverlapAndFailOnlyWithoutSlots) {
  for (uint32_t seed = 1; seed <= 40; ++seed) {
    std::mt19937 random(seed);
    const int64_t x_slots = 1 + static_cast<int64_t>(random() % 3);
    const int64_t n_slots = 2 * (2 + static_cast<int64_t>(random() % 100));
    HostSlots slots(n_slots, x_slots);
    std::vector<bool> taken(static_cast<size_t>(n_slots), false);
    const auto mark = [&](const Planes& planes, bool value) {
      const auto set = [&](int32_t slot, int64_t n) {
        for (int32_t i = slot; slot >= 0 && i < slot + n; ++i) {
          ASSERT_NE(taken[static_cast<size_t>(i)], value) << "seed " << seed;
          taken[static_cast<size_t>(i)] = value;
        }
      };
      set(planes.k, 1);
      set(planes.v, 1);
      set(planes.x, x_slots);
    };
    std::vector<Planes> held;
    for (int step = 0; step < 3000; ++step) {
      if (random() % 2 == 0 && !held.empty()) {
        std::swap(held[random() % held.size()], held.back());
        Planes planes = held.back();
        held.pop_back();
        mark(planes, false);
        // One form, or both.
        if (planes.has_both() && random() % 2 == 0) {
          Planes rest = planes;
          if (random() % 2 == 0) {
            slots.GiveX(&planes);
            rest.x = -1;
          } else {
            slots.GiveKv(&planes);
            rest.k = rest.v = -1;
          }
          mark(rest, true);
          held.push_back(rest);
          continue;
        }
        if (planes.has_kv()) slots.GiveKv(&planes);
        if (planes.has_x()) slots.GiveX(&planes);
        continue;
      }
      const Form form = static_cast<Form>(random() % 3);
      const int64_t needed = (form != Form::kX ? 2 : 0) + (form != Form::kKv ? x_slots : 0);
      const int64_t free = std::count(taken.begin(), taken.end(), false);
      ASSERT_EQ(slots.free_slots(), free);
      Planes planes;
      const bool took = slots.Take(form, &planes);
      // Runs of three may not be had although enough is free.
      if (x_slots < 3 || form == Form::kKv || free < needed) {
        ASSERT_EQ(took, free >= needed) << "seed " << seed << ", step " << step;
      }
      if (!took) continue;
      ASSERT_EQ(planes.form(), form);
      mark(planes, true);
      held.push_back(planes);
    }
  }
}

TEST(HostSlotsDeathTest, GivingAFreeSlotBackIsCaught) {
  HostSlots slots(8, 1);
  Planes planes = Taken(slots, Form::kKv);
  Planes again = planes;
  slots.GiveKv(&planes);
  EXPECT_DEATH(slots.GiveKv(&again), "free slot");
}

}  // namespace
}  // namespace spillway::kv
