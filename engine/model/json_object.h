// JSON that nobody vouches for: read within limits, and asked for typed fields.
//
// Errors name the file, the field's path in it and the remedy: NotFound for a missing field, InvalidArgument
// for another type or an impossible value.
#ifndef SPILLWAY_ENGINE_MODEL_JSON_OBJECT_H_
#define SPILLWAY_ENGINE_MODEL_JSON_OBJECT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace spillway::model {

struct JsonLimits {
  int64_t bytes_max = int64_t{1} << 20;
  int64_t values_max = int64_t{1} << 16;  // values and keys, an upper bound of what memory they take
  int32_t depth_max = 32;
};

// The object that `text` is. Refuses, before anything is built of it, what is beyond the limits; then what is
// no JSON object, has a key twice in one object, or is no UTF-8. `file` begins every message.
absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view text, absl::string_view file,
                                               const JsonLimits& limits = {});

// The same of a regular file, as MappedFile opens it.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path, const JsonLimits& limits = {});

// An object's fields. A field that is null counts as missing. Borrows the object; thread-safe.
class JsonObject {
 public:
  // REQUIRES: object.is_object().
  JsonObject(const nlohmann::json& object, std::string file) : JsonObject(object, std::move(file), "") {}

  const std::string& file() const { return file_; }
  const nlohmann::json& json() const { return object_; }

  bool Has(absl::string_view key) const { return Find(key) != nullptr; }
  // The value itself, or null.
  const nlohmann::json* Find(absl::string_view key) const;

  absl::StatusOr<int64_t> Int(absl::string_view key) const;
  // Any number; finite.
  absl::StatusOr<double> Float(absl::string_view key) const;
  absl::StatusOr<bool> Bool(absl::string_view key) const;
  absl::StatusOr<std::string> String(absl::string_view key) const;
  absl::StatusOr<JsonObject> Object(absl::string_view key) const;
  // One integer, or an array of them.
  absl::StatusOr<std::vector<int64_t>> Ints(absl::string_view key) const;
  absl::StatusOr<std::vector<std::string>> Strings(absl::string_view key) const;

  // The same, with what stands for a missing field.
  absl::StatusOr<int64_t> IntOr(absl::string_view key, int64_t missing) const;
  absl::StatusOr<double> FloatOr(absl::string_view key, double missing) const;
  absl::StatusOr<bool> BoolOr(absl::string_view key, bool missing) const;
  absl::StatusOr<std::string> StringOr(absl::string_view key, absl::string_view missing) const;

  // "FILE: field 'rope_scaling.factor': PROBLEM": InvalidArgument, and Unimplemented for what Spillway would
  // compute wrongly.
  absl::Status Error(absl::string_view key, absl::string_view problem) const;
  absl::Status Unsupported(absl::string_view key, absl::string_view problem) const;

 private:
  JsonObject(const nlohmann::json& object, std::string file, std::string prefix)
      : object_(object), file_(std::move(file)), prefix_(std::move(prefix)) {}

  absl::StatusOr<const nlohmann::json*> Get(absl::string_view key) const;
  absl::Status WrongType(absl::string_view key, absl::string_view wanted) const;
  std::string Place(absl::string_view key, absl::string_view problem) const;

  const nlohmann::json& object_;
  std::string file_;
  std::string prefix_;  // "rope_scaling." of an inner object
};

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_JSON_OBJECT_H_
