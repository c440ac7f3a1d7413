// How a tensor's elements are encoded. The packed encodings are those of GGUF.
#ifndef SPILLWAY_ENGINE_DEVICE_TENSOR_ENCODING_H_
#define SPILLWAY_ENGINE_DEVICE_TENSOR_ENCODING_H_

#include <cstdint>

namespace spillway::device {

enum class Encoding : uint8_t { kF32, kF16, kBF16, kQ8_0, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ4_K, kQ5_K, kQ6_K };

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_TENSOR_ENCODING_H_
