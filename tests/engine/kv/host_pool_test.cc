#include "engine/kv/host_pool.h"

#include <cstring>
#include <memory>
#include <string>

#include "base/bytes.h"
#include "engine/device/cpu/cpu_device.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/fakes/forwarding_device.h"

namespace spillway::kv {
namespace {

using ::testing::HasSubstr;

Geometry SmallGeometry() {
  Geometry geometry;
  geometry.n_layers = 3;
  geometry.n_kv_heads = 2;
  geometry.d_head = 8;
  geometry.d = 32;
  geometry.block_tokens = 16;
  geometry.element_bytes = 2;
  return geometry;
}

class HostPoolTest : public ::testing::Test {
 protected:
  void SetUp() override {
    device::CpuDeviceOptions options;
    options.threads = 1;
    device_ = std::move(device::CreateCpuDevice(options).value());
  }

  std::unique_ptr<device::Device> device_;
};

TEST(GeometryTest, BlocksOfBothFormsTakeTheirSlots) {
  const Geometry geometry = SmallGeometry();  // d_kv 16, d 32: an X plane takes two slots
  EXPECT_EQ(geometry.slot_bytes(), 16 * 16 * 2);
  EXPECT_EQ(geometry.block_slots(Form::kKv), 2);
  EXPECT_EQ(geometry.block_slots(Form::kX), 2);
  EXPECT_EQ(geometry.block_slots(Form::kBoth), 4);
  EXPECT_EQ(geometry.block_bytes(Form::kKv), geometry.beta_bytes() * 16 * 3);
  EXPECT_EQ(geometry.blocks_for(0), 0);
  EXPECT_EQ(geometry.blocks_for(16), 1);
  EXPECT_EQ(geometry.blocks_for(17), 2);
}

TEST_F(HostPoolTest, PlanesOfAllBlocksAndLayersAreApart) {
  const Geometry geometry = SmallGeometry();
  auto pool = HostPool::Create(*device_, geometry, 5 * geometry.block_bytes(Form::kKv) + 100);
  ASSERT_TRUE(pool.ok()) << pool.status();
  EXPECT_EQ((*pool)->n_blocks(), 5);  // rounded down
  EXPECT_TRUE((*pool)->registered());
  const auto value = [](int32_t layer, BlockId block, bool v) {
    return layer * 16 + block * 2 + (v ? 1 : 0);
  };
  for (int32_t layer = 0; layer < geometry.n_layers; ++layer) {
    for (BlockId block = 0; block < 5; ++block) {
      std::memset((*pool)->KPlane(layer, block), value(layer, block, false), geometry.slot_bytes());
      std::memset((*pool)->VPlane(layer, block), value(layer, block, true), geometry.slot_bytes());
    }
  }
  for (int32_t layer = 0; layer < geometry.n_layers; ++layer) {
    for (BlockId block = 0; block < 5; ++block) {
      for (int64_t i : {int64_t{0}, geometry.slot_bytes() - 1}) {
        EXPECT_EQ((*pool)->KPlane(layer, block)[i], value(layer, block, false));
        EXPECT_EQ((*pool)->VPlane(layer, block)[i], value(layer, block, true));
      }
    }
  }
}

TEST_F(HostPoolTest, SlotsAddressThePlanesOfEveryLayer) {
  const Geometry geometry = SmallGeometry();
  auto pool = HostPool::Create(*device_, geometry, 4 * geometry.block_bytes(Form::kKv));
  ASSERT_TRUE(pool.ok()) << pool.status();
  for (int32_t layer = 0; layer < geometry.n_layers; ++layer) {
    uint8_t* arena = (*pool)->LayerArena(layer);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(arena) % 256, 0u);
    EXPECT_EQ(arena + HostPool::KSlot(3) * geometry.slot_bytes(), (*pool)->KPlane(layer, 3));
    EXPECT_EQ(arena + HostPool::VSlot(3) * geometry.slot_bytes(), (*pool)->VPlane(layer, 3));
  }
}

TEST_F(HostPoolTest, MemoryLargerThanTheTouchingSlabIsThere) {
  Geometry geometry = SmallGeometry();
  geometry.n_kv_heads = 16;
  geometry.d_head = 64;
  auto pool = HostPool::Create(*device_, geometry, 300 * kMiB);
  ASSERT_TRUE(pool.ok()) << pool.status();
  const BlockId last = static_cast<BlockId>((*pool)->n_blocks() - 1);
  EXPECT_EQ((*pool)->VPlane(geometry.n_layers - 1, last)[geometry.slot_bytes() - 1], 0);
}

TEST_F(HostPoolTest, LessThanTwoBlocksIsRefusedWithTheLeastSize) {
  const Geometry geometry = SmallGeometry();
  const int64_t block_bytes = geometry.block_bytes(Form::kKv);
  for (const int64_t pool_bytes : {int64_t{-1}, int64_t{0}, 2 * block_bytes - 1}) {
    const auto pool = HostPool::Create(*device_, geometry, pool_bytes);
    EXPECT_EQ(pool.status().code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(pool.status().message()), HasSubstr(std::to_string(2 * block_bytes) + " bytes"));
  }
  EXPECT_TRUE(HostPool::Create(*device_, geometry, 2 * block_bytes).ok());
}

TEST_F(HostPoolTest, MoreThanTheMachineHasIsRefusedBeforeItIsTouched) {
  const Geometry geometry = SmallGeometry();
  const auto pool = HostPool::Create(*device_, geometry, int64_t{1} << 45);
  EXPECT_EQ(pool.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(pool.status().message()), HasSubstr("available"));
}

class DeviceThatLocksNoPages : public device::ForwardingDevice {
 public:
  using ForwardingDevice::ForwardingDevice;
  absl::Status RegisterHost(void*, int64_t) override {
    return absl::ResourceExhaustedError("RLIMIT_MEMLOCK is 64 KiB");
  }
  void UnregisterHost(void*) override { FAIL() << "nothing was registered"; }
};

TEST_F(HostPoolTest, PoolThatCannotBeRegisteredWorksAndSaysSo) {
  DeviceThatLocksNoPages device(*device_);
  const Geometry geometry = SmallGeometry();
  testing::internal::CaptureStderr();
  auto pool = HostPool::Create(device, geometry, 4 * geometry.block_bytes(Form::kKv));
  const std::string log = testing::internal::GetCapturedStderr();
  ASSERT_TRUE(pool.ok()) << pool.status();
  EXPECT_FALSE((*pool)->registered());
  EXPECT_THAT(log, HasSubstr("RLIMIT_MEMLOCK is 64 KiB"));
  (*pool)->KPlane(2, 3)[0] = 1;
}

}  // namespace
}  // namespace spillway::kv
