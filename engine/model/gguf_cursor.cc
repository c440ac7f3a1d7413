#include "engine/model/gguf_cursor.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace spillway::model {

absl::StatusOr<absl::string_view> GgufCursor::ReadString(absl::string_view field) {
  const int64_t start = offset_;
  SPILLWAY_ASSIGN_OR_RETURN(const uint64_t length, Read<uint64_t>(field));
  if (length > static_cast<uint64_t>(remaining())) {
    return Error(
        start, field,
        absl::StrCat("a string of ", length, " bytes, but only ", remaining(), " remain; ", kDamagedFile));
  }
  const absl::string_view text(reinterpret_cast<const char*>(bytes_.data() + offset_), length);
  offset_ += static_cast<int64_t>(length);
  return text;
}

absl::StatusOr<absl::Span<const uint8_t>> GgufCursor::ReadBytes(absl::string_view field, uint64_t count,
                                                                int64_t item_bytes) {
  if (count > static_cast<uint64_t>(remaining() / item_bytes)) {
    return Error(offset_, field,
                 absl::StrCat(count, " elements of ", item_bytes, " bytes, but only ", remaining(),
                              " bytes remain; ", kDamagedFile));
  }
  const size_t size = count * static_cast<uint64_t>(item_bytes);
  const absl::Span<const uint8_t> span = bytes_.subspan(static_cast<size_t>(offset_), size);
  offset_ += static_cast<int64_t>(size);
  return span;
}

absl::StatusOr<int64_t> GgufCursor::ReadCount(absl::string_view field, int64_t item_bytes_min) {
  const int64_t start = offset_;
  SPILLWAY_ASSIGN_OR_RETURN(const uint64_t count, Read<uint64_t>(field));
  if (count > static_cast<uint64_t>(remaining() / item_bytes_min)) {
    return Error(start, field,
                 absl::StrCat(count, " of at least ", item_bytes_min, " bytes each, but only ", remaining(),
                              " bytes remain; ", kDamagedFile));
  }
  return static_cast<int64_t>(count);
}

absl::Status GgufCursor::Error(int64_t offset, absl::string_view field, absl::string_view problem) const {
  return absl::InvalidArgumentError(absl::StrCat(file_, ": byte ", offset, ": ", field, ": ", problem));
}

absl::Status GgufCursor::Truncated(absl::string_view field, uint64_t wanted_bytes) const {
  return Error(
      offset_, field,
      absl::StrCat("wanted ", wanted_bytes, " bytes, but only ", remaining(), " remain; ", kDamagedFile));
}

std::string Quoted(absl::string_view text) {
  constexpr size_t kShown = 80;
  std::string quoted = absl::StrCat("'", absl::CHexEscape(text.substr(0, kShown)), "'");
  if (text.size() > kShown) absl::StrAppend(&quoted, "...");
  return quoted;
}

}  // namespace spillway::model
