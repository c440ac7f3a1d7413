#include "engine/model/gguf.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/model/gguf_types.h"

namespace spillway::model {
namespace {

constexpr absl::string_view kMagic = "GGUF";
constexpr uint32_t kDimensionsMax = 4;
constexpr size_t kTensorNameBytesMax = 64;  // docs/gguf.md
// Name length, one character, dimensions, one extent, type, offset.
constexpr int64_t kTensorInfoBytesMin = 8 + 1 + 4 + 8 + 4 + 8;
// Far above any model (hundreds of pairs, thousands of tensors), so that a large file cannot claim tables
// that take minutes and gigabytes.
constexpr int64_t kTableEntriesMax = 1 << 16;
constexpr int64_t kDefaultAlignment = 32;
constexpr int64_t kAlignmentMin = 8;
constexpr int64_t kAlignmentMax = 1 << 20;
constexpr absl::string_view kAlignmentKey = "general.alignment";

absl::StatusOr<uint32_t> ReadVersion(GgufCursor& cursor) {
  for (const char expected : kMagic) {
    SPILLWAY_ASSIGN_OR_RETURN(const char found, cursor.Read<char>("magic"));
    if (found != expected) {
      return cursor.Error(0, "magic",
                          "not 'GGUF'; this is no GGUF file, or it is damaged: convert or fetch it");
    }
  }
  const int64_t start = cursor.offset();
  SPILLWAY_ASSIGN_OR_RETURN(const uint32_t version, cursor.Read<uint32_t>("version"));
  if (version == 2 || version == 3) return version;
  const bool big_endian = version != 0 && (version & 0xffffu) == 0;
  return absl::UnimplementedError(
      absl::StrCat(cursor.file(), ": byte ", start, ": version: ",
                   big_endian ? "the file is big endian; convert the model for little-endian machines"
                              : absl::StrCat("GGUF version ", version,
                                             " is not 2 or 3; convert the model with a current converter")));
}

absl::StatusOr<int64_t> ReadTableCount(GgufCursor& cursor, absl::string_view field, int64_t entry_bytes_min) {
  const int64_t start = cursor.offset();
  SPILLWAY_ASSIGN_OR_RETURN(const int64_t count, cursor.ReadCount(field, entry_bytes_min));
  if (count > kTableEntriesMax) {
    return cursor.Error(start, field,
                        absl::StrCat(count, " entries, more than the ", kTableEntriesMax,
                                     " that any model has; ", kDamagedFile));
  }
  return count;
}

absl::StatusOr<int64_t> Alignment(const GgufMetadata& metadata) {
  SPILLWAY_ASSIGN_OR_RETURN(const int64_t alignment, metadata.IntOr(kAlignmentKey, kDefaultAlignment));
  if (alignment < kAlignmentMin || alignment > kAlignmentMax ||
      !std::has_single_bit(static_cast<uint64_t>(alignment))) {
    return metadata.Error(kAlignmentKey,
                          absl::StrCat(alignment, " is not a power of two from ", kAlignmentMin, " to ",
                                       kAlignmentMax, "; ", kDamagedFile));
  }
  return alignment;
}

// A part of a split model has tensors of its own, so it would read as a model with many missing.
absl::Status RefuseSplit(const GgufMetadata& metadata, absl::string_view file) {
  SPILLWAY_ASSIGN_OR_RETURN(const int64_t parts, metadata.IntOr("split.count", 1));
  if (parts <= 1) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat(file, ": the model is split over ", parts,
                   " files (split.count); join them first: llama-gguf-split --merge FIRST_FILE OUTPUT"));
}

std::string SupportedEncodings() {
  std::string names;
  for (uint32_t number = 0; number < 64; ++number) {
    const auto encoding = EncodingOfGgmlType(number);
    if (encoding) absl::StrAppend(&names, names.empty() ? "" : ", ", device::InfoOf(*encoding).name);
  }
  return names;
}

}  // namespace

// A row of the tensor table, before its data is looked for.
struct GgufFile::TensorInfo {
  int64_t table_offset = 0;  // of the row, for errors
  absl::string_view name;
  device::Encoding encoding = device::Encoding::kF32;
  std::vector<int64_t> shape;  // outermost first
  int64_t size_bytes = 0;
  uint64_t data_offset = 0;  // from the start of the data section

  std::string Field() const { return absl::StrCat("tensor ", Quoted(name)); }
};

absl::StatusOr<GgufFile> GgufFile::Open(const std::string& path) {
  SPILLWAY_ASSIGN_OR_RETURN(MappedFile mapping, MappedFile::Open(path));
  GgufFile file;
  file.path_ = std::make_unique<const std::string>(path);
  file.bytes_ = mapping.bytes();
  file.mapping_ = std::move(mapping);
  SPILLWAY_RETURN_IF_ERROR(file.ReadTables());
  return file;
}

absl::StatusOr<GgufFile> GgufFile::Parse(absl::Span<const uint8_t> bytes, std::string name) {
  GgufFile file;
  file.path_ = std::make_unique<const std::string>(std::move(name));
  file.bytes_ = bytes;
  SPILLWAY_RETURN_IF_ERROR(file.ReadTables());
  return file;
}

absl::Status GgufFile::ReadTables() {
  GgufCursor cursor(*path_, bytes_);
  SPILLWAY_ASSIGN_OR_RETURN(version_, ReadVersion(cursor));
  SPILLWAY_ASSIGN_OR_RETURN(const int64_t n_tensors,
                            ReadTableCount(cursor, "tensor count", kTensorInfoBytesMin));
  SPILLWAY_ASSIGN_OR_RETURN(const int64_t n_pairs,
                            ReadTableCount(cursor, "metadata count", GgufMetadata::kPairBytesMin));
  SPILLWAY_ASSIGN_OR_RETURN(metadata_, GgufMetadata::Parse(cursor, n_pairs));
  SPILLWAY_RETURN_IF_ERROR(RefuseSplit(metadata_, *path_));
  return ReadTensorTable(cursor, n_tensors);
}

absl::StatusOr<GgufFile::TensorInfo> GgufFile::ReadTensorInfo(GgufCursor& cursor) const {
  TensorInfo info;
  info.table_offset = cursor.offset();
  SPILLWAY_ASSIGN_OR_RETURN(info.name, cursor.ReadString("tensor name"));
  if (info.name.empty() || info.name.size() > kTensorNameBytesMax) {
    return cursor.Error(info.table_offset, "tensor name",
                        absl::StrCat("a name has 1 to ", kTensorNameBytesMax, " bytes, not ",
                                     info.name.size(), "; ", kDamagedFile));
  }
  const std::string field = info.Field();

  int64_t start = cursor.offset();
  SPILLWAY_ASSIGN_OR_RETURN(const uint32_t n_dimensions, cursor.Read<uint32_t>(field));
  if (n_dimensions == 0 || n_dimensions > kDimensionsMax) {
    return cursor.Error(
        start, field,
        absl::StrCat(n_dimensions, " dimensions, not 1 to ", kDimensionsMax, "; ", kDamagedFile));
  }
  int64_t elements = 1;
  for (uint32_t i = 0; i < n_dimensions; ++i) {
    start = cursor.offset();
    SPILLWAY_ASSIGN_OR_RETURN(const uint64_t extent, cursor.Read<uint64_t>(field));
    if (extent == 0 || extent > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) ||
        __builtin_mul_overflow(elements, static_cast<int64_t>(extent), &elements)) {
      return cursor.Error(
          start, field,
          absl::StrCat("extent ", extent, " of dimension ", i, " is impossible; ", kDamagedFile));
    }
    info.shape.push_back(static_cast<int64_t>(extent));
  }
  const int64_t row_elements = info.shape.front();
  std::reverse(info.shape.begin(), info.shape.end());

  start = cursor.offset();
  SPILLWAY_ASSIGN_OR_RETURN(const uint32_t type, cursor.Read<uint32_t>(field));
  const auto encoding = EncodingOfGgmlType(type);
  if (!encoding) {
    return absl::UnimplementedError(
        absl::StrCat(cursor.file(), ": byte ", start, ": ", field, ": type ", GgmlTypeName(type),
                     " is not supported; quantise the model to one of ", SupportedEncodings()));
  }
  info.encoding = *encoding;
  const device::EncodingInfo& packing = device::InfoOf(*encoding);
  if (row_elements % packing.block_elements != 0) {
    return cursor.Error(start, field,
                        absl::StrCat("rows of ", row_elements, " elements do not divide into ", packing.name,
                                     " blocks of ", packing.block_elements, "; ", kDamagedFile));
  }
  if (__builtin_mul_overflow(elements / packing.block_elements, int64_t{packing.block_bytes},
                             &info.size_bytes)) {
    return cursor.Error(start, field, absl::StrCat("its size overflows; ", kDamagedFile));
  }
  SPILLWAY_ASSIGN_OR_RETURN(info.data_offset, cursor.Read<uint64_t>(field));
  return info;
}

absl::Status GgufFile::ReadTensorTable(GgufCursor& cursor, int64_t count) {
  std::vector<TensorInfo> infos;
  infos.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    SPILLWAY_ASSIGN_OR_RETURN(TensorInfo info, ReadTensorInfo(cursor));
    const auto [position, inserted] = tensor_index_.try_emplace(info.name, infos.size());
    if (!inserted) {
      return cursor.Error(info.table_offset, info.Field(),
                          absl::StrCat("the name appears twice, first at byte ",
                                       infos[position->second].table_offset, "; ", kDamagedFile));
    }
    infos.push_back(std::move(info));
  }
  return PlaceTensors(cursor, std::move(infos));
}

absl::Status GgufFile::PlaceTensors(const GgufCursor& cursor, std::vector<TensorInfo> infos) {
  SPILLWAY_ASSIGN_OR_RETURN(const int64_t alignment, Alignment(metadata_));
  const int64_t data_start = (cursor.offset() + alignment - 1) / alignment * alignment;
  // Data may be absent altogether: a vocabulary-only file ends where its tables do.
  const int64_t data_bytes = std::max<int64_t>(0, static_cast<int64_t>(bytes_.size()) - data_start);
  tensors_.reserve(infos.size());
  for (TensorInfo& info : infos) {
    if (info.data_offset % static_cast<uint64_t>(alignment) != 0) {
      return cursor.Error(info.table_offset, info.Field(),
                          absl::StrCat("data offset ", info.data_offset, " is not a multiple of ", alignment,
                                       " (", kAlignmentKey, "); ", kDamagedFile));
    }
    if (info.data_offset > static_cast<uint64_t>(data_bytes) ||
        info.size_bytes > data_bytes - static_cast<int64_t>(info.data_offset)) {
      return cursor.Error(info.table_offset, info.Field(),
                          absl::StrCat("its ", info.size_bytes, " bytes at ", info.data_offset,
                                       " of the data section reach beyond the file, which has ", data_bytes,
                                       " there; ", kDamagedFile));
    }
    tensors_.push_back(device::TensorView{
        .name = std::string(info.name),
        .encoding = info.encoding,
        .shape = std::move(info.shape),
        .data = bytes_.data() + data_start + static_cast<int64_t>(info.data_offset),
        .size_bytes = info.size_bytes,
    });
  }
  return CheckNoOverlap(cursor);
}

// Tensors that share bytes would let a small file describe weights of any size.
absl::Status GgufFile::CheckNoOverlap(const GgufCursor& cursor) const {
  std::vector<const device::TensorView*> by_address;
  by_address.reserve(tensors_.size());
  for (const device::TensorView& tensor : tensors_) by_address.push_back(&tensor);
  std::sort(by_address.begin(), by_address.end(),
            [](const auto* a, const auto* b) { return a->data < b->data; });
  for (size_t i = 1; i < by_address.size(); ++i) {
    const device::TensorView& before = *by_address[i - 1];
    const device::TensorView& tensor = *by_address[i];
    if (before.data + before.size_bytes > tensor.data) {
      return cursor.Error(
          tensor.data - bytes_.data(), absl::StrCat("tensor ", Quoted(tensor.name)),
          absl::StrCat("its data overlaps that of ", Quoted(before.name), "; ", kDamagedFile));
    }
  }
  return absl::OkStatus();
}

const device::TensorView* GgufFile::FindTensor(absl::string_view name) const {
  const auto it = tensor_index_.find(name);
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

absl::Status GgufFile::CheckUnchanged() const {
  return mapping_ ? mapping_->CheckUnchanged() : absl::OkStatus();
}

}  // namespace spillway::model
