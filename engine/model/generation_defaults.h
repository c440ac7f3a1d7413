// How a model says that it wants to be sampled, and what ends its answers.
#ifndef SPILLWAY_ENGINE_MODEL_GENERATION_DEFAULTS_H_
#define SPILLWAY_ENGINE_MODEL_GENERATION_DEFAULTS_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/gguf_metadata.h"
#include "engine/text/vocabulary.h"

namespace spillway::model {

struct GenerationDefault {
  std::string key;              // what the file calls it
  std::optional<double> value;  // as stated, not checked: NaN for what is no number
};

struct GenerationDefaults {
  GenerationDefault temperature;  // 0: greedy
  GenerationDefault top_k;        // 0: all
  GenerationDefault top_p;
  GenerationDefault min_p;
  GenerationDefault repetition_penalty;
};

// The keys general.sampling.* of a GGUF file.
GenerationDefaults DefaultsFromGguf(const GgufMetadata& metadata);

// generation_config.json of a Hugging Face directory, where there is one. "do_sample": false is temperature
// 0.
absl::StatusOr<GenerationDefaults> DefaultsFromHuggingFace(const std::string& directory);

// eos_token_id of generation_config.json, else of config.json. InvalidArgument for an id outside of the
// vocabulary.
absl::StatusOr<std::vector<text::TokenId>> ReadStopIds(const std::string& directory, int32_t vocab_size);

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_GENERATION_DEFAULTS_H_
