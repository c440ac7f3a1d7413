#include "engine/device/matrix_parts.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "base/check.h"

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

}  // namespace spillway::device
