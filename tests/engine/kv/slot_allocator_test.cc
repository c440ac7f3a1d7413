#include "engine/kv/slot_allocator.h"

#include <algorithm>
#include <random>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace spillway::kv {
namespace {

TEST(SlotAllocatorTest, TakesNeighboursInOrderUntilNoneAreLeft) {
  SlotAllocator slots(5);
  EXPECT_EQ(slots.Take(2), 0);
  EXPECT_EQ(slots.Take(2), 2);
  EXPECT_EQ(slots.Take(2), -1);
  EXPECT_EQ(slots.Take(1), 4);
  EXPECT_EQ(slots.free_slots(), 0);
}

TEST(SlotAllocatorTest, HolesThatAreTooShortArePassedOver) {
  SlotAllocator slots(6);
  for (int32_t i = 0; i < 6; ++i) slots.Take(1);
  slots.Give(0, 1);
  slots.Give(3, 2);
  EXPECT_EQ(slots.Take(3), -1);
  EXPECT_EQ(slots.Take(2), 3);
  EXPECT_EQ(slots.Take(1), 0);
}

TEST(SlotAllocatorTest, ARunAcrossTheSearchsStartIsFound) {
  SlotAllocator slots(6);
  EXPECT_EQ(slots.Take(2), 0);
  EXPECT_EQ(slots.Take(1), 2);  // the next search begins at 3
  slots.Give(1, 1);
  slots.Give(2, 1);
  EXPECT_EQ(slots.Take(1), 3);
  EXPECT_EQ(slots.Take(2), 4);
  EXPECT_EQ(slots.Take(2), 1);
}

TEST(SlotAllocatorTest, RunsFromTheEndLeaveNoHolesAmongTheOthers) {
  SlotAllocator slots(12);
  std::vector<int32_t> singles;
  for (int32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(slots.Take(2), 2 * i);
    singles.push_back(slots.TakeFromEnd(1));
    EXPECT_EQ(singles.back(), 11 - i);
  }
  for (const int32_t slot : singles) slots.Give(slot, 1);
  for (int32_t i = 3; i < 6; ++i) EXPECT_GE(slots.Take(2), 0);
  EXPECT_EQ(slots.TakeFromEnd(1), -1);
}

TEST(SlotAllocatorTest, AlignedRunsBeginAtMultiples) {
  SlotAllocator slots(10);
  EXPECT_EQ(slots.Take(1), 0);
  EXPECT_EQ(slots.Take(2, 2), 2);
  EXPECT_EQ(slots.TakeFromEnd(1), 9);
  EXPECT_EQ(slots.TakeFromEnd(2, 2), 6);
  EXPECT_EQ(slots.free_pairs(), 1);
  EXPECT_EQ(slots.Take(2, 2), 4);
  EXPECT_EQ(slots.Take(2, 2), -1);
  EXPECT_EQ(slots.free_slots(), 2);
}

TEST(SlotAllocatorTest, RandomTakesNeverOverlapAndFailOnlyWithoutARun) {
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    std::mt19937 random(seed);
    constexpr int32_t kSlots = 40;
    SlotAllocator slots(kSlots);
    std::vector<bool> taken(kSlots, false);
    std::vector<std::pair<int32_t, int32_t>> held;
    for (int step = 0; step < 2000; ++step) {
      if (random() % 2 == 0 && !held.empty()) {
        std::swap(held[random() % held.size()], held.back());
        const auto [first, n] = held.back();
        held.pop_back();
        slots.Give(first, n);
        std::fill_n(taken.begin() + first, n, false);
        continue;
      }
      const int32_t n = 1 + static_cast<int32_t>(random() % 4);
      const int32_t first = random() % 2 == 0 ? slots.Take(n) : slots.TakeFromEnd(n);
      int32_t longest = 0, run = 0;
      for (int32_t i = 0; i < kSlots; ++i) longest = std::max(longest, run = taken[i] ? 0 : run + 1);
      ASSERT_EQ(first >= 0, longest >= n) << "seed " << seed << ", step " << step;
      if (first < 0) continue;
      for (int32_t i = first; i < first + n; ++i) {
        ASSERT_FALSE(taken[i]);
        taken[i] = true;
      }
      held.emplace_back(first, n);
    }
    EXPECT_EQ(slots.free_slots(), std::count(taken.begin(), taken.end(), false));
    int32_t pairs = 0;
    for (size_t i = 0; i < kSlots; i += 2) pairs += !taken[i] && !taken[i + 1];
    EXPECT_EQ(slots.free_pairs(), pairs);
  }
}

TEST(SlotAllocatorDeathTest, GivingAFreeSlotBackIsCaught) {
  SlotAllocator slots(4);
  slots.Take(2);
  EXPECT_DEATH(slots.Give(1, 2), "free slot");
}

}  // namespace
}  // namespace spillway::kv
