#include "engine/device/cuda/matrix_layout.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/device/cuda/packed_matrix.h"
#include "engine/device/matrix_parts.h"
#include "engine/device/narrowing.h"

namespace spillway::device::cuda {
namespace {

// Slices begin at 16 bytes whatever the length of a row.
constexpr int64_t kSliceRows = 8;

// Where the parts of a packed matrix lie. REQUIRES: at most kPackedPartsMax.
PackedDirectory DirectoryOf(absl::Span<const TensorView> parts, int64_t k) {
  PackedDirectory directory{};
  int64_t offset_bytes = kPackedAlignment;
  int64_t first = 0;
  for (const TensorView& part : parts) {
    const EncodingInfo& info = InfoOf(part.encoding);
    PackedPart& entry = directory.parts[directory.n_parts++];
    entry.offset_bytes = offset_bytes;
    entry.row_bytes = EncodedBytes(part.encoding, k);
    entry.first = static_cast<int32_t>(first);
    const bool plain = IsPlain(part.encoding);
    entry.block_runs = plain ? 1 : info.block_elements / packed::kRunElements;
    entry.block_bytes = plain ? info.block_bytes * packed::kRunElements : info.block_bytes;
    entry.encoding = part.encoding;
    first += part.shape[0];
    offset_bytes += part.shape[0] * entry.row_bytes;
    offset_bytes = (offset_bytes + kPackedAlignment - 1) / kPackedAlignment * kPackedAlignment;
  }
  return directory;
}

}  // namespace

Encoding EncodingOf(DType type) {
  return type == DType::kF32 ? Encoding::kF32 : type == DType::kF16 ? Encoding::kF16 : Encoding::kBF16;
}

absl::StatusOr<PackedMatrix> PlanRows(absl::Span<const TensorView> parts, WeightMode mode, DType type) {
  SPILLWAY_ASSIGN_OR_RETURN(const StackedShape shape, ShapeOfParts(parts));
  PackedMatrix plan;
  plan.n = shape.n;
  plan.k = shape.k;
  plan.encoding = EncodingOf(type);
  plan.size_bytes = shape.n * shape.k * SizeOf(type);
  const auto packed = std::find_if(parts.begin(), parts.end(),
                                   [](const TensorView& part) { return !IsPlain(part.encoding); });
  if (mode == WeightMode::kExpanded || packed == parts.end()) return plan;
  if (parts.size() > kPackedPartsMax) {
    return absl::InvalidArgumentError(absl::StrCat(packed->name, ": more than ", kPackedPartsMax,
                                                   " matrices are stacked; load them expanded "
                                                   "(--weights=expanded)"));
  }
  const PackedDirectory directory = DirectoryOf(parts, shape.k);
  const PackedPart& last = directory.parts[directory.n_parts - 1];
  plan.encoding = packed->encoding;
  plan.size_bytes = last.offset_bytes + (shape.n - last.first) * last.row_bytes;
  return plan;
}

void PackRows(absl::Span<const TensorView> parts, const PackedMatrix& plan, DType type, void* packed) {
  uint8_t* out = static_cast<uint8_t*>(packed);
  if (!IsPlain(plan.encoding)) {
    const PackedDirectory directory = DirectoryOf(parts, plan.k);
    std::memset(out, 0, static_cast<size_t>(plan.size_bytes));
    std::memcpy(out, &directory, sizeof(directory));
    for (size_t i = 0; i < parts.size(); ++i) {
      std::memcpy(out + directory.parts[i].offset_bytes, parts[i].data,
                  static_cast<size_t>(parts[i].shape[0] * directory.parts[i].row_bytes));
    }
    return;
  }
  std::vector<float> row(static_cast<size_t>(plan.k));
  for (const TensorView& part : parts) {
    const int64_t encoded_bytes = EncodedBytes(part.encoding, plan.k);
    for (int64_t i = 0; i < part.shape[0]; ++i) {
      DecodeToF32(part.encoding, part.data + i * encoded_bytes, plan.k, row.data());
      NarrowFromF32(type, row.data(), plan.k, out);
      out += plan.k * SizeOf(type);
    }
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
    return slice;
  }
  const int64_t row_bytes = matrix.size_bytes / matrix.n;
  slice.data = matrix.data + first * row_bytes;
  slice.n = n;
  slice.size_bytes = n * row_bytes;
  return slice;
}

}  // namespace spillway::device::cuda
