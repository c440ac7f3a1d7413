// How this device holds weight matrices: rows of T, one after the other, or the rows as GGUF packs them
// (packed_matrix.h).
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_MATRIX_LAYOUT_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_MATRIX_LAYOUT_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/device/cuda/packed_matrix.h"
#include "engine/device/device.h"

namespace spillway::device::cuda {

// Device::PlanMatrix, PlanTable, PackMatrix and SliceMatrix for matrices that are multiplied in `type`. kAuto
// keeps packed what is multiplied so on tensor cores (kernels.h). Thread-safe.
absl::StatusOr<PackedMatrix> PlanRows(absl::Span<const TensorView> parts, WeightMode mode, DType type);
absl::StatusOr<PackedMatrix> PlanTableRows(const TensorView& table, WeightMode mode, DType type);
void PackRows(absl::Span<const TensorView> parts, const PackedMatrix& plan, DType type, void* packed);
absl::StatusOr<PackedMatrix> SliceRows(const PackedMatrix& matrix, int64_t first, int64_t n);

// What kernels are told of a matrix that stays packed.
PackedRows RowsOf(const PackedMatrix& matrix);

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_MATRIX_LAYOUT_H_
