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

TEST_P(DeviceSuite, ProductsThatDifferInOneThingAreRight) {
  for (int round = 0; round < 2; ++round) {
    for (const auto& [rows, n, k] : {std::tuple{8, 32, 64}, {16, 32, 64}, {8, 64, 64}, {8, 32, 128}}) {
      Check(*this, rows, n, k, {.to_f32 = true});
    }
    Check(*this, 8, 32, 64, {.to_f32 = false});
    Check(*this, 8, 32, 64, {.bias = true, .to_f32 = true});
    Check(*this, 8, 32, 64, {.activation = Activation::kRelu, .to_f32 = true});
    Check(*this, 8, 32, 64, {.accumulate = true, .to_f32 = true});
  }
}

// More rows of f32 sums than a device may have room for at a time.
TEST_P(DeviceSuite, LargeProductsHaveTheirEpilogue) {
  Check(*this, 300, 300, 32, {.activation = Activation::kGelu, .bias = true});
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
    if (n <= 128) continue;
    // A slice of it, too.
    const PackedMatrix last = device_->SliceMatrix(*slice, 128, n - 128).value();
    device_->Gemm(stream_, last, args);
    want.clear();
    for (int64_t row = 0; row < kRows; ++row) {
      want.insert(want.end(), all.begin() + row * kColumns + first + 128,
                  all.begin() + row * kColumns + first + n);
    }
    ExpectClose(DownloadF32(args.out, kRows * (n - 128)), want, {1e-4, 1e-5}, "a slice's slice");
  }
  EXPECT_THAT(std::string(device_->SliceMatrix(whole, 7, 20).status().message()), HasSubstr("not at 7"));
}

// Multiplies rows by the packed parts, whole and by a slice, with and without an epilogue.
void CheckPacked(DeviceSuite& suite, const std::vector<std::pair<Encoding, int64_t>>& encodings, int64_t k,
                 const std::vector<int64_t>& heights = {1, 2, 3, 4, 5, 8, 9, 21, 32, 33, 75, 128, 129}) {
  const PackedParts parts = suite.MakePackedParts(encodings, k);
  auto plan = suite.device_->PlanMatrix(parts.views, WeightMode::kPacked);
  if (!plan.ok()) {
    EXPECT_THAT(std::string(plan.status().message()), HasSubstr("--weights=expanded"));
    return;  // a device that only multiplies expanded weights
  }
  int64_t file_bytes = 0;
  for (const TensorView& view : parts.views) file_bytes += view.size_bytes;
  EXPECT_LE(plan->size_bytes, file_bytes + 2048);
  std::vector<uint8_t> packed(static_cast<size_t>(plan->size_bytes));
  ASSERT_TRUE(suite.device_->PackMatrix(parts.views, *plan, packed.data()).ok());
  plan->data = suite.UploadArray(packed);
  // A product in T may round weights, of deviation 0.3, to T first: errors of up to a unit, uniform, in each
  // of k products with inputs of deviation 1. Four deviations of their sum and more.
  const double unit = UnitOf(suite.type());
  const Tolerance tolerance{1e-4 + 5 * 0.3 * 0.58 * unit * std::sqrt(static_cast<double>(k)),
                            1e-5 + 2 * unit};
  for (const int64_t rows : heights) {
    const std::vector<double> in = suite.Random(rows * k);
    const std::vector<double> bias = suite.Random(plan->n);
    GemmArgs args;
    args.rows = static_cast<int32_t>(rows);
    args.in = suite.UploadT(in);
    args.out = suite.Allocate(rows * plan->n * 4);
    suite.device_->Gemm(suite.stream_, *plan, args);
    const std::string what = absl::StrCat(rows, " rows by packed [", plan->n, ", ", k, "]");
    ExpectClose(suite.DownloadF32(args.out, rows * plan->n),
                reference::Product(in, parts.values, {}, rows, plan->n, k, Activation::kNone), tolerance,
                what);

    args.bias = suite.UploadF32(bias);
    args.activation = Activation::kSilu;
    args.out_dtype = suite.type();
    suite.device_->Gemm(suite.stream_, *plan, args);
    ExpectClose(suite.DownloadT(args.out, rows * plan->n),
                reference::Product(in, parts.values, bias, rows, plan->n, k, Activation::kSilu), tolerance,
                what + " with an epilogue");

    if (plan->n <= 16) continue;
    // A slice of a slice, which is counted from that one's first row.
    const PackedMatrix most = suite.device_->SliceMatrix(*plan, 8, plan->n - 8).value();
    const PackedMatrix slice = suite.device_->SliceMatrix(most, 8, plan->n - 16).value();
    args = {};
    args.rows = static_cast<int32_t>(rows);
    args.in = suite.UploadT(in);
    args.out = suite.UploadF32(std::vector<double>(static_cast<size_t>(rows * slice.n), 1.0));
    args.accumulate = true;
    suite.device_->Gemm(suite.stream_, slice, args);
    const std::vector<double> sliced(parts.values.begin() + 16 * k, parts.values.end());
    std::vector<double> want = reference::Product(in, sliced, {}, rows, slice.n, k, Activation::kNone);
    for (double& value : want) value += 1;
    ExpectClose(suite.DownloadF32(args.out, rows * slice.n), want, tolerance, what + ", a slice, added");
  }
}

constexpr Encoding kPackedEncodings[] = {Encoding::kQ8_0, Encoding::kQ4_0, Encoding::kQ4_1, Encoding::kQ5_0,
                                         Encoding::kQ5_1, Encoding::kQ4_K, Encoding::kQ5_K, Encoding::kQ6_K};

TEST_P(DeviceSuite, PackedWeightsMultiplyAsWhatTheyEncode) {
  for (const Encoding encoding : kPackedEncodings) {
    CheckPacked(*this, {{encoding, 21}}, 256);
    CheckPacked(*this, {{encoding, 3}}, 1024);
    // More of a row than what is read at a time, and rows that do not end at a multiple of 16 bytes.
    CheckPacked(*this, {{encoding, 37}}, 9 * 256);
  }
}

// So many that a device has work for each of its processors, and rows so long that what a device has for
// reading them is used again and again.
TEST_P(DeviceSuite, ManyAndLongPackedRowsMultiplyAsWhatTheyEncode) {
  for (const Encoding encoding : kPackedEncodings) CheckPacked(*this, {{encoding, 5}}, 27 * 256, {1, 9});
  for (const Encoding encoding : {Encoding::kQ4_0, Encoding::kQ8_0, Encoding::kQ4_K, Encoding::kQ6_K}) {
    CheckPacked(*this, {{encoding, 2600}}, 256, {1, 20});
  }
  CheckPacked(*this, {{Encoding::kQ4_K, 2600}}, 13 * 256, {2});
}

// As long as weights are multiplied as they are packed: expanded ones are rounded to T.
TEST_P(DeviceSuite, ARowOfAPackedProductIsTheSameWhateverComesWithIt) {
  constexpr int64_t kInner = 3 * 256, kRows = 128;
  for (const int64_t features : {64, 2592}) {
    for (const Encoding encoding : {Encoding::kQ5_0, Encoding::kQ4_K, Encoding::kQ6_K}) {
      const PackedParts parts = MakePackedParts({{encoding, features - 32}, {Encoding::kQ8_0, 32}}, kInner);
      const auto plan = device_->PlanMatrix(parts.views, WeightMode::kPacked);
      if (!plan.ok() || type() != DType::kBF16) return;
      PackedMatrix matrix = *plan;
      std::vector<uint8_t> packed(static_cast<size_t>(matrix.size_bytes));
      ASSERT_TRUE(device_->PackMatrix(parts.views, matrix, packed.data()).ok());
      matrix.data = UploadArray(packed);
      GemmArgs args;
      args.in = UploadT(Random(kRows * kInner));
      args.out = Allocate(kRows * features * 4);
      std::vector<uint8_t> alone;
      for (const int32_t rows : {1, 8, 9, 17, 33, 128}) {
        args.rows = rows;
        device_->Gemm(stream_, matrix, args);
        const std::vector<uint8_t> first = Download(args.out, features * 4);
        if (alone.empty()) alone = first;
        EXPECT_EQ(first, alone) << "beside " << rows - 1;
      }
    }
  }
}

// More features than a device may have room for at a time, expanded.
TEST_P(DeviceSuite, WidePackedWeightsMultiplyAsWhatTheyEncode) {
  CheckPacked(*this, {{Encoding::kQ8_0, 150}}, 1024);
}

TEST_P(DeviceSuite, PackedPartsOfDifferentEncodingsAreOneMatrix) {
  CheckPacked(*this, {{Encoding::kQ4_K, 24}, {Encoding::kQ4_K, 8}, {Encoding::kQ6_K, 9}}, 512);
  CheckPacked(*this, {{Encoding::kF32, 5}, {Encoding::kQ8_0, 13}, {Encoding::kBF16, 2}, {Encoding::kF16, 4}},
              96);
}

// More features than a device expands at a time, so that the bias of a piece begins inside the whole's.
TEST_P(DeviceSuite, PiecesOfPackedWeightsTakeTheirShareOfTheBias) {
  constexpr int64_t kFeatures = 1403, kInner = 96, kRows = 9;
  const PackedParts parts = MakePackedParts({{Encoding::kQ8_0, kFeatures}}, kInner);
  const auto packed = device_->PlanMatrix(parts.views, WeightMode::kPacked);
  PackedMatrix matrix =
      packed.ok() ? *packed : device_->PlanMatrix(parts.views, WeightMode::kExpanded).value();
  std::vector<uint8_t> bytes(static_cast<size_t>(matrix.size_bytes));
  ASSERT_TRUE(device_->PackMatrix(parts.views, matrix, bytes.data()).ok());
  matrix.data = UploadArray(bytes);
  const std::vector<double> in = Random(kRows * kInner);
  const std::vector<double> bias = Random(kFeatures);
  std::vector<double> want =
      reference::Product(in, parts.values, bias, kRows, kFeatures, kInner, Activation::kNone);
  const double unit = UnitOf(type());
  const Tolerance tolerance{1e-4 + 5 * 0.3 * 0.58 * unit * std::sqrt(static_cast<double>(kInner)),
                            1e-5 + 2 * unit};
  GemmArgs args;
  args.rows = kRows;
  args.in = UploadT(in);
  args.bias = UploadF32(bias);
  args.out = UploadF32(std::vector<double>(static_cast<size_t>(kRows * kFeatures), 1.0));
  device_->Gemm(stream_, matrix, args);
  ExpectClose(DownloadF32(args.out, kRows * kFeatures), want, tolerance, "with a bias");
  args.accumulate = true;
  device_->Gemm(stream_, matrix, args);
  for (double& value : want) value *= 2;
  ExpectClose(DownloadF32(args.out, kRows * kFeatures), want, {2 * tolerance.absolute, tolerance.relative},
              "with a bias, added");
}

// A bias that begins anywhere in a longer one, as that of a slice does.
TEST_P(DeviceSuite, ABiasMayBeginAtAnyElement) {
  constexpr int64_t kRows = 5, kFeatures = 40, kInner = 32;
  const std::vector<double> in = Random(kRows * kInner);
  const std::vector<double> weight = Random(kFeatures * kInner, 0.3);
  const std::vector<double> bias = Random(kFeatures + 3);
  const PackedMatrix matrix = UploadMatrix(weight, kFeatures, kInner);
  const DevicePtr whole_bias = UploadF32(bias);
  for (const int64_t first : {1, 2, 3}) {
    GemmArgs args;
    args.rows = kRows;
    args.in = UploadT(in);
    args.bias = whole_bias + first * 4;
    args.out = Allocate(kRows * kFeatures * 4);
    std::vector<double> want = reference::Product(
        in, weight, std::vector<double>(bias.begin() + first, bias.begin() + first + kFeatures), kRows,
        kFeatures, kInner, Activation::kNone);
    device_->Gemm(stream_, matrix, args);
    ExpectClose(DownloadF32(args.out, kRows * kFeatures), want, {1e-4, 1e-5}, absl::StrCat("from ", first));
    args.accumulate = true;
    device_->Gemm(stream_, matrix, args);
    for (double& value : want) value *= 2;
    ExpectClose(DownloadF32(args.out, kRows * kFeatures), want, {2e-4, 1e-5},
                absl::StrCat("from ", first, ", added"));
  }
}

// Many rows by packed weights take what the device has for itself, which all of its streams share.
TEST_P(DeviceSuite, ProductsOfTwoStreamsLeaveEachOtherAlone) {
  constexpr int64_t kInner = 512, kRows = 130;
  struct Side {
    StreamId stream;
    PackedMatrix matrix;
    GemmArgs args;
    std::vector<uint8_t> alone;
  };
  std::vector<Side> sides(2);
  for (Side& side : sides) {
    const PackedParts parts = MakePackedParts({{Encoding::kQ4_K, 48}}, kInner);
    const auto packed = device_->PlanMatrix(parts.views, WeightMode::kPacked);
    side.matrix = packed.ok() ? *packed : device_->PlanMatrix(parts.views, WeightMode::kExpanded).value();
    std::vector<uint8_t> bytes(static_cast<size_t>(side.matrix.size_bytes));
    ASSERT_TRUE(device_->PackMatrix(parts.views, side.matrix, bytes.data()).ok());
    side.matrix.data = UploadArray(bytes);
    side.stream = device_->CreateStream("side");
    side.args.rows = kRows;
    side.args.in = UploadT(Random(kRows * kInner));
    side.args.out = Allocate(kRows * side.matrix.n * 4);
    device_->Gemm(stream_, side.matrix, side.args);
    side.alone = Download(side.args.out, kRows * side.matrix.n * 4);
  }
  for (int round = 0; round < 24; ++round) {
    // Out of step, so that neither stream's work has always ended when the other's begins.
    for (Side& side : sides) device_->Fill(stream_, side.args.out, 0, kRows * side.matrix.n * 4);
    device_->Record(event_, stream_);
    for (const Side& side : sides) device_->Wait(side.stream, event_);
    for (int i = 0; i < 1 + round % 3; ++i) device_->Gemm(sides[0].stream, sides[0].matrix, sides[0].args);
    device_->Gemm(sides[1].stream, sides[1].matrix, sides[1].args);
    for (const Side& side : sides) {
      const EventId done = device_->CreateEvent();
      device_->Record(done, side.stream);
      device_->Wait(stream_, done);
    }
    for (Side& side : sides) {
      EXPECT_EQ(Download(side.args.out, kRows * side.matrix.n * 4), side.alone) << "round " << round;
    }
  }
}

// As streamed weights are: copies bring them in a stream of their own into memory that the last product read,
// and events order both. Kernels that begin early, and read weights first, must not be too early.
TEST_P(DeviceSuite, WeightsAreReadBehindTheEventOfTheCopyThatBringsThem) {
  constexpr int64_t kFeatures = 640, kInner = 1024, kRows = 2;  // more than copies that are kernels move
  const StreamId copies = device_->CreateStream("copies");
  const EventId arrived = device_->CreateEvent(), read = device_->CreateEvent();
  std::vector<std::vector<uint8_t>> contents;
  PackedMatrix matrix;
  for (const int seed : {0, 1}) {
    (void)seed;
    const PackedParts parts = MakePackedParts({{Encoding::kQ4_K, kFeatures}}, kInner);
    const auto packed = device_->PlanMatrix(parts.views, WeightMode::kPacked);
    matrix = packed.ok() ? *packed : device_->PlanMatrix(parts.views, WeightMode::kExpanded).value();
    contents.emplace_back(static_cast<size_t>(matrix.size_bytes));
    ASSERT_TRUE(device_->PackMatrix(parts.views, matrix, contents.back().data()).ok());
    ASSERT_TRUE(device_->RegisterHost(contents.back().data(), matrix.size_bytes).ok());
  }
  matrix.data = Allocate(matrix.size_bytes);
  GemmArgs product;
  product.rows = kRows;
  product.in = UploadT(Random(kRows * kInner));
  product.out = Allocate(kRows * kFeatures * 4);
  AddNormArgs norm;  // a kernel right behind the wait, as a layer has it
  norm.rows = kRows;
  norm.d = static_cast<int32_t>(kInner);
  norm.hidden = UploadF32(Random(kRows * kInner));
  norm.gain = UploadF32(Random(kInner));
  norm.out = Allocate(kRows * kInner * 4);
  std::vector<std::vector<uint8_t>> alone(2);
  for (size_t i = 0; i < 2; ++i) {
    device_->CopyIn(stream_, matrix.data, contents[i].data(), matrix.size_bytes);
    device_->Gemm(stream_, matrix, product);
    alone[i] = Download(product.out, kRows * kFeatures * 4);
  }
  ASSERT_NE(alone[0], alone[1]);
  const int rounds = 400 / GetParam().one_in / (GetParam().one_in > 1 ? 5 : 1);
  for (int round = 0; round < rounds; ++round) {
    const size_t i = static_cast<size_t>(round) % 2;
    device_->Record(read, stream_);
    device_->Wait(copies, read);
    device_->CopyIn(copies, matrix.data, contents[i].data(), matrix.size_bytes);
    device_->Record(arrived, copies);
    device_->AddNorm(stream_, norm);  // under way meanwhile
    device_->Wait(stream_, arrived);
    device_->AddNorm(stream_, norm);
    device_->Gemm(stream_, matrix, product);
    ASSERT_EQ(Download(product.out, kRows * kFeatures * 4), alone[i]) << "round " << round;
  }
  for (std::vector<uint8_t>& bytes : contents) device_->UnregisterHost(bytes.data());
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
