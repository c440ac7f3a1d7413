// What a model file says of its text: tokens, merges, special tokens and the chat template, before any of it
// is interpreted. Filled by a file reader (engine/model), consumed by Tokenizer and ChatTemplate.
#ifndef SPILLWAY_ENGINE_TEXT_VOCABULARY_H_
#define SPILLWAY_ENGINE_TEXT_VOCABULARY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace spillway::text {

using TokenId = int32_t;

// The kinds of GGUF's tokenizer.ggml.token_type.
enum class TokenType : uint8_t {
  kUndefined = 0,
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

struct Vocabulary {
  // "gpt2" (byte-level BPE), "llama" (SentencePiece BPE with scores), "ids" (numbers without text: every
  // token is spelled "")
  std::string model;
  std::string pre;  // name of the pre-tokenizer for "gpt2": "smollm", "llama-bpe", "qwen2", ...

  std::vector<std::string> tokens;  // [vocab] as the file spells them
  std::vector<float> scores;        // [vocab], or empty
  std::vector<TokenType> types;     // [vocab], or empty: all normal
  std::vector<std::string> merges;  // "left right", in order of rank; "gpt2" only

  std::optional<TokenId> bos;
  std::optional<TokenId> eos;
  std::optional<TokenId> unknown;
  std::optional<TokenId> padding;
  // Every id that ends generation: eos, eot, eom and the end-of-turn tokens known by their text.
  std::vector<TokenId> stop_ids;
  bool add_bos = false;
  bool add_eos = false;
  bool add_space_prefix = false;

  std::string chat_template;  // Jinja; empty when the file has none
};

// Of a model that has no tokenizer: `size` ids, none of which is special.
inline Vocabulary IdVocabulary(int32_t size) {
  Vocabulary vocabulary;
  vocabulary.model = "ids";
  vocabulary.tokens.resize(static_cast<size_t>(size));
  return vocabulary;
}

}  // namespace spillway::text

#endif  // SPILLWAY_ENGINE_TEXT_VOCABULARY_H_
