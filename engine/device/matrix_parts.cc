#include "engine/device/matrix_parts.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/device/narrowing.h"

namespace spillway::device {

bool IsPlain(Encoding encoding) { return InfoOf(encoding).block_elements == 1; }

absl::StatusOr<StackedShape> ShapeOfParts(absl::Span<const TensorView> parts) {
  SPILLWAY_CHECK(!parts.empty());
  StackedShape stacked;
  for (const TensorView& part : parts) {
    if (part.shape.size() != 2 || part.shape[0] <= 0 || part.shape[1] <= 0) {
      return absl::InvalidArgumentError(absl::StrCat(part.name, " is not a matrix"));
    }
    if (stacked.k == 0) stacked.k = part.shape[1];
    if (part.shape[1] != stacked.k) {
      return absl::InvalidArgumentError(absl::StrCat(part.name, " has rows of ", part.shape[1],
                                                     " where those it is stacked with have ", stacked.k));
    }
    const EncodingInfo& info = InfoOf(part.encoding);
    if (stacked.k % info.block_elements != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          part.name, ": rows of ", stacked.k, " elements are not whole blocks of ", std::string(info.name)));
    }
    constexpr int64_t kMaxElements = int64_t{1} << 48;
    if (part.shape[0] > kMaxElements / stacked.k) {
      return absl::InvalidArgumentError(absl::StrCat(part.name, " is too large a matrix"));
    }
    stacked.n += part.shape[0];
  }
  return stacked;
}

Encoding EncodingOf(DType type) {
  return type == DType::kF32 ? Encoding::kF32 : type == DType::kF16 ? Encoding::kF16 : Encoding::kBF16;
}

absl::StatusOr<PackedMatrix> PlanExpandedRows(absl::Span<const TensorView> parts, DType type) {
  SPILLWAY_ASSIGN_OR_RETURN(const StackedShape shape, ShapeOfParts(parts));
  PackedMatrix plan;
  plan.n = shape.n;
  plan.k = shape.k;
  plan.encoding = EncodingOf(type);
  plan.size_bytes = shape.n * shape.k * SizeOf(type);
  plan.is_table = parts.size() == 1;
  return plan;
}

void PackExpandedRows(absl::Span<const TensorView> parts, DType type, void* packed) {
  uint8_t* out = static_cast<uint8_t*>(packed);
  std::vector<float> row;
  for (const TensorView& part : parts) {
    const int64_t k = part.shape[1];
    const int64_t encoded_bytes = EncodedBytes(part.encoding, k);
    row.resize(static_cast<size_t>(k));
    for (int64_t i = 0; i < part.shape[0]; ++i) {
      DecodeToF32(part.encoding, part.data + i * encoded_bytes, k, row.data());
      NarrowFromF32(type, row.data(), k, out);
      out += k * SizeOf(type);
    }
  }
}

}  // namespace spillway::device
