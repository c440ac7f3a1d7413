#include "engine/model/json_object.h"

#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/json_watch.h"
#include "base/status_macros.h"
#include "engine/model/gguf_cursor.h"
#include "engine/model/mapped_file.h"

namespace spillway::model {
namespace {

constexpr absl::string_view kDamagedJson = "the file is damaged or not what it should be; fetch it again";

// Counts brackets, and values by their separators, without building anything. Whether the text is JSON at all
// is for the parser to say.
absl::Status CheckLimits(absl::string_view text, absl::string_view file, const JsonLimits& limits) {
  if (static_cast<int64_t>(text.size()) > limits.bytes_max) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": ", FormatBytes(static_cast<int64_t>(text.size())),
                                                   " of JSON, at most ", FormatBytes(limits.bytes_max),
                                                   " are read; ", kDamagedJson));
  }
  int32_t depth = 0;
  int64_t values = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
      continue;
    }
    in_string = c == '"';
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') --depth;
    if (c == '[' || c == '{' || c == ',' || c == ':') ++values;
    if (depth > limits.depth_max || values > limits.values_max) {
      return absl::InvalidArgumentError(absl::StrCat(
          file, ": byte ", i, ": JSON ",
          depth > limits.depth_max ? absl::StrCat("nested deeper than ", limits.depth_max, " levels")
                                   : absl::StrCat("of more than ", limits.values_max, " values"),
          "; ", kDamagedJson));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view text, absl::string_view file,
                                               const JsonLimits& limits) {
  SPILLWAY_RETURN_IF_ERROR(CheckLimits(text, file, limits));
  JsonWatch watch(limits.depth_max);
  nlohmann::json root;
  try {
    root = nlohmann::json::parse(text.begin(), text.end(), std::ref(watch));
  } catch (const nlohmann::json::parse_error& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": byte ", error.byte, ": not JSON; ", kDamagedJson));
  } catch (const nlohmann::json::exception&) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": a number is out of range; ", kDamagedJson));
  }
  if (!watch.repeated().empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file, ": field ", Quoted(watch.repeated()), " is there twice; ", kDamagedJson));
  }
  if (!root.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": not a JSON object; ", kDamagedJson));
  }
  return root;
}

absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path, const JsonLimits& limits) {
  SPILLWAY_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  const absl::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  SPILLWAY_ASSIGN_OR_RETURN(nlohmann::json root, ParseJsonObject(text, path, limits));
  SPILLWAY_RETURN_IF_ERROR(file.CheckUnchanged());
  return root;
}

const nlohmann::json* JsonObject::Find(absl::string_view key) const {
  const auto found = object_.find(std::string(key));
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

absl::StatusOr<const nlohmann::json*> JsonObject::Get(absl::string_view key) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) {
    return absl::NotFoundError(Place(key, absl::StrCat("is missing; ", kDamagedJson)));
  }
  return value;
}

absl::StatusOr<int64_t> JsonObject::Int(absl::string_view key) const {
  SPILLWAY_ASSIGN_OR_RETURN(const nlohmann::json* value, Get(key));
  if (value->is_number_unsigned() && value->get<uint64_t>() > std::numeric_limits<int64_t>::max()) {
    return Error(key, absl::StrCat(value->get<uint64_t>(), " is too large; ", kDamagedJson));
  }
  if (!value->is_number_integer()) return WrongType(key, "a whole number");
  return value->get<int64_t>();
}

absl::StatusOr<double> JsonObject::Float(absl::string_view key) const {
  SPILLWAY_ASSIGN_OR_RETURN(const nlohmann::json* value, Get(key));
  if (!value->is_number()) return WrongType(key, "a number");
  const auto number = value->get<double>();
  if (!std::isfinite(number)) return Error(key, absl::StrCat("is not finite; ", kDamagedJson));
  return number;
}

absl::StatusOr<bool> JsonObject::Bool(absl::string_view key) const {
  SPILLWAY_ASSIGN_OR_RETURN(const nlohmann::json* value, Get(key));
  if (!value->is_boolean()) return WrongType(key, "true or false");
  return value->get<bool>();
}

absl::StatusOr<std::string> JsonObject::String(absl::string_view key) const {
  SPILLWAY_ASSIGN_OR_RETURN(const nlohmann::json* value, Get(key));
  if (!value->is_string()) return WrongType(key, "a string");
  return value->get<std::string>();
}

absl::StatusOr<JsonObject> JsonObject::Object(absl::string_view key) const {
  SPILLWAY_ASSIGN_OR_RETURN(const nlohmann::json* value, Get(key));
  if (!value->is_object()) return WrongType(key, "an object");
  return JsonObject(*value, file_, absl::StrCat(prefix_, key, "."));
}

absl::StatusOr<std::vector<int64_t>> JsonObject::Ints(absl::string_view key) const {
  SPILLWAY_ASSIGN_OR_RETURN(const nlohmann::json* value, Get(key));
  if (!value->is_array()) {
    SPILLWAY_ASSIGN_OR_RETURN(const int64_t number, Int(key));
    return std::vector<int64_t>{number};
  }
  std::vector<int64_t> numbers;
  for (const nlohmann::json& element : *value) {
    const bool fits =
        element.is_number_integer() &&
        (!element.is_number_unsigned() || element.get<uint64_t>() <= std::numeric_limits<int64_t>::max());
    if (!fits) return WrongType(key, "whole numbers");
    numbers.push_back(element.get<int64_t>());
  }
  return numbers;
}

absl::StatusOr<std::vector<std::string>> JsonObject::Strings(absl::string_view key) const {
  SPILLWAY_ASSIGN_OR_RETURN(const nlohmann::json* value, Get(key));
  if (!value->is_array()) return WrongType(key, "an array of strings");
  std::vector<std::string> strings;
  for (const nlohmann::json& element : *value) {
    if (!element.is_string()) return WrongType(key, "an array of strings");
    strings.push_back(element.get<std::string>());
  }
  return strings;
}

absl::StatusOr<int64_t> JsonObject::IntOr(absl::string_view key, int64_t missing) const {
  return Has(key) ? Int(key) : missing;
}
absl::StatusOr<double> JsonObject::FloatOr(absl::string_view key, double missing) const {
  return Has(key) ? Float(key) : missing;
}
absl::StatusOr<bool> JsonObject::BoolOr(absl::string_view key, bool missing) const {
  return Has(key) ? Bool(key) : missing;
}
absl::StatusOr<std::string> JsonObject::StringOr(absl::string_view key, absl::string_view missing) const {
  return Has(key) ? String(key) : std::string(missing);
}

std::string JsonObject::Place(absl::string_view key, absl::string_view problem) const {
  return absl::StrCat(file_, ": field '", prefix_, key, "': ", problem);
}

absl::Status JsonObject::WrongType(absl::string_view key, absl::string_view wanted) const {
  return Error(key, absl::StrCat("is not ", wanted, "; ", kDamagedJson));
}

absl::Status JsonObject::Error(absl::string_view key, absl::string_view problem) const {
  return absl::InvalidArgumentError(Place(key, problem));
}

absl::Status JsonObject::Unsupported(absl::string_view key, absl::string_view problem) const {
  return absl::UnimplementedError(Place(key, problem));
}

}  // namespace spillway::model
