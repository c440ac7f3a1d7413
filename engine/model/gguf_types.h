// The numbers of GGUF: kinds of metadata values and of tensor data (github.com/ggml-org/ggml, docs/gguf.md).
#ifndef SPILLWAY_ENGINE_MODEL_GGUF_TYPES_H_
#define SPILLWAY_ENGINE_MODEL_GGUF_TYPES_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "engine/device/tensor.h"

namespace spillway::model {

// A metadata value's type, as the file numbers it.
enum class GgufType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};
constexpr uint32_t kGgufTypeCount = 13;

// "uint32", "string", ... REQUIRES: a value of the enumeration.
absl::string_view GgufTypeName(GgufType type);

// Bytes of a value; 0 for strings and arrays, which carry their own length.
int64_t GgufTypeBytes(GgufType type);

bool IsGgufInteger(GgufType type);

// The encoding of a tensor type as the file numbers it; nothing for those that Spillway does not decode.
std::optional<device::Encoding> EncodingOfGgmlType(uint32_t ggml_type);

// The number that a file gives `encoding`.
uint32_t GgmlTypeOf(device::Encoding encoding);

// "IQ2_XXS (16)" for a known number, "999" else.
std::string GgmlTypeName(uint32_t ggml_type);

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_GGUF_TYPES_H_
