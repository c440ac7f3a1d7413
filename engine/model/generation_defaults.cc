#include "engine/model/generation_defaults.h"

#include <filesystem>
#include <limits>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/model/json_object.h"

namespace spillway::model {
namespace {

constexpr double kNotANumber = std::numeric_limits<double>::quiet_NaN();

// An absent file says nothing.
absl::StatusOr<nlohmann::json> ReadIfThere(const std::string& directory, const char* name) {
  const std::string path = (std::filesystem::path(directory) / name).string();
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return nlohmann::json::object();
  return ReadJsonFile(path);
}

}  // namespace

GenerationDefaults DefaultsFromGguf(const GgufMetadata& metadata) {
  const auto read = [&metadata](const char* name) {
    GenerationDefault stated{absl::StrCat("general.sampling.", name), std::nullopt};
    if (!metadata.Has(stated.key)) return stated;
    absl::StatusOr<double> value = metadata.Float(stated.key);
    if (!value.ok()) {
      if (const absl::StatusOr<int64_t> integer = metadata.Int(stated.key); integer.ok()) {
        value = static_cast<double>(*integer);
      }
    }
    stated.value = value.value_or(kNotANumber);
    return stated;
  };
  return {.temperature = read("temp"),
          .top_k = read("top_k"),
          .top_p = read("top_p"),
          .min_p = read("min_p"),
          .repetition_penalty = read("penalty_repeat")};
}

absl::StatusOr<GenerationDefaults> DefaultsFromHuggingFace(const std::string& directory) {
  SPILLWAY_ASSIGN_OR_RETURN(const nlohmann::json root, ReadIfThere(directory, "generation_config.json"));
  const JsonObject json(root, absl::StrCat(directory, "/generation_config.json"));
  const auto read = [&json](const char* name) {
    GenerationDefault stated{absl::StrCat("generation_config.json: ", name), std::nullopt};
    if (json.Has(name)) stated.value = json.Float(name).value_or(kNotANumber);
    return stated;
  };
  GenerationDefaults defaults{.temperature = read("temperature"),
                              .top_k = read("top_k"),
                              .top_p = read("top_p"),
                              .min_p = read("min_p"),
                              .repetition_penalty = read("repetition_penalty")};
  SPILLWAY_ASSIGN_OR_RETURN(const bool samples, json.BoolOr("do_sample", true));
  if (!samples) defaults.temperature = {"generation_config.json: do_sample", 0.0};
  return defaults;
}

absl::StatusOr<std::vector<text::TokenId>> ReadStopIds(const std::string& directory, int32_t vocab_size) {
  for (const char* name : {"generation_config.json", "config.json"}) {
    SPILLWAY_ASSIGN_OR_RETURN(const nlohmann::json root, ReadIfThere(directory, name));
    const JsonObject json(root, absl::StrCat(directory, "/", name));
    if (!json.Has("eos_token_id")) continue;
    SPILLWAY_ASSIGN_OR_RETURN(const std::vector<int64_t> ids, json.Ints("eos_token_id"));
    std::vector<text::TokenId> stop_ids;
    for (const int64_t id : ids) {
      if (id < 0 || id >= vocab_size) {
        return json.Error("eos_token_id", absl::StrCat("id ", id, " is outside a vocabulary of ", vocab_size,
                                                       " tokens; check the file or fetch it again"));
      }
      stop_ids.push_back(static_cast<text::TokenId>(id));
    }
    return stop_ids;
  }
  return std::vector<text::TokenId>();
}

}  // namespace spillway::model
