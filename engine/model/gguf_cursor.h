// Reads little-endian fields from bytes that nobody vouches for. Every read is checked against what remains,
// and an error names the file, the byte offset and the field.
//
// Borrows the bytes and the file's name. Thread-compatible.
#ifndef SPILLWAY_ENGINE_MODEL_GGUF_CURSOR_H_
#define SPILLWAY_ENGINE_MODEL_GGUF_CURSOR_H_

#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace spillway::model {

class GgufCursor {
 public:
  GgufCursor(absl::string_view file, absl::Span<const uint8_t> bytes) : file_(file), bytes_(bytes) {}

  absl::string_view file() const { return file_; }
  int64_t offset() const { return offset_; }
  int64_t remaining() const { return static_cast<int64_t>(bytes_.size()) - offset_; }

  // A number of T's size. `field` is what an error calls it.
  template <typename T>
  absl::StatusOr<T> Read(absl::string_view field) {
    static_assert(std::is_arithmetic_v<T>);
    if (remaining() < static_cast<int64_t>(sizeof(T))) return Truncated(field, sizeof(T));
    T value;
    std::memcpy(&value, bytes_.data() + offset_, sizeof(T));
    offset_ += static_cast<int64_t>(sizeof(T));
    return value;
  }

  // A 64-bit length and as many bytes, which the result borrows.
  absl::StatusOr<absl::string_view> ReadString(absl::string_view field);

  // `count` items of `item_bytes` each, skipped; the product may not overflow what remains.
  // REQUIRES: item_bytes > 0.
  absl::StatusOr<absl::Span<const uint8_t>> ReadBytes(absl::string_view field, uint64_t count,
                                                      int64_t item_bytes);

  // A count of items that take at least `item_bytes_min` each: refused when the rest of the file cannot
  // hold them, so that the caller may reserve for it. REQUIRES: item_bytes_min > 0.
  absl::StatusOr<int64_t> ReadCount(absl::string_view field, int64_t item_bytes_min);

  // "FILE: byte OFFSET: FIELD: PROBLEM", InvalidArgument.
  absl::Status Error(int64_t offset, absl::string_view field, absl::string_view problem) const;

 private:
  absl::Status Truncated(absl::string_view field, uint64_t wanted_bytes) const;

  absl::string_view file_;
  absl::Span<const uint8_t> bytes_;
  int64_t offset_ = 0;
};

// What a file spells, made fit for one line of an error: quoted, escaped, shortened.
std::string Quoted(absl::string_view text);

// What an error recommends when bytes are not what they must be.
constexpr absl::string_view kDamagedFile = "the file is cut short or damaged; fetch or convert it again";

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_GGUF_CURSOR_H_
