#include "server/device_defaults.h"

#include <string>

#include "base/bytes.h"
#include "gtest/gtest.h"

namespace spillway::server {
namespace {

device::DeviceInfo Gpu(int64_t memory_bytes) {
  device::DeviceInfo info;
  info.memory_bytes = memory_bytes;
  info.multiplies_packed_weights = true;
  return info;
}

Settings Asked(const std::string& weights, int64_t chunk_tokens, int64_t rows) {
  Settings settings;
  settings.weights = weights;
  settings.prefill_chunk_tokens = chunk_tokens;
  settings.prefill_rows = rows;
  return settings;
}

void ExpectSettled(const device::DeviceInfo& info, const Settings& asked, const Settings& want) {
  const Settings settled = SettingsOn(info, asked);
  EXPECT_EQ(settled.weights, want.weights);
  EXPECT_EQ(settled.prefill_chunk_tokens, want.prefill_chunk_tokens);
  EXPECT_EQ(settled.prefill_rows, want.prefill_rows);
}

TEST(DeviceDefaultsTest, AGpuKeepsWeightsPackedAndReadsThemSeldom) {
  ExpectSettled(Gpu(24 * kGiB), Asked("auto", 0, 0), Asked("packed", 1024, 4096));
  ExpectSettled(Gpu(8 * kGiB), Asked("auto", 0, 0), Asked("packed", 1024, 4096));
  ExpectSettled(Gpu(8 * kGiB - 1), Asked("auto", 0, 0), Asked("packed", 256, 1024));
}

TEST(DeviceDefaultsTest, ACpuHasThemExpandedBehindAnEmulatedLinkToo) {
  device::DeviceInfo cpu;
  cpu.memory_bytes = 64 * kGiB;
  cpu.host_addressable = true;
  ExpectSettled(cpu, Asked("auto", 0, 0), Asked("expanded", 256, 1024));
  cpu.host_addressable = false;
  cpu.emulated_link = true;
  ExpectSettled(cpu, Asked("auto", 0, 0), Asked("expanded", 256, 1024));
}

TEST(DeviceDefaultsTest, WhatWasAskedForStays) {
  ExpectSettled(Gpu(24 * kGiB), Asked("expanded", 512, 0), Asked("expanded", 512, 2048));
  ExpectSettled(Gpu(24 * kGiB), Asked("packed", 0, 100), Asked("packed", 1024, 100));
}

}  // namespace
}  // namespace spillway::server
