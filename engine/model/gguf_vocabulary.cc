#include "engine/model/gguf_vocabulary.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace spillway::model {
namespace {

using text::TokenId;
using text::TokenType;
using text::Vocabulary;

constexpr absl::string_view kPrefix = "tokenizer.ggml.";
constexpr absl::string_view kTokens = "tokenizer.ggml.tokens";
constexpr absl::string_view kScores = "tokenizer.ggml.scores";
constexpr absl::string_view kTypes = "tokenizer.ggml.token_type";
constexpr absl::string_view kMerges = "tokenizer.ggml.merges";

// Control tokens that end a turn in the templates of known models. Files often name only one of them as EOS,
// though the model ends some answers with another.
constexpr std::array<absl::string_view, 11> kEndOfTurn = {
    "<|im_end|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "</s>",
    "<end_of_turn>",
    "<|end|>",
    "<|eom_id|>",
    "<EOT>",
    "<|end_of_turn|>",
    "<\xEF\xBD\x9C"
    "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",  // DeepSeek's, with fullwidth bars and U+2581
};

// Pre-tokenizers of "gpt2" vocabularies that begin every text with BOS unless the file says otherwise.
constexpr std::array<absl::string_view, 10> kBosByDefault = {"llama3",    "llama-v3", "llama-bpe", "falcon3",
                                                             "falcon-h1", "pixtral",  "midm-2.0",  "lfm2",
                                                             "tekken",    "chameleon"};

std::string Key(absl::string_view name) { return absl::StrCat(kPrefix, name); }

absl::Status ReadTokens(const GgufFile& file, Vocabulary& vocabulary) {
  const GgufMetadata& metadata = file.metadata();
  SPILLWAY_ASSIGN_OR_RETURN(const int64_t size, metadata.ArraySize(kTokens));
  const device::TensorView* embedding = file.FindTensor("token_embd.weight");
  if (embedding == nullptr || size != embedding->shape.front()) {
    return metadata.Error(
        kTokens, absl::StrCat(size, " tokens, but the embedding 'token_embd.weight' has ",
                              embedding == nullptr ? 0 : embedding->shape.front(), " rows; ", kDamagedFile));
  }
  if (size > std::numeric_limits<TokenId>::max()) {
    return metadata.Error(kTokens, absl::StrCat(size, " tokens have no 32-bit ids; ", kDamagedFile));
  }
  SPILLWAY_ASSIGN_OR_RETURN(const auto tokens, metadata.Strings(kTokens, size));
  vocabulary.tokens = std::vector<std::string>(tokens.begin(), tokens.end());
  return absl::OkStatus();
}

absl::Status ReadScores(const GgufMetadata& metadata, Vocabulary& vocabulary) {
  if (!metadata.Has(kScores)) return absl::OkStatus();
  const auto size = static_cast<int64_t>(vocabulary.tokens.size());
  SPILLWAY_ASSIGN_OR_RETURN(vocabulary.scores, metadata.Floats(kScores, size));
  for (size_t i = 0; i < vocabulary.scores.size(); ++i) {
    if (std::isnan(vocabulary.scores[i])) {
      return metadata.Error(kScores, absl::StrCat("element ", i, " is not a number; ", kDamagedFile));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadTypes(const GgufMetadata& metadata, Vocabulary& vocabulary) {
  if (!metadata.Has(kTypes)) return absl::OkStatus();
  const auto size = static_cast<int64_t>(vocabulary.tokens.size());
  SPILLWAY_ASSIGN_OR_RETURN(const std::vector<int64_t> types, metadata.Ints(kTypes, size));
  vocabulary.types.reserve(types.size());
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i] < 0 || types[i] > static_cast<int64_t>(TokenType::kByte)) {
      return metadata.Error(kTypes, absl::StrCat("element ", i, ": ", types[i],
                                                 " is not a token type (0 to 6); ", kDamagedFile));
    }
    vocabulary.types.push_back(static_cast<TokenType>(types[i]));
  }
  return absl::OkStatus();
}

absl::Status ReadMerges(const GgufMetadata& metadata, Vocabulary& vocabulary) {
  SPILLWAY_ASSIGN_OR_RETURN(const int64_t size, metadata.ArraySize(kMerges));
  SPILLWAY_ASSIGN_OR_RETURN(const auto merges, metadata.Strings(kMerges, size));
  for (size_t i = 0; i < merges.size(); ++i) {
    const size_t space = merges[i].find(' ', 1);
    if (space == absl::string_view::npos || space + 1 == merges[i].size()) {
      return metadata.Error(kMerges, absl::StrCat("element ", i, ": ", Quoted(merges[i]),
                                                  " is not two parts with a space between; ", kDamagedFile));
    }
  }
  vocabulary.merges = std::vector<std::string>(merges.begin(), merges.end());
  return absl::OkStatus();
}

// A special token's id: as the file has it, else `missing`, which counts only if there is such a token.
absl::StatusOr<std::optional<TokenId>> SpecialId(const GgufMetadata& metadata, absl::string_view name,
                                                 const Vocabulary& vocabulary,
                                                 std::optional<TokenId> missing = std::nullopt) {
  const auto size = static_cast<int64_t>(vocabulary.tokens.size());
  const std::string key = Key(name);
  if (!metadata.Has(key)) {
    return missing && *missing < size ? missing : std::optional<TokenId>();
  }
  SPILLWAY_ASSIGN_OR_RETURN(const int64_t id, metadata.Int(key));
  if (id < 0 || id >= size) {
    return metadata.Error(
        key, absl::StrCat("id ", id, " is outside a vocabulary of ", size, " tokens; ", kDamagedFile));
  }
  return std::optional<TokenId>(static_cast<TokenId>(id));
}

absl::Status ReadSpecialIds(const GgufMetadata& metadata, Vocabulary& vocabulary) {
  const bool sentencepiece = vocabulary.model == "llama";
  const auto missing = [&](TokenId id) { return sentencepiece ? std::optional<TokenId>(id) : std::nullopt; };
  SPILLWAY_ASSIGN_OR_RETURN(vocabulary.bos, SpecialId(metadata, "bos_token_id", vocabulary, missing(1)));
  SPILLWAY_ASSIGN_OR_RETURN(vocabulary.eos, SpecialId(metadata, "eos_token_id", vocabulary, missing(2)));
  SPILLWAY_ASSIGN_OR_RETURN(vocabulary.unknown,
                            SpecialId(metadata, "unknown_token_id", vocabulary, missing(0)));
  constexpr absl::string_view kPadding = "tokenizer.ggml.padding_token_id";
  SPILLWAY_ASSIGN_OR_RETURN(const int64_t padding, metadata.IntOr(kPadding, -1));
  if (padding >= 0 && padding < static_cast<int64_t>(vocabulary.tokens.size())) {
    vocabulary.padding = static_cast<TokenId>(padding);
  }

  std::vector<TokenId>& stop_ids = vocabulary.stop_ids;
  if (vocabulary.eos) stop_ids.push_back(*vocabulary.eos);
  for (const absl::string_view name : {"eot_token_id", "eom_token_id"}) {
    SPILLWAY_ASSIGN_OR_RETURN(const std::optional<TokenId> id, SpecialId(metadata, name, vocabulary));
    if (id) stop_ids.push_back(*id);
  }
  for (size_t i = 0; i < vocabulary.types.size(); ++i) {
    const TokenType type = vocabulary.types[i];
    if ((type == TokenType::kControl || type == TokenType::kUserDefined) &&
        absl::c_linear_search(kEndOfTurn, absl::string_view(vocabulary.tokens[i]))) {
      stop_ids.push_back(static_cast<TokenId>(i));
    }
  }
  absl::c_sort(stop_ids);
  stop_ids.erase(std::unique(stop_ids.begin(), stop_ids.end()), stop_ids.end());
  return absl::OkStatus();
}

absl::Status ReadFlags(const GgufMetadata& metadata, Vocabulary& vocabulary) {
  const bool sentencepiece = vocabulary.model == "llama";
  const bool bos = sentencepiece || absl::c_linear_search(kBosByDefault, absl::string_view(vocabulary.pre));
  SPILLWAY_ASSIGN_OR_RETURN(vocabulary.add_bos, metadata.BoolOr(Key("add_bos_token"), bos));
  SPILLWAY_ASSIGN_OR_RETURN(vocabulary.add_eos, metadata.BoolOr(Key("add_eos_token"), false));
  SPILLWAY_ASSIGN_OR_RETURN(vocabulary.add_space_prefix,
                            metadata.BoolOr(Key("add_space_prefix"), sentencepiece));
  const std::pair<bool, absl::string_view> needed[] = {
      {vocabulary.add_bos && !vocabulary.bos, "add_bos_token"},
      {vocabulary.add_eos && !vocabulary.eos, "add_eos_token"},
  };
  for (const auto& [contradicts, name] : needed) {
    if (!contradicts) continue;
    const std::string key = Key(name);
    const absl::string_view problem =
        "a token is to be added that the file does not name; convert the model again";
    return metadata.Has(key) ? metadata.Error(key, problem) : metadata.Error(kTokens, problem);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Vocabulary> VocabularyFromGguf(const GgufFile& file) {
  const GgufMetadata& metadata = file.metadata();
  Vocabulary vocabulary;
  const std::string model_key = Key("model");
  SPILLWAY_ASSIGN_OR_RETURN(const absl::string_view model, metadata.String(model_key));
  if (model != "gpt2" && model != "llama") {
    return absl::UnimplementedError(
        metadata
            .Error(model_key, absl::StrCat("tokenizer ", Quoted(model),
                                           " is not supported; serve a model with 'gpt2' or 'llama'"))
            .message());
  }
  vocabulary.model = std::string(model);
  SPILLWAY_ASSIGN_OR_RETURN(const absl::string_view pre, metadata.StringOr(Key("pre"), ""));
  vocabulary.pre = std::string(pre);
  SPILLWAY_RETURN_IF_ERROR(ReadTokens(file, vocabulary));
  SPILLWAY_RETURN_IF_ERROR(ReadScores(metadata, vocabulary));
  SPILLWAY_RETURN_IF_ERROR(ReadTypes(metadata, vocabulary));
  if (model == "gpt2") SPILLWAY_RETURN_IF_ERROR(ReadMerges(metadata, vocabulary));
  SPILLWAY_RETURN_IF_ERROR(ReadSpecialIds(metadata, vocabulary));
  SPILLWAY_RETURN_IF_ERROR(ReadFlags(metadata, vocabulary));
  SPILLWAY_ASSIGN_OR_RETURN(const absl::string_view chat_template,
                            metadata.StringOr("tokenizer.chat_template", ""));
  vocabulary.chat_template = std::string(chat_template);
  return vocabulary;
}

}  // namespace spillway::model
