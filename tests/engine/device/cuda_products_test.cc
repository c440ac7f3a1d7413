// Products of the CUDA device that the device suite does not ask for: alignment, algorithms, parts.
#include <gmock/gmock.h>

#include <string>
#include <vector>

#include "engine/device/cuda/matrix_layout.h"
#include "tests/engine/device/cuda_harness.h"

namespace spillway::device {
namespace {

using fakes::cuda::Counts;
using fakes::cuda::MachineOptions;
using testing::AllOf;
using testing::Each;
using testing::HasSubstr;

// In bf16, whose products by ones are as large as their k.
TEST_F(CudaFaultTest, ProductsTakeEachMatrixAsItIsAligned) {
  constexpr int64_t kN = 24, kK = 64, kShift = 4;
  constexpr int64_t kRows = 4;  // a bucket's, so that no other algorithm is tried
  PackedMatrix matrix = Matrix(kN + 1, kK, Encoding::kF32, WeightMode::kExpanded);
  matrix.n = kN;
  const PackedMatrix packed = Matrix(kN, 256, Encoding::kQ4_K, WeightMode::kPacked);
  const std::vector<uint16_t> ones(kRows * 256 + kShift, 0x3f80);
  const auto bytes = static_cast<int64_t>(ones.size() * 2);
  const DevicePtr in = Filled(bytes, 0), out = Filled(kRows * kN * 4 + kShift, 0), bias = Filled(200, 0);
  device_->CopyIn(stream_, in, ones.data(), bytes);
  // Aligned before and behind, so that what was chosen for one is there for the other.
  for (const int shifted : {0, 1, 2, 3, 4, 0}) {
    const auto at = [&](int which, DevicePtr array) { return array + (shifted == which ? kShift : 0); };
    for (const Activation activation : {Activation::kNone, Activation::kGelu}) {
      PackedMatrix weight = matrix;
      weight.data = at(1, matrix.data);
      GemmArgs args;
      args.rows = kRows;
      args.in = at(2, in);
      args.out = at(3, out);
      args.bias = at(4, bias);
      args.activation = activation;
      device_->Gemm(stream_, weight, args);
      std::vector<float> got(kRows * kN);
      device_->CopyOut(stream_, got.data(), args.out, kRows * kN * 4);
      ASSERT_TRUE(Synchronize().ok()) << device_->status();
      EXPECT_THAT(got, Each(kK)) << shifted;
      device_->Gemm(stream_, packed, args);
      device_->CopyOut(stream_, got.data(), args.out, kRows * kN * 4);
      ASSERT_TRUE(Synchronize().ok()) << device_->status();
      EXPECT_THAT(got, Each(0)) << shifted;
    }
  }
}

TEST_F(CudaFaultTest, PackedPartsAreAlignedAndFew) {
  const TensorView part{"ffn", Encoding::kQ6_K, {3, 256}, nullptr, 630};
  const std::vector<TensorView> parts(kMatrixPartsMax, part);
  const PackedMatrix plan = cuda::PlanRows(parts, WeightMode::kPacked, DType::kBF16).value();
  EXPECT_EQ(plan.size_bytes, 3 * 768 + 630);
  const auto more = cuda::PlanRows(std::vector<TensorView>(5, part), WeightMode::kPacked, DType::kBF16);
  EXPECT_EQ(more.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(more.status().message()), AllOf(HasSubstr("ffn"), HasSubstr("--weights=expanded")));
}

TEST_F(CudaFaultTest, AutoKeepsPackedWhatIsMultipliedWellAsItIsAndEveryTable) {
  const auto part = [](Encoding encoding, int64_t k) {
    return TensorView{"ffn", encoding, {8, k}, nullptr, EncodedBytes(encoding, 8 * k)};
  };
  const auto is_packed = [](const std::vector<TensorView>& parts, DType type) {
    const PackedMatrix plan = cuda::PlanRows(parts, WeightMode::kAuto, type).value();
    EXPECT_EQ(plan.n_parts, plan.encoding == cuda::PlanRows(parts, WeightMode::kExpanded, type)->encoding
                                ? 0
                                : static_cast<int32_t>(parts.size()));
    EXPECT_EQ(plan.is_table, parts.size() == 1);
    return plan.n_parts > 0;
  };
  for (const Encoding encoding : {Encoding::kQ8_0, Encoding::kQ4_0, Encoding::kQ4_1, Encoding::kQ5_0,
                                  Encoding::kQ5_1, Encoding::kQ4_K, Encoding::kQ5_K, Encoding::kQ6_K}) {
    EXPECT_TRUE(is_packed({part(encoding, 512)}, DType::kBF16));
    EXPECT_FALSE(is_packed({part(encoding, 512)}, DType::kF32));
    EXPECT_FALSE(is_packed({part(encoding, 512)}, DType::kF16));
  }
  EXPECT_TRUE(is_packed({part(Encoding::kQ4_K, 512), part(Encoding::kQ6_K, 512)}, DType::kBF16));
  EXPECT_FALSE(is_packed({part(Encoding::kQ4_K, 512), part(Encoding::kF16, 512)}, DType::kBF16));
  EXPECT_FALSE(is_packed({part(Encoding::kF16, 512), part(Encoding::kQ4_K, 512)}, DType::kBF16));
  EXPECT_FALSE(is_packed({part(Encoding::kF32, 512)}, DType::kBF16));
  EXPECT_FALSE(is_packed({part(Encoding::kQ8_0, 576)}, DType::kBF16)) << "rows of no whole spans";
  EXPECT_FALSE(is_packed(std::vector<TensorView>(5, part(Encoding::kQ4_K, 512)), DType::kBF16));

  for (const DType type : {DType::kBF16, DType::kF32}) {
    const PackedMatrix table =
        cuda::PlanTableRows(part(Encoding::kQ8_0, 576), WeightMode::kAuto, type).value();
    EXPECT_EQ(table.encoding, Encoding::kQ8_0);
    EXPECT_EQ(table.size_bytes, 8 * 18 * 34);
    EXPECT_TRUE(table.is_table);
    EXPECT_TRUE(cuda::SliceRows(table, 0, 8)->is_table);
    EXPECT_FALSE(cuda::SliceRows(table, 0, 4)->is_table) << "its rows are not all of its bytes";
  }
  const auto plain = cuda::PlanTableRows(part(Encoding::kF16, 576), WeightMode::kAuto, DType::kBF16);
  EXPECT_EQ(plain->encoding, Encoding::kBF16);
}

TEST_F(CudaFaultTest, HeightsThatTheirBucketsAlgorithmRefusesHaveTheirOwn) {
  MachineOptions machine;
  machine.products_refuse_other_shapes = true;
  Start(machine);
  constexpr int64_t kN = 24, kK = 64;
  const PackedMatrix matrix = Matrix(kN, kK, Encoding::kF32, WeightMode::kExpanded);
  for (const int64_t rows : {1, 3, 5, 7, 9, 33, 65, 100}) {
    std::vector<uint16_t> in(static_cast<size_t>(rows * kK), 0x3f80);  // 1 in bf16
    std::vector<float> out(static_cast<size_t>(rows * kN));
    GemmArgs args;
    args.rows = static_cast<int32_t>(rows);
    args.in = Filled(rows * kK * 2, 0);
    args.out = Filled(rows * kN * 4, 0);
    device_->CopyIn(stream_, args.in, in.data(), rows * kK * 2);
    device_->Gemm(stream_, matrix, args);
    device_->CopyOut(stream_, out.data(), args.out, rows * kN * 4);
    ASSERT_TRUE(Synchronize().ok()) << device_->status();
    EXPECT_THAT(out, Each(kK)) << rows;
  }
}

TEST_F(CudaFaultTest, WarmedUpProductsAskForNoAlgorithm) {
  for (const bool packed : {false, true}) {
    // The packed one is expanded in pieces.
    const PackedMatrix matrix = packed ? Matrix(1403, 96, Encoding::kQ8_0, WeightMode::kPacked)
                                       : Matrix(40, 64, Encoding::kF32, WeightMode::kExpanded);
    ASSERT_TRUE(device_->WarmUp({matrix}, {1, 40}).ok());
    const int64_t asked = Counts().heuristics;
    EXPECT_GT(asked, 0);
    GemmArgs args;
    args.in = Filled(64 * matrix.k * 4, 0);
    args.out = Filled(64 * matrix.n * 4, 0);
    const auto multiply = [&](int32_t rows) {
      args.rows = rows;
      for (const DevicePtr bias : {DevicePtr{}, Filled(matrix.n * 4, 0)}) {
        args.bias = bias;
        for (const bool accumulate : {false, true}) {
          args.accumulate = accumulate;
          args.out_dtype = DType::kF32;
          device_->Gemm(stream_, matrix, args);
        }
        args.accumulate = false;
        args.out_dtype = DType::kBF16;
        for (const Activation activation : {Activation::kNone, Activation::kSilu}) {
          args.activation = activation;
          device_->Gemm(stream_, matrix, args);
        }
        args.activation = Activation::kNone;
      }
      EXPECT_TRUE(Synchronize().ok());
    };
    for (const int32_t rows : {1, 33, 40, 64}) multiply(rows);  // up to 64 they have one algorithm
    EXPECT_EQ(Counts().heuristics, asked);
    multiply(20);
    EXPECT_GT(Counts().heuristics, asked);
  }
}

}  // namespace
}  // namespace spillway::device
