// A model as Hugging Face directories hold it: config.json, weights in model.safetensors or in the shards of
// model.safetensors.index.json, and a tokenizer.
#ifndef SPILLWAY_ENGINE_MODEL_HUGGING_FACE_DIRECTORY_H_
#define SPILLWAY_ENGINE_MODEL_HUGGING_FACE_DIRECTORY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/model/fingerprint.h"
#include "engine/model/model_config.h"
#include "engine/model/safetensors.h"
#include "engine/model/tensor_source.h"
#include "engine/text/vocabulary.h"

namespace spillway::model {

// Whether `path` is a directory, and so to be read as this.
bool IsModelDirectory(const std::string& path);

// Movable; thread-safe once made. Tensors are found by GGUF's names; views carry the file's.
class HuggingFaceDirectory : public TensorSource {
 public:
  // Opens the configuration and the weights, and checks that every tensor that the configuration implies is
  // there once, in its shape and in F32, F16 or BF16. Unimplemented, by name, for a tensor that Spillway does
  // not know (but not for buffers that Transformers itself passes over) and for weights in other formats.
  static absl::StatusOr<HuggingFaceDirectory> Open(const std::string& path);

  const std::string& path() const override { return path_; }
  const device::TensorView* FindTensor(absl::string_view name) const override;

  const ModelConfig& config() const { return config_; }
  // Ids only, with the reason in `why_no_text`, where there is no tokenizer that Spillway can be. What ends a
  // generation is in both.
  absl::StatusOr<text::Vocabulary> Vocabulary(std::string* why_no_text) const;
  int64_t weight_bytes() const;  // of the files that hold weights

  // Of the configuration, the weights and the tokenizer's files, as of a GGUF file (Fingerprint); the names
  // of the directory and its files do not matter.
  absl::StatusOr<ModelFingerprint> Fingerprint(int n_threads) const;
  absl::Status CheckUnchanged() const;

 private:
  HuggingFaceDirectory() = default;

  std::string FileName(absl::string_view name) const;
  absl::Status OpenWeights();
  absl::Status OpenShards(const std::string& index_path);
  absl::Status IndexTensors();
  absl::Status CheckTensors() const;

  std::string path_;
  ModelConfig config_;
  std::vector<SafetensorsFile> files_;
  // GGUF's name -> a tensor of files_, whose vectors do not change any more.
  absl::flat_hash_map<std::string, const SafetensorsFile::Tensor*> index_;
};

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_HUGGING_FACE_DIRECTORY_H_
