// The configuration of a Hugging Face model: config.json as Transformers writes it for Llama and OPT.
#ifndef SPILLWAY_ENGINE_MODEL_HUGGING_FACE_CONFIG_H_
#define SPILLWAY_ENGINE_MODEL_HUGGING_FACE_CONFIG_H_

#include <string>

#include "absl/status/statusor.h"
#include "engine/model/json_object.h"
#include "engine/model/model_config.h"

namespace spillway::model {

// What is missing is as Transformers has it. What Spillway would compute wrongly is Unimplemented, by name
// and with the way out: another architecture, OPT's post-norm variant, a scaling of RoPE other than "linear"
// and "llama3", quantised weights, code of the model's own. InvalidArgument or NotFound for sizes that are
// missing or contradict each other.
absl::StatusOr<ModelConfig> ConfigFromHuggingFace(const JsonObject& json);

// The same of a file, or of the config.json in a directory.
absl::StatusOr<ModelConfig> ReadHuggingFaceConfig(const std::string& path);

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_HUGGING_FACE_CONFIG_H_
