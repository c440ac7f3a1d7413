#include "engine/text/byte_level_bpe.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "engine/text/byte_level.h"
#include "engine/text/utf8.h"

namespace spillway::text {
namespace {

uint64_t PairKey(TokenId left, TokenId right) {
  return (uint64_t{static_cast<uint32_t>(left)} << 32) | static_cast<uint32_t>(right);
}

// Control tokens are never made of ordinary text, however it is spelled.
bool IsOrdinary(const Vocabulary& vocabulary, size_t id) {
  if (vocabulary.types.empty()) return true;
  const TokenType type = vocabulary.types[id];
  return type != TokenType::kControl && type != TokenType::kUnknown && type != TokenType::kUnused;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ByteLevelBpe>> ByteLevelBpe::Create(const Vocabulary& vocabulary) {
  auto bpe = std::unique_ptr<ByteLevelBpe>(new ByteLevelBpe);
  SPILLWAY_ASSIGN_OR_RETURN(bpe->pre_tokenizer_, PreTokenizer::Create(vocabulary.pre));

  absl::flat_hash_map<absl::string_view, TokenId> by_spelling;
  by_spelling.reserve(vocabulary.tokens.size());
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (IsOrdinary(vocabulary, id)) by_spelling.emplace(vocabulary.tokens[id], static_cast<TokenId>(id));
  }
  const auto find = [&by_spelling](absl::string_view spelling) {
    const auto it = by_spelling.find(spelling);
    return it == by_spelling.end() ? TokenId{-1} : it->second;
  };

  for (int byte = 0; byte < 256; ++byte) {
    std::string spelling;
    AppendUtf8(ByteLevelCharacter(static_cast<uint8_t>(byte)), spelling);
    bpe->byte_tokens_[byte] = find(spelling);
  }

  bpe->pair_merges_.reserve(vocabulary.merges.size());
  std::string joined;
  for (size_t rank = 0; rank < vocabulary.merges.size(); ++rank) {
    const absl::string_view merge = vocabulary.merges[rank];
    const size_t space = merge.find(' ', 1);
    if (space == absl::string_view::npos) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.merges[", rank, "] (\"",
                                                     absl::CHexEscape(merge), "\") is not a pair"));
    }
    const absl::string_view left = merge.substr(0, space), right = merge.substr(space + 1);
    joined.assign(left.data(), left.size());
    joined.append(right.data(), right.size());
    const TokenId left_id = find(left), right_id = find(right), merged_id = find(joined);
    if (left_id < 0 || right_id < 0 || merged_id < 0) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.merges[", rank, "] (\"",
                                                     absl::CHexEscape(merge),
                                                     "\") joins or makes what is not a token"));
    }
    bpe->pair_merges_.emplace(PairKey(left_id, right_id), PairMerge{static_cast<uint32_t>(rank), merged_id});
  }

  PairMerger merger;
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    if (!IsOrdinary(vocabulary, i)) continue;
    const auto id = static_cast<TokenId>(i);
    std::optional<std::string> word = DecodeByteLevel(vocabulary.tokens[i]);
    if (!word || word->empty()) continue;
    if (!bpe->pre_tokenizer_->ignore_merges()) {
      bpe->MergeWord(*word, merger);
      if (merger.symbols.size() != 1 || merger.symbols[0].token != id) continue;
    }
    bpe->single_token_words_.emplace(*std::move(word), id);
  }
  return bpe;
}

absl::Status ByteLevelBpe::Encode(absl::string_view text, bool /*at_start*/,
                                  std::vector<TokenId>& ids) const {
  PairMerger merger;
  return pre_tokenizer_->Split(text, [&](absl::string_view word) { EncodeWord(word, merger, ids); });
}

void ByteLevelBpe::EncodeWord(absl::string_view word, PairMerger& merger, std::vector<TokenId>& ids) const {
  const auto single = single_token_words_.find(word);
  if (single != single_token_words_.end()) {
    ids.push_back(single->second);
    return;
  }
  MergeWord(word, merger);
  for (const Symbol& symbol : merger.symbols) ids.push_back(symbol.token);
}

void ByteLevelBpe::MergeWord(absl::string_view word, PairMerger& merger) const {
  merger.symbols.clear();
  for (size_t i = 0; i < word.size(); ++i) {
    const TokenId token = byte_tokens_[static_cast<uint8_t>(word[i])];
    // As in the reference, a byte without a token is not there at all: its neighbours may join.
    if (token >= 0) merger.symbols.push_back({token, static_cast<uint32_t>(i), 1});
  }
  merger.Run([this](const Symbol& left, const Symbol& right) {
    const auto it = pair_merges_.find(PairKey(left.token, right.token));
    return it == pair_merges_.end() ? PairMerge{} : it->second;
  });
}

}  // namespace spillway::text
