#include "server/device_defaults.h"

#include "base/bytes.h"
#include "gtest/gtest.h"

namespace spillway::server {
namespace {

device::DeviceInfo Gpu(int64_t memory_bytes) {
  device::DeviceInfo info;
  info.memory_bytes = memory_bytes;
  return info;
}

void ExpectSettled(const device::DeviceInfo& info, int64_t chunk_tokens, int64_t rows,
                   int64_t want_chunk_tokens, int64_t want_rows) {
  Settings settings;
  settings.weights = "auto";
  settings.prefill_chunk_tokens = chunk_tokens;
  settings.prefill_rows = rows;
  const Settings settled = SettingsOn(info, settings);
  EXPECT_EQ(settled.weights, "auto");
  EXPECT_EQ(settled.prefill_chunk_tokens, want_chunk_tokens);
  EXPECT_EQ(settled.prefill_rows, want_rows);
}

TEST(DeviceDefaultsTest, ALargeGpuReadsItsWeightsSeldom) {
  ExpectSettled(Gpu(80 * kGiB), 0, 0, 1024, 4096);
  ExpectSettled(Gpu(28 * kGiB), 0, 0, 1024, 4096);
  ExpectSettled(Gpu(28 * kGiB - 1), 0, 0, 512, 2048);
  ExpectSettled(Gpu(10 * kGiB), 0, 0, 512, 2048);
  ExpectSettled(Gpu(10 * kGiB - 1), 0, 0, 256, 1024);
}

TEST(DeviceDefaultsTest, ACpuDoesNotBehindAnEmulatedLinkEither) {
  device::DeviceInfo cpu;
  cpu.memory_bytes = 64 * kGiB;
  cpu.host_addressable = true;
  ExpectSettled(cpu, 0, 0, 256, 1024);
  ExpectSettled(cpu, 0, 512, 256, 512);
  cpu.host_addressable = false;
  cpu.emulated_link = true;
  ExpectSettled(cpu, 0, 0, 256, 1024);
  ExpectSettled(cpu, 0, 512, 128, 512);
}

TEST(DeviceDefaultsTest, WhatWasAskedForStays) {
  ExpectSettled(Gpu(80 * kGiB), 512, 0, 512, 2048);
  ExpectSettled(Gpu(80 * kGiB), 16, 0, 16, 1024);
  ExpectSettled(Gpu(80 * kGiB), 512, 100, 512, 100);
}

TEST(DeviceDefaultsTest, AVisitIsAQuarterOfTheRowsThatWereAskedForAtMost) {
  ExpectSettled(Gpu(80 * kGiB), 0, 8192, 1024, 8192);
  ExpectSettled(Gpu(80 * kGiB), 0, 2000, 500, 2000);
  ExpectSettled(Gpu(80 * kGiB), 0, 20, 16, 20);
}

}  // namespace
}  // namespace spillway::server
