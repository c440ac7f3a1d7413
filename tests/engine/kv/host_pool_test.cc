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

TEST_F(HostPoolTest, SlotsOfAllLayersAreApart) {
  const Geometry geometry = SmallGeometry();
  auto pool = HostPool::Create(*device_, geometry, 5 * geometry.block_bytes(Form::kKv) + 100);
  ASSERT_TRUE(pool.ok()) << pool.status();
  EXPECT_EQ((*pool)->n_slots(), 10);  // rounded down
  EXPECT_TRUE((*pool)->registered());
  const auto value = [](int32_t layer, int32_t slot) { return layer * 16 + slot; };
  for (int32_t layer = 0; layer < geometry.n_layers; ++layer) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>((*pool)->LayerArena(layer)) % 256, 0u);
    EXPECT_EQ((*pool)->Slot(layer, 3), (*pool)->LayerArena(layer) + 3 * geometry.slot_bytes());
    for (int32_t slot = 0; slot < 10; ++slot) {
      std::memset((*pool)->Slot(layer, slot), value(layer, slot), geometry.slot_bytes());
    }
  }
  for (int32_t layer = 0; layer < geometry.n_layers; ++layer) {
    for (int32_t slot = 0; slot < 10; ++slot) {
      for (int64_t i : {int64_t{0}, geometry.slot_bytes() - 1}) {
        EXPECT_EQ((*pool)->Slot(layer, slot)[i], value(layer, slot));
      }
    }
  }
}

TEST_F(HostPoolTest, MemoryLargerThanTheTouchingSlabIsThere) {
  Geometry geometry = SmallGeometry();
  geometry.n_kv_heads = 16;
  geometry.d_head = 64;
  auto pool = HostPool::Create(*device_, geometry, 300 * kMiB);
  ASSERT_TRUE(pool.ok()) << pool.status();
  const auto last = static_cast<int32_t>((*pool)->n_slots() - 1);
  EXPECT_EQ((*pool)->Slot(geometry.n_layers - 1, last)[geometry.slot_bytes() - 1], 0);
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
  EXPECT_TRUE(HostPool::Create(*device_, geometry, 2 * block_bytes, false, /*numa_node=*/0).ok());
  EXPECT_TRUE(HostPool::Create(*device_, geometry, 2 * block_bytes, false, /*numa_node=*/999).ok())
      << "with a warning";
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
  (*pool)->Slot(2, 7)[0] = 1;
}

}  // namespace
}  // namespace spillway::kv
