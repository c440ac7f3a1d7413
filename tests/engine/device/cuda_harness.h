// A CUDA device over the emulated GPU, for tests of what is that device's own.
#ifndef SPILLWAY_TESTS_ENGINE_DEVICE_CUDA_HARNESS_H_
#define SPILLWAY_TESTS_ENGINE_DEVICE_CUDA_HARNESS_H_

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "engine/device/cuda/cuda_device.h"
#include "gtest/gtest.h"
#include "tests/fakes/cuda/machine.h"

namespace spillway::device {

// Little of what a device keeps for itself, so that work is cut into pieces as on a device under pressure.
inline cuda::CudaDeviceOptions Small() {
  cuda::CudaDeviceOptions options;
  options.scratch_bytes = 256 * kKiB;
  options.workspace_bytes = 2 * kKiB;
  return options;
}

// For machines that a test describes, and devices that it makes itself.
class CudaStartTest : public testing::Test {
 protected:
  void TearDown() override { fakes::cuda::ResetMachine({}); }
  absl::Status StartError(const cuda::CudaDeviceOptions& options = Small()) const {
    fakes::cuda::ResetMachine(machine_);
    return cuda::CreateCudaDevice(options).status();
  }

  fakes::cuda::MachineOptions machine_;
};

// Has a device and a stream.
class CudaFaultTest : public testing::Test {
 protected:
  void SetUp() override { Start({}); }
  void Start(const fakes::cuda::MachineOptions& machine) {
    device_.reset();
    fakes::cuda::ResetMachine(machine);
    device_ = cuda::CreateCudaDevice(Small()).value();
    stream_ = device_->CreateStream("test");
    event_ = device_->CreateEvent();
  }
  void TearDown() override {
    device_.reset();
    fakes::cuda::ResetMachine({});
  }
  absl::Status Synchronize() {
    device_->Record(event_, stream_);
    return device_->Synchronize(event_);
  }

  // Memory that lives as long as the device, of bytes of `value`.
  DevicePtr Filled(int64_t size_bytes, uint8_t value) {
    const DevicePtr memory = device_->Allocate(size_bytes, "test").value();
    device_->Fill(stream_, memory, value, size_bytes);
    return memory;
  }
  // All ones, [n, k].
  PackedMatrix Matrix(int64_t n, int64_t k, Encoding encoding, WeightMode mode) {
    std::vector<uint8_t> bytes(static_cast<size_t>(EncodedBytes(encoding, n * k)));
    if (encoding == Encoding::kF32) {
      const float one = 1;
      for (size_t i = 0; i < bytes.size(); i += sizeof one) std::memcpy(&bytes[i], &one, sizeof one);
    }
    const TensorView view{"w", encoding, {n, k}, bytes.data(), static_cast<int64_t>(bytes.size())};
    PackedMatrix matrix = device_->PlanMatrix({view}, mode).value();
    std::vector<uint8_t> packed(static_cast<size_t>(matrix.size_bytes));
    EXPECT_TRUE(device_->PackMatrix({view}, matrix, packed.data()).ok());
    matrix.data = device_->Allocate(matrix.size_bytes, "w").value();
    device_->CopyIn(stream_, matrix.data, packed.data(), matrix.size_bytes);
    EXPECT_TRUE(Synchronize().ok());
    return matrix;
  }

  std::unique_ptr<Device> device_;
  StreamId stream_{};
  EventId event_{};
};

}  // namespace spillway::device

#endif  // SPILLWAY_TESTS_ENGINE_DEVICE_CUDA_HARNESS_H_
