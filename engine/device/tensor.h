// A tensor as a file or a weight arena holds it: an encoding and bytes. The packed encodings are those of
// GGUF (github.com/ggml-org/ggml, docs/gguf.md and ggml-quants): a row is a sequence of blocks, each with its
// scales.
#ifndef SPILLWAY_ENGINE_DEVICE_TENSOR_H_
#define SPILLWAY_ENGINE_DEVICE_TENSOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "engine/device/tensor_encoding.h"

namespace spillway::device {

struct EncodingInfo {
  absl::string_view name;  // as GGUF tools print it: "Q4_K"
  int32_t block_elements;  // elements a block; a row's length must be a multiple of it
  int32_t block_bytes;
};

const EncodingInfo& InfoOf(Encoding encoding);

// Bytes of `elements` consecutive elements of a row. REQUIRES: elements % block_elements == 0.
int64_t EncodedBytes(Encoding encoding, int64_t elements);

// A borrowed view: whoever holds the file mapping keeps `data` alive.
struct TensorView {
  std::string name;
  Encoding encoding = Encoding::kF32;
  std::vector<int64_t> shape;  // outermost first; a matrix is [rows, columns], rows contiguous
  const uint8_t* data = nullptr;
  int64_t size_bytes = 0;

  int64_t elements() const {
    int64_t n = 1;
    for (int64_t extent : shape) n *= extent;
    return n;
  }
};

// Decodes `elements` consecutive elements from `data` into out[0..elements). Exact in f32: every value is the
// one the `gguf` reference package gives. REQUIRES: elements % block_elements == 0. Thread-safe.
void DecodeToF32(Encoding encoding, const uint8_t* data, int64_t elements, float* out);

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_TENSOR_H_
