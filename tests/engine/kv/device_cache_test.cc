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
    cache_->Seal(block, Residence::kKv);
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
  cache.Seal(0, Residence::kKv);
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
  cache.SetLimits({.kv_blocks = 2});
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

TEST_F(DeviceCacheTest, SealedBlocksMayStayAsXAlone) {
  DeviceCache& cache = MakeCache(12);
  ASSERT_TRUE(cache.Open(0, true));
  const Planes open = cache.PlanesOf(0);
  cache.Seal(0, Residence::kX);
  EXPECT_EQ(cache.StateOf(0), State::kResident);
  EXPECT_FALSE(cache.PlanesOf(0).has_kv());
  EXPECT_EQ(cache.PlanesOf(0).x, open.x);
  EXPECT_EQ(cache.resident_blocks(Residence::kX), 1);
  ASSERT_TRUE(cache.Open(1, true));
  cache.Seal(1, Residence::kNone);
  EXPECT_EQ(cache.StateOf(1), State::kAbsent);
  // Whoever pinned it reads its K and V.
  ASSERT_TRUE(cache.Open(2, true));
  cache.Pin(2);
  cache.Seal(2, Residence::kX);
  EXPECT_TRUE(cache.PlanesOf(2).has_kv());
  cache.Unpin(2);
  cache.SetLimits({.kv_blocks = 0});
  EXPECT_EQ(cache.StateOf(2), State::kAbsent);
  EXPECT_EQ(cache.StateOf(0), State::kResident);
  cache.SetLimits({.x_blocks = 0});
  EXPECT_EQ(cache.StateOf(0), State::kAbsent);
  // All slots are free again.
  for (const BlockId block : {4, 5, 6}) EXPECT_TRUE(cache.Open(block, true));
}

TEST_F(DeviceCacheTest, ArrivingBlocksHaveSlotsAndAreNotHereYet) {
  DeviceCache& cache = MakeCache(8);
  ASSERT_TRUE(cache.Reserve(3, Residence::kKv, 0));
  ASSERT_TRUE(cache.Reserve(4, Residence::kX, 0));
  EXPECT_TRUE(cache.IsElsewhere(3));
  EXPECT_TRUE(cache.PlanesOf(3).has_kv());
  EXPECT_FALSE(cache.PlanesOf(4).has_kv());
  EXPECT_EQ(cache.resident_blocks(), 2);
  cache.Arrive(3);
  cache.Unpin(3);
  EXPECT_EQ(cache.StateOf(3), State::kResident);
  cache.GiveUp(4);
  EXPECT_EQ(cache.StateOf(4), State::kAbsent);
  EXPECT_EQ(cache.resident_blocks(), 1);
  // Lost on the way.
  ASSERT_TRUE(cache.Reserve(5, Residence::kX, 0));
  cache.OnBlockLost(5);
  cache.Arrive(5);
  cache.Unpin(5);
  EXPECT_EQ(cache.StateOf(5), State::kAbsent);
}

TEST_F(DeviceCacheTest, ReservationsLeaveLimitsPinsAndRoomForOpenBlocksAlone) {
  DeviceCache& cache = MakeCache(12);
  cache.SetOpenRoom(4);
  cache.SetLimits({.kv_blocks = 3});
  for (const BlockId block : {0, 1, 2}) {
    ASSERT_TRUE(cache.Reserve(block, Residence::kKv, 0));
    cache.Arrive(block);
    cache.Unpin(block);
  }
  EXPECT_FALSE(cache.Reserve(3, Residence::kKv, 0));  // the limit
  cache.SetLimits({});
  ASSERT_TRUE(cache.Reserve(3, Residence::kX, 100));
  EXPECT_FALSE(cache.Reserve(4, Residence::kKv, 100));  // room for open blocks; no one is stale
  cache.GiveUp(3);
  for (int i = 0; i < 3; ++i) cache.StartUse();
  cache.Touch(0);
  cache.Pin(1);
  ASSERT_TRUE(cache.Reserve(4, Residence::kKv, 100));
  EXPECT_TRUE(cache.Reserve(5, Residence::kKv, 2));  // 2 was not used lately
  EXPECT_EQ(cache.StateOf(0), State::kResident);
  EXPECT_EQ(cache.StateOf(1), State::kResident);
  EXPECT_EQ(cache.StateOf(2), State::kAbsent);
  EXPECT_FALSE(cache.Reserve(6, Residence::kKv, 2));
  for (const BlockId block : {10, 11}) EXPECT_TRUE(cache.Open(block, false));
  EXPECT_EQ(cache.resident_blocks(), 4);
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
