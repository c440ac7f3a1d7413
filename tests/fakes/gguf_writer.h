// Writes GGUF files for tests: any file by hand, sound or not, and a tiny Llama model with everything a
// server needs.
#ifndef SPILLWAY_TESTS_FAKES_GGUF_WRITER_H_
#define SPILLWAY_TESTS_FAKES_GGUF_WRITER_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/device/tensor.h"
#include "engine/model/gguf_types.h"

namespace spillway::fakes {

// Collects metadata and tensors in order and lays them out as version 3. Nothing is checked, so that tests
// can write nonsense. Thread-compatible.
class GgufWriter {
 public:
  explicit GgufWriter(uint32_t version = 3) : version_(version) {}

  GgufWriter& Uint32(absl::string_view key, uint32_t value);
  GgufWriter& Float32(absl::string_view key, float value);
  GgufWriter& Bool(absl::string_view key, bool value);
  GgufWriter& String(absl::string_view key, absl::string_view value);
  GgufWriter& Strings(absl::string_view key, const std::vector<std::string>& values);
  GgufWriter& Int32s(absl::string_view key, const std::vector<int32_t>& values);
  GgufWriter& Floats(absl::string_view key, const std::vector<float>& values);
  // A value spelt by the caller: its type's number and its bytes.
  GgufWriter& Raw(absl::string_view key, uint32_t type, absl::string_view bytes);

  // `shape` is outermost first. Data goes after what is there, aligned.
  GgufWriter& Tensor(absl::string_view name, const std::vector<int64_t>& shape, device::Encoding encoding,
                     const std::vector<uint8_t>& data);
  // A row of the table alone: `extents` as the file has them (innermost first), a type's number and an
  // offset.
  GgufWriter& TensorRow(absl::string_view name, const std::vector<uint64_t>& extents, uint32_t type,
                        uint64_t offset);

  // The alignment of data; the key that says so is the caller's to write.
  GgufWriter& Alignment(uint32_t alignment_bytes);

  std::string Bytes() const;

 private:
  uint32_t version_;
  uint32_t alignment_bytes_ = 32;
  uint64_t n_pairs_ = 0;
  uint64_t n_tensors_ = 0;
  std::string pairs_;
  std::string table_;
  std::string data_;
};

// Little-endian bytes of a number, a length-prefixed string.
std::string Le(uint32_t value);
std::string Le(uint64_t value);
std::string LeString(absl::string_view text);

struct TinyLlamaOptions {
  int n_layers = 2;
  int d_model = 64;
  int n_heads = 4;
  int n_kv_heads = 2;
  int d_ff = 128;
  int vocab_size = 320;  // from kTinyVocabularyMin to kTinyVocabularyMax
  int context_length = 512;
  float rope_theta = 10000;
  bool has_rope_factors = false;  // writes rope_freqs.weight, as Llama 3.1 has it
  bool has_tied_embedding = true;
  bool add_bos = false;  // <|im_start|>, as SmolLM2 has it
  // Of every matrix; norms are F32. Rows must be whole blocks: d_model, d_ff and heads' total multiples of 32
  // or 256.
  device::Encoding encoding = device::Encoding::kF32;
  uint64_t seed = 1;
  std::string name = "Tiny Llama";
  std::string pre = "smollm";
  // Last word on the file, e.g. another key or tensor.
  std::function<void(GgufWriter&)> amend = nullptr;
};

// <|endoftext|> 0, <|im_start|> 1 (BOS), <|im_end|> 2 (EOS), the 256 byte-level characters, then tokens made
// by merges: some of English, then pairs and triples of letters.
constexpr int kTinyVocabularyMin = 3 + 256;
constexpr int kTinyVocabularyMax = 8192;

// A Llama of random weights drawn from `seed` (the same on every machine), scaled so that activations stay
// near one and logits differ, with a "gpt2" vocabulary and a ChatML template.
std::string TinyLlamaBytes(const TinyLlamaOptions& options);
absl::Status WriteTinyLlama(const std::string& path, const TinyLlamaOptions& options);

absl::Status WriteFile(const std::string& path, absl::string_view bytes);

}  // namespace spillway::fakes

#endif  // SPILLWAY_TESTS_FAKES_GGUF_WRITER_H_
