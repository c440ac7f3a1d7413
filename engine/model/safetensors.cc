#include "engine/model/safetensors.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/status_macros.h"
#include "engine/model/gguf_cursor.h"

namespace spillway::model {
namespace {

constexpr int64_t kLengthBytes = 8;
constexpr JsonLimits kHeaderLimits = {.bytes_max = 16 * kMiB, .values_max = int64_t{1} << 19, .depth_max = 4};
constexpr size_t kDimensionsMax = 8;

struct DtypeInfo {
  absl::string_view name;
  int64_t bytes;
  bool is_float;
  device::Encoding encoding;
};
constexpr std::array<DtypeInfo, 15> kDtypes = {{
    {"F32", 4, true, device::Encoding::kF32},
    {"F16", 2, true, device::Encoding::kF16},
    {"BF16", 2, true, device::Encoding::kBF16},
    {"F64", 8, false, {}},
    {"F8_E4M3", 1, false, {}},
    {"F8_E5M2", 1, false, {}},
    {"BOOL", 1, false, {}},
    {"U8", 1, false, {}},
    {"I8", 1, false, {}},
    {"U16", 2, false, {}},
    {"I16", 2, false, {}},
    {"U32", 4, false, {}},
    {"I32", 4, false, {}},
    {"U64", 8, false, {}},
    {"I64", 8, false, {}},
}};

// Elements of a shape, or -1 where they are more than `max`.
int64_t Elements(const std::vector<int64_t>& shape, int64_t max) {
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  int64_t elements = 1;
  for (const int64_t extent : shape) {
    if (extent < 0 || extent > max / elements) return -1;
    elements *= extent;
  }
  return elements;
}

}  // namespace

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  SafetensorsFile file;
  SPILLWAY_ASSIGN_OR_RETURN(file.mapping_, MappedFile::Open(path));
  file.path_ = path;
  file.bytes_ = file.mapping_->bytes();
  SPILLWAY_RETURN_IF_ERROR(file.ReadTable());
  return file;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Parse(absl::Span<const uint8_t> bytes, std::string name) {
  SafetensorsFile file;
  file.path_ = std::move(name);
  file.bytes_ = bytes;
  SPILLWAY_RETURN_IF_ERROR(file.ReadTable());
  return file;
}

absl::Status SafetensorsFile::CheckUnchanged() const {
  return mapping_ ? mapping_->CheckUnchanged() : absl::OkStatus();
}

absl::Status SafetensorsFile::ReadTable() {
  GgufCursor cursor(path_, bytes_);
  SPILLWAY_ASSIGN_OR_RETURN(const uint64_t length, cursor.Read<uint64_t>("header length"));
  if (length > static_cast<uint64_t>(cursor.remaining())) {
    return cursor.Error(
        0, "header length",
        absl::StrCat(length, " bytes, but only ", cursor.remaining(), " remain; ", kDamagedFile));
  }
  if (length > static_cast<uint64_t>(kHeaderLimits.bytes_max)) {
    return cursor.Error(
        0, "header length",
        absl::StrCat(length, " bytes, at most ", kHeaderLimits.bytes_max, " are read; ", kDamagedFile));
  }
  const absl::string_view header(reinterpret_cast<const char*>(bytes_.data()) + kLengthBytes, length);
  const absl::Span<const uint8_t> data = bytes_.subspan(kLengthBytes + length);
  SPILLWAY_ASSIGN_OR_RETURN(const nlohmann::json root, ParseJsonObject(header, path_, kHeaderLimits));
  for (const auto& [name, entry] : root.items()) {
    if (name == "__metadata__") continue;  // free text
    SPILLWAY_RETURN_IF_ERROR(ReadTensor(name, entry, data));
  }
  std::stable_sort(tensors_.begin(), tensors_.end(), [](const Tensor& a, const Tensor& b) {
    return std::pair(a.view.data, a.view.size_bytes) < std::pair(b.view.data, b.view.size_bytes);
  });
  return CheckPlaces(data);
}

absl::Status SafetensorsFile::ReadTensor(const std::string& name, const nlohmann::json& entry,
                                         absl::Span<const uint8_t> data) {
  const std::string where = absl::StrCat(path_, ": tensor ", Quoted(name));
  if (!entry.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": not a JSON object; ", kDamagedFile));
  }
  const JsonObject fields(entry, where);
  Tensor tensor;
  SPILLWAY_ASSIGN_OR_RETURN(tensor.dtype, fields.String("dtype"));
  const auto dtype = std::find_if(kDtypes.begin(), kDtypes.end(),
                                  [&](const DtypeInfo& info) { return info.name == tensor.dtype; });
  if (dtype == kDtypes.end()) {
    return fields.Unsupported(
        "dtype", absl::StrCat(Quoted(tensor.dtype), " is not known; save the model in F32, F16 or BF16"));
  }
  tensor.is_float = dtype->is_float;
  tensor.view.name = name;
  tensor.view.encoding = dtype->encoding;
  SPILLWAY_ASSIGN_OR_RETURN(tensor.view.shape, fields.Ints("shape"));
  if (!fields.Find("shape")->is_array() || tensor.view.shape.size() > kDimensionsMax) {
    return fields.Error("shape",
                        absl::StrCat("is not a list of up to ", kDimensionsMax, " sizes; ", kDamagedFile));
  }
  SPILLWAY_ASSIGN_OR_RETURN(const std::vector<int64_t> offsets, fields.Ints("data_offsets"));
  const auto size = static_cast<int64_t>(data.size());
  if (offsets.size() != 2 || offsets[0] < 0 || offsets[1] < offsets[0] || offsets[1] > size) {
    return fields.Error("data_offsets",
                        absl::StrCat("is not a range of the ", size, " bytes of data; ", kDamagedFile));
  }
  tensor.view.size_bytes = offsets[1] - offsets[0];
  const int64_t elements = Elements(tensor.view.shape, size / dtype->bytes);
  if (elements < 0 || elements * dtype->bytes != tensor.view.size_bytes) {
    return fields.Error("data_offsets",
                        absl::StrCat(tensor.view.size_bytes, " bytes are not what the shape and ",
                                     dtype->name, " need; ", kDamagedFile));
  }
  tensor.view.data = data.data() + offsets[0];
  tensors_.push_back(std::move(tensor));
  return absl::OkStatus();
}

absl::Status SafetensorsFile::CheckPlaces(absl::Span<const uint8_t> data) const {
  const uint8_t* end = data.data();
  for (const Tensor& tensor : tensors_) {
    if (tensor.view.data != end) {
      return absl::InvalidArgumentError(absl::StrCat(
          path_, ": tensor ", Quoted(tensor.view.name), ": field 'data_offsets': ",
          tensor.view.data < end ? "overlaps another tensor; " : "leaves a hole before it; ", kDamagedFile));
    }
    end += tensor.view.size_bytes;
  }
  const int64_t rest = data.data() + data.size() - end;
  if (rest == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(path_, ": ", rest, " bytes after the last tensor belong to none; ", kDamagedFile));
}

}  // namespace spillway::model
