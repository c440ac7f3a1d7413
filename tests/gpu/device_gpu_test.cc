// The device suite on a real GPU, through the module that the daemon loads.
#include <gtest/gtest.h>

#include "engine/device/cuda/loader.h"
#include "tests/engine/device/device_suite.h"

namespace spillway::device {
namespace {

DeviceCase GpuCase(DType dtype) {
  return {NameOf(dtype), [dtype](int64_t memory_bytes) {
            cuda::CudaLoadOptions options;
            options.dtype = dtype;
            options.memory_bytes = memory_bytes;
            return cuda::LoadCudaDevice(options);
          }};
}

std::string CaseName(const testing::TestParamInfo<DeviceCase>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Gpu, DeviceSuite,
                         testing::Values(GpuCase(DType::kF32), GpuCase(DType::kBF16), GpuCase(DType::kF16)),
                         CaseName);

}  // namespace
}  // namespace spillway::device
