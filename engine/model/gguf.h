// A GGUF model file: metadata and a table of tensors over bytes that stay where they are.
//
// Reads versions 2 and 3, little endian (github.com/ggml-org/ggml, docs/gguf.md). A file is hostile until
// proven otherwise: every length, count and offset is checked against the bytes that remain before anything
// is reserved or dereferenced, and no tensor reaches outside the file or into another. Strings and arrays are
// views, so an open file costs little beyond its tables.
//
// Errors are one line: file, byte offset, field and remedy. InvalidArgument for a damaged file, Unimplemented
// for a sound one that Spillway does not read (version 1, big endian, split files, other tensor types).
#ifndef SPILLWAY_ENGINE_MODEL_GGUF_H_
#define SPILLWAY_ENGINE_MODEL_GGUF_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/device/tensor.h"
#include "engine/model/gguf_cursor.h"
#include "engine/model/gguf_metadata.h"
#include "engine/model/mapped_file.h"
#include "engine/model/tensor_source.h"

namespace spillway::model {

// Move-only; thread-safe once made. Every view it gives (metadata strings, tensor data) dies with it, except
// that moving it keeps them.
class GgufFile : public TensorSource {
 public:
  // Maps the file; see MappedFile for what happens when somebody changes it meanwhile.
  static absl::StatusOr<GgufFile> Open(const std::string& path);

  // Reads bytes that the caller keeps alive; `name` stands for the path in errors.
  static absl::StatusOr<GgufFile> Parse(absl::Span<const uint8_t> bytes, std::string name);

  const std::string& path() const override { return *path_; }
  uint32_t version() const { return version_; }
  const GgufMetadata& metadata() const { return metadata_; }

  // The whole file.
  absl::Span<const uint8_t> bytes() const { return bytes_; }

  // In the order of the file. Shapes are outermost first: GGUF's [columns, rows] becomes [rows, columns].
  const std::vector<device::TensorView>& tensors() const { return tensors_; }
  const device::TensorView* FindTensor(absl::string_view name) const override;

  // Ok for parsed bytes. See MappedFile::CheckUnchanged.
  absl::Status CheckUnchanged() const;

 private:
  struct TensorInfo;

  GgufFile() = default;

  absl::Status ReadTables();
  absl::Status ReadTensorTable(GgufCursor& cursor, int64_t count);
  absl::StatusOr<TensorInfo> ReadTensorInfo(GgufCursor& cursor) const;
  absl::Status PlaceTensors(const GgufCursor& cursor, std::vector<TensorInfo> infos);
  absl::Status CheckNoOverlap(const GgufCursor& cursor) const;

  std::unique_ptr<const std::string> path_;  // metadata_ borrows it, wherever this object moves
  std::optional<MappedFile> mapping_;
  absl::Span<const uint8_t> bytes_;
  uint32_t version_ = 0;
  GgufMetadata metadata_;
  std::vector<device::TensorView> tensors_;
  absl::flat_hash_map<absl::string_view, size_t> tensor_index_;  // name (in the file's bytes) -> position
};

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_GGUF_H_
