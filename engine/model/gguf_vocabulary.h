// The vocabulary of a GGUF file.
#ifndef SPILLWAY_ENGINE_MODEL_GGUF_VOCABULARY_H_
#define SPILLWAY_ENGINE_MODEL_GGUF_VOCABULARY_H_

#include "absl/status/statusor.h"
#include "engine/model/gguf.h"
#include "engine/text/vocabulary.h"

namespace spillway::model {

// Copies tokens, merges, special ids and the chat template out of the file. What the file does not state is
// as llama.cpp has it: a "llama" (SentencePiece) vocabulary begins with BOS 1 and a space, ends with EOS 2
// and has UNK 0; a "gpt2" one has none of these, except that the Llama 3 and Tekken pre-tokenizers begin with
// BOS.
//
// Unimplemented for another tokenizer model. InvalidArgument or NotFound for a file that contradicts itself:
// as many scores and types as tokens, as many tokens as the embedding has rows, ids in range (a padding id
// out of range is taken for none, since files in the wild have one and nothing here pads).
absl::StatusOr<text::Vocabulary> VocabularyFromGguf(const GgufFile& file);

}  // namespace spillway::model

#endif  // SPILLWAY_ENGINE_MODEL_GGUF_VOCABULARY_H_
