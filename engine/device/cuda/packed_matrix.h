// A matrix whose parts stay packed as GGUF encodes them, one after the other, as kernels are told of it: a
// matrix of several encodings (q and k of one, v of another) is one.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_PACKED_MATRIX_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_PACKED_MATRIX_H_

#include <cstdint>

#include "engine/device/arithmetic/portable.h"
#include "engine/device/device.h"
#include "engine/device/tensor_encoding.h"

namespace spillway::device::cuda {

constexpr int64_t kPackedAlignment = 256;     // of each part
constexpr int64_t kPackedSpanElements = 256;  // of a row, at least: what tensor-core products read at a time

struct PackedPart {
  int64_t offset_bytes = 0;  // of its first row, from the matrix's data
  int64_t row_bytes = 0;
  int32_t first = 0;  // output feature of the whole that its first row is
  int32_t block_bytes = 0;
  int32_t block_runs = 0;  // of 16 elements; plain encodings count 16 elements as a block
  Encoding encoding = Encoding::kF32;
};

// Rows [first, first + n) of a packed matrix, k columns. An argument of kernels: what a kernel looked up in
// device memory instead would keep it from its first weights as long as those keep it from its first sum.
struct PackedRows {
  const uint8_t* data = nullptr;  // of the whole matrix
  int64_t first = 0;
  int64_t n = 0;
  int64_t k = 0;
  int32_t n_parts = 0;
  PackedPart parts[kMatrixPartsMax];
};

// The index of the part that row `row` of the whole matrix is in.
SPILLWAY_PORTABLE int PartOf(const PackedRows& rows, int64_t row) {
  int part = 0;
  while (part + 1 < rows.n_parts && row >= rows.parts[part + 1].first) ++part;
  return part;
}
SPILLWAY_PORTABLE const uint8_t* RowAt(const PackedRows& rows, const PackedPart& part, int64_t row) {
  return rows.data + part.offset_bytes + (row - part.first) * part.row_bytes;
}

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_PACKED_MATRIX_H_
