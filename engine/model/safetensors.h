// A safetensors file: a JSON table of tensors over bytes that stay where they are
// (github.com/huggingface/safetensors, README.md, "Format").
//
// A file is hostile until proven otherwise: the header is read within limits, every shape and offset is
// checked against the bytes that are there, and no tensor overlaps another or leaves a hole, as the format
// demands. Errors are one line: file, tensor, field and remedy.
#ifndef SPILLWAY_ENGINE_MODEL_SAFETENSORS_H_
#define SPILLWAY_ENGINE_MODEL_SAFETENSORS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/device/tensor.h"
#include "engine/model/json_object.h"
#include "engine/model/mapped_file.h"

namespace spillway::model {

// Move-only; thread-safe once made. Tensor data dies with it; moving it keeps them.
class SafetensorsFile {
 public:
  struct Tensor {
    device::TensorView view;  // the encoding counts where is_float
    std::string dtype;        // "BF16", as the file spells it
    bool is_float = false;    // F32, F16 or BF16: what weights are read from
  };

  // Maps the file; see MappedFile for what happens when somebody changes it meanwhile.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);
  // Reads bytes that the caller keeps alive; `name` stands for the path in errors.
  static absl::StatusOr<SafetensorsFile> Parse(absl::Span<const uint8_t> bytes, std::string name);

  const std::string& path() const { return path_; }
  absl::Span<const uint8_t> bytes() const { return bytes_; }       // the whole file
  const std::vector<Tensor>& tensors() const { return tensors_; }  // in the order of their data

  // Ok for parsed bytes. See MappedFile::CheckUnchanged.
  absl::Status CheckUnchanged() const;

 private:
  SafetensorsFile() = default;

  absl::Status ReadTable();
  absl::Status ReadTensor(const std::string& name, const nlohmann::json& entry,
                          absl::Span<const uint8_t> data);
  absl::Status CheckPlaces(absl::Span<const uint8_t> data) const;

  std::string path_;
  std::optional<MappedFile> mapping_;
  absl::Span<const uint8_t> bytes_;
  std::vector<Tensor> tensors_;
};

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_SAFETENSORS_H_
