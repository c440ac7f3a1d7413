#include "engine/model/model.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/model/gguf.h"
#include "engine/model/gguf_vocabulary.h"
#include "engine/model/hugging_face_config.h"
#include "engine/model/hugging_face_directory.h"
#include "engine/model/random_weights.h"

namespace spillway::model {

namespace {

absl::StatusOr<Model> LoadDirectory(const std::string& path, device::Device& device,
                                    const WeightOptions& options) {
  SPILLWAY_ASSIGN_OR_RETURN(const HuggingFaceDirectory directory, HuggingFaceDirectory::Open(path));
  Model model;
  model.path = path;
  model.file_bytes = directory.weight_bytes();
  model.config = directory.config();
  SPILLWAY_ASSIGN_OR_RETURN(model.vocabulary, directory.Vocabulary(&model.why_no_text));
  SPILLWAY_ASSIGN_OR_RETURN(model.fingerprint, directory.Fingerprint(LoadingThreads(device.info(), options)));
  SPILLWAY_ASSIGN_OR_RETURN(model.weights, ModelWeights::Load(device, directory, model.config, options));
  SPILLWAY_RETURN_IF_ERROR(directory.CheckUnchanged());
  return model;
}

}  // namespace

absl::StatusOr<ModelHeader> ReadModelHeader(const std::string& path) {
  ModelHeader header;
  if (IsModelDirectory(path)) {
    SPILLWAY_ASSIGN_OR_RETURN(header.config, ReadHuggingFaceConfig(path));
    SPILLWAY_ASSIGN_OR_RETURN(header.defaults, DefaultsFromHuggingFace(path));
    return header;
  }
  SPILLWAY_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(path));
  SPILLWAY_ASSIGN_OR_RETURN(header.config, ConfigFromGguf(file));
  header.defaults = DefaultsFromGguf(file.metadata());
  return header;
}

absl::StatusOr<Model> LoadModel(const std::string& path, device::Device& device,
                                const WeightOptions& options) {
  if (IsModelDirectory(path)) return LoadDirectory(path, device, options);
  SPILLWAY_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(path));
  Model model;
  model.path = path;
  model.file_bytes = static_cast<int64_t>(file.bytes().size());
  SPILLWAY_ASSIGN_OR_RETURN(model.config, ConfigFromGguf(file));
  SPILLWAY_ASSIGN_OR_RETURN(model.vocabulary, VocabularyFromGguf(file));
  // Hashing first brings the file into the page cache for the load.
  SPILLWAY_ASSIGN_OR_RETURN(model.fingerprint, Fingerprint(file, LoadingThreads(device.info(), options)));
  SPILLWAY_ASSIGN_OR_RETURN(model.weights, ModelWeights::Load(device, file, model.config, options));
  SPILLWAY_RETURN_IF_ERROR(file.CheckUnchanged());
  return model;
}

absl::StatusOr<Model> LoadRandomModel(const std::string& config_path, uint64_t seed, device::Device& device,
                                      const WeightOptions& options, device::Encoding matrices) {
  Model model;
  model.path = config_path;
  SPILLWAY_ASSIGN_OR_RETURN(model.config, ReadHuggingFaceConfig(config_path));
  model.config.name = absl::StrCat("random-", NameOf(model.config.family));
  model.vocabulary = text::IdVocabulary(model.config.vocab_size);
  model.why_no_text = "weights are random";
  const RandomTensors tensors(model.config, seed, absl::StrCat("random weights of ", config_path), matrices);
  SPILLWAY_ASSIGN_OR_RETURN(model.fingerprint, tensors.Fingerprint());
  SPILLWAY_ASSIGN_OR_RETURN(model.weights, ModelWeights::Load(device, tensors, model.config, options));
  return model;
}

}  // namespace spillway::model
