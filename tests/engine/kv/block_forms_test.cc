// Blocks in several forms: which form a new one has, what is dropped under pressure, and that what the store
// promises it keeps.
#include <algorithm>
#include <random>
#include <set>
#include <vector>

#include "engine/kv/block_store.h"
#include "engine/kv/form_policy.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace spillway::kv {
namespace {

BlockHash HashOf(int value) {
  BlockHash hash{};
  hash[0] = static_cast<uint8_t>(value);
  hash[1] = static_cast<uint8_t>(value >> 8);
  return hash;
}

FormPolicy Policy(double both_below, double x_share) {
  return {.stores_x = true, .both_below = both_below, .x_share = x_share};
}

std::vector<BlockId> AllocateAll(BlockStore& store) {
  std::vector<BlockId> blocks;
  for (BlockId block = store.Allocate(); block != kNoBlock; block = store.Allocate()) blocks.push_back(block);
  return blocks;
}

TEST(FormPolicyTest, BothFormsAreForAPoolWithRoomThatStoresX) {
  EXPECT_TRUE(Policy(0.7, 0.5).WantsBoth(0.7));
  EXPECT_FALSE(Policy(0.7, 0.5).WantsBoth(0.71));
  FormPolicy without = Policy(0.7, 0.5);
  without.stores_x = false;
  EXPECT_FALSE(without.WantsBoth(0.1));
}

TEST(FormPolicyTest, WhatComesNextMakesUpForWhatIsThere) {
  const FormPolicy policy = Policy(0.7, 0.6);
  EXPECT_EQ(policy.ShareOfNext({}), 0.6);
  EXPECT_DOUBLE_EQ(policy.ShareOfNext({.kv_blocks = 40, .x_blocks = 60, .both_blocks = 500}), 0.6);
  EXPECT_DOUBLE_EQ(policy.ShareOfNext({.kv_blocks = 60, .x_blocks = 40}), 0.8);
  EXPECT_EQ(policy.ShareOfNext({.kv_blocks = 100}), 1);
  EXPECT_DOUBLE_EQ(policy.ShareOfNext({.x_blocks = 100}), 0.2);
}

TEST(FormPolicyTest, SharesInTurnAreKeptAtEveryMoment) {
  for (const double share : {0.0, 0.1, 0.5, 0.78, 1.0}) {
    ShareInTurn turn;
    int n_yes = 0;
    for (int n = 1; n <= 1000; ++n) {
      n_yes += turn.Next(share);
      EXPECT_NEAR(n_yes, share * n, 0.51) << n;
    }
  }
}

TEST(BlockFormsTest, NewBlocksReachTheWantedShareOneByOne) {
  for (const double share : {0.0, 0.25, 0.6, 1.0}) {
    BlockStore store(2000, 1, Policy(/*both_below=*/0, share));
    double x = 0;
    for (int n = 1; n <= 500; ++n) {
      x += store.PlanesOf(store.Allocate()).has_x();
      EXPECT_NEAR(x, share * n, 1) << "at every moment, so that each sequence has its part";
    }
    EXPECT_EQ(store.Counts().forms.both_blocks, 0);
  }
}

TEST(BlockFormsTest, BlocksHaveBothFormsWhileThePoolIsNotFull) {
  BlockStore store(300, 1, Policy(0.7, 0.5));
  for (int i = 0; i < 70; ++i) EXPECT_TRUE(store.PlanesOf(store.Allocate()).has_both()) << i;
  EXPECT_EQ(store.Counts().in_use_slots, 210);
  for (int i = 0; i < 40; ++i) EXPECT_FALSE(store.PlanesOf(store.Allocate()).has_both()) << i;
  EXPECT_EQ(store.Counts().dropped_kv + store.Counts().dropped_x, 0) << "there is room left";
}

// Fills the store with cached blocks, in the forms that the policy gives them.
int FillWithCached(BlockStore& store) {
  const std::vector<BlockId> blocks = AllocateAll(store);
  for (size_t i = 0; i < blocks.size(); ++i) store.Publish(blocks[i], HashOf(static_cast<int>(i)));
  for (const BlockId block : blocks) store.Unref(block);
  return static_cast<int>(blocks.size());
}

TEST(BlockFormsTest, ACacheThatFillsThePoolLeavesNewBlocksBothForms) {
  BlockStore store(300, 1, Policy(0.7, 0.5));
  const int n_cached = FillWithCached(store);
  EXPECT_EQ(store.Counts().cached_slots, 300);
  std::vector<BlockId> blocks;
  for (int i = 0; i < 70; ++i) {
    blocks.push_back(store.Allocate());
    EXPECT_TRUE(store.PlanesOf(blocks.back()).has_both()) << i;
  }
  for (const BlockId block : blocks)
    EXPECT_TRUE(store.PlanesOf(block).has_both()) << "no new one took a form";
  EXPECT_EQ(store.Counts().in_use_slots, 210);
  EXPECT_FALSE(store.PlanesOf(store.Allocate()).has_both());
  // The cached blocks used last are still there, in the slots that are left.
  for (int i = n_cached - 57; i < n_cached; ++i) EXPECT_TRUE(store.Contains(HashOf(i))) << i;
}

TEST(BlockFormsTest, BothFormsEvictNoMoreThanOneFormOnceTheyComeAndGo) {
  // Blocks that are used one at a time and cached, for ever.
  const auto kept_by = [](double both_below) {
    BlockStore store(300, 1, Policy(both_below, 0.5));
    for (int i = 0; i < 2000; ++i) {
      const BlockId block = store.Allocate();
      EXPECT_EQ(store.PlanesOf(block).has_both(), both_below > 0) << i;
      store.Publish(block, HashOf(i));
      store.Unref(block);
    }
    return store.Counts().cached_blocks;
  };
  EXPECT_GE(kept_by(0.7), kept_by(0) - 2);
}

TEST(BlockFormsTest, CachedBlocksLoseAFormBeforeThoseInUse) {
  BlockStore store(9, 1, Policy(1, 0.5));
  const BlockId oldest = store.Allocate();
  for (int i = 0; i < 2; ++i) {
    const BlockId block = store.Allocate();
    store.Publish(block, HashOf(i));
    store.Unref(block);
  }
  store.Allocate(Form::kX);
  store.Allocate(Form::kX);
  EXPECT_TRUE(store.PlanesOf(oldest).has_both()) << "though it was used longest ago";
  EXPECT_TRUE(store.Contains(HashOf(0)));
  EXPECT_TRUE(store.Contains(HashOf(1)));
}

TEST(BlockFormsTest, UnderPressureSuperfluousFormsGoBeforeContents) {
  BlockStore store(30, 1, Policy(1, 0.5));
  std::vector<BlockId> blocks;
  for (int i = 0; i < 10; ++i) {
    blocks.push_back(store.Allocate());
    store.Publish(blocks.back(), HashOf(i));
  }
  for (int i = 0; i < 5; ++i) store.Unref(blocks[static_cast<size_t>(i)]);  // cached
  const int64_t slots_of_ten_blocks = 15;
  int more = 0;
  const auto allocate = [&] { return store.Allocate(more % 2 == 0 ? Form::kKv : Form::kX); };
  while (store.Counts().forms.total_blocks() == 10 + more && allocate() != kNoBlock) ++more;
  // Each second one has 2 slots, the others 1.
  EXPECT_NEAR(more, (30 - slots_of_ten_blocks) / 1.5, 1);
  EXPECT_EQ(store.Counts().dropped_kv + store.Counts().dropped_x, 10);
  EXPECT_EQ(store.Counts().forms.both_blocks, 0);
  // Then those used longest ago, for a block of K and V two of X.
  EXPECT_FALSE(store.Contains(HashOf(0)));
  for (int i = 2; i < 10; ++i) EXPECT_TRUE(store.Contains(HashOf(i))) << i;
}

TEST(BlockFormsTest, WhatWasUsedLongestAgoLosesAFormFirst) {
  BlockStore store(9, 1, Policy(1, 0));
  std::vector<BlockId> blocks;
  for (int i = 0; i < 3; ++i) blocks.push_back(store.Allocate());
  store.Pin(blocks[0]);
  store.Unpin(blocks[0]);
  store.Allocate();  // K and V: two slots
  EXPECT_TRUE(store.PlanesOf(blocks[0]).has_both());
  EXPECT_FALSE(store.PlanesOf(blocks[1]).has_x());
  EXPECT_FALSE(store.PlanesOf(blocks[2]).has_x());
}

TEST(BlockFormsTest, PlanesOfPinnedBlocksStay) {
  BlockStore store(9, 1, Policy(1, 0.5));
  std::vector<BlockId> blocks;
  for (int i = 0; i < 3; ++i) {
    blocks.push_back(store.Allocate());
    store.Pin(blocks.back());
    if (i == 0) store.Pin(blocks.back());
  }
  EXPECT_EQ(store.available_blocks(), 0);
  EXPECT_EQ(store.Allocate(), kNoBlock);
  store.Unpin(blocks[0]);
  EXPECT_EQ(store.Allocate(), kNoBlock) << "pinned by another still";
  for (const BlockId block : blocks) EXPECT_TRUE(store.PlanesOf(block).has_both());
  store.Unpin(blocks[0]);
  EXPECT_NE(store.Allocate(), kNoBlock);
  EXPECT_FALSE(store.PlanesOf(blocks[0]).has_both());
}

TEST(BlockFormsTest, DroppingSteersTowardsTheShare) {
  BlockStore store(300, 1, Policy(1, 0.5));
  for (int i = 0; i < 100; ++i) store.Allocate();
  store.SteerTo(0.8);
  AllocateAll(store);
  const FormCounts forms = store.Counts().forms;
  EXPECT_EQ(forms.both_blocks, 0);
  EXPECT_NEAR(static_cast<double>(forms.x_blocks), 0.8 * static_cast<double>(forms.total_blocks()), 1.5);
  EXPECT_GE(forms.total_blocks(), 249) << "300 slots hold 250 blocks of 0.8 * 1 + 0.2 * 2";
}

TEST(BlockFormsTest, WhatIsInUseHasTheShareWhateverTheCachedBlocksAre) {
  BlockStore store(1000, 1, Policy(0, 1));
  std::vector<BlockId> blocks;
  for (int i = 0; i < 200; ++i) {
    blocks.push_back(store.Allocate());
    store.Publish(blocks.back(), HashOf(i));
  }
  for (const BlockId block : blocks) store.Unref(block);
  store.SteerTo(0.25);
  int x = 0;
  for (int i = 0; i < 100; ++i) x += store.PlanesOf(store.Allocate()).has_x();
  EXPECT_NEAR(x, 25, 1);
}

TEST(BlockFormsTest, EachStretchOfBlocksHasTheShareHoweverThePoolFilledUp) {
  BlockStore store(840, 1, Policy(0.7, 0.78));
  const std::vector<BlockId> blocks =
      AllocateAll(store);  // in both forms, then in one; then the first lose one
  EXPECT_EQ(store.Counts().forms.both_blocks, 0);
  for (size_t begin = 0; begin + 50 <= blocks.size(); begin += 50) {
    int x = 0;
    for (size_t i = begin; i < begin + 50; ++i) x += store.PlanesOf(blocks[i]).has_x();
    EXPECT_NEAR(x, 39, 2) << begin;
  }
}

TEST(BlockFormsTest, TheLastSlotHoldsABlockOfX) {
  BlockStore store(5, 1, Policy(0, 0));
  EXPECT_EQ(store.available_blocks(), 2);
  store.Allocate();
  store.Allocate();
  EXPECT_EQ(store.available_blocks(), 0);
  const BlockId last = store.Allocate();
  ASSERT_NE(last, kNoBlock);
  EXPECT_EQ(store.PlanesOf(last).form(), Form::kX);
}

TEST(BlockFormsTest, XOfTwoSlotsIsNoSmallerThanKAndV) {
  BlockStore store(64, 2, Policy(0.5, 0.5));
  EXPECT_EQ(store.max_blocks(), 32);
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(store.PlanesOf(store.Allocate()).has_both());
  EXPECT_EQ(static_cast<int>(AllocateAll(store).size()), 24);
  EXPECT_EQ(store.Counts().forms.both_blocks, 0);
}

TEST(BlockFormsTest, GivingUpABlockGainsWhatItIsSaidToHold) {
  BlockStore store(60, 1, Policy(0.5, 0.5));
  std::vector<BlockId> blocks = AllocateAll(store);
  // Both forms again, some pinned.
  for (int i = 0; i < 12; ++i) {
    store.Unref(blocks.back());
    blocks.pop_back();
  }
  for (int i = 0; i < 4; ++i) {
    const BlockId block = store.Allocate(Form::kBoth);
    ASSERT_NE(block, kNoBlock);
    blocks.push_back(block);
  }
  for (const BlockId block : blocks) {
    const int64_t before = store.available_slots(), held = store.SlotsHeldBy(block);
    store.Unref(block);
    EXPECT_EQ(store.available_slots(), before + held);
  }
  EXPECT_EQ(store.available_slots(), 60);
}

// What the store promises, at every moment of a random life: no slot is anybody's twice, pinned planes stay,
// what is published and in use stays findable, and Allocate succeeds as often as was said.
TEST(BlockFormsTest, RandomUseKeepsEveryPromise) {
  for (uint32_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto below = [&](size_t n) { return static_cast<size_t>(random() % n); };
    const int64_t x_slots = seed % 4 == 0 ? 2 : seed % 7 == 0 ? 4 : 1;
    const int64_t n_slots = 2 * (5 + static_cast<int64_t>(below(80)));
    BlockStore store(n_slots, x_slots,
                     Policy(static_cast<double>(below(11)) / 10, static_cast<double>(below(11)) / 10));
    std::vector<BlockId> held, pinned;
    std::vector<Planes> pinned_planes;
    int published = 0;
    const auto check = [&] {
      std::set<int32_t> slots;
      int64_t taken = 0;
      const auto add = [&](int32_t first, int64_t n) {
        for (int32_t slot = first; first >= 0 && slot < first + n; ++slot, ++taken) slots.insert(slot);
      };
      for (BlockId block = 0; block < store.max_blocks(); ++block) {
        const Planes& planes = store.PlanesOf(block);
        add(planes.k, 1);
        add(planes.v, 1);
        add(planes.x, x_slots);
      }
      ASSERT_EQ(static_cast<int64_t>(slots.size()), taken) << "two planes in one slot";
      ASSERT_TRUE(slots.empty() || *slots.rbegin() < n_slots);
      const BlockCounts counts = store.Counts();
      ASSERT_EQ(counts.in_use_slots + counts.cached_slots, taken);
      ASSERT_EQ(counts.forms.total_blocks(), counts.in_use_blocks + counts.cached_blocks);
      for (size_t i = 0; i < pinned.size(); ++i) {
        const Planes& planes = store.PlanesOf(pinned[i]);
        ASSERT_EQ(planes.k, pinned_planes[i].k);
        ASSERT_EQ(planes.v, pinned_planes[i].v);
        ASSERT_EQ(planes.x, pinned_planes[i].x);
      }
    };
    const auto release = [&](size_t i) {
      store.Unref(held[i]);
      held.erase(held.begin() + static_cast<ptrdiff_t>(i));
    };
    for (int step = 0; step < 1500; ++step) {
      const size_t what = below(100);
      if (what < 35) {
        const int64_t available = store.available_blocks();
        const BlockId block = store.Allocate();
        if (available > 0) {
          ASSERT_NE(block, kNoBlock);
          // X that takes more than K and V is for tests alone.
          ASSERT_GE(store.available_blocks(), x_slots <= 2 ? available - 1 : 0);
        }
        if (block != kNoBlock) held.push_back(block);
      } else if (what < 55 && !held.empty()) {
        const size_t i = below(held.size());
        if (std::count(pinned.begin(), pinned.end(), held[i]) == 0) release(i);
      } else if (what < 70 && !held.empty()) {
        const BlockId block = held[below(held.size())];
        store.Pin(block);
        pinned.push_back(block);
        pinned_planes.push_back(store.PlanesOf(block));
      } else if (what < 85 && !pinned.empty()) {
        const size_t i = below(pinned.size());
        store.Unpin(pinned[i]);
        pinned.erase(pinned.begin() + static_cast<ptrdiff_t>(i));
        pinned_planes.erase(pinned_planes.begin() + static_cast<ptrdiff_t>(i));
      } else if (what < 93 && !held.empty()) {
        // Published and given up: cached.
        const size_t i = below(held.size());
        if (std::count(held.begin(), held.end(), held[i]) > 1 || store.references(held[i]) > 1 ||
            std::count(pinned.begin(), pinned.end(), held[i]) > 0) {
          continue;
        }
        store.Publish(held[i], HashOf(published++));
        release(i);
      } else if (what < 97 && published > 0) {
        const BlockId block = store.Find(HashOf(static_cast<int>(below(static_cast<size_t>(published)))));
        // Found ones have a hash already: given back to the cache, or held to the end.
        if (block != kNoBlock) store.Unref(block);
      } else if (what == 97) {
        store.SteerTo(static_cast<double>(below(101)) / 100);
      } else if (what == 98) {
        store.DropCached();
      } else if (what == 99) {
        // As many as are promised, at once.
        for (int64_t n = x_slots <= 2 ? store.available_blocks() : 0; n > 0; --n) {
          held.push_back(store.Allocate());
          ASSERT_NE(held.back(), kNoBlock);
        }
      }
      ASSERT_NO_FATAL_FAILURE(check());
    }
    while (!pinned.empty()) {
      store.Unpin(pinned.back());
      pinned.pop_back();
    }
    while (!held.empty()) release(held.size() - 1);
    EXPECT_EQ(store.available_slots(), n_slots);
  }
}

TEST(BlockFormsDeathTest, GivingUpABlockThatIsReadIsCaught) {
  BlockStore store(8, 1, Policy(0.5, 0.5));
  const BlockId block = store.Allocate();
  store.Pin(block);
  EXPECT_DEATH(store.Unref(block), "work under way reads");
}

}  // namespace
}  // namespace spillway::kv
