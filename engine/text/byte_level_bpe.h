// Byte-level byte-pair encoding ("gpt2"): text is cut into words by the pre-tokenizer, a word's bytes are
// joined pair by pair in the order of the merges. Immutable and thread-safe.
#ifndef SPILLWAY_ENGINE_TEXT_BYTE_LEVEL_BPE_H_
#define SPILLWAY_ENGINE_TEXT_BYTE_LEVEL_BPE_H_

#include <array>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/text/pair_merger.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/segment_encoder.h"
#include "engine/text/vocabulary.h"

namespace spillway::text {

class ByteLevelBpe : public SegmentEncoder {
 public:
  // InvalidArgument when a merge joins or makes what is not a token; Unimplemented for an unknown
  // pre-tokenizer.
  static absl::StatusOr<std::unique_ptr<ByteLevelBpe>> Create(const Vocabulary& vocabulary);

  absl::Status Encode(absl::string_view text, bool at_start, std::vector<TokenId>& ids) const override;

 private:
  ByteLevelBpe() = default;

  void EncodeWord(absl::string_view word, PairMerger& merger, std::vector<TokenId>& ids) const;
  // Leaves the tokens of `word` in `merger.symbols`.
  void MergeWord(absl::string_view word, PairMerger& merger) const;

  std::unique_ptr<PreTokenizer> pre_tokenizer_;
  std::array<TokenId, 256> byte_tokens_{};                // -1: the vocabulary has no token for this byte
  absl::flat_hash_map<uint64_t, PairMerge> pair_merges_;  // by left << 32 | right
  // Words known to be a single token: nearly all words of ordinary text.
  absl::flat_hash_map<std::string, TokenId> single_token_words_;
};

}  // namespace spillway::text

#endif  // SPILLWAY_ENGINE_TEXT_BYTE_LEVEL_BPE_H_
