#include "engine/kv/block_store.h"

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "engine/device/cpu/cpu_device.h"
#include "engine/kv/host_pool.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace spillway::kv {
namespace {

class BlockStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    device::CpuDeviceOptions options;
    options.threads = 1;
    device_ = std::move(device::CreateCpuDevice(options).value());
  }

  BlockStore& MakeStore(int64_t n_blocks) {
    Geometry geometry;
    geometry.n_layers = 1;
    geometry.n_kv_heads = 1;
    geometry.d_head = 2;
    geometry.d = 2;
    geometry.block_tokens = 16;
    pool_ =
        std::move(HostPool::Create(*device_, geometry, n_blocks * geometry.block_bytes(Form::kKv)).value());
    store_ = std::make_unique<BlockStore>(*pool_);
    return *store_;
  }

  // A hash that no digest gives by accident; equal low bytes collide in the index.
  static BlockHash HashOf(uint8_t low, uint8_t high) {
    BlockHash hash{};
    hash[0] = low;
    hash[31] = high;
    return hash;
  }

  std::unique_ptr<device::Device> device_;
  std::unique_ptr<HostPool> pool_;
  std::unique_ptr<BlockStore> store_;
};

void ExpectCounts(const BlockStore& store, int64_t free, int64_t in_use, int64_t cached) {
  const BlockCounts counts = store.Counts();
  EXPECT_EQ(counts.free_blocks, free);
  EXPECT_EQ(counts.in_use_blocks, in_use);
  EXPECT_EQ(counts.cached_blocks, cached);
  EXPECT_EQ(counts.total_blocks, free + in_use + cached);
}

TEST_F(BlockStoreTest, GivesEveryBlockOnceInRunsThenNone) {
  BlockStore& store = MakeStore(4);
  for (BlockId expected = 0; expected < 4; ++expected) {
    const BlockId block = store.Allocate();
    EXPECT_EQ(block, expected);
    EXPECT_EQ(store.references(block), 1);
  }
  EXPECT_EQ(store.Allocate(), kNoBlock);
  ExpectCounts(store, 0, 4, 0);
}

TEST_F(BlockStoreTest, UnpublishedBlockIsFreeAfterItsLastReference) {
  BlockStore& store = MakeStore(2);
  const BlockId block = store.Allocate();
  store.Ref(block);
  store.Unref(block);
  ExpectCounts(store, 1, 1, 0);
  store.Unref(block);
  ExpectCounts(store, 2, 0, 0);
}

TEST_F(BlockStoreTest, PublishedBlockIsFoundInUseAndCached) {
  BlockStore& store = MakeStore(2);
  const BlockHash hash = HashOf(1, 1);
  const BlockId block = store.Allocate();
  EXPECT_EQ(store.Find(hash), kNoBlock);
  store.Publish(block, hash);
  EXPECT_EQ(store.Find(hash), block);
  EXPECT_EQ(store.references(block), 2);
  store.Unref(block);
  store.Unref(block);
  ExpectCounts(store, 1, 0, 1);
  EXPECT_TRUE(store.Contains(hash));
  EXPECT_EQ(store.Find(hash), block);
  ExpectCounts(store, 1, 1, 0);
  EXPECT_EQ(store.references(block), 1);
}

TEST_F(BlockStoreTest, FirstPublishedOfEqualContentWins) {
  BlockStore& store = MakeStore(3);
  const BlockHash hash = HashOf(1, 1);
  const BlockId first = store.Allocate();
  const BlockId second = store.Allocate();
  store.Publish(first, hash);
  store.Publish(second, hash);
  store.Unref(second);
  ExpectCounts(store, 2, 1, 0);  // the second one is free, not cached
  EXPECT_EQ(store.Find(hash), first);
}

TEST_F(BlockStoreTest, LeastRecentlyUsedIsEvictedAndFindIsAUse) {
  BlockStore& store = MakeStore(3);
  std::vector<BlockId> blocks;
  for (uint8_t i = 0; i < 3; ++i) {
    blocks.push_back(store.Allocate());
    store.Publish(blocks.back(), HashOf(i, 1));
  }
  for (BlockId block : blocks) store.Unref(block);
  store.Unref(store.Find(HashOf(0, 1)));      // now 1 is the oldest
  EXPECT_TRUE(store.Contains(HashOf(1, 1)));  // and Contains does not change that
  EXPECT_EQ(store.Allocate(), blocks[1]);
  EXPECT_FALSE(store.Contains(HashOf(1, 1)));
  EXPECT_EQ(store.Allocate(), blocks[2]);
  EXPECT_EQ(store.Allocate(), blocks[0]);
  EXPECT_EQ(store.Allocate(), kNoBlock);
}

TEST_F(BlockStoreTest, ListenerHearsOfEveryLostContentOnce) {
  struct Listener final : BlockListener {
    void OnBlockLost(BlockId block) override { lost.push_back(block); }
    std::vector<BlockId> lost;
  } listener;
  BlockStore& store = MakeStore(2);
  store.SetListener(&listener);
  const BlockId unpublished = store.Allocate();
  const BlockId published = store.Allocate();
  store.Publish(published, HashOf(1, 1));
  store.Ref(unpublished);
  store.Unref(published);
  store.Unref(unpublished);
  EXPECT_THAT(listener.lost, testing::IsEmpty());  // one is cached, the other has a reference left
  store.Unref(unpublished);
  EXPECT_THAT(listener.lost, testing::ElementsAre(unpublished));
  store.Allocate();
  store.Allocate();  // evicts the cached one
  EXPECT_THAT(listener.lost, testing::ElementsAre(unpublished, published));
  store.SetListener(nullptr);
}

TEST_F(BlockStoreTest, BlocksInUseAreNeverEvicted) {
  BlockStore& store = MakeStore(2);
  const BlockId kept = store.Allocate();
  store.Publish(kept, HashOf(1, 1));
  EXPECT_EQ(store.Allocate(), 1);
  EXPECT_EQ(store.available_blocks(), 0);
  EXPECT_EQ(store.Allocate(), kNoBlock);
  EXPECT_EQ(store.Find(HashOf(1, 1)), kept);
}

TEST_F(BlockStoreTest, DropCachedForgetsContentButNotThatOfBlocksInUse) {
  BlockStore& store = MakeStore(4);
  const BlockId kept = store.Allocate();
  const BlockId dropped = store.Allocate();
  store.Publish(kept, HashOf(1, 1));
  store.Publish(dropped, HashOf(2, 1));
  store.Unref(dropped);
  store.DropCached();
  ExpectCounts(store, 3, 1, 0);
  EXPECT_FALSE(store.Contains(HashOf(2, 1)));
  EXPECT_TRUE(store.Contains(HashOf(1, 1)));
}

TEST_F(BlockStoreTest, CollidingHashesStayFindableWhateverLeaves) {
  // Of one home slot or the next, so that every removal has to shift others back, also over the table's end.
  for (const int home : {0, 13, 15}) {
    const auto hash = [&](int i) {
      return HashOf(static_cast<uint8_t>(home + (i == 2 || i == 3 ? 1 : 0)), static_cast<uint8_t>(i));
    };
    for (int removed = 0; removed < 6; ++removed) {
      BlockStore& store = MakeStore(8);
      std::vector<BlockId> blocks;
      for (int i = 0; i < 6; ++i) {
        blocks.push_back(store.Allocate());
        store.Publish(blocks.back(), hash(i));
      }
      store.Unref(blocks[static_cast<size_t>(removed)]);
      store.DropCached();
      for (int i = 0; i < 6; ++i) {
        EXPECT_EQ(store.Contains(hash(i)), i != removed) << home << " " << removed << " " << i;
      }
    }
  }
}

// The store's behaviour in the plainest containers.
class ModelStore {
 public:
  explicit ModelStore(int64_t n_blocks) : references_(n_blocks, 0) {
    for (BlockId block = 0; block < n_blocks; ++block) free_.insert(block);
  }

  // Any free block may be given; with none, exactly the least recently used cached one.
  void CheckAllocated(BlockId block) {
    if (!free_.empty()) {
      ASSERT_EQ(free_.erase(block), 1u);
    } else if (!cached_.empty()) {
      ASSERT_EQ(block, cached_.front());
      Forget(block);
    } else {
      ASSERT_EQ(block, kNoBlock);
      return;
    }
    references_[block] = 1;
  }
  void Unref(BlockId block) {
    if (--references_[block] > 0) return;
    if (hash_of_.count(block) > 0) {
      cached_.push_back(block);
    } else {
      free_.insert(block);
    }
  }
  void Ref(BlockId block) { ++references_[block]; }
  void Publish(BlockId block, const BlockHash& hash) {
    if (by_hash_.count(hash) > 0 || hash_of_.count(block) > 0) return;
    by_hash_[hash] = block;
    hash_of_[block] = hash;
  }
  BlockId Find(const BlockHash& hash) {
    const auto found = by_hash_.find(hash);
    if (found == by_hash_.end()) return kNoBlock;
    if (references_[found->second]++ == 0) {
      cached_.erase(std::find(cached_.begin(), cached_.end(), found->second));
    }
    return found->second;
  }
  void DropCached() {
    while (!cached_.empty()) {
      free_.insert(cached_.front());
      Forget(cached_.front());
    }
  }

  bool IsPublished(BlockId block) const { return hash_of_.count(block) > 0; }
  void Check(const BlockStore& store) const {
    const int64_t n_blocks = static_cast<int64_t>(references_.size());
    const int64_t free = static_cast<int64_t>(free_.size());
    const int64_t cached = static_cast<int64_t>(cached_.size());
    ExpectCounts(store, free, n_blocks - free - cached, cached);
    EXPECT_EQ(store.available_blocks(), free + cached);
    for (BlockId block = 0; block < n_blocks; ++block) EXPECT_EQ(store.references(block), references_[block]);
  }
  bool Contains(const BlockHash& hash) const { return by_hash_.count(hash) > 0; }

 private:
  void Forget(BlockId block) {
    cached_.erase(std::find(cached_.begin(), cached_.end(), block));
    by_hash_.erase(hash_of_.at(block));
    hash_of_.erase(block);
  }

  std::vector<int32_t> references_;
  std::set<BlockId> free_;
  std::deque<BlockId> cached_;  // least recently used first
  std::map<BlockHash, BlockId> by_hash_;
  std::map<BlockId, BlockHash> hash_of_;
};

TEST_F(BlockStoreTest, RandomUseAgreesWithThePlainModel) {
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    const auto below = [&](uint32_t n) { return static_cast<int>(random() % n); };
    const int64_t n_blocks = 2 + below(30);
    BlockStore& store = MakeStore(n_blocks);
    ModelStore model(n_blocks);
    std::vector<BlockId> held;  // one entry a reference
    const auto random_hash = [&] {
      return HashOf(static_cast<uint8_t>(below(6)), static_cast<uint8_t>(below(8)));
    };
    for (int step = 0; step < 4000; ++step) {
      const int what = below(100);
      if (what < 30) {
        const BlockId block = store.Allocate();
        ASSERT_NO_FATAL_FAILURE(model.CheckAllocated(block)) << "step " << step;
        if (block != kNoBlock) held.push_back(block);
      } else if (what < 60 && !held.empty()) {
        const size_t i = static_cast<size_t>(below(static_cast<uint32_t>(held.size())));
        store.Unref(held[i]);
        model.Unref(held[i]);
        held.erase(held.begin() + static_cast<ptrdiff_t>(i));
      } else if (what < 75 && !held.empty()) {
        const BlockId block = held[static_cast<size_t>(below(static_cast<uint32_t>(held.size())))];
        const BlockHash hash = random_hash();
        if (model.IsPublished(block)) continue;
        store.Publish(block, hash);
        model.Publish(block, hash);
      } else if (what < 90) {
        const BlockHash hash = random_hash();
        const BlockId block = store.Find(hash);
        ASSERT_EQ(block, model.Find(hash)) << "step " << step;
        if (block != kNoBlock) held.push_back(block);
      } else if (what < 95 && !held.empty()) {
        store.Ref(held.front());
        model.Ref(held.front());
        held.push_back(held.front());
      } else if (what == 99) {
        store.DropCached();
        model.DropCached();
      } else {
        const BlockHash hash = random_hash();
        ASSERT_EQ(store.Contains(hash), model.Contains(hash));
      }
      model.Check(store);
      if (HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace spillway::kv
