#include <cmath>
#include <random>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "tests/fakes/encode.h"
#include "tests/fakes/gguf_writer.h"

namespace spillway::fakes {
namespace {

using device::Encoding;

constexpr absl::string_view kChatMl =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' "
    "+ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

// A code point below U+0800 as UTF-8.
std::string Utf8(int code) {
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
}

// The character that GPT-2's byte-level vocabularies write for each byte: itself if printable, else one from
// U+0100 on.
std::vector<std::string> ByteCharacters() {
  std::vector<std::string> characters;
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    characters.push_back(Utf8(printable ? byte : next++));
  }
  return characters;
}

// Tokens up to a size, each either given or made by a merge of two earlier ones.
class TinyVocabulary {
 public:
  explicit TinyVocabulary(int size) : size_(static_cast<size_t>(size)) {
    SPILLWAY_CHECK(size >= kTinyVocabularyMin && size <= kTinyVocabularyMax);
    for (const char* token : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}) Add(token, kControl);
    for (const std::string& character : ByteCharacters()) Add(character, kNormal);
    MergeEnglish();
    MergeLetters();
    SPILLWAY_CHECK(tokens_.size() == size_);
  }

  void WriteTo(GgufWriter& writer) const {
    writer.Strings("tokenizer.ggml.tokens", tokens_)
        .Int32s("tokenizer.ggml.token_type", types_)
        .Strings("tokenizer.ggml.merges", merges_);
  }

 private:
  static constexpr int32_t kNormal = 1;
  static constexpr int32_t kControl = 3;

  void Add(const std::string& token, int32_t type) {
    tokens_.push_back(token);
    types_.push_back(type);
    known_.insert(token);
  }

  void Merge(const std::string& left, const std::string& right) {
    if (tokens_.size() == size_ || known_.contains(left + right)) return;
    merges_.push_back(absl::StrCat(left, " ", right));
    Add(left + right, kNormal);
  }

  void MergeEnglish() {
    const std::string space = Utf8(0x120);
    const std::pair<std::string, std::string> pairs[] = {
        {space, "t"}, {"h", "e"},  {space + "t", "he"}, {"i", "n"},           {"r", "e"},
        {space, "a"}, {"e", "r"},  {"o", "n"},          {space, "s"},         {"a", "t"},
        {space, "o"}, {"in", "g"}, {"o", "r"},          {"e", "s"},           {space, "w"},
        {"n", "d"},   {"l", "l"},  {space, "he"},       {space + "he", "ll"},
    };
    for (const auto& [left, right] : pairs) Merge(left, right);
  }

  void MergeLetters() {
    std::vector<std::string> pairs;
    for (char a = 'a'; a <= 'z'; ++a) {
      for (char b = 'a'; b <= 'z'; ++b) {
        Merge(std::string(1, a), std::string(1, b));
        pairs.push_back({a, b});
      }
    }
    for (const std::string& pair : pairs) {
      for (char c = 'a'; c <= 'z'; ++c) Merge(pair, std::string(1, c));
    }
  }

  size_t size_;
  std::vector<std::string> tokens_;
  std::vector<int32_t> types_;
  std::vector<std::string> merges_;
  absl::flat_hash_set<std::string> known_;
};

// Uniform numbers from integers, so that every platform draws the same.
class Weights {
 public:
  explicit Weights(uint64_t seed) : engine_(seed) {}

  // Mean `center`, standard deviation `spread`.
  std::vector<float> Draw(int64_t count, double center, double spread) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) {
      const double unit = static_cast<double>(engine_() >> 11) * 0x1p-53;  // [0, 1)
      value = static_cast<float>(center + spread * std::sqrt(12.0) * (unit - 0.5));
    }
    return values;
  }

 private:
  std::mt19937_64 engine_;
};

void WriteMetadata(const TinyLlamaOptions& options, GgufWriter& writer) {
  const auto size = [](int value) { return static_cast<uint32_t>(value); };
  writer.String("general.architecture", "llama")
      .String("general.name", options.name)
      .Uint32("llama.block_count", size(options.n_layers))
      .Uint32("llama.context_length", size(options.context_length))
      .Uint32("llama.embedding_length", size(options.d_model))
      .Uint32("llama.feed_forward_length", size(options.d_ff))
      .Uint32("llama.attention.head_count", size(options.n_heads))
      .Uint32("llama.attention.head_count_kv", size(options.n_kv_heads))
      .Float32("llama.rope.freq_base", options.rope_theta)
      .Uint32("llama.rope.dimension_count", size(options.d_model / options.n_heads))
      .Float32("llama.attention.layer_norm_rms_epsilon", 1e-5f)
      .Uint32("llama.vocab_size", size(options.vocab_size))
      .String("tokenizer.ggml.model", "gpt2")
      .String("tokenizer.ggml.pre", options.pre);
  TinyVocabulary(options.vocab_size).WriteTo(writer);
  writer.Uint32("tokenizer.ggml.bos_token_id", 1)
      .Uint32("tokenizer.ggml.eos_token_id", 2)
      .Bool("tokenizer.ggml.add_bos_token", options.add_bos)
      .String("tokenizer.chat_template", kChatMl);
}

void WriteTensors(const TinyLlamaOptions& options, GgufWriter& writer) {
  Weights weights(options.seed);
  const auto norm = [&](const std::string& name) {
    writer.Tensor(name, {options.d_model}, Encoding::kF32,
                  Encode(Encoding::kF32, weights.Draw(options.d_model, 1.0, 0.1)));
  };
  const auto matrix = [&](const std::string& name, int64_t rows, int64_t columns, double spread) {
    writer.Tensor(name, {rows, columns}, options.encoding,
                  Encode(options.encoding, weights.Draw(rows * columns, 0.0, spread)));
  };
  const int64_t d = options.d_model;
  const int64_t d_kv = d / options.n_heads * options.n_kv_heads;
  const double per_input = 1 / std::sqrt(static_cast<double>(d));
  const double per_inner = 1 / std::sqrt(static_cast<double>(options.d_ff));
  // Small, so that the layers decide the next token rather than the last one, whose own embedding is tied to
  // it.
  matrix("token_embd.weight", options.vocab_size, d, 0.3);
  for (int layer = 0; layer < options.n_layers; ++layer) {
    const std::string block = absl::StrCat("blk.", layer, ".");
    norm(block + "attn_norm.weight");
    matrix(block + "attn_q.weight", d, d, 2 * per_input);  // so that attention is not flat
    matrix(block + "attn_k.weight", d_kv, d, 2 * per_input);
    matrix(block + "attn_v.weight", d_kv, d, per_input);
    matrix(block + "attn_output.weight", d, d, per_input);
    norm(block + "ffn_norm.weight");
    matrix(block + "ffn_gate.weight", options.d_ff, d, per_input);
    matrix(block + "ffn_up.weight", options.d_ff, d, per_input);
    matrix(block + "ffn_down.weight", d, options.d_ff, 2 * per_inner);
  }
  norm("output_norm.weight");
  if (!options.has_tied_embedding) matrix("output.weight", options.vocab_size, d, per_input);
  if (options.has_rope_factors) {
    // As Llama 3.1: high frequencies keep their period, low ones are stretched.
    std::vector<float> factors(static_cast<size_t>(d / options.n_heads / 2));
    for (size_t i = 0; i < factors.size(); ++i) {
      factors[i] = 1.0f + 7.0f * static_cast<float>(i) / static_cast<float>(factors.size());
    }
    writer.Tensor("rope_freqs.weight", {static_cast<int64_t>(factors.size())}, Encoding::kF32,
                  Encode(Encoding::kF32, factors));
  }
}

}  // namespace

std::string TinyLlamaBytes(const TinyLlamaOptions& options) {
  SPILLWAY_CHECK(options.d_model % options.n_heads == 0 && options.n_heads % options.n_kv_heads == 0);
  GgufWriter writer;
  WriteMetadata(options, writer);
  WriteTensors(options, writer);
  if (options.amend) options.amend(writer);
  return writer.Bytes();
}

absl::Status WriteTinyLlama(const std::string& path, const TinyLlamaOptions& options) {
  return WriteFile(path, TinyLlamaBytes(options));
}

}  // namespace spillway::fakes
