#include "tests/fakes/gguf_writer.h"

#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "tests/fakes/encode.h"

namespace spillway::fakes {
namespace {

using model::GgufType;

template <typename T>
std::string LittleEndian(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

uint32_t Number(GgufType type) { return static_cast<uint32_t>(type); }

std::string ArrayHead(GgufType type, size_t size) {
  return absl::StrCat(Le(Number(type)), Le(static_cast<uint64_t>(size)));
}

template <typename T>
std::string ArrayOfNumbers(GgufType type, const std::vector<T>& values) {
  std::string bytes = ArrayHead(type, values.size());
  for (const T value : values) bytes += LittleEndian(value);
  return bytes;
}

void PadTo(size_t alignment_bytes, std::string& bytes) {
  bytes.resize((bytes.size() + alignment_bytes - 1) / alignment_bytes * alignment_bytes, '\0');
}

}  // namespace

std::string Le(uint32_t value) { return LittleEndian(value); }
std::string Le(uint64_t value) { return LittleEndian(value); }
std::string LeString(absl::string_view text) {
  return absl::StrCat(Le(static_cast<uint64_t>(text.size())), text);
}

GgufWriter& GgufWriter::Raw(absl::string_view key, uint32_t type, absl::string_view bytes) {
  absl::StrAppend(&pairs_, LeString(key), Le(type), bytes);
  ++n_pairs_;
  return *this;
}

GgufWriter& GgufWriter::Uint32(absl::string_view key, uint32_t value) {
  return Raw(key, Number(GgufType::kUint32), Le(value));
}

GgufWriter& GgufWriter::Float32(absl::string_view key, float value) {
  return Raw(key, Number(GgufType::kFloat32), LittleEndian(value));
}

GgufWriter& GgufWriter::Bool(absl::string_view key, bool value) {
  return Raw(key, Number(GgufType::kBool), std::string(1, value ? '\1' : '\0'));
}

GgufWriter& GgufWriter::String(absl::string_view key, absl::string_view value) {
  return Raw(key, Number(GgufType::kString), LeString(value));
}

GgufWriter& GgufWriter::Strings(absl::string_view key, const std::vector<std::string>& values) {
  std::string bytes = ArrayHead(GgufType::kString, values.size());
  for (const std::string& value : values) bytes += LeString(value);
  return Raw(key, Number(GgufType::kArray), bytes);
}

GgufWriter& GgufWriter::Int32s(absl::string_view key, const std::vector<int32_t>& values) {
  return Raw(key, Number(GgufType::kArray), ArrayOfNumbers(GgufType::kInt32, values));
}

GgufWriter& GgufWriter::Floats(absl::string_view key, const std::vector<float>& values) {
  return Raw(key, Number(GgufType::kArray), ArrayOfNumbers(GgufType::kFloat32, values));
}

GgufWriter& GgufWriter::TensorRow(absl::string_view name, const std::vector<uint64_t>& extents, uint32_t type,
                                  uint64_t offset) {
  absl::StrAppend(&table_, LeString(name), Le(static_cast<uint32_t>(extents.size())));
  for (const uint64_t extent : extents) table_ += Le(extent);
  absl::StrAppend(&table_, Le(type), Le(offset));
  ++n_tensors_;
  return *this;
}

GgufWriter& GgufWriter::Tensor(absl::string_view name, const std::vector<int64_t>& shape,
                               device::Encoding encoding, const std::vector<uint8_t>& data) {
  PadTo(alignment_bytes_, data_);
  TensorRow(name, std::vector<uint64_t>(shape.rbegin(), shape.rend()), model::GgmlTypeOf(encoding),
            data_.size());
  data_.append(reinterpret_cast<const char*>(data.data()), data.size());
  return *this;
}

GgufWriter& GgufWriter::Alignment(uint32_t alignment_bytes) {
  alignment_bytes_ = alignment_bytes;
  return *this;
}

std::string GgufWriter::Bytes() const {
  std::string bytes = absl::StrCat("GGUF", Le(version_), Le(n_tensors_), Le(n_pairs_), pairs_, table_);
  PadTo(alignment_bytes_, bytes);
  return bytes + data_;
}

absl::Status WriteFile(const std::string& path, absl::string_view bytes) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  return out ? absl::OkStatus() : absl::UnavailableError(absl::StrCat(path, ": cannot write"));
}

}  // namespace spillway::fakes
