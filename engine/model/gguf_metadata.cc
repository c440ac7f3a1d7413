#include "engine/model/gguf_metadata.h"

#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace spillway::model {
namespace {

constexpr size_t kKeyBytesMax = 65535;  // docs/gguf.md
// Arrays of arrays are legal and unused; deeper ones than this only exhaust a stack.
constexpr int kArrayDepthMax = 4;

template <typename T>
T Load(const uint8_t* data) {
  T value;
  std::memcpy(&value, data, sizeof(T));
  return value;
}

absl::StatusOr<GgufType> ReadType(GgufCursor& cursor, absl::string_view field) {
  const int64_t start = cursor.offset();
  SPILLWAY_ASSIGN_OR_RETURN(const uint32_t number, cursor.Read<uint32_t>(field));
  if (number >= kGgufTypeCount) {
    return cursor.Error(start, field,
                        absl::StrCat("value type ", number, " is not one of GGUF's 0..", kGgufTypeCount - 1,
                                     "; ", kDamagedFile));
  }
  return static_cast<GgufType>(number);
}

absl::Status CheckBools(const GgufCursor& cursor, absl::string_view field, int64_t offset,
                        absl::Span<const uint8_t> bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] > 1) {
      return cursor.Error(offset + static_cast<int64_t>(i), field,
                          absl::StrCat("a bool is 0 or 1, not ", bytes[i], "; ", kDamagedFile));
    }
  }
  return absl::OkStatus();
}

struct ArrayHeader {
  GgufType element_type;
  int64_t count;
};

// Walks an array to its end, checking everything in it.
absl::StatusOr<ArrayHeader> SkipArray(GgufCursor& cursor, absl::string_view field, int depth) {
  SPILLWAY_ASSIGN_OR_RETURN(const GgufType type, ReadType(cursor, field));
  const int64_t count_offset = cursor.offset();
  if (type != GgufType::kString && type != GgufType::kArray) {
    SPILLWAY_ASSIGN_OR_RETURN(const uint64_t count, cursor.Read<uint64_t>(field));
    const int64_t start = cursor.offset();
    SPILLWAY_ASSIGN_OR_RETURN(const auto bytes, cursor.ReadBytes(field, count, GgufTypeBytes(type)));
    if (type == GgufType::kBool) SPILLWAY_RETURN_IF_ERROR(CheckBools(cursor, field, start, bytes));
    return ArrayHeader{type, static_cast<int64_t>(count)};
  }
  const bool strings = type == GgufType::kString;
  SPILLWAY_ASSIGN_OR_RETURN(const int64_t count, cursor.ReadCount(field, strings ? 8 : 12));
  if (!strings && depth + 1 >= kArrayDepthMax) {
    return cursor.Error(count_offset, field,
                        absl::StrCat("arrays are nested deeper than ", kArrayDepthMax, "; ", kDamagedFile));
  }
  for (int64_t i = 0; i < count; ++i) {
    if (strings) {
      SPILLWAY_RETURN_IF_ERROR(cursor.ReadString(field).status());
    } else {
      SPILLWAY_RETURN_IF_ERROR(SkipArray(cursor, field, depth + 1).status());
    }
  }
  return ArrayHeader{type, count};
}

// REQUIRES: an integer type. Nothing when the value does not fit.
absl::StatusOr<int64_t> LoadInt(GgufType type, const uint8_t* data) {
  switch (type) {
    case GgufType::kUint8:
      return Load<uint8_t>(data);
    case GgufType::kInt8:
      return Load<int8_t>(data);
    case GgufType::kUint16:
      return Load<uint16_t>(data);
    case GgufType::kInt16:
      return Load<int16_t>(data);
    case GgufType::kUint32:
      return Load<uint32_t>(data);
    case GgufType::kInt32:
      return Load<int32_t>(data);
    case GgufType::kInt64:
      return Load<int64_t>(data);
    default:
      break;
  }
  const auto value = Load<uint64_t>(data);
  if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return absl::OutOfRangeError(absl::StrCat(value, " is larger than any size; ", kDamagedFile));
  }
  return static_cast<int64_t>(value);
}

}  // namespace

absl::StatusOr<GgufMetadata::Entry> GgufMetadata::ParseEntry(GgufCursor& cursor) {
  Entry entry;
  const int64_t key_offset = cursor.offset();
  SPILLWAY_ASSIGN_OR_RETURN(entry.key, cursor.ReadString("metadata key"));
  if (entry.key.empty() || entry.key.size() > kKeyBytesMax) {
    return cursor.Error(
        key_offset, "metadata key",
        absl::StrCat("a key has 1 to ", kKeyBytesMax, " bytes, not ", entry.key.size(), "; ", kDamagedFile));
  }
  const std::string field = absl::StrCat("metadata ", Quoted(entry.key));
  SPILLWAY_ASSIGN_OR_RETURN(entry.type, ReadType(cursor, field));
  entry.offset = cursor.offset();
  if (entry.type == GgufType::kString) {
    SPILLWAY_ASSIGN_OR_RETURN(const absl::string_view text, cursor.ReadString(field));
    entry.payload = absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(text.data()), text.size());
    return entry;
  }
  if (entry.type == GgufType::kArray) {
    const GgufCursor before = cursor;
    SPILLWAY_ASSIGN_OR_RETURN(const ArrayHeader header, SkipArray(cursor, field, 0));
    entry.element_type = header.element_type;
    entry.count = header.count;
    constexpr int64_t kHeaderBytes = 4 + 8;
    GgufCursor whole = before;
    SPILLWAY_ASSIGN_OR_RETURN(const auto bytes, whole.ReadBytes(field, cursor.offset() - before.offset(), 1));
    entry.payload = bytes.subspan(kHeaderBytes);
    return entry;
  }
  SPILLWAY_ASSIGN_OR_RETURN(entry.payload, cursor.ReadBytes(field, 1, GgufTypeBytes(entry.type)));
  if (entry.type == GgufType::kBool) {
    SPILLWAY_RETURN_IF_ERROR(CheckBools(cursor, field, entry.offset, entry.payload));
  }
  return entry;
}

absl::StatusOr<GgufMetadata> GgufMetadata::Parse(GgufCursor& cursor, int64_t count) {
  GgufMetadata metadata;
  metadata.file_ = cursor.file();
  for (int64_t i = 0; i < count; ++i) {
    const int64_t start = cursor.offset();
    SPILLWAY_ASSIGN_OR_RETURN(const Entry entry, ParseEntry(cursor));
    const auto [position, inserted] = metadata.index_.try_emplace(entry.key, metadata.entries_.size());
    if (!inserted) {
      return cursor.Error(start, absl::StrCat("metadata ", Quoted(entry.key)),
                          absl::StrCat("the key appears twice, first at byte ",
                                       metadata.entries_[position->second].offset, "; ", kDamagedFile));
    }
    metadata.entries_.push_back(entry);
  }
  return metadata;
}

std::vector<absl::string_view> GgufMetadata::Keys() const {
  std::vector<absl::string_view> keys;
  keys.reserve(entries_.size());
  for (const Entry& entry : entries_) keys.push_back(entry.key);
  return keys;
}

absl::StatusOr<const GgufMetadata::Entry*> GgufMetadata::Find(absl::string_view key) const {
  const auto it = index_.find(key);
  if (it == index_.end()) {
    return absl::NotFoundError(absl::StrCat(file_, ": metadata has no '", key,
                                            "'; convert the model again with a current converter"));
  }
  return &entries_[it->second];
}

absl::Status GgufMetadata::EntryError(const Entry& entry, absl::string_view problem) const {
  return absl::InvalidArgumentError(
      absl::StrCat(file_, ": byte ", entry.offset, ": metadata ", Quoted(entry.key), ": ", problem));
}

absl::Status GgufMetadata::Error(absl::string_view key, absl::string_view problem) const {
  const auto it = index_.find(key);
  SPILLWAY_CHECK(it != index_.end());
  return EntryError(entries_[it->second], problem);
}

absl::Status GgufMetadata::WrongType(const Entry& entry, absl::string_view wanted) const {
  const bool array = entry.type == GgufType::kArray;
  return EntryError(entry, absl::StrCat("found ", array ? "an array of " : "",
                                        GgufTypeName(array ? entry.element_type : entry.type), ", wanted ",
                                        wanted, "; convert the model again with a current converter"));
}

absl::StatusOr<absl::string_view> GgufMetadata::String(absl::string_view key) const {
  SPILLWAY_ASSIGN_OR_RETURN(const Entry* entry, Find(key));
  if (entry->type != GgufType::kString) return WrongType(*entry, "a string");
  return absl::string_view(reinterpret_cast<const char*>(entry->payload.data()), entry->payload.size());
}

absl::StatusOr<bool> GgufMetadata::Bool(absl::string_view key) const {
  SPILLWAY_ASSIGN_OR_RETURN(const Entry* entry, Find(key));
  if (entry->type != GgufType::kBool) return WrongType(*entry, "a bool");
  return entry->payload[0] != 0;
}

absl::StatusOr<int64_t> GgufMetadata::Int(absl::string_view key) const {
  SPILLWAY_ASSIGN_OR_RETURN(const Entry* entry, Find(key));
  if (!IsGgufInteger(entry->type)) return WrongType(*entry, "an integer");
  absl::StatusOr<int64_t> value = LoadInt(entry->type, entry->payload.data());
  if (!value.ok()) return EntryError(*entry, value.status().message());
  return value;
}

absl::StatusOr<double> GgufMetadata::Float(absl::string_view key) const {
  SPILLWAY_ASSIGN_OR_RETURN(const Entry* entry, Find(key));
  if (entry->type == GgufType::kFloat32) return double{Load<float>(entry->payload.data())};
  if (entry->type == GgufType::kFloat64) return Load<double>(entry->payload.data());
  return WrongType(*entry, "a float32 or float64");
}

absl::StatusOr<absl::string_view> GgufMetadata::StringOr(absl::string_view key,
                                                         absl::string_view missing) const {
  return Has(key) ? String(key) : missing;
}

absl::StatusOr<bool> GgufMetadata::BoolOr(absl::string_view key, bool missing) const {
  return Has(key) ? Bool(key) : missing;
}

absl::StatusOr<int64_t> GgufMetadata::IntOr(absl::string_view key, int64_t missing) const {
  return Has(key) ? Int(key) : missing;
}

absl::StatusOr<double> GgufMetadata::FloatOr(absl::string_view key, double missing) const {
  return Has(key) ? Float(key) : missing;
}

absl::StatusOr<int64_t> GgufMetadata::ArraySize(absl::string_view key) const {
  SPILLWAY_ASSIGN_OR_RETURN(const Entry* entry, Find(key));
  if (entry->type != GgufType::kArray) return WrongType(*entry, "an array");
  return entry->count;
}

absl::StatusOr<const GgufMetadata::Entry*> GgufMetadata::FindArray(absl::string_view key,
                                                                   int64_t size) const {
  SPILLWAY_ASSIGN_OR_RETURN(const int64_t found, ArraySize(key));
  SPILLWAY_ASSIGN_OR_RETURN(const Entry* entry, Find(key));
  if (found != size) {
    return EntryError(*entry, absl::StrCat("an array of ", found, " elements, wanted ", size,
                                           "; convert the model again with a current converter"));
  }
  return entry;
}

absl::StatusOr<std::vector<absl::string_view>> GgufMetadata::Strings(absl::string_view key,
                                                                     int64_t size) const {
  SPILLWAY_ASSIGN_OR_RETURN(const Entry* entry, FindArray(key, size));
  if (entry->element_type != GgufType::kString) return WrongType(*entry, "an array of string");
  std::vector<absl::string_view> strings;
  strings.reserve(static_cast<size_t>(entry->count));
  const uint8_t* data = entry->payload.data();
  for (int64_t i = 0; i < entry->count; ++i) {
    const auto length = Load<uint64_t>(data);  // checked when the file was read
    strings.emplace_back(reinterpret_cast<const char*>(data + sizeof(length)), length);
    data += sizeof(length) + length;
  }
  return strings;
}

absl::StatusOr<std::vector<int64_t>> GgufMetadata::Ints(absl::string_view key, int64_t size) const {
  SPILLWAY_ASSIGN_OR_RETURN(const Entry* entry, FindArray(key, size));
  if (!IsGgufInteger(entry->element_type)) return WrongType(*entry, "an array of integers");
  const int64_t element_bytes = GgufTypeBytes(entry->element_type);
  std::vector<int64_t> ints;
  ints.reserve(static_cast<size_t>(entry->count));
  for (int64_t i = 0; i < entry->count; ++i) {
    absl::StatusOr<int64_t> value = LoadInt(entry->element_type, entry->payload.data() + i * element_bytes);
    if (!value.ok()) return EntryError(*entry, absl::StrCat("element ", i, ": ", value.status().message()));
    ints.push_back(*value);
  }
  return ints;
}

absl::StatusOr<std::vector<float>> GgufMetadata::Floats(absl::string_view key, int64_t size) const {
  SPILLWAY_ASSIGN_OR_RETURN(const Entry* entry, FindArray(key, size));
  if (entry->element_type != GgufType::kFloat32) return WrongType(*entry, "an array of float32");
  std::vector<float> floats(static_cast<size_t>(entry->count));
  if (!floats.empty()) std::memcpy(floats.data(), entry->payload.data(), floats.size() * sizeof(float));
  return floats;
}

}  // namespace spillway::model
