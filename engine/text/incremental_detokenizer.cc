#include "engine/text/incremental_detokenizer.h"

#include "base/check.h"

namespace spillway::text {

IncrementalDetokenizer::IncrementalDetokenizer(const Tokenizer& tokenizer, DetokenizeOptions options)
    : tokenizer_(tokenizer),
      skip_special_(options.skip_special),
      strip_space_(options.at_text_start && tokenizer.add_space_prefix()) {}

std::string IncrementalDetokenizer::Append(TokenId id) {
  SPILLWAY_CHECK_MSG(tokenizer_.InRange(id), "token id outside the vocabulary");
  std::string text;
  const bool special = tokenizer_.IsSpecial(id);
  if (special && skip_special_) return text;
  absl::string_view bytes = tokenizer_.TokenBytes(id);
  if (!special && !bytes.empty()) {
    // Encode puts the space in front of the first ordinary text, behind BOS and its like.
    if (strip_space_ && bytes[0] == ' ') bytes.remove_prefix(1);
    strip_space_ = false;
  }
  repairer_.Append(bytes, text);
  return text;
}

std::string IncrementalDetokenizer::Flush() {
  std::string text;
  repairer_.Flush(text);
  return text;
}

}  // namespace spillway::text
