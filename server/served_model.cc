#include "server/served_model.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/text/utf8.h"

namespace spillway::server {

bool ServedModel::Answers(absl::string_view name) const {
  return name.empty() || std::find(names.begin(), names.end(), name) != names.end();
}

v1::Model ServedModel::ToProto() const {
  v1::Model out;
  out.set_name(name());
  for (size_t i = 1; i < names.size(); ++i) out.add_aliases(names[i]);
  out.set_architecture(architecture);
  out.set_parameters(parameters);
  out.set_vocab_size(tokenizer->vocab_size());
  out.set_context_tokens(context_tokens);
  out.set_trained_context_tokens(trained_context_tokens);
  out.set_compute_dtype(compute_dtype);
  out.set_fingerprint(fingerprint);
  out.set_weight_bytes(weight_bytes);
  out.set_streamed_weight_bytes(streamed_weight_bytes);
  for (text::TokenId id : tokenizer->stop_ids()) out.add_stop_token_ids(id);

  v1::GenerationOptions& options = *out.mutable_defaults();
  options.set_max_tokens(default_max_tokens > 0 ? std::min(default_max_tokens, context_tokens - 1)
                                                : context_tokens - 1);
  options.set_min_tokens(0);
  options.set_choices(1);
  options.set_priority(0);
  options.set_objective(v1::OBJECTIVE_AUTO);
  options.set_keep_special_tokens(false);
  v1::SamplingOptions& sampling = *options.mutable_sampling();
  sampling.set_temperature(defaults.temperature);
  sampling.set_top_k(defaults.top_k);
  sampling.set_top_p(defaults.top_p);
  sampling.set_min_p(defaults.min_p);
  sampling.set_repetition_penalty(defaults.repetition_penalty);
  sampling.set_frequency_penalty(defaults.frequency_penalty);
  sampling.set_presence_penalty(defaults.presence_penalty);
  options.mutable_stop()->set_ignore_eos(false);
  options.mutable_stop()->set_include_stop_string(false);

  v1::Features& features = *out.mutable_features();
  features.set_chat(chat_template.has_value());
  features.set_token_ids_only(!tokenizer->has_text());
  features.set_logprobs(true);
  features.set_prefix_cache(prefix_cache);
  features.set_cache_salt(true);
  features.set_max_choices(kMaxChoices);
  features.set_max_logprobs(kMaxLogprobs);
  features.set_max_stop_strings(kMaxStopStrings);
  return out;
}

std::string Slug(absl::string_view name) {
  std::string out;
  for (const char c : name) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.') {
      out.push_back(absl::ascii_tolower(static_cast<unsigned char>(c)));
    } else if (!out.empty() && out.back() != '-') {
      out.push_back('-');
    }
  }
  while (!out.empty() && out.back() == '-') out.pop_back();
  return out;
}

absl::Status CheckModelNames(absl::string_view flag) {
  const std::optional<size_t> offset = text::FindInvalidUtf8(flag);
  if (!offset.has_value()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--served_model_name: not valid UTF-8 at byte ", *offset, "; give names that are"));
}

std::vector<std::string> ModelNames(absl::string_view flag, absl::string_view general_name,
                                    absl::string_view path) {
  std::vector<std::string> names;
  for (absl::string_view name : absl::StrSplit(flag, ',', absl::SkipWhitespace())) {
    names.emplace_back(absl::StripAsciiWhitespace(name));
  }
  if (!names.empty()) return names;
  std::string name = Slug(general_name);
  if (name.empty()) {
    while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);  // of a directory
    const absl::string_view file = path.substr(path.find_last_of('/') + 1);
    name = std::string(absl::StripSuffix(file, ".gguf"));
    if (text::FindInvalidUtf8(name).has_value()) name = Slug(name);
  }
  return {name.empty() ? "model" : name};
}

}  // namespace spillway::server
