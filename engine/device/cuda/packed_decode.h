// Packed weights as f32, whatever their encoding.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_PACKED_DECODE_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_PACKED_DECODE_H_

#include <cstdint>

#include "engine/device/arithmetic/packed_blocks.h"
#include "engine/device/arithmetic/portable.h"
#include "engine/device/cuda/packed_matrix.h"

namespace spillway::device::cuda {

// Decodes the 16 elements of run `run` of row rows.first + `feature`.
SPILLWAY_PORTABLE void DecodeRun(const PackedRows& rows, int64_t feature, int run, float* out) {
  const int64_t row = rows.first + feature;
  const PackedPart& part = rows.parts[PartOf(rows, row)];
  const int index = run / part.block_runs;
  const uint8_t* block = RowAt(rows, part, row) + int64_t{index} * part.block_bytes;
  const int within = run - index * part.block_runs;
  switch (part.encoding) {
    case Encoding::kF32:
      for (int i = 0; i < packed::kRunElements; ++i) {
        out[i] = packed::BitsToFloat(packed::LoadU32(block + 4 * i));
      }
      return;
    case Encoding::kF16:
      for (int i = 0; i < packed::kRunElements; ++i) out[i] = packed::LoadHalf(block + 2 * i);
      return;
    case Encoding::kBF16:
      for (int i = 0; i < packed::kRunElements; ++i) {
        out[i] = packed::BitsToFloat(packed::LoadU16(block + 2 * i) << 16);
      }
      return;
    case Encoding::kQ8_0:
      return packed::DecodeQ8_0(block, within, out);
    case Encoding::kQ4_0:
      return packed::DecodeQ4_0(block, within, out);
    case Encoding::kQ4_1:
      return packed::DecodeQ4_1(block, within, out);
    case Encoding::kQ5_0:
      return packed::DecodeQ5_0(block, within, out);
    case Encoding::kQ5_1:
      return packed::DecodeQ5_1(block, within, out);
    case Encoding::kQ4_K:
      return packed::DecodeQ4_K(block, within, out);
    case Encoding::kQ5_K:
      return packed::DecodeQ5_K(block, within, out);
    case Encoding::kQ6_K:
      return packed::DecodeQ6_K(block, within, out);
  }
}

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_PACKED_DECODE_H_
