#include "engine/device/cuda/matrix_layout.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/device/arithmetic/packed_blocks.h"
#include "engine/device/cuda/address.h"
#include "engine/device/cuda/packed_matrix.h"
#include "engine/device/matrix_parts.h"

namespace spillway::device::cuda {
namespace {

// Slices begin at 16 bytes whatever the length of a row.
constexpr int64_t kSliceRows = 8;

int64_t Aligned(int64_t bytes) {
  return (bytes + kPackedAlignment - 1) / kPackedAlignment * kPackedAlignment;
}

// Rather than expanded: products of few rows read it once, as it is.
bool IsBestPacked(absl::Span<const TensorView> parts, DType type) {
  return type == DType::kBF16 && parts.size() <= kMatrixPartsMax &&
         std::all_of(parts.begin(), parts.end(), [](const TensorView& part) {
           return !IsPlain(part.encoding) && part.shape[1] % kPackedSpanElements == 0;
         });
}

}  // namespace

absl::StatusOr<PackedMatrix> PlanRows(absl::Span<const TensorView> parts, WeightMode mode, DType type) {
  SPILLWAY_ASSIGN_OR_RETURN(PackedMatrix plan, PlanExpandedRows(parts, type));
  if (mode == WeightMode::kExpanded || (mode == WeightMode::kAuto && !IsBestPacked(parts, type))) return plan;
  const auto packed = std::find_if(parts.begin(), parts.end(),
                                   [](const TensorView& part) { return !IsPlain(part.encoding); });
  if (packed == parts.end()) return plan;
  if (parts.size() > kMatrixPartsMax) {
    return absl::InvalidArgumentError(absl::StrCat(packed->name, ": more than ", kMatrixPartsMax,
                                                   " matrices are stacked; load them expanded "
                                                   "(--weights=expanded)"));
  }
  plan.encoding = packed->encoding;
  int64_t first = 0;
  for (const TensorView& part : parts) {
    plan.parts[static_cast<size_t>(plan.n_parts++)] = {first, part.encoding};
    first += part.shape[0];
  }
  const PackedRows rows = RowsOf(plan);
  const PackedPart& last = rows.parts[rows.n_parts - 1];
  plan.size_bytes = last.offset_bytes + (plan.n - last.first) * last.row_bytes;
  return plan;
}

absl::StatusOr<PackedMatrix> PlanTableRows(const TensorView& table, WeightMode mode, DType type) {
  return PlanRows({&table, 1}, mode == WeightMode::kExpanded ? mode : WeightMode::kPacked, type);
}

void PackRows(absl::Span<const TensorView> parts, const PackedMatrix& plan, DType type, void* packed) {
  if (IsPlain(plan.encoding)) return PackExpandedRows(parts, type, packed);
  uint8_t* out = static_cast<uint8_t*>(packed);
  const PackedRows rows = RowsOf(plan);
  std::memset(out, 0, static_cast<size_t>(plan.size_bytes));
  for (size_t i = 0; i < parts.size(); ++i) {
    std::memcpy(out + rows.parts[i].offset_bytes, parts[i].data,
                static_cast<size_t>(parts[i].shape[0] * rows.parts[i].row_bytes));
  }
}

absl::StatusOr<PackedMatrix> SliceRows(const PackedMatrix& matrix, int64_t first, int64_t n) {
  SPILLWAY_CHECK(first >= 0 && n > 0 && first + n <= matrix.n);
  if (first % kSliceRows != 0) {
    return absl::InvalidArgumentError(absl::StrCat("a matrix of the CUDA device is cut at multiples of ",
                                                   kSliceRows, " output features, not at ", first));
  }
  PackedMatrix slice = matrix;
  if (!IsPlain(matrix.encoding)) {
    slice.first += first;
    slice.n = n;
    slice.is_table = matrix.is_table && n == matrix.n;
    return slice;
  }
  const int64_t row_bytes = matrix.size_bytes / matrix.n;
  slice.data = matrix.data + first * row_bytes;
  slice.n = n;
  slice.size_bytes = n * row_bytes;
  return slice;
}

PackedRows RowsOf(const PackedMatrix& matrix) {
  PackedRows rows;
  rows.data = At<const uint8_t>(matrix.data);
  rows.first = matrix.first;
  rows.n = matrix.n;
  rows.k = matrix.k;
  rows.n_parts = matrix.n_parts;
  int64_t offset_bytes = 0;
  for (int32_t i = 0; i < matrix.n_parts; ++i) {
    const MatrixPart& part = matrix.parts[static_cast<size_t>(i)];
    const EncodingInfo& info = InfoOf(part.encoding);
    const bool plain = IsPlain(part.encoding);
    PackedPart& to = rows.parts[i];
    to.offset_bytes = offset_bytes;
    to.row_bytes = EncodedBytes(part.encoding, matrix.k);
    to.first = static_cast<int32_t>(part.first);
    to.block_runs = plain ? 1 : info.block_elements / packed::kRunElements;
    to.block_bytes = plain ? info.block_bytes * packed::kRunElements : info.block_bytes;
    to.encoding = part.encoding;
    if (i + 1 == matrix.n_parts) break;
    const int64_t n = matrix.parts[static_cast<size_t>(i) + 1].first - part.first;
    offset_bytes = Aligned(offset_bytes + n * to.row_bytes);
  }
  return rows;
}

}  // namespace spillway::device::cuda
