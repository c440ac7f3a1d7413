#include "engine/text/sentencepiece_bpe.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/text/utf8.h"

namespace spillway::text {
namespace {

constexpr absl::string_view kSpace = "\xE2\x96\x81";  // U+2581

// "<0x0A>" is the byte 10.
std::optional<uint8_t> ParseByteToken(absl::string_view spelling) {
  uint32_t byte = 0;
  if (spelling.size() != 6 || !absl::StartsWith(spelling, "<0x") || spelling[5] != '>' ||
      !absl::SimpleHexAtoi(spelling.substr(3, 2), &byte)) {
    return std::nullopt;
  }
  return static_cast<uint8_t>(byte);
}

TokenType TypeOf(const Vocabulary& vocabulary, size_t id) {
  return vocabulary.types.empty() ? TokenType::kNormal : vocabulary.types[id];
}

// Offset of the first U+2581 that follows another character, from `from` on; the end where there is none.
size_t NextWord(absl::string_view text, size_t from) {
  size_t at = from;
  while (absl::StartsWith(text.substr(at), kSpace)) at += kSpace.size();
  return std::min(text.find(kSpace, at), text.size());
}

}  // namespace

std::string SentencePieceTokenBytes(absl::string_view spelling, TokenType type) {
  if (type == TokenType::kByte) {
    if (const auto byte = ParseByteToken(spelling)) return std::string(1, static_cast<char>(*byte));
  }
  return absl::StrReplaceAll(spelling, {{kSpace, " "}});
}

absl::StatusOr<std::unique_ptr<SentencePieceBpe>> SentencePieceBpe::Create(const Vocabulary& vocabulary) {
  auto bpe = std::unique_ptr<SentencePieceBpe>(new SentencePieceBpe);
  bpe->unknown_ = vocabulary.unknown;
  bpe->add_space_prefix_ = vocabulary.add_space_prefix;
  bpe->byte_tokens_.fill(-1);

  std::vector<float> ordered;
  const auto score_of = [&vocabulary](size_t id) {
    return vocabulary.scores.empty() ? 0 : vocabulary.scores[id];
  };
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (std::isnan(score_of(id))) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.scores[", id, "] is not a number"));
    }
    ordered.push_back(score_of(id));
  }
  std::sort(ordered.begin(), ordered.end(), std::greater<>());
  ordered.erase(std::unique(ordered.begin(), ordered.end()), ordered.end());

  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const std::string& spelling = vocabulary.tokens[i];
    const auto id = static_cast<TokenId>(i);
    const TokenType type = TypeOf(vocabulary, i);
    if (type == TokenType::kByte) {
      const auto byte = ParseByteToken(spelling);
      if (byte && bpe->byte_tokens_[*byte] < 0) bpe->byte_tokens_[*byte] = id;
      continue;
    }
    // Control tokens are never made of ordinary text, however it is spelled.
    if (spelling.empty() || type == TokenType::kControl || type == TokenType::kUnknown ||
        type == TokenType::kUnused) {
      continue;
    }
    const auto rank = std::lower_bound(ordered.begin(), ordered.end(), score_of(i), std::greater<>());
    bpe->entries_.emplace(spelling, Entry{id, static_cast<uint32_t>(rank - ordered.begin())});
    bpe->longest_spelling_bytes_ = std::max(bpe->longest_spelling_bytes_, spelling.size());
    if (NextWord(spelling, 0) != spelling.size()) bpe->words_are_separate_ = false;
  }
  return bpe;
}

absl::Status SentencePieceBpe::Encode(absl::string_view text, bool at_start,
                                      std::vector<TokenId>& ids) const {
  std::string spelled;
  spelled.reserve(text.size() + text.size() / 2 + kSpace.size());
  if (at_start && add_space_prefix_) spelled.append(kSpace.data(), kSpace.size());
  for (const char c : text) {
    if (c == ' ') {
      spelled.append(kSpace.data(), kSpace.size());
    } else {
      spelled.push_back(c);
    }
  }
  PairMerger merger;
  const size_t segment_begin = ids.size();
  const absl::string_view all = spelled;
  for (size_t begin = 0; begin < all.size();) {
    const size_t end = words_are_separate_ ? NextWord(all, begin) : all.size();
    EncodeWord(all.substr(begin, end - begin), merger, segment_begin, ids);
    begin = end;
  }
  return absl::OkStatus();
}

void SentencePieceBpe::EncodeWord(absl::string_view word, PairMerger& merger, size_t segment_begin,
                                  std::vector<TokenId>& ids) const {
  merger.symbols.clear();
  for (size_t i = 0; i < word.size();) {
    const auto bytes = static_cast<uint32_t>(NextUtf8(word.substr(i)).bytes);
    const auto it = entries_.find(word.substr(i, bytes));
    merger.symbols.push_back({it == entries_.end() ? -1 : it->second.token, static_cast<uint32_t>(i), bytes});
    i += bytes;
  }
  merger.Run([&](const Symbol& left, const Symbol& right) {
    const size_t bytes = size_t{left.bytes} + right.bytes;
    if (bytes > longest_spelling_bytes_) return PairMerge{};
    const auto it = entries_.find(word.substr(left.begin, bytes));
    return it == entries_.end() ? PairMerge{} : PairMerge{it->second.rank, it->second.token};
  });
  for (const Symbol& symbol : merger.symbols) {
    if (symbol.token >= 0) {
      ids.push_back(symbol.token);
      continue;
    }
    // One character without a token: its bytes, or the unknown token where the vocabulary has no bytes.
    const absl::string_view character = word.substr(symbol.begin, symbol.bytes);
    const bool spelled_by_bytes = std::all_of(character.begin(), character.end(), [this](char c) {
      return byte_tokens_[static_cast<uint8_t>(c)] >= 0;
    });
    if (spelled_by_bytes) {
      for (const char c : character) ids.push_back(byte_tokens_[static_cast<uint8_t>(c)]);
    } else if (unknown_ && (ids.size() == segment_begin || ids.back() != *unknown_)) {
      ids.push_back(*unknown_);  // one for all the unknown characters in a row
    }
  }
}

}  // namespace spillway::text
