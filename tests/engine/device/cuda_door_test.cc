// The CUDA module through its door: the real one, over the emulated GPU of tests/fakes/cuda.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/bytes.h"
#include "engine/device/cuda/loader.h"

namespace spillway::device::cuda {
namespace {

TEST(CudaDoor, DeviceComesThrough) {
  CudaLoadOptions options;
  options.module_path = SPILLWAY_EMULATED_MODULE;
  options.memory_bytes = 64 * kMiB;
  options.dtype = DType::kF16;
  auto device = LoadCudaDevice(options);
  ASSERT_TRUE(device.ok()) << device.status();
  EXPECT_EQ((*device)->info().kind, "cuda");
  EXPECT_EQ((*device)->info().compute_dtype, DType::kF16);
  EXPECT_EQ((*device)->info().memory_bytes, 64 * kMiB);
  const auto memory = (*device)->Allocate(1000, "test");
  ASSERT_TRUE(memory.ok());
  (*device)->Free(*memory);
}

TEST(CudaDoor, ErrorComesThrough) {
  CudaLoadOptions options;
  options.module_path = SPILLWAY_EMULATED_MODULE;
  options.memory_bytes = int64_t{1} << 50;
  const absl::Status status = LoadCudaDevice(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("--device_memory"));
}

}  // namespace
}  // namespace spillway::device::cuda
