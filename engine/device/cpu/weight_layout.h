// The layout of packed weights (kernels.h): what a matrix takes, and writing it.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_WEIGHT_LAYOUT_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_WEIGHT_LAYOUT_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/device/device.h"

namespace spillway::device {

// Elements from one panel to the next. `type` is f32 or bf16.
int64_t PanelStride(DType type, int64_t k);

// As Device::PlanMatrix and Device::PackMatrix say. Packing uses `threads` threads.
absl::StatusOr<PackedMatrix> PlanPanels(absl::Span<const TensorView> parts, WeightMode mode, DType type);
void PackPanels(absl::Span<const TensorView> parts, const PackedMatrix& plan, int32_t threads, void* packed);

// As Device::SliceMatrix says: slices begin at whole panels.
absl::StatusOr<PackedMatrix> SlicePanels(const PackedMatrix& matrix, int64_t first, int64_t n, DType type);

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_WEIGHT_LAYOUT_H_
