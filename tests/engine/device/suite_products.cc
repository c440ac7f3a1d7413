// Gemm and the packing of its weights.
#include <gmock/gmock.h>

#include <cmath>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "tests/engine/device/device_suite.h"
#include "tests/engine/device/reference.h"

namespace spillway::device {
namespace {

using testing::HasSubstr;

struct Epilogue {
  Activation activation = Activation::kNone;
  bool bias = false;
  bool accumulate = false;
  bool to_f32 = false;
};

// Multiplies `rows` rows by a random [n, k] matrix and compares with the reference.
void Check(DeviceSuite& suite, int64_t rows, int64_t n, int64_t k, const Epilogue& epilogue,
           bool warm_up = false) {
  const std::string what = absl::StrCat("[", rows, ", ", k, "] x [", n, ", ", k, "]T activation ",
                                        static_cast<int>(epilogue.activation), " bias ", epilogue.bias,
                                        " accumulate ", epilogue.accumulate, " f32 ", epilogue.to_f32);
  const std::vector<double> in = suite.Random(rows * k);
  const std::vector<double> weight = suite.Random(n * k, 0.3);
  const std::vector<double> bias = epilogue.bias ? suite.Random(n) : std::vector<double>();
  const std::vector<double> before = suite.Random(rows * n);
  const PackedMatrix packed = suite.UploadMatrix(weight, n, k);
  if (warm_up) {
    const int32_t warm_rows = static_cast<int32_t>(rows);
    ASSERT_TRUE(suite.device_->WarmUp({packed}, {warm_rows}).ok());
  }
  const DType out_type = epilogue.to_f32 ? DType::kF32 : suite.type();

  GemmArgs args;
  args.rows = static_cast<int32_t>(rows);
  args.in = suite.UploadT(in);
  args.out = suite.UploadAs(out_type, before);
  args.out_dtype = out_type;
  if (epilogue.bias) args.bias = suite.UploadF32(bias);
  args.activation = epilogue.activation;
  args.accumulate = epilogue.accumulate;
  suite.device_->Gemm(suite.stream_, packed, args);

  std::vector<double> want = reference::Product(in, weight, bias, rows, n, k, epilogue.activation);
  if (epilogue.accumulate) {
    for (size_t i = 0; i < want.size(); ++i) want[i] += before[i];
  }
  // Sums of k products of deviation 0.3 in f32, then one rounding to the output's type.
  const double sum_error = 8 * 0x1p-24 * static_cast<double>(k);
  ExpectClose(suite.DownloadAs(out_type, args.out, rows * n), want,
              {1e-6 + sum_error, 1.01 * UnitOf(out_type) + 1e-6}, what);
}

TEST_P(DeviceSuite, EveryHeightIsRight) {
  for (int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 31, 47, 48, 49, 64, 65, 96, 129}) {
    Check(*this, rows, 80, 72, {.to_f32 = true});
  }
}

TEST_P(DeviceSuite, OddShapesAreRight) {
  for (const auto& [n, k] : {std::tuple{1, 1},
                             {1, 64},
                             {15, 33},
                             {16, 16},
                             {17, 31},
                             {61, 575},
                             {63, 2},
                             {64, 3},
                             {65, 1},
                             {130, 96},
                             {257, 1100}}) {
    for (int64_t rows : {1, 5, 50}) Check(*this, rows, n, k, {.to_f32 = true});
  }
}

TEST_P(DeviceSuite, LongRowsAreRight) {
  // Longer than the stretch of k that the kernels take at a time.
  Check(*this, 1, 64, 4099, {.to_f32 = true});
  Check(*this, 55, 96, 3000, {.to_f32 = true});
}

TEST_P(DeviceSuite, EpiloguesAreRight) {
  for (int64_t rows : {1, 7, 70}) {
    for (Activation activation :
         {Activation::kNone, Activation::kRelu, Activation::kSilu, Activation::kGelu}) {
      for (bool bias : {false, true}) {
        for (bool to_f32 : {false, true}) Check(*this, rows, 100, 48, {activation, bias, false, to_f32});
      }
    }
    for (bool bias : {false, true}) Check(*this, rows, 100, 48, {Activation::kNone, bias, true, true});
  }
}

TEST_P(DeviceSuite, WarmedUpProductsAreRight) {
  for (int64_t rows : {64, 200, 300}) {
    for (Activation activation :
         {Activation::kNone, Activation::kRelu, Activation::kSilu, Activation::kGelu}) {
      for (bool bias : {false, true}) {
        for (bool to_f32 : {false, true})
          Check(*this, rows, 192, 96, {activation, bias, false, to_f32}, true);
      }
    }
    for (bool bias : {false, true}) Check(*this, rows, 192, 96, {Activation::kNone, bias, true, true}, true);
  }
  Check(*this, 130, 100, 50, {.to_f32 = true}, true);
}

TEST_P(DeviceSuite, StackedPartsOfDifferentEncodingsAreOneMatrix) {
  // q|k|v of 5, 70 and 3 rows, stored as f32, bf16 and f32.
  const int64_t k = 40;
  const std::vector<double> weight = Random(78 * k);
  std::vector<double> rounded = weight;
  for (double& value : rounded) value = RoundTo(DType::kBF16, value);
  const auto rows_of = [k](const std::vector<double>& all, int64_t first, int64_t n) {
    return std::vector<double>(all.begin() + first * k, all.begin() + (first + n) * k);
  };
  const std::vector<uint8_t> q = Encode(DType::kF32, rows_of(rounded, 0, 5));
  const std::vector<uint8_t> key = Encode(DType::kBF16, rows_of(rounded, 5, 70));
  const std::vector<uint8_t> v = Encode(DType::kF32, rows_of(rounded, 75, 3));
  const std::vector<TensorView> parts = {
      {"q", Encoding::kF32, {5, k}, q.data(), static_cast<int64_t>(q.size())},
      {"k", Encoding::kBF16, {70, k}, key.data(), static_cast<int64_t>(key.size())},
      {"v", Encoding::kF32, {3, k}, v.data(), static_cast<int64_t>(v.size())}};
  PackedMatrix plan = device_->PlanMatrix(parts, WeightMode::kExpanded).value();
  EXPECT_EQ(plan.n, 78);
  EXPECT_EQ(plan.k, k);
  std::vector<uint8_t> packed(static_cast<size_t>(plan.size_bytes));
  ASSERT_TRUE(device_->PackMatrix(parts, plan, packed.data()).ok());
  plan.data = UploadArray(packed);

  const std::vector<double> in = Random(3 * k);
  GemmArgs args;
  args.rows = 3;
  args.in = UploadT(in);
  args.out = Allocate(3 * 78 * 4);
  device_->Gemm(stream_, plan, args);
  ExpectClose(DownloadF32(args.out, 3 * 78), reference::Product(in, rounded, {}, 3, 78, k, Activation::kNone),
              {1e-4, 1e-5}, "stacked parts");
}

TEST_P(DeviceSuite, SlicesMultiplyAsTheWholeDoes) {
  constexpr int64_t kRows = 5;
  constexpr int64_t kColumns = 300;
  constexpr int64_t kInner = 96;
  const PackedMatrix whole = UploadMatrix(Random(kColumns * kInner), kColumns, kInner);
  GemmArgs args;
  args.rows = kRows;
  args.in = UploadT(Random(kRows * kInner));
  args.out = Allocate(kRows * kColumns * 4);
  device_->Gemm(stream_, whole, args);
  const std::vector<double> all = DownloadF32(args.out, kRows * kColumns);

  for (const auto& [first, n] : {std::pair<int64_t, int64_t>{0, kColumns}, {64, 128}, {128, 172}}) {
    const absl::StatusOr<PackedMatrix> slice = device_->SliceMatrix(whole, first, n);
    ASSERT_TRUE(slice.ok()) << slice.status();
    EXPECT_EQ(slice->n, n);
    device_->Gemm(stream_, *slice, args);
    std::vector<double> want;
    for (int64_t row = 0; row < kRows; ++row) {
      want.insert(want.end(), all.begin() + row * kColumns + first, all.begin() + row * kColumns + first + n);
    }
    // The same sums of the same products: a device may order them otherwise in another shape.
    ExpectClose(DownloadF32(args.out, kRows * n), want, {1e-4, 1e-5}, absl::StrCat("slice at ", first));
  }
  EXPECT_THAT(std::string(device_->SliceMatrix(whole, 7, 20).status().message()), HasSubstr("not at 7"));
}

TEST_P(DeviceSuite, MatricesThatCannotBeMultipliedAreRefusedByName) {
  const TensorView vector{"model.norm", Encoding::kF32, {64}, nullptr, 256};
  EXPECT_THAT(std::string(device_->PlanMatrix({vector}, WeightMode::kExpanded).status().message()),
              HasSubstr("model.norm is not a matrix"));
  const TensorView a{"a", Encoding::kF32, {4, 64}, nullptr, 1024};
  const TensorView b{"b", Encoding::kF32, {4, 32}, nullptr, 512};
  EXPECT_THAT(std::string(device_->PlanMatrix({a, b}, WeightMode::kExpanded).status().message()),
              HasSubstr("b has rows of 32"));
  const TensorView ragged{"ragged", Encoding::kQ8_0, {4, 33}, nullptr, 136};
  EXPECT_THAT(std::string(device_->PlanMatrix({ragged}, WeightMode::kExpanded).status().message()),
              HasSubstr("Q8_0"));
}

}  // namespace
}  // namespace spillway::device
