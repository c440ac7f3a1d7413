// A matrix whose parts stay packed as GGUF encodes them: a directory, then each part's rows. Host and kernels
// read the same directory, so that a matrix of several encodings (q and k of one, v of another) is one.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_PACKED_MATRIX_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_PACKED_MATRIX_H_

#include <cstdint>

#include "engine/device/arithmetic/packed_blocks.h"
#include "engine/device/arithmetic/portable.h"
#include "engine/device/tensor_encoding.h"

namespace spillway::device::cuda {

constexpr int kPackedPartsMax = 4;
constexpr int64_t kPackedAlignment = 256;  // of the directory and of each part

struct PackedPart {
  int64_t offset_bytes;  // of its first row, from the directory
  int64_t row_bytes;
  int32_t first;  // output feature of the whole that its first row is
  int32_t block_bytes;
  int32_t block_runs;  // of 16 elements; plain encodings count 16 elements as a block
  Encoding encoding;
};

struct PackedDirectory {
  int32_t n_parts;
  PackedPart parts[kPackedPartsMax];
};
static_assert(sizeof(PackedDirectory) <= kPackedAlignment);

// Decodes run `run` of row `feature` of the matrix at `data`.
SPILLWAY_PORTABLE void DecodeRun(const uint8_t* data, int64_t feature, int64_t run, float* out) {
  const PackedDirectory& directory = *reinterpret_cast<const PackedDirectory*>(data);
  int which = 0;
  while (which + 1 < directory.n_parts && feature >= directory.parts[which + 1].first) ++which;
  const PackedPart& part = directory.parts[which];
  const uint8_t* block = data + part.offset_bytes + (feature - part.first) * part.row_bytes +
                         run / part.block_runs * part.block_bytes;
  const int within = static_cast<int>(run % part.block_runs);
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

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_PACKED_MATRIX_H_
