#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/text/pre_tokenizer.h"

#include <pcre2.h>

#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"

namespace spillway::text {
namespace {

// The characters with Unicode's White_Space property, to stand in a character class. PCRE2's own \s has
// U+180E in addition, which the tokenizers' regular expressions have not.
#define WS R"(\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})"
#define SPACE "[" WS "]"
#define NOT_SPACE "[^" WS "]"
// A run of spaces leaves its last one to the word that follows.
#define SPACES SPACE "+(?!" NOT_SPACE ")|" SPACE "+"
#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"

constexpr char kGpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^" WS "\\p{L}\\p{N}]+|" SPACES;

// The family that began with GPT-4's cl100k: they differ in how many digits make a word and in what may
// follow punctuation.
#define CL100K(digits)                                                                             \
  CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n]*|" SPACE \
              "*[\\r\\n]+|" SPACES

constexpr char kLlama3[] = CL100K("\\p{N}{1,3}");
constexpr char kQwen2[] = CL100K("\\p{N}");
constexpr char kQwen35[] = CONTRACTION "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^" WS
                                       "\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" SPACE "*[\\r\\n]+|" SPACES;

// GPT-4o's o200k: words also end where capitals begin again.
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define O200K(contraction, digits)                                                                   \
  "[^\\r\\n\\p{L}\\p{N}]?" UPPER "*" LOWER "+" contraction "|[^\\r\\n\\p{L}\\p{N}]?" UPPER "+" LOWER \
  "*" contraction "|" digits "| ?[^" WS "\\p{L}\\p{N}]+[\\r\\n/]*|" SPACE "*[\\r\\n]+|" SPACES

constexpr char kGpt4o[] = O200K(CONTRACTION "?", "\\p{N}{1,3}");
constexpr char kTekken[] = O200K("", "\\p{N}");

constexpr char kDeepSeek3[] =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|)" SPACE
    "*[\\r\\n]+|" SPACES;

struct Recipe {
  absl::string_view name;
  std::array<const char*, 5> patterns;  // applied one after the other; null: no more
  bool ignore_merges = false;
};

constexpr Recipe kRecipes[] = {
    {"gpt-2", {kGpt2}},
    {"phi-2", {kGpt2}},
    {"mpt", {kGpt2}},
    {"olmo", {kGpt2}},
    {"exaone4", {kGpt2}},
    {"smollm", {"\\p{N}", kGpt2}},
    {"starcoder", {"\\p{N}", kGpt2}},
    {"refact", {"\\p{N}", kGpt2}},
    {"command-r", {"\\p{N}", kGpt2}},
    {"codeshell", {"\\p{N}", kGpt2}},
    {"exaone", {"\\p{N}", kGpt2}},
    {"minerva-7b", {"\\p{N}", kGpt2}},
    {"llama-bpe", {kLlama3}, true},
    {"llama3", {kLlama3}, true},
    {"llama-v3", {kLlama3}, true},
    {"falcon3", {kLlama3}, true},
    {"lfm2", {kLlama3}, true},
    {"dbrx", {kLlama3}},
    {"smaug-bpe", {kLlama3}},
    {"glm4", {kLlama3}},
    {"chatglm-bpe", {kLlama3}},
    {"qwen2", {kQwen2}},
    {"deepseek-r1-qwen", {kQwen2}},
    {"stablelm2", {kQwen2}},
    {"megrez", {kQwen2}},
    {"qwen35", {kQwen35}},
    {"gpt-4o", {kGpt4o}},
    {"llama4", {kGpt4o}},
    {"tekken", {kTekken}, true},
    {"deepseek-coder",
     {"[\\r\\n]", SPACE "?\\p{L}+", SPACE "?\\p{P}+", "[一-龥ࠀ-一가-\\x{D7FF}]+", "\\p{N}"}},
    {"deepseek-v3", {"\\p{N}{1,3}", "[一-龥\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+", kDeepSeek3}},
    {"default", {"[\\p{P}$+<=>^~|]+", kGpt2, "\\p{N}+", "[0-9][0-9][0-9]"}},
};

constexpr size_t kMaxStages = std::tuple_size_v<decltype(Recipe::patterns)>;

struct MatchDataFree {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
using MatchData = std::unique_ptr<pcre2_match_data, MatchDataFree>;

std::string ErrorText(int code) {
  std::array<PCRE2_UCHAR, 160> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

// One compiled pattern.
class PreTokenizer::Stage {
 public:
  explicit Stage(const char* pattern) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED,
                              PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr));
    SPILLWAY_CHECK_MSG(code_ != nullptr, pattern);
    // Where the machine forbids code written at run time the pattern is interpreted instead.
    pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);
  }

  // Finds the first match at or behind `from`; false when there is none.
  absl::StatusOr<bool> Find(absl::string_view text, size_t from, pcre2_match_data* match_data, size_t* begin,
                            size_t* end) const {
    const int rc = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                               PCRE2_NO_UTF_CHECK, match_data, nullptr);
    if (rc == PCRE2_ERROR_NOMATCH) return false;
    // Zero: the match data has room for the whole match only, not for groups, which is all that is asked.
    if (rc < 0)
      return absl::ResourceExhaustedError(absl::StrCat("splitting text into words: ", ErrorText(rc)));
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match_data);
    *begin = bounds[0];
    *end = bounds[1];
    return true;
  }

 private:
  struct CodeFree {
    void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  };
  std::unique_ptr<pcre2_code, CodeFree> code_;
};

PreTokenizer::PreTokenizer() = default;
PreTokenizer::~PreTokenizer() = default;

absl::StatusOr<std::unique_ptr<PreTokenizer>> PreTokenizer::Create(absl::string_view name) {
  if (name.empty()) {
    // Guessing would give other tokens than the model was trained with, and nobody would notice.
    return absl::InvalidArgumentError(
        "the file names no pre-tokenizer (tokenizer.ggml.pre); convert the model again");
  }
  std::string known;
  for (const Recipe& recipe : kRecipes) {
    if (recipe.name != name) {
      absl::StrAppend(&known, known.empty() ? "" : ", ", recipe.name);
      continue;
    }
    auto result = std::unique_ptr<PreTokenizer>(new PreTokenizer);
    for (const char* pattern : recipe.patterns) {
      if (pattern != nullptr) result->stages_.emplace_back(pattern);
    }
    result->ignore_merges_ = recipe.ignore_merges;
    return result;
  }
  return absl::UnimplementedError(absl::StrCat(
      "pre-tokenizer \"", name, "\" (tokenizer.ggml.pre) is not supported; supported are ", known));
}

// PCRE2's working memory, one per stage because the stages run inside each other.
struct PreTokenizer::Scratch {
  explicit Scratch(size_t stages) {
    for (size_t i = 0; i < stages; ++i) {
      match_data[i].reset(pcre2_match_data_create(1, nullptr));
      SPILLWAY_CHECK_MSG(match_data[i] != nullptr, "out of memory");
    }
  }
  std::array<MatchData, kMaxStages> match_data;
};

absl::Status PreTokenizer::Split(absl::string_view text,
                                 absl::FunctionRef<void(absl::string_view)> word) const {
  if (text.empty()) return absl::OkStatus();
  Scratch scratch(stages_.size());
  return SplitFrom(0, text, scratch, word);
}

absl::Status PreTokenizer::SplitFrom(size_t stage, absl::string_view text, Scratch& scratch,
                                     absl::FunctionRef<void(absl::string_view)> word) const {
  if (stage == stages_.size()) {
    word(text);
    return absl::OkStatus();
  }
  pcre2_match_data* match_data = scratch.match_data[stage].get();
  size_t done = 0;
  size_t begin = 0, end = 0;
  while (done < text.size()) {
    SPILLWAY_ASSIGN_OR_RETURN(const bool found, stages_[stage].Find(text, done, match_data, &begin, &end));
    if (!found) break;
    SPILLWAY_CHECK_MSG(end > begin, "a pre-tokenizer pattern matched nothing");
    // What lies between two matches is a part of its own.
    if (begin > done) {
      SPILLWAY_RETURN_IF_ERROR(SplitFrom(stage + 1, text.substr(done, begin - done), scratch, word));
    }
    SPILLWAY_RETURN_IF_ERROR(SplitFrom(stage + 1, text.substr(begin, end - begin), scratch, word));
    done = end;
  }
  if (done < text.size()) return SplitFrom(stage + 1, text.substr(done), scratch, word);
  return absl::OkStatus();
}

}  // namespace spillway::text
