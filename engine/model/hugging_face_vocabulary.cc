#include "engine/model/hugging_face_vocabulary.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/small_file.h"
#include "base/status_macros.h"
#include "engine/model/gguf_cursor.h"

namespace spillway::model {
namespace {

using Json = nlohmann::json;
using text::TokenId;
using text::TokenType;
using text::Vocabulary;

constexpr JsonLimits kTokenizerLimits = {
    .bytes_max = 64 * kMiB, .values_max = int64_t{4} << 20, .depth_max = 32};
constexpr size_t kJoinedBytesMax = 128;  // of a token whose splits are checked; Llama 2's longest has 48
constexpr absl::string_view kSpace = "\xE2\x96\x81";  // U+2581, SentencePiece's
constexpr absl::string_view kDamaged = "the file is damaged; fetch it again";
constexpr absl::string_view kIdsOnly = "which Spillway's tokenizer does not do";

// The patterns that name a pre-tokenizer, as tokenizer.json spells them.
struct KnownPattern {
  absl::string_view pattern;
  bool ignore_merges;
  absl::string_view pre;
};
constexpr absl::string_view kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr absl::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::array<KnownPattern, 3> kKnownPatterns = {{
    {kLlama3Pattern, true, "llama-bpe"},
    {kLlama3Pattern, false, "dbrx"},
    {kQwen2Pattern, false, "qwen2"},
}};

std::string TypeOf(const Json& part) {
  const auto found = part.is_object() ? part.find("type") : part.end();
  return part.is_object() && found != part.end() && found->is_string() ? found->get<std::string>() : "";
}

bool Is(const Json& part, absl::string_view key, bool value) {
  const auto found = part.find(std::string(key));
  return found != part.end() && found->is_boolean() && found->get<bool>() == value;
}

// The parts of a "Sequence", or the part itself; none of null.
std::vector<Json> PartsOf(const JsonObject& fields, absl::string_view key, absl::string_view list) {
  const Json* value = fields.Find(key);
  if (value == nullptr) return {};
  if (TypeOf(*value) != "Sequence") return {*value};
  const auto found = value->find(std::string(list));
  if (found == value->end() || !found->is_array()) return {*value};
  return std::vector<Json>(found->begin(), found->end());
}

// tokenizer.ggml.pre of a byte-level tokenizer's pre-tokenizer, or nothing.
std::optional<std::string> PreTokenizerName(const std::vector<Json>& parts, bool ignore_merges) {
  if (parts.empty() || TypeOf(parts.back()) != "ByteLevel" || !Is(parts.back(), "add_prefix_space", false)) {
    return std::nullopt;
  }
  // "use_regex" is true where it is not said.
  const bool own_pattern = !Is(parts.back(), "use_regex", false);
  if (parts.size() == 1 && own_pattern && !ignore_merges) return "gpt-2";
  if (parts.size() != 2) return std::nullopt;
  const Json& first = parts.front();
  if (TypeOf(first) == "Digits" && Is(first, "individual_digits", true) && own_pattern && !ignore_merges) {
    return "smollm";
  }
  if (TypeOf(first) != "Split" || own_pattern || !Is(first, "invert", false) ||
      first.value("behavior", Json()) != Json("Isolated")) {
    return std::nullopt;
  }
  const Json pattern = first.value("pattern", Json());
  const Json regex = pattern.is_object() ? pattern.value("Regex", Json()) : Json();
  for (const KnownPattern& known : kKnownPatterns) {
    if (regex == Json(std::string(known.pattern)) && known.ignore_merges == ignore_merges) {
      return std::string(known.pre);
    }
  }
  return std::nullopt;
}

// A space in front and U+2581 for every space, as SentencePiece's own normalisation of Llama.
bool IsSentencePieceNormalizer(const std::vector<Json>& parts) {
  const Json prepend = {{"type", "Prepend"}, {"prepend", std::string(kSpace)}};
  const Json replace = {
      {"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", std::string(kSpace)}};
  return parts.size() == 2 && parts[0] == prepend && parts[1] == replace;
}

class Reader {
 public:
  Reader(const JsonObject& json, int32_t vocab_size) : json_(json), vocab_size_(vocab_size) {}

  absl::StatusOr<Vocabulary> Read() {
    SPILLWAY_ASSIGN_OR_RETURN(const JsonObject model, json_.Object("model"));
    SPILLWAY_RETURN_IF_ERROR(ReadKind(model));
    SPILLWAY_RETURN_IF_ERROR(ReadTokens(model));
    SPILLWAY_RETURN_IF_ERROR(ReadMerges(model));
    SPILLWAY_RETURN_IF_ERROR(ReadAddedTokens());
    SPILLWAY_RETURN_IF_ERROR(ReadUnknown(model));
    if (out_.model == "llama") SPILLWAY_RETURN_IF_ERROR(CheckSplits(model));
    SPILLWAY_RETURN_IF_ERROR(ReadPostProcessor());
    return std::move(out_);
  }

 private:
  absl::Status ReadKind(const JsonObject& model) {
    SPILLWAY_ASSIGN_OR_RETURN(const std::string type, model.StringOr("type", "BPE"));
    if (type != "BPE") return model.Unsupported("type", absl::StrCat(Quoted(type), ", ", kIdsOnly));
    for (const absl::string_view key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
      const nlohmann::json* value = model.Find(key);
      if (value == nullptr || *value == nlohmann::json("")) continue;
      return model.Unsupported(key, absl::StrCat("is set, ", kIdsOnly));
    }
    SPILLWAY_ASSIGN_OR_RETURN(const bool byte_fallback, model.BoolOr("byte_fallback", false));
    SPILLWAY_ASSIGN_OR_RETURN(const bool ignore_merges, model.BoolOr("ignore_merges", false));
    const std::vector<nlohmann::json> normalizer = PartsOf(json_, "normalizer", "normalizers");
    const std::vector<nlohmann::json> pre = PartsOf(json_, "pre_tokenizer", "pretokenizers");
    if (byte_fallback) {
      if (!IsSentencePieceNormalizer(normalizer) || ignore_merges) {
        return json_.Unsupported("normalizer", absl::StrCat("is not SentencePiece's of Llama, ", kIdsOnly));
      }
      if (!pre.empty()) return json_.Unsupported("pre_tokenizer", absl::StrCat("is set, ", kIdsOnly));
      out_.model = "llama";
      out_.add_space_prefix = true;
      return absl::OkStatus();
    }
    if (!normalizer.empty()) return json_.Unsupported("normalizer", absl::StrCat("is set, ", kIdsOnly));
    const std::optional<std::string> name = PreTokenizerName(pre, ignore_merges);
    if (!name) return json_.Unsupported("pre_tokenizer", absl::StrCat("cuts text in a way ", kIdsOnly));
    out_.model = "gpt2";
    out_.pre = *name;
    return absl::OkStatus();
  }

  absl::Status SetToken(const JsonObject& where, absl::string_view key, int64_t id, const std::string& text) {
    if (id < 0 || id >= vocab_size_) {
      return where.Unsupported(key, absl::StrCat("token ", Quoted(text), " has the id ", id,
                                                 ", outside the model's vocabulary of ", vocab_size_));
    }
    std::string& spelling = out_.tokens[static_cast<size_t>(id)];
    const auto [known, fresh] = ids_.emplace(text, static_cast<TokenId>(id));
    if ((!spelling.empty() && spelling != text) || (!fresh && known->second != id)) {
      return where.Error(
          key, absl::StrCat("token ", Quoted(text), ", id ", id, ": contradicts another token; ", kDamaged));
    }
    spelling = text;
    out_.types[static_cast<size_t>(id)] = TokenType::kNormal;
    return absl::OkStatus();
  }

  absl::Status ReadTokens(const JsonObject& model) {
    out_.tokens.resize(static_cast<size_t>(vocab_size_));
    out_.types.resize(out_.tokens.size(), TokenType::kUnused);
    SPILLWAY_ASSIGN_OR_RETURN(const JsonObject vocab, model.Object("vocab"));
    for (const auto& [text, id] : vocab.json().items()) {
      if (!id.is_number_integer() || text.empty()) {
        return model.Error("vocab", absl::StrCat("token ", Quoted(text), " has no sound id; ", kDamaged));
      }
      SPILLWAY_RETURN_IF_ERROR(SetToken(model, "vocab", id.get<int64_t>(), text));
      if (out_.model == "llama" && text.size() == 6 && text.substr(0, 3) == "<0x") {
        out_.types[id.get<size_t>()] = TokenType::kByte;
      }
    }
    return absl::OkStatus();
  }

  // "left right" or ["left", "right"]. SentencePiece knows scores instead: what is joined earlier scores
  // higher.
  absl::Status ReadMerges(const JsonObject& model) {
    const nlohmann::json* merges = model.Find("merges");
    if (merges == nullptr || !merges->is_array()) {
      return model.Error("merges", absl::StrCat("is not a list; ", kDamaged));
    }
    if (out_.model == "llama")
      out_.scores.resize(out_.tokens.size(), -static_cast<float>(merges->size()) - 1);
    TokenId previous = -1;
    for (size_t rank = 0; rank < merges->size(); ++rank) {
      const nlohmann::json& merge = (*merges)[rank];
      std::string left;
      std::string right;
      if (merge.is_string()) {
        const std::string text = merge.get<std::string>();
        const size_t space = text.find(' ', 1);
        if (space != std::string::npos) {
          left = text.substr(0, space);
          right = text.substr(space + 1);
        }
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        left = merge[0].get<std::string>();
        right = merge[1].get<std::string>();
      }
      const auto joined = ids_.find(left + right);
      if (left.empty() || right.empty() || joined == ids_.end()) {
        return model.Error("merges",
                           absl::StrCat("element ", rank, " does not join two parts to a token; ", kDamaged));
      }
      out_.merges.push_back(absl::StrCat(left, " ", right));
      if (out_.model == "gpt2") continue;
      float& score = out_.scores[static_cast<size_t>(joined->second)];
      const float last = -static_cast<float>(rank);
      if (score > -static_cast<float>(merges->size()) - 1 && joined->second != previous) {
        return model.Unsupported(
            "merges", absl::StrCat("element ", rank, " ranks below joins of other tokens, ", kIdsOnly));
      }
      previous = joined->second;
      score = std::max(score, last);
    }
    return absl::OkStatus();
  }

  // SentencePiece joins two tokens wherever what they make is a token: every such pair has to be among the
  // merges.
  absl::Status CheckSplits(const JsonObject& model) {
    const absl::flat_hash_set<std::string> merges(out_.merges.begin(), out_.merges.end());
    for (size_t id = 0; id < out_.tokens.size(); ++id) {
      const std::string& token = out_.tokens[id];
      if (out_.types[id] != TokenType::kNormal) continue;
      if (token.size() > kJoinedBytesMax) {
        return model.Unsupported(
            "vocab", absl::StrCat("token ", id, " has ", token.size(), " bytes, more than ", kJoinedBytesMax,
                                  ", ", kIdsOnly));
      }
      for (size_t cut = 1; cut < token.size(); ++cut) {
        const std::string left = token.substr(0, cut);
        const std::string right = token.substr(cut);
        if (!ids_.contains(left) || !ids_.contains(right) ||
            merges.contains(absl::StrCat(left, " ", right))) {
          continue;
        }
        return model.Unsupported("merges", absl::StrCat("do not join ", Quoted(left), " and ", Quoted(right),
                                                        " although they make a token, ", kIdsOnly));
      }
    }
    out_.merges.clear();
    return absl::OkStatus();
  }

  absl::Status ReadAddedTokens() {
    const nlohmann::json* added = json_.Find("added_tokens");
    if (added == nullptr) return absl::OkStatus();
    if (!added->is_array()) return json_.Error("added_tokens", absl::StrCat("is not a list; ", kDamaged));
    for (const nlohmann::json& entry : *added) {
      if (!entry.is_object()) return json_.Error("added_tokens", absl::StrCat("is damaged; ", kDamaged));
      const JsonObject token(entry, absl::StrCat(json_.file(), ": added_tokens"));
      SPILLWAY_ASSIGN_OR_RETURN(const std::string text, token.String("content"));
      SPILLWAY_ASSIGN_OR_RETURN(const int64_t id, token.Int("id"));
      SPILLWAY_ASSIGN_OR_RETURN(const bool special, token.BoolOr("special", false));
      for (const absl::string_view key : {"lstrip", "rstrip", "single_word"}) {
        SPILLWAY_ASSIGN_OR_RETURN(const bool set, token.BoolOr(key, false));
        if (set) return token.Unsupported(key, absl::StrCat("of ", Quoted(text), ", ", kIdsOnly));
      }
      SPILLWAY_RETURN_IF_ERROR(SetToken(token, "id", id, text));
      out_.types[static_cast<size_t>(id)] = special ? TokenType::kControl : TokenType::kUserDefined;
    }
    return absl::OkStatus();
  }

  absl::Status ReadUnknown(const JsonObject& model) {
    if (model.Has("unk_token")) {
      SPILLWAY_ASSIGN_OR_RETURN(const std::string text, model.String("unk_token"));
      if (const auto found = ids_.find(text); found != ids_.end()) {
        out_.unknown = found->second;
        if (out_.model == "llama") out_.types[static_cast<size_t>(found->second)] = TokenType::kUnknown;
      }
    }
    for (size_t id = 0; id < out_.tokens.size(); ++id) {
      if (out_.types[id] == TokenType::kUnused) out_.tokens[id] = absl::StrCat("[PAD", id, "]");
    }
    return absl::OkStatus();
  }

  // What the template puts in front of a text: nothing, or one special token.
  absl::Status ReadPostProcessor() {
    for (const nlohmann::json& part : PartsOf(json_, "post_processor", "processors")) {
      if (TypeOf(part) == "ByteLevel") continue;  // offsets alone
      const bool is_template = TypeOf(part) == "TemplateProcessing";
      const nlohmann::json single = is_template ? part.value("single", nlohmann::json()) : nlohmann::json();
      const bool understood = single.is_array() && !single.empty() && single.size() <= 2 &&
                              single.back().is_object() && single.back().contains("Sequence");
      if (!understood) {
        return json_.Unsupported("post_processor", absl::StrCat("adds tokens in a way ", kIdsOnly));
      }
      if (single.size() == 1) continue;
      const nlohmann::json special =
          single[0].is_object() ? single[0].value("SpecialToken", nlohmann::json()) : nlohmann::json();
      const nlohmann::json name =
          special.is_object() ? special.value("id", nlohmann::json()) : nlohmann::json();
      const auto found = name.is_string() ? ids_.find(name.get<std::string>()) : ids_.end();
      if (found == ids_.end()) {
        return json_.Error("post_processor", absl::StrCat("puts an unknown token in front; ", kDamaged));
      }
      out_.bos = found->second;
      out_.add_bos = true;
    }
    return absl::OkStatus();
  }

  const JsonObject& json_;
  const int32_t vocab_size_;
  Vocabulary out_;
  absl::flat_hash_map<std::string, TokenId> ids_;
};

// A special token's text: a string, or an object with its content.
std::string SpecialText(const JsonObject& json, absl::string_view key) {
  const nlohmann::json* value = json.Find(key);
  if (value == nullptr) return "";
  if (value->is_string()) return value->get<std::string>();
  const nlohmann::json content =
      value->is_object() ? value->value("content", nlohmann::json()) : nlohmann::json();
  return content.is_string() ? content.get<std::string>() : "";
}

std::optional<TokenId> IdOf(const Vocabulary& vocabulary, const std::string& text) {
  if (text.empty()) return std::nullopt;
  const auto found = std::find(vocabulary.tokens.begin(), vocabulary.tokens.end(), text);
  if (found == vocabulary.tokens.end()) return std::nullopt;
  return static_cast<TokenId>(found - vocabulary.tokens.begin());
}

// One template, or a list of named ones, of which "default" is taken.
std::string ChatTemplateOf(const JsonObject& json) {
  const nlohmann::json* value = json.Find("chat_template");
  if (value == nullptr) return "";
  if (value->is_string()) return value->get<std::string>();
  if (!value->is_array()) return "";
  for (const nlohmann::json& entry : *value) {
    if (!entry.is_object() || entry.value("name", nlohmann::json()) != nlohmann::json("default")) continue;
    const nlohmann::json text = entry.value("template", nlohmann::json());
    if (text.is_string()) return text.get<std::string>();
  }
  return "";
}

}  // namespace

absl::StatusOr<Vocabulary> VocabularyFromTokenizerJson(const JsonObject& json, int32_t vocab_size) {
  return Reader(json, vocab_size).Read();
}

absl::StatusOr<Vocabulary> VocabularyFromDirectory(const std::string& directory, int32_t vocab_size) {
  const std::filesystem::path folder(directory);
  std::error_code error;
  const std::string path = (folder / "tokenizer.json").string();
  if (!std::filesystem::exists(path, error)) {
    return absl::NotFoundError(absl::StrCat(path, ": there is none; fetch the whole model"));
  }
  SPILLWAY_ASSIGN_OR_RETURN(const nlohmann::json root, ReadJsonFile(path, kTokenizerLimits));
  SPILLWAY_ASSIGN_OR_RETURN(Vocabulary vocabulary,
                            VocabularyFromTokenizerJson(JsonObject(root, path), vocab_size));

  const std::string config_path = (folder / "tokenizer_config.json").string();
  if (std::filesystem::exists(config_path, error)) {
    SPILLWAY_ASSIGN_OR_RETURN(const nlohmann::json config_root, ReadJsonFile(config_path));
    const JsonObject config(config_root, config_path);
    vocabulary.chat_template = ChatTemplateOf(config);
    vocabulary.eos = IdOf(vocabulary, SpecialText(config, "eos_token"));
    if (!vocabulary.bos) vocabulary.bos = IdOf(vocabulary, SpecialText(config, "bos_token"));
  }
  const std::string template_path = (folder / "chat_template.jinja").string();
  if (std::filesystem::exists(template_path, error)) {
    absl::StatusOr<std::string> text = ReadSmallFile(template_path);
    if (!text.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(template_path, ": ", text.status().message()));
    }
    vocabulary.chat_template = *std::move(text);
  }
  return vocabulary;
}

}  // namespace spillway::model
