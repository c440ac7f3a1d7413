#include "engine/kv/device_cache.h"

#include <memory>
#include <set>

#include "engine/device/cpu/cpu_device.h"
#include "gtest/gtest.h"

namespace spillway::kv {
namespace {

using State = DeviceCache::State;

class DeviceCacheTest : public ::testing::Test {
 protected:
  // x_slots: 2.
  static Geometry SmallGeometry() {
    Geometry geometry;
    geometry.n_layers = 2;
    geometry.n_kv_heads = 2;
    geometry.d_head = 16;
    geometry.d = 64;
    geometry.block_tokens = 16;
    return geometry;
  }
  DeviceCache& MakeCache(int32_t n_slots, int64_t n_blocks = 20) {
    device_ = device::CreateCpuDevice({}).value();
    cache_ = DeviceCache::Create(*device_, SmallGeometry(), n_slots, n_blocks).value();
    return *cache_;
  }
  void OpenAndSeal(BlockId block) {
    ASSERT_TRUE(cache_->Open(block, /*with_x=*/false));
    cache_->Seal(block);
  }

  std::unique_ptr<device::Device> device_;
  std::unique_ptr<DeviceCache> cache_;
};

TEST_F(DeviceCacheTest, OpenBlocksHaveSlotsOfTheirOwn) {
  DeviceCache& cache = MakeCache(8);
  ASSERT_TRUE(cache.Open(3, /*with_x=*/true));
  ASSERT_TRUE(cache.Open(7, /*with_x=*/true));
  EXPECT_FALSE(cache.Open(1, /*with_x=*/true));
  EXPECT_EQ(cache.StateOf(1), State::kAbsent);
  std::set<int32_t> slots;
  for (const BlockId block : {3, 7}) {
    const Planes& planes = cache.PlanesOf(block);
    EXPECT_EQ(planes.v, planes.k + 1);
    for (const int32_t slot : {planes.k, planes.v, planes.x, planes.x + 1})
      EXPECT_TRUE(slots.insert(slot).second);
  }
  EXPECT_EQ(*slots.rbegin(), 7);
  EXPECT_FALSE(cache.PlanesOf(1).has_kv());
}

TEST_F(DeviceCacheTest, SealedBlocksStayWithoutXUntilOpenOnesNeedTheirSlots) {
  DeviceCache& cache = MakeCache(8);
  ASSERT_TRUE(cache.Open(0, /*with_x=*/true));
  cache.Seal(0);
  EXPECT_EQ(cache.StateOf(0), State::kResident);
  EXPECT_FALSE(cache.PlanesOf(0).has_x());
  OpenAndSeal(1);
  OpenAndSeal(2);
  EXPECT_EQ(cache.resident_blocks(), 3);
  cache.Touch(0);  // now 1 is the one used longest ago
  ASSERT_TRUE(cache.Open(3, /*with_x=*/false));
  EXPECT_EQ(cache.resident_blocks(), 3);  // one pair was free still
  ASSERT_TRUE(cache.Open(4, /*with_x=*/false));
  EXPECT_EQ(cache.StateOf(1), State::kAbsent);
  EXPECT_EQ(cache.StateOf(0), State::kResident);
  EXPECT_EQ(cache.StateOf(2), State::kResident);
}

TEST_F(DeviceCacheTest, PinnedBlocksAreNotEvicted) {
  DeviceCache& cache = MakeCache(4);
  OpenAndSeal(0);
  OpenAndSeal(1);
  cache.Pin(0);
  cache.Pin(1);
  EXPECT_FALSE(cache.Open(2, false));
  cache.Unpin(1);
  EXPECT_TRUE(cache.Open(2, false));
  EXPECT_EQ(cache.StateOf(0), State::kResident);
  EXPECT_EQ(cache.StateOf(1), State::kAbsent);
  cache.Unpin(0);
}

TEST_F(DeviceCacheTest, LostBlocksGoAtOnceOrWithTheirLastPin) {
  DeviceCache& cache = MakeCache(4);
  ASSERT_TRUE(cache.Open(0, false));
  cache.OnBlockLost(0);
  EXPECT_EQ(cache.StateOf(0), State::kAbsent);
  ASSERT_TRUE(cache.Open(1, false));
  cache.Pin(1);
  cache.Pin(1);
  cache.OnBlockLost(1);
  cache.Unpin(1);
  EXPECT_TRUE(cache.IsLingering(1));
  ASSERT_TRUE(cache.Open(2, false));
  EXPECT_FALSE(cache.Open(3, false));  // the lingering block's slots are taken
  cache.Unpin(1);
  EXPECT_FALSE(cache.IsLingering(1));
  EXPECT_TRUE(cache.Open(3, false));
  cache.OnBlockLost(19);  // never here
  EXPECT_EQ(cache.open_blocks(), 2);
}

TEST_F(DeviceCacheTest, ResidentMaxIsKept) {
  DeviceCache& cache = MakeCache(20);
  cache.SetResidentMax(2);
  for (const BlockId block : {0, 1, 2, 3}) OpenAndSeal(block);
  EXPECT_EQ(cache.resident_blocks(), 2);
  EXPECT_EQ(cache.StateOf(1), State::kAbsent);
  EXPECT_EQ(cache.StateOf(3), State::kResident);
  // Pinned ones stay; then the block that was just sealed does not.
  cache.Pin(2);
  cache.Pin(3);
  OpenAndSeal(4);
  EXPECT_EQ(cache.StateOf(4), State::kAbsent);
  EXPECT_EQ(cache.resident_blocks(), 2);
  cache.Unpin(2);
  cache.Unpin(3);
}

TEST_F(DeviceCacheTest, LayersLieApartAndMemoryIsGivenBack) {
  DeviceCache& cache = MakeCache(6);
  const Geometry geometry = SmallGeometry();
  EXPECT_EQ(cache.Arena(1).base.address - cache.Arena(0).base.address,
            static_cast<uint64_t>(6 * geometry.slot_bytes()));
  EXPECT_EQ(cache.size_bytes(), 2 * 6 * geometry.slot_bytes());
  EXPECT_EQ(device_->allocated_bytes(), cache.size_bytes());
  cache_.reset();
  EXPECT_EQ(device_->allocated_bytes(), 0);
}

}  // namespace
}  // namespace spillway::kv
