// Text to token ids and back, as the model's own vocabulary says. Two families: byte-level BPE ("gpt2", with
// a named pre-tokenizer) and SentencePiece BPE ("llama", with scores and byte fallback). A vocabulary of
// "ids" has no text: it encodes nothing, and every token is spelled "".
//
// Immutable after Create and thread-safe. The time to encode grows nearly linearly with the text, also for
// text without a single space.
#ifndef SPILLWAY_ENGINE_TEXT_TOKENIZER_H_
#define SPILLWAY_ENGINE_TEXT_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/text/piece.h"
#include "engine/text/vocabulary.h"

namespace spillway::text {

class SegmentEncoder;
class SpecialTokenMatcher;

struct EncodeOptions {
  // Put BOS in front where the vocabulary asks for it (Vocabulary::add_bos); never a second one.
  bool add_bos = true;
  // Let control tokens such as "<|im_end|>" be recognised in the text. Off, they are plain text. User-defined
  // tokens are recognised either way.
  bool parse_special = false;
};

class Tokenizer {
 public:
  // Refuses, by name, a tokenizer model or pre-tokenizer that is not supported, and a vocabulary that
  // contradicts itself (ids out of range, arrays of unequal length, more than 2^24 tokens).
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(Vocabulary vocabulary);
  ~Tokenizer();

  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // EOS is never added, whatever the vocabulary says: a prompt is there to be continued.
  //
  // Invalid UTF-8 is InvalidArgument and names the offset of the first offending byte, as is text beyond 1
  // GiB. What a vocabulary has no token for (a few control characters in some byte-level ones) is left out,
  // as the reference implementation does.
  absl::StatusOr<std::vector<TokenId>> Encode(absl::string_view text, EncodeOptions options = {}) const;

  // A rendered chat prompt: encodes the concatenated text, so that words may cross piece borders as they do
  // in the reference, but recognises a control token only where it lies wholly in text with parse_special.
  absl::StatusOr<std::vector<TokenId>> EncodePieces(absl::Span<const Piece> pieces,
                                                    bool add_bos = true) const;

  // Whole UTF-8; bytes that form no character become U+FFFD. The space that Encode put in front of the text
  // is taken away again. An id outside the vocabulary is InvalidArgument.
  absl::StatusOr<std::string> Decode(absl::Span<const TokenId> ids, bool skip_special = true) const;

  // The bytes a token stands for; not necessarily whole UTF-8. REQUIRES: 0 <= id < vocab_size(). The view
  // lives as long as the tokenizer.
  absl::string_view TokenBytes(TokenId id) const;

  // False of a vocabulary of ids: Encode and EncodePieces are then FailedPrecondition.
  bool has_text() const { return encoder_ != nullptr; }

  int vocab_size() const { return static_cast<int>(types_.size()); }
  bool InRange(TokenId id) const { return id >= 0 && id < vocab_size(); }

  std::optional<TokenId> bos() const { return bos_; }
  std::optional<TokenId> eos() const { return eos_; }
  std::optional<TokenId> unknown() const { return unknown_; }
  std::optional<TokenId> padding() const { return padding_; }
  bool add_bos() const { return add_bos_; }
  // Encode puts a space in front of the text (SentencePiece).
  bool add_space_prefix() const { return add_space_prefix_; }

  // Control and unknown tokens: not text, left out by skip_special. False outside the vocabulary.
  bool IsSpecial(TokenId id) const;
  // Ends generation. False outside the vocabulary.
  bool IsStop(TokenId id) const;
  const std::vector<TokenId>& stop_ids() const { return stop_ids_; }  // ascending

 private:
  Tokenizer();

  // A stretch of a text in which control tokens are recognised.
  struct Trusted {
    size_t begin;
    size_t end;
  };

  // `trusted` is in ascending order and does not overlap.
  absl::StatusOr<std::vector<TokenId>> EncodeText(absl::string_view text, absl::Span<const Trusted> trusted,
                                                  bool add_bos) const;

  std::vector<TokenType> types_;        // [vocab]
  std::string token_bytes_;             // the bytes of all tokens, one after the other
  std::vector<uint32_t> token_starts_;  // [vocab + 1], into token_bytes_
  std::optional<TokenId> bos_, eos_, unknown_, padding_;
  std::vector<TokenId> stop_ids_;
  bool add_bos_ = false;
  bool add_space_prefix_ = false;
  std::unique_ptr<SpecialTokenMatcher> specials_;
  std::unique_ptr<SegmentEncoder> encoder_;
};

}  // namespace spillway::text

#endif  // SPILLWAY_ENGINE_TEXT_TOKENIZER_H_
