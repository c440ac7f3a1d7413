// MachineProfile as JSON. Files come from anywhere: they are read within limits, and every field is checked
// before the value is made.
#include <limits>

#include "absl/strings/str_cat.h"
#include "base/small_file.h"
#include "base/status_macros.h"
#include "engine/model/gguf_cursor.h"
#include "engine/model/json_object.h"
#include "nlohmann/json.hpp"
#include "profiler/machine_profile.h"

namespace spillway::profiler {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(CostSample, units, seconds)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(CostPiece, fixed_s, per_unit_s)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(CostCurve, samples, pieces, fit_error_max, fit_error_median)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ProfileIdentity, machine, machine_parts, model, model_parts)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ProfiledModel, name, n_layers, d_model, n_heads, n_kv_heads, d_head,
                                   vocab_size, context_length, element_bytes, block_tokens, chunk_tokens,
                                   layer_weight_bytes, weight_bytes)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(CopyRates, bytes_per_s, overhead_s, single, merged, batched)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(MachineProfile, source, description, identity, model, copy_in, copy_out,
                                   copy_both_bytes_per_s, rebuild, linear, head, attention, prefill_attention,
                                   compute_slowdown_by_link, host_memory_bytes_per_s,
                                   host_attention_bytes_per_s, host_attention_fixed_s, device_memory_bytes,
                                   host_memory_bytes, measuring_s)
NLOHMANN_JSON_SERIALIZE_ENUM(ProfileSource,
                             {{ProfileSource::kMeasured, "measured"},
                              {ProfileSource::kMeasuredEmulatedLink, "measured, emulated link"},
                              {ProfileSource::kPublicFigures, "public figures"}})

namespace {

// What a profile's JSON looks like: every field with a value of its type, one element in every array.
nlohmann::json Shape() {
  const CostCurve curve{{CostSample{}}, {CostPiece{}}};
  MachineProfile profile;
  profile.copy_in = profile.copy_out = {0, 0, curve, curve, curve};
  profile.rebuild = profile.linear = profile.head = profile.attention = profile.prefill_attention = curve;
  return profile;
}

// Whole numbers are 32 bits wide in every field that has one.
bool IsInt32(const nlohmann::json& value) {
  using Limits = std::numeric_limits<int32_t>;
  return value.is_number_integer() && value.get<double>() >= Limits::min() &&
         value.get<double>() <= Limits::max();
}

// As deep as `shape` is, whatever `value` holds. What passes converts without an exception.
absl::Status CheckShape(const nlohmann::json& value, const nlohmann::json& shape, const std::string& field) {
  const auto must_be = [&](absl::string_view wanted) {
    const std::string is = value.is_number() ? value.dump() : absl::StrCat("of type ", value.type_name());
    return absl::InvalidArgumentError(absl::StrCat("profile: ", field, " is ", is, "; it must be ", wanted));
  };
  if (shape.is_object()) {
    if (!value.is_object()) return must_be("an object");
    for (const auto& [name, inner] : shape.items()) {
      const std::string path = field.empty() ? name : absl::StrCat(field, ".", name);
      const auto found = value.find(name);
      if (found == value.end())
        return absl::InvalidArgumentError(absl::StrCat("profile: ", path, " is missing"));
      SPILLWAY_RETURN_IF_ERROR(CheckShape(*found, inner, path));
    }
  } else if (shape.is_array()) {
    if (!value.is_array()) return must_be("an array");
    for (size_t i = 0; i < value.size(); ++i) {
      SPILLWAY_RETURN_IF_ERROR(CheckShape(value[i], shape.front(), absl::StrCat(field, "[", i, "]")));
    }
  } else if (shape.is_number_integer()) {
    if (!IsInt32(value)) return must_be("a whole number of 32 bits");
  } else if (shape.is_number()) {
    if (!value.is_number()) return must_be("a number");
  } else if (!value.is_string()) {
    return must_be("a string");
  }
  return absl::OkStatus();
}

}  // namespace

std::string ProfileToJson(const MachineProfile& profile) {
  nlohmann::json json = profile;
  json["schema_version"] = kProfileSchemaVersion;
  return json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

absl::StatusOr<MachineProfile> ProfileFromJson(absl::string_view text) {
  SPILLWAY_ASSIGN_OR_RETURN(const nlohmann::json json, model::ParseJsonObject(text, "profile"));
  SPILLWAY_RETURN_IF_ERROR(CheckShape(json, {{"schema_version", 0}}, ""));
  const int version = json["schema_version"].get<int>();
  if (version != kProfileSchemaVersion) {
    return absl::InvalidArgumentError(absl::StrCat("profile: schema_version is ", version,
                                                   ", this build reads ", kProfileSchemaVersion,
                                                   "; measure again with --reprofile"));
  }
  SPILLWAY_RETURN_IF_ERROR(CheckShape(json, Shape(), ""));
  const auto profile = json.get<MachineProfile>();
  // The library reads an unknown enumerator as the first one.
  if (nlohmann::json(profile.source) != json["source"]) {
    return absl::InvalidArgumentError(
        absl::StrCat("profile: source is ", model::Quoted(json["source"].get<std::string>())));
  }
  SPILLWAY_RETURN_IF_ERROR(ValidateProfile(profile));
  return profile;
}

absl::Status SaveProfile(const MachineProfile& profile, const std::string& path) {
  absl::Status status = ReplaceSmallFile(path, ProfileToJson(profile));
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(path, " ", status.message()));
}

absl::StatusOr<MachineProfile> LoadProfile(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadSmallFile(path);
  if (!text.ok()) {
    return absl::Status(text.status().code(),
                        absl::StrCat("the profile ", path, " ", text.status().message()));
  }
  absl::StatusOr<MachineProfile> profile = ProfileFromJson(*text);
  if (profile.ok()) return profile;
  return absl::Status(profile.status().code(), absl::StrCat(path, ": ", profile.status().message()));
}

}  // namespace spillway::profiler
