// The typed key-value pairs at the head of a GGUF file.
//
// Values stay where they are in the file: an array is checked once, when the file is read, and turned into
// a container only when asked for. Borrows the file's bytes and name, so it lives no longer than they do.
// Thread-safe once made.
//
// Errors name the file, the key, the byte offset of its value and the way out: NotFound for a missing key,
// InvalidArgument for another type or an impossible value.
#ifndef SPILLWAY_ENGINE_MODEL_GGUF_METADATA_H_
#define SPILLWAY_ENGINE_MODEL_GGUF_METADATA_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/model/gguf_cursor.h"
#include "engine/model/gguf_types.h"

namespace spillway::model {

class GgufMetadata {
 public:
  // Reads `count` pairs from where the cursor stands and leaves it behind them.
  // REQUIRES: count was checked against the bytes that remain (kPairBytesMin each).
  static absl::StatusOr<GgufMetadata> Parse(GgufCursor& cursor, int64_t count);

  // Key length, one character, type, one byte.
  static constexpr int64_t kPairBytesMin = 8 + 1 + 4 + 1;

  bool Has(absl::string_view key) const { return index_.contains(key); }
  int64_t size() const { return static_cast<int64_t>(entries_.size()); }

  // In the order of the file.
  std::vector<absl::string_view> Keys() const;

  absl::StatusOr<absl::string_view> String(absl::string_view key) const;
  absl::StatusOr<bool> Bool(absl::string_view key) const;
  // Any integer type whose value fits.
  absl::StatusOr<int64_t> Int(absl::string_view key) const;
  // float32 or float64.
  absl::StatusOr<double> Float(absl::string_view key) const;

  // The same, with what stands for a missing key.
  absl::StatusOr<absl::string_view> StringOr(absl::string_view key, absl::string_view missing) const;
  absl::StatusOr<bool> BoolOr(absl::string_view key, bool missing) const;
  absl::StatusOr<int64_t> IntOr(absl::string_view key, int64_t missing) const;
  absl::StatusOr<double> FloatOr(absl::string_view key, double missing) const;

  // Elements of an array of any type.
  absl::StatusOr<int64_t> ArraySize(absl::string_view key) const;
  // An array of exactly `size` elements, so that nobody allocates what a file merely claims: strings
  // (borrowed), any integer type, float32.
  absl::StatusOr<std::vector<absl::string_view>> Strings(absl::string_view key, int64_t size) const;
  absl::StatusOr<std::vector<int64_t>> Ints(absl::string_view key, int64_t size) const;
  absl::StatusOr<std::vector<float>> Floats(absl::string_view key, int64_t size) const;

  // InvalidArgument about the value of `key`, with file and offset: for what only the caller can judge.
  // REQUIRES: Has(key).
  absl::Status Error(absl::string_view key, absl::string_view problem) const;

 private:
  struct Entry {
    absl::string_view key;
    GgufType type = GgufType::kUint8;
    GgufType element_type = GgufType::kUint8;  // of an array
    int64_t offset = 0;                        // of the value in the file
    int64_t count = 1;                         // elements of an array
    absl::Span<const uint8_t> payload;         // of a string or an array: what follows its length
  };

  static absl::StatusOr<Entry> ParseEntry(GgufCursor& cursor);

  absl::StatusOr<const Entry*> Find(absl::string_view key) const;
  absl::StatusOr<const Entry*> FindArray(absl::string_view key, int64_t size) const;
  absl::Status WrongType(const Entry& entry, absl::string_view wanted) const;
  absl::Status EntryError(const Entry& entry, absl::string_view problem) const;

  absl::string_view file_;
  std::vector<Entry> entries_;
  absl::flat_hash_map<absl::string_view, size_t> index_;  // key -> position in entries_
};

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_GGUF_METADATA_H_
