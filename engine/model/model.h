// A served model: what the server, the profiler and the benchmarks load by its path in one call.
#ifndef SPILLWAY_ENGINE_MODEL_MODEL_H_
#define SPILLWAY_ENGINE_MODEL_MODEL_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/device/device.h"
#include "engine/model/fingerprint.h"
#include "engine/model/generation_defaults.h"
#include "engine/model/model_config.h"
#include "engine/model/weights.h"
#include "engine/text/vocabulary.h"

namespace spillway::model {

// Movable; immutable and thread-safe once loaded. The device must outlive it. The file is closed again.
struct Model {
  std::string path;
  int64_t file_bytes = 0;  // 0: of a model that no file holds
  ModelConfig config;
  text::Vocabulary vocabulary;
  std::string why_no_text;  // of a vocabulary of ids
  ModelFingerprint fingerprint{};
  std::unique_ptr<ModelWeights> weights;
};

// Makes a model of the architecture and size that a Hugging Face config.json (or a directory with one)
// describes, with random weights that `seed` decides (RandomTensors). It has no text: its vocabulary is one
// of ids, and nothing ends a generation but its length. `matrices` as RandomTensors takes it.
absl::StatusOr<Model> LoadRandomModel(const std::string& config_path, uint64_t seed, device::Device& device,
                                      const WeightOptions& options,
                                      device::Encoding matrices = device::Encoding::kBF16);

// What a model says before anything of it is loaded.
struct ModelHeader {
  ModelConfig config;
  GenerationDefaults defaults;
};
absl::StatusOr<ModelHeader> ReadModelHeader(const std::string& path);

// Reads a GGUF file or a Hugging Face directory. Errors are those of GgufFile, ConfigFromGguf,
// VocabularyFromGguf, HuggingFaceDirectory and ModelWeights::Load; each is one line that names the file and
// the remedy.
absl::StatusOr<Model> LoadModel(const std::string& path, device::Device& device,
                                const WeightOptions& options);

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_MODEL_H_
