// Kernels of the CUDA device that begin before those ahead of them have ended: where they do, and that
// nothing but time depends on it. (The device suite and the executors' tests over the emulated GPU run with
// them.)
#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "tests/engine/device/cuda_harness.h"

namespace spillway::device {
namespace {

using fakes::cuda::Counts;
using fakes::cuda::MachineOptions;
using testing::Each;

constexpr int32_t kRows = 5;
constexpr int32_t kD = 64;
constexpr int32_t kDff = 96;

class CudaOverlapTest : public CudaFaultTest {
 protected:
  void StartWith(const MachineOptions& machine, bool overlap_kernels) {
    device_.reset();
    fakes::cuda::ResetMachine(machine);
    cuda::CudaDeviceOptions options = Small();
    options.overlap_kernels = overlap_kernels;
    device_ = cuda::CreateCudaDevice(options).value();
    stream_ = device_->CreateStream("test");
    event_ = device_->CreateEvent();
  }

  // Feed-forward layers of ones: each kernel and product takes what the one before it made. In bf16.
  std::vector<float> FeedForward() {
    const PackedMatrix up = Matrix(2 * kDff, kD, Encoding::kF32, WeightMode::kExpanded);
    const PackedMatrix down = Matrix(kD, kDff, Encoding::kF32, WeightMode::kExpanded);
    const DevicePtr hidden = Filled(kRows * kD * 4, 0x3e), gain = Filled(kD * 4, 0x3c);
    const DevicePtr x = Filled(kRows * kD * 2, 0xff), y = Filled(kRows * kD * 2, 0);
    const DevicePtr gate_up = Filled(kRows * 2 * kDff * 2, 0xff), gated = Filled(kRows * kDff * 2, 0xff);
    for (int layer = 0; layer < 6; ++layer) {
      AddNormArgs norm;
      norm.rows = kRows;
      norm.d = kD;
      norm.hidden = hidden;
      norm.addend = y;
      norm.gain = gain;
      norm.out = x;
      device_->AddNorm(stream_, norm);
      GemmArgs product;
      product.rows = kRows;
      product.out_dtype = DType::kBF16;
      product.in = x;
      product.out = gate_up;
      device_->Gemm(stream_, up, product);
      GatedActivationArgs activation;
      activation.rows = kRows;
      activation.d_ff = kDff;
      activation.gate_up = gate_up;
      activation.out = gated;
      device_->GatedActivation(stream_, activation);
      product.in = gated;
      product.out = y;
      device_->Gemm(stream_, down, product);
    }
    std::vector<float> result(kRows * kD);
    device_->CopyOut(stream_, result.data(), hidden, kRows * kD * 4);
    EXPECT_TRUE(Synchronize().ok()) << device_->status() << " " << fakes::cuda::FirstFault();
    return result;
  }
};

TEST_F(CudaOverlapTest, NothingDependsOnItButTime) {
  MachineOptions machine;
  StartWith(machine, /*overlap_kernels=*/false);
  const std::vector<float> expected = FeedForward();
  EXPECT_THAT(expected, Each(testing::AllOf(testing::Gt(1), testing::Lt(1000))));
  EXPECT_EQ(Counts().kernels_begun_early, 0);
  int64_t begun_early = 0;
  for (machine.seed = 1; machine.seed <= 20; ++machine.seed) {
    machine.lazy = machine.seed % 2 == 0;
    StartWith(machine, /*overlap_kernels=*/true);
    EXPECT_EQ(FeedForward(), expected) << "seed " << machine.seed;
    begun_early += Counts().kernels_begun_early;
  }
  EXPECT_GT(begun_early, 20);
}

// Packed products read weights before they wait for the kernels ahead of them, and small copies are kernels.
TEST_F(CudaOverlapTest, WeightsThatASmallCopyBringsAreReadBehindIt) {
  constexpr int64_t kN = 32, kK = 256;
  int64_t begun_early = 0;
  MachineOptions machine;
  for (machine.seed = 1; machine.seed <= 20; ++machine.seed) {
    machine.lazy = machine.seed % 2 == 0;
    StartWith(machine, /*overlap_kernels=*/true);
    const PackedMatrix matrix = Matrix(kN, kK, Encoding::kQ8_0, WeightMode::kPacked);
    const std::vector<uint16_t> ones(kK, 0x3f80);  // 1 in bf16
    GemmArgs product;
    product.rows = 1;
    product.in = Filled(kK * 2, 0);
    device_->CopyIn(stream_, product.in, ones.data(), kK * 2);
    std::vector<DevicePtr> outs;
    for (int scale = 0; scale < 4; ++scale) outs.push_back(Filled(kN * 4, 0xff));
    for (int scale = 0; scale < 4; ++scale) {
      std::vector<uint8_t> bytes(static_cast<size_t>(matrix.size_bytes), 1);
      for (size_t block = 0; block < bytes.size(); block += 34) {
        bytes[block] = 0;
        bytes[block + 1] = static_cast<uint8_t>(0x3c + 4 * scale);  // f16: 2^scale
      }
      product.out = outs[static_cast<size_t>(scale)];
      device_->CopyIn(stream_, matrix.data, bytes.data(), matrix.size_bytes);
      device_->Gemm(stream_, matrix, product);
    }
    for (int scale = 0; scale < 4; ++scale) {
      std::vector<float> out(kN);
      device_->CopyOut(stream_, out.data(), outs[static_cast<size_t>(scale)], kN * 4);
      ASSERT_TRUE(Synchronize().ok()) << device_->status() << " " << fakes::cuda::FirstFault();
      EXPECT_THAT(out, Each(kK << scale)) << "seed " << machine.seed;
    }
    begun_early += Counts().kernels_begun_early;
  }
  EXPECT_GT(begun_early, 0);
}

// Otherwise the emulated GPU refuses the launches, or finds kernels that did not wait.
TEST_F(CudaOverlapTest, OnlyGpusAndCodeThatKnowItOverlap) {
  const auto begins_early = [&](int major, int minor, int compiled_for) {
    MachineOptions machine;
    machine.major = major;
    machine.minor = minor;
    machine.kernels_compiled_for = compiled_for;
    machine.lazy = true;
    StartWith(machine, /*overlap_kernels=*/true);
    FeedForward();
    return Counts().kernels_begun_early > 0;
  };
  EXPECT_FALSE(begins_early(8, 0, 0));
  EXPECT_FALSE(begins_early(8, 9, 0));
  EXPECT_TRUE(begins_early(9, 0, 0));
  EXPECT_TRUE(begins_early(12, 0, 0));
  EXPECT_FALSE(begins_early(9, 0, 80)) << "translated from code without waits";
  EXPECT_FALSE(begins_early(12, 0, 89));
  EXPECT_TRUE(begins_early(12, 1, 90));
}

}  // namespace
}  // namespace spillway::device
