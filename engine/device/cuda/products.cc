#include "engine/device/cuda/products.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/device/cuda/address.h"
#include "engine/device/cuda/ceil_divide.h"
#include "engine/device/cuda/cuda_error.h"
#include "engine/device/cuda/kernels.h"
#include "engine/device/cuda/matrix_layout.h"
#include "engine/device/matrix_parts.h"

namespace spillway::device::cuda {
namespace {

constexpr int64_t kVectorBytes = 16;
// Pieces of a matrix begin at multiples of so many output features, so that what they write and their bias
// are aligned to 16 bytes as the whole's are; where there is room at multiples of a tile of the library's.
constexpr int64_t kPieceFeatures = 8;
constexpr int64_t kLibraryTileFeatures = 128;

// Activations that cuBLASLt applies to the f32 sums themselves, as documented; GELU's form is not.
bool IsFusable(Activation activation) {
  return activation == Activation::kNone || activation == Activation::kRelu;
}

MatmulArgs ProductOf(const PackedMatrix& weight, const GemmArgs& args) {
  MatmulArgs product;
  product.rows = args.rows;
  product.n = weight.n;
  product.k = weight.k;
  product.in = At<const void>(args.in);
  product.weight = At<const void>(weight.data);
  product.out = At<void>(args.out);
  product.out_stride = weight.n;
  product.out_type = args.out_dtype;
  product.bias = At<const float>(args.bias);
  product.relu = args.activation == Activation::kRelu;
  product.accumulate = args.accumulate;
  return product;
}

PackedProductArgs PackedProductOf(const PackedMatrix& weight, const GemmArgs& args) {
  PackedProductArgs product;
  product.weight = RowsOf(weight);
  product.rows = args.rows;
  product.in = At<const void>(args.in);
  product.out = At<void>(args.out);
  product.bias = At<const float>(args.bias);
  product.activation = args.activation;
  product.out_is_f32 = args.out_dtype == DType::kF32;
  product.accumulate = args.accumulate;
  return product;
}

// So many output features of a matrix of `n` at a time, of which `at_most` have room: pieces are alike, as
// the last one, were it small, would leave most of the device idle.
int64_t FeaturesAtOnce(int64_t n, int64_t at_most) {
  if (at_most == 0 || at_most >= n) return std::min(at_most, n);
  const int64_t unit =
      at_most >= kLibraryTileFeatures ? kLibraryTileFeatures : std::min(at_most, kPieceFeatures);
  at_most -= at_most % unit;
  const int64_t pieces = CeilDivide(n, at_most);
  return CeilDivide(CeilDivide(n, pieces), unit) * unit;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Products>> Products::Create(DType type, int64_t workspace_bytes, void* scratch,
                                                           int64_t scratch_bytes, int32_t processors) {
  std::unique_ptr<Products> products(new Products(type, scratch, scratch_bytes, processors));
  SPILLWAY_ASSIGN_OR_RETURN(products->matmul_, Matmul::Create(type, workspace_bytes));
  return products;
}

absl::Status Products::Multiply(const PackedMatrix& weight, const GemmArgs& args, KernelStream stream) {
  if (args.rows == 0) return absl::OkStatus();
  if (!IsPlain(weight.encoding)) return MultiplyPacked(weight, args, stream);
  return Run(ProductOf(weight, args), args.activation,
             absl::MakeSpan(scratch_, static_cast<size_t>(scratch_bytes_)), stream)
      .status();
}

absl::Status Products::MultiplyPacked(const PackedMatrix& weight, const GemmArgs& args, KernelStream stream) {
  const PackedProductArgs product = PackedProductOf(weight, args);
  if (HasPackedTensorProduct(type_, product)) {
    return CudaStatus(LaunchPackedTensorProduct(product, processors_, stream),
                      "multiplying by packed weights");
  }
  if (args.rows <= kPackedProductRowsMax) {
    return CudaStatus(LaunchPackedProduct(type_, product, stream), "multiplying by packed weights");
  }
  if (IsFusable(args.activation)) {
    SPILLWAY_ASSIGN_OR_RETURN(const bool done, MultiplyPieces(weight, args, scratch_bytes_, stream));
    if (done) return absl::OkStatus();
  }
  return MultiplyPieces(weight, args, ExpandedBytesBesideSums(), stream).status();
}

absl::StatusOr<bool> Products::MultiplyPieces(const PackedMatrix& weight, const GemmArgs& args,
                                              int64_t expanded_bytes, KernelStream stream) {
  const int64_t features_at_once = FeaturesAtOnce(weight.n, expanded_bytes / (weight.k * SizeOf(type_)));
  SPILLWAY_CHECK_MSG(features_at_once > 0, "the scratch holds no row of these weights");
  const absl::Span<uint8_t> sums(scratch_ + expanded_bytes,
                                 static_cast<size_t>(scratch_bytes_ - expanded_bytes));
  PackedRows rows = RowsOf(weight);
  for (int64_t first = 0; first < weight.n; first += features_at_once) {
    rows.first = weight.first + first;
    rows.n = std::min(features_at_once, weight.n - first);
    SPILLWAY_RETURN_IF_ERROR(CudaStatus(LaunchExpand(type_, rows, scratch_, stream), "expanding weights"));
    MatmulArgs part = ProductOf(weight, args);
    part.n = rows.n;
    part.weight = scratch_;
    part.out = At<uint8_t>(args.out) + first * SizeOf(args.out_dtype);
    if (part.bias != nullptr) part.bias += first;
    SPILLWAY_ASSIGN_OR_RETURN(const bool done, Run(part, args.activation, sums, stream));
    if (!done) return false;
  }
  return true;
}

absl::StatusOr<bool> Products::Run(const MatmulArgs& product, Activation activation, absl::Span<uint8_t> sums,
                                   KernelStream stream) {
  if (IsFusable(activation)) {
    SPILLWAY_ASSIGN_OR_RETURN(const bool done, matmul_->Enqueue(product, stream.handle));
    if (done) return true;
  }
  if (sums.empty() && product.out_type != DType::kF32) return false;
  SPILLWAY_RETURN_IF_ERROR(RunThenFinish(product, activation, sums, stream));
  return true;
}

// The product as f32 sums, in place (and added to what is there, where that is wanted) where the output is
// f32; then bias and activation.
absl::Status Products::RunThenFinish(const MatmulArgs& product, Activation activation,
                                     absl::Span<uint8_t> sums, KernelStream stream) {
  const bool in_place = product.out_type == DType::kF32;
  const int64_t rows_of_sums = static_cast<int64_t>(sums.size()) / (product.n * int64_t{4});
  const int64_t rows_at_once = in_place ? product.rows : std::min(product.rows, rows_of_sums);
  SPILLWAY_CHECK_MSG(rows_at_once > 0, "the scratch holds no row of this product");
  for (int64_t first = 0; first < product.rows; first += rows_at_once) {
    uint8_t* const out =
        static_cast<uint8_t*>(product.out) + first * product.out_stride * SizeOf(product.out_type);
    MatmulArgs part = product;
    part.rows = std::min(rows_at_once, product.rows - first);
    part.in = static_cast<const uint8_t*>(product.in) + first * product.k * SizeOf(type_);
    part.out = in_place ? out : sums.data();
    part.out_stride = in_place ? product.out_stride : product.n;
    part.out_type = DType::kF32;
    part.bias = nullptr;
    part.relu = false;
    SPILLWAY_ASSIGN_OR_RETURN(const bool done, matmul_->Enqueue(part, stream.handle));
    if (!done) {
      return absl::UnimplementedError(absl::StrCat("cuBLASLt has no product of [", part.rows, ", ", part.k,
                                                   "] and [", part.n, ", ", part.k, "]T in ", NameOf(type_)));
    }
    EpilogueArgs epilogue;
    epilogue.rows = part.rows;
    epilogue.n = part.n;
    epilogue.sums = static_cast<const float*>(part.out);
    epilogue.sums_stride = part.out_stride;
    epilogue.bias = product.bias;
    epilogue.activation = activation;
    epilogue.out = out;
    epilogue.out_stride = product.out_stride;
    SPILLWAY_RETURN_IF_ERROR(
        CudaStatus(LaunchEpilogue(product.out_type, epilogue, stream), "finishing a product"));
  }
  return absl::OkStatus();
}

absl::Status Products::Prepare(const PackedMatrix& weight, int32_t rows) {
  GemmArgs args;
  args.rows = rows;
  if (IsPlain(weight.encoding)) return PrepareProduct(ProductOf(weight, args));
  // Few rows need no algorithm; many those of the pieces that are expanded, with sums beside them and
  // without.
  if (rows <= kPackedProductRowsMax || HasPackedTensorProduct(type_, PackedProductOf(weight, args))) {
    return absl::OkStatus();
  }
  for (const int64_t expanded_bytes : {scratch_bytes_, ExpandedBytesBesideSums()}) {
    const int64_t features_at_once = FeaturesAtOnce(weight.n, expanded_bytes / (weight.k * SizeOf(type_)));
    SPILLWAY_CHECK_MSG(features_at_once > 0, "the scratch holds no row of these weights");
    for (const int64_t n : {features_at_once, weight.n % features_at_once}) {
      MatmulArgs part = ProductOf(weight, args);
      part.weight = scratch_;
      part.n = n;
      if (n == 0) continue;
      SPILLWAY_RETURN_IF_ERROR(PrepareProduct(part));
      part.out_stride = n;  // of sums in scratch
      part.out_type = DType::kF32;
      SPILLWAY_RETURN_IF_ERROR(matmul_->Prepare(part));
    }
  }
  return absl::OkStatus();
}

absl::Status Products::PrepareProduct(MatmulArgs product) {
  for (const bool accumulate : {false, true}) {
    for (const DType out_type : {DType::kF32, type_}) {
      if (accumulate && out_type != DType::kF32) continue;
      product.out_type = out_type;
      product.accumulate = accumulate;
      product.bias = nullptr;
      SPILLWAY_RETURN_IF_ERROR(matmul_->Prepare(product));
      // Only whether there is a bias matters here, and where weights lie is aligned well enough.
      product.bias = static_cast<const float*>(product.weight);
      SPILLWAY_RETURN_IF_ERROR(matmul_->Prepare(product));
    }
  }
  return absl::OkStatus();
}

}  // namespace spillway::device::cuda
