// The CUDA module through its door: the real one, over the emulated GPU of tests/fakes/cuda.
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/bytes.h"
#include "engine/device/cuda/loader.h"
#include "engine/device/device.h"
#include "tests/fakes/cuda/machine.h"

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

// Of the machine in the module.
int64_t KernelsBegunEarly() {
  void* const module = dlopen(SPILLWAY_EMULATED_MODULE, RTLD_NOW | RTLD_NOLOAD);
  using CountsOf = fakes::cuda::MachineCounts (*)();
  const auto counts = reinterpret_cast<CountsOf>(dlsym(module, "_ZN8spillway5fakes4cuda6CountsEv"));
  EXPECT_NE(counts, nullptr);
  return counts == nullptr ? -1 : counts().kernels_begun_early;
}

TEST(CudaDoor, WhetherKernelsOverlapComesThrough) {
  const auto run = [](bool overlap_kernels) {
    CudaLoadOptions options;
    options.module_path = SPILLWAY_EMULATED_MODULE;
    options.memory_bytes = kMiB;
    options.overlap_kernels = overlap_kernels;
    const auto device = LoadCudaDevice(options).value();
    const StreamId stream = device->CreateStream("test");
    const EventId done = device->CreateEvent();
    GatedActivationArgs args;
    args.rows = 1;
    args.d_ff = 8;
    args.gate_up = device->Allocate(64, "in").value();
    args.out = device->Allocate(32, "out").value();
    for (int i = 0; i < 100; ++i) device->GatedActivation(stream, args);
    device->Record(done, stream);
    EXPECT_TRUE(device->Synchronize(done).ok());
    return KernelsBegunEarly();
  };
  EXPECT_EQ(run(false), 0);
  EXPECT_GT(run(true), 0);
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
