// Token ids to text as they are generated. Text comes out as whole UTF-8 only: a character whose bytes are
// spread over several tokens appears with its last one. The parts returned, put together, are what
// Tokenizer::Decode gives for all the ids at once.
//
// Thread-compatible; one per sequence. Work and memory per token depend on the token, not on what came
// before.
#ifndef SPILLWAY_ENGINE_TEXT_INCREMENTAL_DETOKENIZER_H_
#define SPILLWAY_ENGINE_TEXT_INCREMENTAL_DETOKENIZER_H_

#include <string>

#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"
#include "engine/text/vocabulary.h"

namespace spillway::text {

struct DetokenizeOptions {
  // Control tokens give no text.
  bool skip_special = true;
  // The ids are a text from its beginning, not the continuation of a prompt: the space that a SentencePiece
  // vocabulary puts in front of a text is taken away.
  bool at_text_start = false;
};

class IncrementalDetokenizer {
 public:
  // `tokenizer` must outlive this object.
  explicit IncrementalDetokenizer(const Tokenizer& tokenizer, DetokenizeOptions options = {});

  // The text that became certain with this token; often empty in the middle of a character. Bytes that can no
  // longer become a character turn into U+FFFD. REQUIRES: id is in the vocabulary.
  std::string Append(TokenId id);

  // The end of the sequence: an unfinished character becomes U+FFFD. The object may not be used afterwards.
  std::string Flush();

 private:
  const Tokenizer& tokenizer_;
  const bool skip_special_;
  bool strip_space_;
  Utf8Repairer repairer_;
};

}  // namespace spillway::text

#endif  // SPILLWAY_ENGINE_TEXT_INCREMENTAL_DETOKENIZER_H_
