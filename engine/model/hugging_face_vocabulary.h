// The tokenizer of a Hugging Face directory: tokenizer.json, tokenizer_config.json and chat_template.jinja.
#ifndef SPILLWAY_ENGINE_MODEL_HUGGING_FACE_VOCABULARY_H_
#define SPILLWAY_ENGINE_MODEL_HUGGING_FACE_VOCABULARY_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/json_object.h"
#include "engine/text/vocabulary.h"

namespace spillway::model {

// A tokenizer.json of at most `vocab_size` ids as the tokenizer's rooms express it: byte-level BPE cut by the
// patterns of GPT-2, SmolLM, Llama 3 or Qwen 2, or BPE in SentencePiece's manner (byte fallback, a space in
// front). Special tokens, BOS in front where the post-processor puts it. Unimplemented, by field, for what
// would give other ids than the tokenizers library; InvalidArgument for a file that contradicts itself.
absl::StatusOr<text::Vocabulary> VocabularyFromTokenizerJson(const JsonObject& json, int32_t vocab_size);

// The same of a directory, with its chat template and EOS. NotFound where it has no tokenizer.json.
absl::StatusOr<text::Vocabulary> VocabularyFromDirectory(const std::string& directory, int32_t vocab_size);

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_HUGGING_FACE_VOCABULARY_H_
