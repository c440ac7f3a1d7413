#include "client/generation_flags.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/strings/str_replace.h"

namespace spillway::client {
namespace {

// A newline is the commonest stop string and hard to type: "\n", "\t" and "\\" are understood.
std::string Unescape(absl::string_view text) {
  return absl::StrReplaceAll(text, {{"\\\\", "\\"}, {"\\n", "\n"}, {"\\t", "\t"}});
}

void AddSamplingFlags(FlagTable& flags, v1::GenerationOptions* options) {
  const auto sampling = [options] { return options->mutable_sampling(); };
  flags.Section("Sampling (unset: the model's own defaults, which `spillway models` shows)");
  flags.AddCall<float>("temperature", "T", "0 takes the most likely token each time; higher is more varied.",
                       [=](float value) { sampling()->set_temperature(value); });
  flags.AddCall<int32_t>("top_k", "N", "Draw from the N most likely tokens. 0: from all.",
                         [=](int32_t value) { sampling()->set_top_k(value); });
  flags.AddCall<float>("top_p", "P", "Draw from the most likely tokens that together reach probability P.",
                       [=](float value) { sampling()->set_top_p(value); });
  flags.AddCall<float>("min_p", "P", "Draw from tokens at least P times as likely as the most likely one.",
                       [=](float value) { sampling()->set_min_p(value); });
  flags.AddCall<float>("repetition_penalty", "R",
                       "Above 1 makes tokens of the prompt and the answer less likely. 1: none.",
                       [=](float value) { sampling()->set_repetition_penalty(value); });
  flags.AddCall<float>("frequency_penalty", "F", "Subtracted for every time a token was generated. -2 to 2.",
                       [=](float value) { sampling()->set_frequency_penalty(value); });
  flags.AddCall<float>("presence_penalty", "F", "Subtracted once for a token that was generated. -2 to 2.",
                       [=](float value) { sampling()->set_presence_penalty(value); });
  flags.AddCall<uint64_t>("seed", "N", "Equal seeds give equal draws. Unset: drawn at random.",
                          [=](uint64_t value) { sampling()->set_seed(value); });
}

void AddStopFlags(FlagTable& flags, v1::GenerationOptions* options) {
  const auto stop = [options] { return options->mutable_stop(); };
  flags.Section("Where to stop");
  flags.AddCall<int32_t>("max_tokens", "N", "Tokens to generate per choice at most.",
                         [=](int32_t value) { options->set_max_tokens(value); });
  flags.AddCall<int32_t>("min_tokens", "N",
                         "Generate this many tokens at least, past end tokens and stop texts.",
                         [=](int32_t value) { options->set_min_tokens(value); });
  flags.AddCall<std::string>("stop", "TEXT",
                             "End before this text; \\n is a newline. Give it again for more than one.",
                             [=](const std::string& value) { stop()->add_strings(Unescape(value)); });
  flags.AddCall<int32_t>("stop_token_id", "ID", "End at this token id. Give it again for more than one.",
                         [=](int32_t value) { stop()->add_token_ids(value); });
  flags.AddSwitch(
      "include_stop_string", [=](bool value) { stop()->set_include_stop_string(value); },
      "Keep the matched stop text in the answer.");
  flags.AddSwitch(
      "ignore_eos", [=](bool value) { stop()->set_ignore_eos(value); },
      "Go on past the model's own end tokens, up to --max_tokens.");
}

void AddRequestFlags(FlagTable& flags, v1::GenerationOptions* options) {
  flags.Section("The request");
  flags.AddCall<int32_t>("choices", "N", "Independent answers to the same prompt, 1 to 16.",
                         [=](int32_t value) { options->set_choices(value); });
  flags.AddCall<int32_t>(
      "logprobs", "N",
      "Log probabilities of the drawn tokens and the N most likely ones, 0 to 20. Shown by "
      "--json and --stream_json.",
      [=](int32_t value) { options->set_logprobs(value); });
  flags.AddSwitch(
      "keep_special_tokens", [=](bool value) { options->set_keep_special_tokens(value); },
      "Keep special tokens such as <|im_end|> in the text.");
  flags.AddCall<int32_t>("priority", "N", "Higher runs earlier, -100 to 100.",
                         [=](int32_t value) { options->set_priority(value); });
  flags.AddChoice(
      "objective", {"auto", "latency", "throughput"},
      "What matters: the soonest tokens, or the most over all requests. A hint, heeded where "
      "weights are streamed or batches share their load (--schedule=column).",
      [=](int index) { options->set_objective(static_cast<v1::Objective>(v1::OBJECTIVE_AUTO + index)); });
  flags.AddCall<std::string>("cache_salt", "TEXT",
                             "Share cached prefixes with requests of the same salt only.",
                             [=](const std::string& value) { options->set_cache_salt(value); });
  flags.AddCall<std::string>("request_id", "LABEL", "A label for the daemon's log lines and traces.",
                             [=](const std::string& value) { options->set_request_id(value); });
}

}  // namespace

void AddGenerationFlags(FlagTable& flags, v1::GenerationOptions* options) {
  AddStopFlags(flags, options);
  AddSamplingFlags(flags, options);
  AddRequestFlags(flags, options);
}

int32_t ChoicesOf(const v1::GenerationOptions& options) {
  // A number out of range is refused by the daemon, and must not size anything here.
  return options.has_choices() ? std::clamp(options.choices(), 1, 1024) : 1;
}

}  // namespace spillway::client
