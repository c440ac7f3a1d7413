// What every device asks of the tensors that it stacks into one matrix.
#ifndef SPILLWAY_ENGINE_DEVICE_MATRIX_PARTS_H_
#define SPILLWAY_ENGINE_DEVICE_MATRIX_PARTS_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/device/device.h"
#include "engine/device/tensor.h"
#include "engine/device/types.h"

namespace spillway::device {

// Whether the encoding has one value an element, rather than blocks.
bool IsPlain(Encoding encoding);

struct StackedShape {
  int64_t n = 0;  // rows of all parts together
  int64_t k = 0;
};
// InvalidArgument names the part that is no matrix, has rows of another length or of broken blocks, or is too
// large. REQUIRES: there is a part.
absl::StatusOr<StackedShape> ShapeOfParts(absl::Span<const TensorView> parts);

Encoding EncodingOf(DType type);
// The parts as rows of `type`, one after the other: what that takes (a table, where it is one part), and
// writing it.
absl::StatusOr<PackedMatrix> PlanExpandedRows(absl::Span<const TensorView> parts, DType type);
void PackExpandedRows(absl::Span<const TensorView> parts, DType type, void* packed);

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_MATRIX_PARTS_H_
