#include "engine/model/gguf_types.h"

#include <array>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace spillway::model {
namespace {

struct ValueType {
  absl::string_view name;
  int64_t bytes;
};

// Indexed by GgufType.
constexpr std::array<ValueType, kGgufTypeCount> kValueTypes = {{
    {"uint8", 1},
    {"int8", 1},
    {"uint16", 2},
    {"int16", 2},
    {"uint32", 4},
    {"int32", 4},
    {"float32", 4},
    {"bool", 1},
    {"string", 0},
    {"array", 0},
    {"uint64", 8},
    {"int64", 8},
    {"float64", 8},
}};

struct TensorType {
  uint32_t number;
  absl::string_view name;
  std::optional<device::Encoding> encoding;
};

using device::Encoding;

// Every type that ggml has given a number to and not withdrawn, so that a refusal can say the name.
constexpr std::array<TensorType, 34> kTensorTypes = {{
    {0, "F32", Encoding::kF32},    {1, "F16", Encoding::kF16},    {2, "Q4_0", Encoding::kQ4_0},
    {3, "Q4_1", Encoding::kQ4_1},  {6, "Q5_0", Encoding::kQ5_0},  {7, "Q5_1", Encoding::kQ5_1},
    {8, "Q8_0", Encoding::kQ8_0},  {9, "Q8_1", std::nullopt},     {10, "Q2_K", std::nullopt},
    {11, "Q3_K", std::nullopt},    {12, "Q4_K", Encoding::kQ4_K}, {13, "Q5_K", Encoding::kQ5_K},
    {14, "Q6_K", Encoding::kQ6_K}, {15, "Q8_K", std::nullopt},    {16, "IQ2_XXS", std::nullopt},
    {17, "IQ2_XS", std::nullopt},  {18, "IQ3_XXS", std::nullopt}, {19, "IQ1_S", std::nullopt},
    {20, "IQ4_NL", std::nullopt},  {21, "IQ3_S", std::nullopt},   {22, "IQ2_S", std::nullopt},
    {23, "IQ4_XS", std::nullopt},  {24, "I8", std::nullopt},      {25, "I16", std::nullopt},
    {26, "I32", std::nullopt},     {27, "I64", std::nullopt},     {28, "F64", std::nullopt},
    {29, "IQ1_M", std::nullopt},   {30, "BF16", Encoding::kBF16}, {34, "TQ1_0", std::nullopt},
    {35, "TQ2_0", std::nullopt},   {39, "MXFP4", std::nullopt},   {40, "NVFP4", std::nullopt},
    {41, "Q1_0", std::nullopt},
}};

}  // namespace

absl::string_view GgufTypeName(GgufType type) { return kValueTypes[static_cast<size_t>(type)].name; }

int64_t GgufTypeBytes(GgufType type) { return kValueTypes[static_cast<size_t>(type)].bytes; }

bool IsGgufInteger(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kUint16:
    case GgufType::kInt16:
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kUint64:
    case GgufType::kInt64:
      return true;
    default:
      return false;
  }
}

std::optional<device::Encoding> EncodingOfGgmlType(uint32_t ggml_type) {
  for (const TensorType& type : kTensorTypes) {
    if (type.number == ggml_type) return type.encoding;
  }
  return std::nullopt;
}

uint32_t GgmlTypeOf(device::Encoding encoding) {
  for (const TensorType& type : kTensorTypes) {
    if (type.encoding == encoding) return type.number;
  }
  CheckFailed(__FILE__, __LINE__, "encoding has a number", "unknown encoding");
}

std::string GgmlTypeName(uint32_t ggml_type) {
  for (const TensorType& type : kTensorTypes) {
    if (type.number == ggml_type) return absl::StrCat(type.name, " (", ggml_type, ")");
  }
  return absl::StrCat(ggml_type);
}

}  // namespace spillway::model
