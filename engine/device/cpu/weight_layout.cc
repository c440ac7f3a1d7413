#include "engine/device/cpu/weight_layout.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/device/cpu/kernels.h"
#include "engine/device/cpu/parallel.h"
#include "engine/device/matrix_parts.h"

namespace spillway::device {
namespace {

// oneDNN's blocks of k: 16 for f32, 32 for bf16.
int64_t PaddedK(DType type, int64_t k) {
  const int64_t block = type == DType::kF32 ? 16 : 32;
  return (k + block - 1) / block * block;
}

uint16_t RoundToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x40U);
  return static_cast<uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}

// Packs `columns` decoded rows of the matrix, [columns, k], into one panel; by stretches of k that stay in
// the first-level cache.
template <typename T, int64_t kGroup, typename Convert>
void PackPanel(const float* rows, int64_t columns, int64_t k, int64_t padded_k, T* panel,
               const Convert& convert) {
  constexpr int64_t kStretch = 64;
  for (int64_t begin = 0; begin < padded_k; begin += kStretch) {
    const int64_t end = std::min(begin + kStretch, padded_k);
    std::fill(panel + begin * kPanelColumns, panel + end * kPanelColumns, T{});
    for (int64_t column = 0; column < columns; ++column) {
      const float* row = rows + column * k;
      T* out = panel + column * kGroup;
      for (int64_t i = begin; i < std::min(end, k); ++i) {
        out[i / kGroup * kPanelColumns * kGroup + i % kGroup] = convert(row[i]);
      }
    }
  }
}

}  // namespace

int64_t PanelStride(DType type, int64_t k) { return PaddedK(type, k) * kPanelColumns; }

absl::StatusOr<PackedMatrix> PlanPanels(absl::Span<const TensorView> parts, WeightMode mode, DType type) {
  SPILLWAY_ASSIGN_OR_RETURN(const StackedShape shape, ShapeOfParts(parts));
  for (const TensorView& part : parts) {
    if (mode == WeightMode::kPacked && !IsPlain(part.encoding)) {
      return absl::InvalidArgumentError(absl::StrCat(
          part.name, ": the CPU device does not multiply ", std::string(InfoOf(part.encoding).name),
          " weights as they are packed; load them expanded (--weights=expanded)"));
    }
  }
  PackedMatrix plan;
  plan.n = shape.n;
  plan.k = shape.k;
  plan.encoding = type == DType::kF32 ? Encoding::kF32 : Encoding::kBF16;
  const int64_t panels = (plan.n + kPanelColumns - 1) / kPanelColumns;
  plan.size_bytes = panels * PanelStride(type, plan.k) * SizeOf(type);
  return plan;
}

void PackPanels(absl::Span<const TensorView> parts, const PackedMatrix& plan, int32_t threads, void* packed) {
  const DType type = plan.encoding == Encoding::kF32 ? DType::kF32 : DType::kBF16;
  const int64_t padded_k = PaddedK(type, plan.k);
  const int64_t stride = PanelStride(type, plan.k);
  const int64_t panels = (plan.n + kPanelColumns - 1) / kPanelColumns;
  ParallelRanges(threads, panels, [&](int64_t begin, int64_t end, int32_t) {
    std::vector<float> rows(static_cast<size_t>(kPanelColumns * plan.k));
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t columns = std::min(kPanelColumns, plan.n - panel * kPanelColumns);
      size_t part = 0;
      int64_t row = panel * kPanelColumns;  // within the part
      while (row >= parts[part].shape[0]) row -= parts[part++].shape[0];
      for (int64_t column = 0; column < columns; ++column, ++row) {
        if (row == parts[part].shape[0]) {
          ++part;
          row = 0;
        }
        const TensorView& source = parts[part];
        DecodeToF32(source.encoding, source.data + row * EncodedBytes(source.encoding, plan.k), plan.k,
                    rows.data() + column * plan.k);
      }
      if (type == DType::kF32) {
        PackPanel<float, 1>(rows.data(), columns, plan.k, padded_k,
                            static_cast<float*>(packed) + panel * stride, [](float v) { return v; });
      } else {
        PackPanel<uint16_t, 2>(rows.data(), columns, plan.k, padded_k,
                               static_cast<uint16_t*>(packed) + panel * stride, RoundToBf16);
      }
    }
  });
}

absl::StatusOr<PackedMatrix> SlicePanels(const PackedMatrix& matrix, int64_t first, int64_t n, DType type) {
  SPILLWAY_CHECK(first >= 0 && n > 0 && first + n <= matrix.n);
  if (first % kPanelColumns != 0) {
    return absl::InvalidArgumentError(absl::StrCat("a matrix of the CPU device is cut at multiples of ",
                                                   kPanelColumns, " output features, not at ", first));
  }
  const int64_t panel_bytes = PanelStride(type, matrix.k) * SizeOf(type);
  PackedMatrix slice = matrix;
  slice.data = matrix.data + first / kPanelColumns * panel_bytes;
  slice.n = n;
  slice.size_bytes = (n + kPanelColumns - 1) / kPanelColumns * panel_bytes;
  return slice;
}

}  // namespace spillway::device
