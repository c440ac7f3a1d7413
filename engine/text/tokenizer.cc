#include "engine/text/tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/text/byte_level.h"
#include "engine/text/byte_level_bpe.h"
#include "engine/text/incremental_detokenizer.h"
#include "engine/text/segment_encoder.h"
#include "engine/text/sentencepiece_bpe.h"
#include "engine/text/special_token_matcher.h"
#include "engine/text/utf8.h"

namespace spillway::text {
namespace {

constexpr size_t kMaxTokens = size_t{1} << 24;
constexpr size_t kMaxVocabularyBytes = size_t{1} << 30;
constexpr size_t kMaxTextBytes = size_t{1} << 30;

absl::Status ValidateId(const char* field, std::optional<TokenId> id, size_t vocab_size) {
  if (!id || (*id >= 0 && static_cast<size_t>(*id) < vocab_size)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.", field, " is ", *id,
                                                 ", outside the vocabulary of ", vocab_size, " tokens"));
}

absl::Status Validate(const Vocabulary& vocabulary) {
  const size_t vocab_size = vocabulary.tokens.size();
  if (vocab_size == 0) return absl::InvalidArgumentError("tokenizer.ggml.tokens is empty");
  if (vocab_size > kMaxTokens) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.tokens has ", vocab_size,
                                                   " entries; at most ", kMaxTokens, " are supported"));
  }
  size_t bytes = 0;
  for (const std::string& token : vocabulary.tokens) bytes += token.size();
  if (bytes > kMaxVocabularyBytes) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.tokens has ", bytes, " bytes of text"));
  }
  if (!vocabulary.types.empty() && vocabulary.types.size() != vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.token_type has ", vocabulary.types.size(),
                                                   " entries for ", vocab_size, " tokens"));
  }
  if (!vocabulary.scores.empty() && vocabulary.scores.size() != vocab_size) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer.ggml.scores has ", vocabulary.scores.size(),
                                                   " entries for ", vocab_size, " tokens"));
  }
  SPILLWAY_RETURN_IF_ERROR(ValidateId("bos_token_id", vocabulary.bos, vocab_size));
  SPILLWAY_RETURN_IF_ERROR(ValidateId("eos_token_id", vocabulary.eos, vocab_size));
  SPILLWAY_RETURN_IF_ERROR(ValidateId("unknown_token_id", vocabulary.unknown, vocab_size));
  SPILLWAY_RETURN_IF_ERROR(ValidateId("padding_token_id", vocabulary.padding, vocab_size));
  for (const TokenId id : vocabulary.stop_ids) {
    SPILLWAY_RETURN_IF_ERROR(ValidateId("eot_token_id (or another stop token)", id, vocab_size));
  }
  return absl::OkStatus();
}

bool IsSpecialType(TokenType type) { return type == TokenType::kControl || type == TokenType::kUnknown; }

}  // namespace

Tokenizer::Tokenizer() : specials_(std::make_unique<SpecialTokenMatcher>()) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(Vocabulary vocabulary) {
  SPILLWAY_RETURN_IF_ERROR(Validate(vocabulary));
  auto tokenizer = std::unique_ptr<Tokenizer>(new Tokenizer);
  const bool byte_level = vocabulary.model == "gpt2";
  if (byte_level) {
    SPILLWAY_ASSIGN_OR_RETURN(tokenizer->encoder_, ByteLevelBpe::Create(vocabulary));
  } else if (vocabulary.model == "llama") {
    SPILLWAY_ASSIGN_OR_RETURN(tokenizer->encoder_, SentencePieceBpe::Create(vocabulary));
    tokenizer->add_space_prefix_ = vocabulary.add_space_prefix;
  } else if (vocabulary.model != "ids") {
    return absl::UnimplementedError(
        absl::StrCat("tokenizer \"", vocabulary.model,
                     "\" (tokenizer.ggml.model) is not supported; supported are gpt2 "
                     "(byte-level BPE) and llama (SentencePiece BPE)"));
  }

  tokenizer->types_ = std::move(vocabulary.types);
  tokenizer->types_.resize(vocabulary.tokens.size(), TokenType::kNormal);
  tokenizer->token_starts_.push_back(0);
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const std::string& spelling = vocabulary.tokens[i];
    const TokenType type = tokenizer->types_[i];
    std::string bytes;
    if (IsSpecialType(type)) {
      bytes = spelling;
    } else if (byte_level) {
      // User-defined tokens are plain text in a file, all others are spelled byte by byte.
      bytes = type == TokenType::kUserDefined ? spelling : DecodeByteLevel(spelling).value_or(spelling);
    } else {
      bytes = SentencePieceTokenBytes(spelling, type);
    }
    if (IsSpecialType(type) || type == TokenType::kUserDefined) {
      tokenizer->specials_->Add(bytes, static_cast<TokenId>(i), IsSpecialType(type));
    }
    tokenizer->token_bytes_ += bytes;
    tokenizer->token_starts_.push_back(static_cast<uint32_t>(tokenizer->token_bytes_.size()));
  }

  tokenizer->bos_ = vocabulary.bos;
  tokenizer->eos_ = vocabulary.eos;
  tokenizer->unknown_ = vocabulary.unknown;
  tokenizer->padding_ = vocabulary.padding;
  tokenizer->add_bos_ = vocabulary.add_bos && vocabulary.bos.has_value();
  std::vector<TokenId>& stops = tokenizer->stop_ids_ = std::move(vocabulary.stop_ids);
  if (vocabulary.eos) stops.push_back(*vocabulary.eos);
  std::sort(stops.begin(), stops.end());
  stops.erase(std::unique(stops.begin(), stops.end()), stops.end());
  return tokenizer;
}

absl::StatusOr<std::vector<TokenId>> Tokenizer::Encode(absl::string_view text, EncodeOptions options) const {
  const Trusted all{0, text.size()};
  return EncodeText(text, absl::MakeConstSpan(&all, options.parse_special ? 1 : 0), options.add_bos);
}

absl::StatusOr<std::vector<TokenId>> Tokenizer::EncodePieces(absl::Span<const Piece> pieces,
                                                             bool add_bos) const {
  std::string text;
  std::vector<Trusted> trusted;
  for (const Piece& piece : pieces) {
    const size_t begin = text.size();
    text += piece.text;
    if (!piece.parse_special || piece.text.empty()) continue;
    if (!trusted.empty() && trusted.back().end == begin) {
      trusted.back().end = text.size();
    } else {
      trusted.push_back({begin, text.size()});
    }
  }
  return EncodeText(text, trusted, add_bos);
}

absl::StatusOr<std::vector<TokenId>> Tokenizer::EncodeText(absl::string_view text,
                                                           absl::Span<const Trusted> trusted,
                                                           bool add_bos) const {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the text has ", text.size(), " bytes; at most ", kMaxTextBytes, " are supported"));
  }
  if (const auto offset = FindInvalidUtf8(text)) {
    return absl::InvalidArgumentError(absl::StrCat("the text is not valid UTF-8 at byte ", *offset));
  }
  if (!has_text()) {
    return absl::FailedPreconditionError("the model has no tokenizer; give token ids");
  }
  std::vector<TokenId> ids;
  ids.reserve(text.size() / 4 + 2);
  if (add_bos && add_bos_) ids.push_back(*bos_);

  size_t segment_begin = 0;
  bool at_start = true;
  const auto encode_segment = [&](size_t end) -> absl::Status {
    return encoder_->Encode(text.substr(segment_begin, end - segment_begin), at_start, ids);
  };
  size_t i = specials_->empty() ? text.size() : 0;
  while (i < text.size()) {
    if (!specials_->MayBegin(text[i])) {
      ++i;
      continue;
    }
    while (!trusted.empty() && trusted.front().end <= i) trusted.remove_prefix(1);
    const bool is_trusted = !trusted.empty() && trusted.front().begin <= i;
    const auto match = specials_->LongestAt(text.substr(i), is_trusted ? trusted.front().end - i : 0);
    if (match.token < 0) {
      ++i;
      continue;
    }
    // SentencePiece's space goes in front of a text that begins with a user-defined token, too.
    if (i > segment_begin || (at_start && !match.control)) SPILLWAY_RETURN_IF_ERROR(encode_segment(i));
    // A text that brings its own BOS does not get a second one.
    const bool repeated_bos = ids.size() == 1 && i == 0 && match.token == bos_ && ids[0] == *bos_;
    if (!repeated_bos) ids.push_back(match.token);
    i += match.bytes;
    segment_begin = i;
    at_start = match.control;
  }
  if (text.size() > segment_begin) SPILLWAY_RETURN_IF_ERROR(encode_segment(text.size()));
  return ids;
}

absl::StatusOr<std::string> Tokenizer::Decode(absl::Span<const TokenId> ids, bool skip_special) const {
  IncrementalDetokenizer detokenizer(*this, {.skip_special = skip_special, .at_text_start = true});
  std::string text;
  for (const TokenId id : ids) {
    if (!InRange(id)) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", id, " is outside the vocabulary of ", vocab_size(), " tokens"));
    }
    text += detokenizer.Append(id);
  }
  text += detokenizer.Flush();
  return text;
}

absl::string_view Tokenizer::TokenBytes(TokenId id) const {
  SPILLWAY_CHECK_MSG(InRange(id), "token id outside the vocabulary");
  return absl::string_view(token_bytes_).substr(token_starts_[id], token_starts_[id + 1] - token_starts_[id]);
}

bool Tokenizer::IsSpecial(TokenId id) const { return InRange(id) && IsSpecialType(types_[id]); }

bool Tokenizer::IsStop(TokenId id) const {
  return std::binary_search(stop_ids_.begin(), stop_ids_.end(), id);
}

}  // namespace spillway::text
