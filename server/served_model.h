// The served model as requests see it: names, text, limits and defaults. Filled at start, immutable and
// thread-safe afterwards; outlives every call.
#ifndef SPILLWAY_SERVER_SERVED_MODEL_H_
#define SPILLWAY_SERVER_SERVED_MODEL_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "scheduler/request.h"
#include "spillway/v1/inference.pb.h"

namespace spillway::server {

// Bounds of a request's fields, returned by GetModel and named in refusals.
constexpr int kMaxChoices = 16;
constexpr int kMaxLogprobs = 20;
constexpr int kMaxStopStrings = 16;
constexpr int kMaxStopStringBytes = 256;
constexpr int kMaxStopTokenIds = 64;
constexpr int kMaxRequestIdBytes = 256;
constexpr int kMaxPriority = 100;
constexpr int kMaxCacheSaltBytes = 256;
constexpr int kMaxTemplateVariables = 32;
constexpr int kMaxTemplateVariableNameBytes = 64;
// Of Tokenize and Detokenize, whose answers are larger than the question: an unread answer stays in memory.
constexpr size_t kMaxTokenizeBytes = size_t{4} << 20;
constexpr int kMaxDetokenizeIds = 1 << 18;

struct ServedModel {
  std::vector<std::string> names;  // the first is its name, the others are aliases
  std::string architecture;        // "llama"
  int64_t parameters = 0;
  int32_t trained_context_tokens = 0;
  std::string compute_dtype;  // "bf16"
  std::string fingerprint;    // hexadecimal
  int64_t weight_bytes = 0;
  int64_t streamed_weight_bytes = 0;  // of them, loaded over the link in every pass

  int32_t context_tokens = 0;  // prompt + generated of one sequence at most
  bool prefix_cache = true;    // --prefix_cache
  int32_t max_priority = kMaxPriority;
  int32_t default_max_tokens = 0;  // for a request without max_tokens; 0: what the context leaves
  scheduler::SamplingParams defaults;

  std::unique_ptr<text::Tokenizer> tokenizer;
  int32_t longest_token_bytes = 0;  // of the vocabulary; 0: unknown
  std::optional<text::ChatTemplate> chat_template;
  std::string bos_token;  // as the vocabulary spells them, for the template
  std::string eos_token;

  const std::string& name() const { return names.front(); }
  // `name` is empty or one of the names.
  bool Answers(absl::string_view name) const;
  v1::Model ToProto() const;
};

// "SmolLM2 135M Instruct" -> "smollm2-135m-instruct": lower case, runs of anything but letters, digits and
// dots become one dash.
std::string Slug(absl::string_view name);

// InvalidArgument, naming --served_model_name, where it is not UTF-8: answers carry it.
absl::Status CheckModelNames(absl::string_view flag);

// The names of --served_model_name, else the slug of the file's general.name, else its file name without the
// extension.
std::vector<std::string> ModelNames(absl::string_view flag, absl::string_view general_name,
                                    absl::string_view path);

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_SERVED_MODEL_H_
