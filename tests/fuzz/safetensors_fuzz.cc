// Feeds arbitrary bytes to everything that reads a Hugging Face directory before a model is served: the table
// of a safetensors file, and, as text, its JSON files.
#include <cstdint>

#include "absl/strings/match.h"
#include "base/check.h"
#include "engine/device/tensor.h"
#include "engine/model/hugging_face_config.h"
#include "engine/model/implied_tensors.h"
#include "engine/model/safetensors.h"

namespace spillway::model {
namespace {

// An error is one printable line that names the file.
void CheckMessage(const absl::Status& status, absl::string_view file) {
  if (status.ok()) return;
  SPILLWAY_CHECK(absl::StartsWith(status.message(), file));
  SPILLWAY_CHECK(status.message().size() < 2000);
  for (const char c : status.message()) SPILLWAY_CHECK(c >= ' ' && c <= '~');
}

void ReadWeights(absl::Span<const uint8_t> bytes) {
  const auto file = SafetensorsFile::Parse(bytes, "fuzz.safetensors");
  CheckMessage(file.status(), "fuzz.safetensors: ");
  if (!file.ok()) return;
  std::vector<float> values;
  int64_t total = 0;
  for (const SafetensorsFile::Tensor& tensor : file->tensors()) {
    total += tensor.view.size_bytes;
    if (!tensor.is_float) continue;
    // The table has proven that the data is there, so decoding it all costs what the file's size allows.
    values.resize(static_cast<size_t>(tensor.view.elements()));
    device::DecodeToF32(tensor.view.encoding, tensor.view.data, tensor.view.elements(), values.data());
  }
  SPILLWAY_CHECK(total <= static_cast<int64_t>(bytes.size()));
}

void ReadConfig(absl::string_view text) {
  const auto root = ParseJsonObject(text, "config.json");
  CheckMessage(root.status(), "config.json: ");
  if (!root.ok()) return;
  const auto config = ConfigFromHuggingFace(JsonObject(*root, "config.json"));
  CheckMessage(config.status(), "config.json: ");
  if (!config.ok()) return;
  SPILLWAY_CHECK(config->parameter_count() > 0 && config->beta_bytes(2) > 0);
  SPILLWAY_CHECK(config->n_heads % config->n_kv_heads == 0);
}

}  // namespace
}  // namespace spillway::model

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  spillway::model::ReadWeights({data, size});
  spillway::model::ReadConfig({reinterpret_cast<const char*>(data), size});
  return 0;
}
