// A product that oneDNN fails to execute: the device's error, found by the thread that computes and read by
// the one that steps. This binary's dnnl_primitive_execute stands before the library's and always fails.
#include <oneapi/dnnl/dnnl.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/device/cpu/cpu_device.h"
#include "engine/device/cpu/emulated_link_device.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

extern "C" dnnl_status_t dnnl_primitive_execute(const_dnnl_primitive_t, dnnl_stream_t, int,
                                                const dnnl_exec_arg_t*) {
  return dnnl_runtime_error;
}

namespace spillway::device {
namespace {

using ::testing::HasSubstr;

// With ThreadSanitizer also: reading the status while it is written is no race.
TEST(OneDnnFailure, IsTheDevicesErrorAndReadWhileItHappens) {
  if (DetectCpuIsa() < CpuIsa::kAvx512) GTEST_SKIP() << "no AVX-512";
  constexpr int32_t kSize = 64;
  CpuDeviceOptions cpu;
  cpu.threads = 1;
  cpu.dtype = DType::kF32;
  cpu.onednn = true;
  StreamEngineOptions link;
  link.link_bytes_per_s = 4e9;
  const auto device = CreateEmulatedLinkDevice(CreateCpuDevice(cpu).value(), link).value();

  const std::vector<float> values(kSize * kSize, 1);
  const TensorView view{"matrix",
                        Encoding::kF32,
                        {kSize, kSize},
                        reinterpret_cast<const uint8_t*>(values.data()),
                        static_cast<int64_t>(sizeof(float) * values.size())};
  const PackedMatrix plan = device->PlanMatrix({view}, WeightMode::kExpanded).value();
  std::vector<uint8_t> bytes(static_cast<size_t>(plan.size_bytes));
  ASSERT_TRUE(device->PackMatrix({view}, plan, bytes.data()).ok());
  const StreamId stream = device->CreateStream("compute");
  PackedMatrix weight = plan;
  weight.data = device->Allocate(plan.size_bytes, "weight").value();
  device->CopyIn(stream, weight.data, bytes.data(), plan.size_bytes);
  GemmArgs gemm;
  gemm.rows = kSize;
  gemm.in = device->Allocate(sizeof(float) * values.size(), "in").value();
  gemm.out = device->Allocate(sizeof(float) * values.size(), "out").value();
  gemm.out_dtype = DType::kF32;
  ASSERT_TRUE(device->WarmUp({weight}, {kSize}).ok());

  device->Gemm(stream, weight, gemm);
  const EventId done = device->CreateEvent();
  device->Record(done, stream);
  while (device->status().ok() && !device->IsComplete(done)) {
  }
  EXPECT_THAT(std::string(device->Synchronize(done).message()), HasSubstr("oneDNN failed"));
  EXPECT_THAT(std::string(device->status().message()), HasSubstr("oneDNN failed"));
  EXPECT_FALSE(device->Allocate(64, "more").ok()) << "nothing is begun on a device that failed";
}

}  // namespace
}  // namespace spillway::device
