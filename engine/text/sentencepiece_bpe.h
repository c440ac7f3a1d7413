// SentencePiece's BPE ("llama"): spaces are written as U+2581, neighbours are joined in the order of the
// scores of what they make, and characters without a token of their own become byte tokens. Immutable and
// thread-safe.
#ifndef SPILLWAY_ENGINE_TEXT_SENTENCEPIECE_BPE_H_
#define SPILLWAY_ENGINE_TEXT_SENTENCEPIECE_BPE_H_

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/text/pair_merger.h"
#include "engine/text/segment_encoder.h"
#include "engine/text/vocabulary.h"

namespace spillway::text {

// The bytes that an ordinary or byte token of such a vocabulary stands for.
std::string SentencePieceTokenBytes(absl::string_view spelling, TokenType type);

class SentencePieceBpe : public SegmentEncoder {
 public:
  // InvalidArgument when a score is not a number.
  static absl::StatusOr<std::unique_ptr<SentencePieceBpe>> Create(const Vocabulary& vocabulary);

  absl::Status Encode(absl::string_view text, bool at_start, std::vector<TokenId>& ids) const override;

 private:
  struct Entry {
    TokenId token;
    uint32_t rank;  // by descending score; equal scores share a rank
  };

  SentencePieceBpe() = default;

  // `word` has U+2581 for spaces; its segment's ids begin at ids[segment_begin].
  void EncodeWord(absl::string_view word, PairMerger& merger, size_t segment_begin,
                  std::vector<TokenId>& ids) const;

  absl::flat_hash_map<std::string, Entry> entries_;  // ordinary tokens by spelling
  size_t longest_spelling_bytes_ = 0;
  std::array<TokenId, 256> byte_tokens_{};  // -1: none
  std::optional<TokenId> unknown_;
  bool add_space_prefix_ = false;
  // No token has a U+2581 behind another character, so that no join crosses the beginning of a word.
  bool words_are_separate_ = true;
};

}  // namespace spillway::text

#endif  // SPILLWAY_ENGINE_TEXT_SENTENCEPIECE_BPE_H_
