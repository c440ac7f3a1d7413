// Feeds arbitrary bytes to everything that reads a GGUF file before a model is served. The sanitizers find
// reads outside the bytes; libFuzzer's limits (tests/fuzz/CMakeLists.txt) find allocations that a file merely
// claims.
#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/strings/match.h"
#include "base/check.h"
#include "engine/device/tensor.h"
#include "engine/model/fingerprint.h"
#include "engine/model/gguf.h"
#include "engine/model/gguf_vocabulary.h"
#include "engine/model/model_config.h"

namespace spillway::model {
namespace {

// An error is one printable line that names the file.
void CheckMessage(const absl::Status& status) {
  if (status.ok()) return;
  SPILLWAY_CHECK(absl::StartsWith(status.message(), "fuzz.gguf: "));
  SPILLWAY_CHECK(status.message().size() < 2000);
  for (const char c : status.message()) SPILLWAY_CHECK(c >= ' ' && c <= '~');
}

void ReadMetadata(const GgufMetadata& metadata) {
  for (const absl::string_view key : metadata.Keys()) {
    CheckMessage(metadata.Int(key).status());
    CheckMessage(metadata.Float(key).status());
    CheckMessage(metadata.Bool(key).status());
    CheckMessage(metadata.String(key).status());
    const absl::StatusOr<int64_t> size = metadata.ArraySize(key);
    CheckMessage(size.status());
    if (!size.ok()) continue;
    CheckMessage(metadata.Ints(key, *size).status());
    CheckMessage(metadata.Floats(key, *size).status());
    const auto strings = metadata.Strings(key, *size);
    CheckMessage(strings.status());
    if (!strings.ok()) continue;
    size_t total = 0;
    for (const absl::string_view text : *strings) {
      for (const char c : text) total += static_cast<uint8_t>(c);
    }
    SPILLWAY_CHECK(total <= size_t{255} * INT32_MAX);
  }
}

void ReadTensors(const GgufFile& file) {
  std::vector<float> row;
  for (const device::TensorView& tensor : file.tensors()) {
    SPILLWAY_CHECK(file.FindTensor(tensor.name) == &tensor);
    // The table has proven that the data is there, so decoding it all costs what the file's size allows.
    row.resize(static_cast<size_t>(tensor.shape.back()));
    const int64_t row_bytes = device::EncodedBytes(tensor.encoding, tensor.shape.back());
    SPILLWAY_CHECK(row_bytes * (tensor.elements() / tensor.shape.back()) == tensor.size_bytes);
    for (int64_t at = 0; at < tensor.size_bytes; at += row_bytes) {
      device::DecodeToF32(tensor.encoding, tensor.data + at, tensor.shape.back(), row.data());
    }
  }
}

void ReadModel(const GgufFile& file) {
  const auto config = ConfigFromGguf(file);
  CheckMessage(config.status());
  const auto vocabulary = VocabularyFromGguf(file);
  CheckMessage(vocabulary.status());
  if (config.ok()) {
    SPILLWAY_CHECK(config->parameter_count() > 0 && config->beta_bytes(2) > 0);
    SPILLWAY_CHECK(config->n_heads % config->n_kv_heads == 0);
  }
  if (vocabulary.ok()) {
    for (const text::TokenId id : vocabulary->stop_ids) {
      SPILLWAY_CHECK(id >= 0 && static_cast<size_t>(id) < vocabulary->tokens.size());
    }
  }
  if (config.ok() && vocabulary.ok()) {
    SPILLWAY_CHECK(static_cast<size_t>(config->vocab_size) == vocabulary->tokens.size());
  }
  SPILLWAY_CHECK(Fingerprint(file, 1).ok());
}

void ReadEverything(absl::Span<const uint8_t> bytes) {
  const auto file = GgufFile::Parse(bytes, "fuzz.gguf");
  CheckMessage(file.status());
  if (!file.ok()) return;
  ReadMetadata(file->metadata());
  ReadTensors(*file);
  ReadModel(*file);
}

}  // namespace
}  // namespace spillway::model

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  spillway::model::ReadEverything({data, size});
  return 0;
}
