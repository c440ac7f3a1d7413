#include "server/options_reader.h"

#include <sys/random.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"

namespace spillway::server {
namespace {

// The range of a real-valued field. Whether its ends belong to it is part of the interface.
struct Range {
  double min;
  double max;
  bool min_included = true;
  bool max_included = true;

  bool Contains(float value) const {
    if (!std::isfinite(value)) return false;
    return (min_included ? value >= min : value > min) && (max_included ? value <= max : value < max);
  }
  std::string Text() const {
    return absl::StrCat(min_included ? "[" : "(", min, ", ", max, max_included ? "]" : ")");
  }
};

void ReadReal(absl::string_view field, bool given, float value, const Range& range, float* target,
              Violations* violations) {
  if (!given) return;
  if (range.Contains(value)) {
    *target = value;
  } else {
    violations->Add(field, absl::StrCat(value, " is not in ", range.Text()));
  }
}

void ReadInt(absl::string_view field, bool given, int32_t value, int32_t min, int32_t max, int32_t* target,
             Violations* violations) {
  if (!given) return;
  if (value >= min && value <= max) {
    *target = value;
  } else {
    violations->Add(field, absl::StrCat(value, " is not in ", min, "..", max));
  }
}

uint64_t RandomSeed() {
  uint64_t seed = 0;
  SPILLWAY_CHECK(getrandom(&seed, sizeof(seed), 0) == sizeof(seed));
  return seed;
}

void ReadSampling(const v1::SamplingOptions& in, scheduler::SamplingParams* out, Violations* violations) {
  const auto path = [](absl::string_view name) { return absl::StrCat("options.sampling.", name); };
  ReadReal(path("temperature"), in.has_temperature(), in.temperature(), {0, 100}, &out->temperature,
           violations);
  if (in.has_top_k() && in.top_k() < 0) {
    violations->Add(path("top_k"), absl::StrCat(in.top_k(), " is negative; 0 means all"));
  } else if (in.has_top_k()) {
    out->top_k = in.top_k();
  }
  ReadReal(path("top_p"), in.has_top_p(), in.top_p(), {0, 1, false}, &out->top_p, violations);
  ReadReal(path("min_p"), in.has_min_p(), in.min_p(), {0, 1}, &out->min_p, violations);
  ReadReal(path("repetition_penalty"), in.has_repetition_penalty(), in.repetition_penalty(), {0, 10, false},
           &out->repetition_penalty, violations);
  ReadReal(path("frequency_penalty"), in.has_frequency_penalty(), in.frequency_penalty(), {-2, 2},
           &out->frequency_penalty, violations);
  ReadReal(path("presence_penalty"), in.has_presence_penalty(), in.presence_penalty(), {-2, 2},
           &out->presence_penalty, violations);
  out->seed = in.has_seed() ? in.seed() : RandomSeed();
}

// The bad elements of a list: the first is named, the others are counted.
class BadElements {
 public:
  void Add(int index) {
    if (count_++ == 0) first_ = index;
  }
  bool any() const { return count_ > 0; }
  int first() const { return first_; }
  void Report(absl::string_view field, std::string description, Violations* violations) const {
    if (count_ > 1) absl::StrAppend(&description, " (and ", count_ - 1, " more)");
    violations->Add(absl::StrCat(field, "[", first_, "]"), std::move(description));
  }

 private:
  int first_ = -1;
  int count_ = 0;
};

void ReadStop(const v1::StopOptions& in, const ServedModel& model, scheduler::Request* out,
              Violations* violations) {
  if (in.strings_size() > kMaxStopStrings) {
    violations->Add("options.stop.strings",
                    absl::StrCat(in.strings_size(), " strings, at most ", kMaxStopStrings));
  }
  if (in.strings_size() > 0 && !model.tokenizer->has_text()) {
    violations->Add("options.stop.strings", "the model is served without a tokenizer; use stop.token_ids",
                    Reason::kUnsupportedFeature, {{"field", "options.stop.strings"}});
  }
  BadElements bad_strings;
  for (int i = 0; i < std::min(in.strings_size(), kMaxStopStrings); ++i) {
    const std::string& text = in.strings(i);
    if (text.empty() || text.size() > kMaxStopStringBytes) bad_strings.Add(i);
    out->stop_strings.push_back(text);
  }
  if (bad_strings.any()) {
    bad_strings.Report(
        "options.stop.strings",
        absl::StrCat(in.strings(bad_strings.first()).size(), " bytes, must be 1..", kMaxStopStringBytes),
        violations);
  }
  if (in.token_ids_size() > kMaxStopTokenIds) {
    violations->Add("options.stop.token_ids",
                    absl::StrCat(in.token_ids_size(), " ids, at most ", kMaxStopTokenIds));
  }
  BadElements bad_ids;
  for (int i = 0; i < std::min(in.token_ids_size(), kMaxStopTokenIds); ++i) {
    if (!model.tokenizer->InRange(in.token_ids(i))) bad_ids.Add(i);
    out->stop_ids.push_back(in.token_ids(i));
  }
  if (bad_ids.any()) {
    bad_ids.Report(
        "options.stop.token_ids",
        absl::StrCat(in.token_ids(bad_ids.first()), " is not in 0..", model.tokenizer->vocab_size() - 1),
        violations);
  }
  out->ignore_eos = in.ignore_eos();
  out->include_stop = in.include_stop_string();
}

void RefuseReserved(const v1::GenerationOptions& options, Violations* violations) {
  if (!options.adapter().empty()) violations->AddUnsupported("options.adapter");
  if (options.has_constraint()) violations->AddUnsupported("options.constraint");
}

}  // namespace

void ReadOptions(const v1::GenerationOptions& options, const ServedModel& model, scheduler::Request* request,
                 Violations* violations) {
  request->sampling = model.defaults;
  RefuseReserved(options, violations);
  ReadSampling(options.sampling(), &request->sampling, violations);
  ReadStop(options.stop(), model, request, violations);
  int32_t max_tokens = 0;  // checked here, settled with the prompt
  ReadInt("options.max_tokens", options.has_max_tokens(), options.max_tokens(), 1,
          std::numeric_limits<int32_t>::max(), &max_tokens, violations);
  ReadInt("options.min_tokens", options.has_min_tokens(), options.min_tokens(), 0,
          std::numeric_limits<int32_t>::max(), &request->min_tokens, violations);
  ReadInt("options.logprobs", options.has_logprobs(), options.logprobs(), 0, kMaxLogprobs,
          &request->sampling.n_logprobs, violations);
  ReadInt("options.choices", options.has_choices(), options.choices(), 1, kMaxChoices, &request->n_choices,
          violations);
  ReadInt("options.priority", options.has_priority(), options.priority(), -kMaxPriority, model.max_priority,
          &request->priority, violations);
  request->skip_special = !options.keep_special_tokens();

  switch (options.objective()) {
    case v1::OBJECTIVE_UNSPECIFIED:
    case v1::OBJECTIVE_AUTO:
      request->objective = scheduler::Objective::kAuto;
      break;
    case v1::OBJECTIVE_LATENCY:
      request->objective = scheduler::Objective::kLatency;
      break;
    case v1::OBJECTIVE_THROUGHPUT:
      request->objective = scheduler::Objective::kThroughput;
      break;
    default:  // proto3 enums are open
      violations->Add("options.objective",
                      absl::StrCat(static_cast<int>(options.objective()), " is not an objective"));
  }
  if (options.request_id().size() > kMaxRequestIdBytes) {
    violations->Add("options.request_id",
                    absl::StrCat(options.request_id().size(), " bytes, at most ", kMaxRequestIdBytes));
  }
  request->label = options.request_id();
  const std::string& salt = options.cache_salt();
  if (salt.size() > kMaxCacheSaltBytes) {
    violations->Add("options.cache_salt", absl::StrCat(salt.size(), " bytes, at most ", kMaxCacheSaltBytes));
  }
  request->cache_salt.assign(salt.begin(), salt.end());
}

void SettleMaxTokens(const v1::GenerationOptions& options, const ServedModel& model,
                     scheduler::Request* request, Violations* violations) {
  const auto prompt = static_cast<int64_t>(request->prompt.size());
  const int64_t room = model.context_tokens - prompt;
  if (room < 1) {
    violations->Add("prompt",
                    absl::StrCat(prompt, " tokens; the context of ", model.context_tokens,
                                 " leaves room for at most ", model.context_tokens - 1),
                    Reason::kPromptTooLong,
                    {{"limit", absl::StrCat(model.context_tokens - 1)}, {"value", absl::StrCat(prompt)}});
    return;
  }
  if (options.has_max_tokens()) {
    if (options.max_tokens() > room) {
      violations->Add(
          "options.max_tokens",
          absl::StrCat(options.max_tokens(), " is more than the ", room, " tokens that a prompt of ", prompt,
                       " leaves of the context of ", model.context_tokens),
          Reason::kRequestTooLarge,
          {{"limit", absl::StrCat(room)}, {"value", absl::StrCat(options.max_tokens())}});
    }
    request->max_tokens = options.max_tokens();
  } else {
    request->max_tokens = static_cast<int32_t>(
        model.default_max_tokens > 0 ? std::min<int64_t>(model.default_max_tokens, room) : room);
  }
  if (request->min_tokens > request->max_tokens && request->max_tokens > 0) {
    violations->Add("options.min_tokens", absl::StrCat(request->min_tokens, " is more than the ",
                                                       request->max_tokens, " tokens generated at most"));
  }
}

}  // namespace spillway::server
