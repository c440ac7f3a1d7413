#include "bench/workload.h"

#include <algorithm>
#include <fstream>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"

namespace spillway::bench {

void AddWorkloadFlags(client::FlagTable& flags, WorkloadOptions* options) {
  flags.Section("Requests");
  flags.Add(
      "prompt_tokens", &options->prompt, "LENGTHS",
      "Prompt lengths: fixed:N, uniform:A-B or lognormal:MEAN,SIGMA. Default: fixed:128. Prompts are random "
      "token ids.");
  flags.Add("output_tokens", &options->output, "LENGTHS", "Output lengths, likewise. Default: fixed:64.");
  flags.Add(
      "workload", &options->file, "FILE",
      "Requests from JSON lines, in turn: {\"prompt\": TEXT, \"max_tokens\": N}, or \"prompt_tokens\": N for "
      "a random prompt.");
  flags.Add("shared_prefix_tokens", &options->shared_prefix_tokens, "N",
            "So many first tokens are the same in every random prompt.");
  flags.Add("cancel_fraction", &options->cancel_fraction, "F",
            "Share of the requests that the client cancels: half of them after a random time within "
            "--cancel_within, half after a random number of tokens.");
  flags.Add("cancel_within", &options->cancel_within, "TIME", "See --cancel_fraction. Default: 1s.");
  flags.Add(
      "slow_reader_fraction", &options->slow_reader_fraction, "F",
      "Share of the requests whose stream is read slowly, with --slow_reader_pause_ms between two reads.");
  flags.AddSwitch("ignore_eos", &options->ignore_eos,
                  "Generate exactly the drawn number of tokens. Default: yes.");
  flags.Add("temperature", &options->temperature, "T", "Default: 0.");
  flags.Add("seed", &options->seed, "N", "Of lengths, prompts, arrivals and cancellations. Default: 1.");
  flags.AddCall<std::string>(
      "cache_salt", "TEXT",
      "Requests find prefixes of requests with the same salt alone. Default: one that only this run has, so "
      "that nothing an earlier run of the same seed computed is found. Empty: what clients without a salt "
      "have.",
      [options](const std::string& salt) { options->cache_salt = salt; });
}

absl::StatusOr<Workload> Workload::Create(const WorkloadOptions& options, const v1::Model& model) {
  const auto is_fraction = [](double value) { return value >= 0 && value <= 1; };
  if (!is_fraction(options.cancel_fraction) || !is_fraction(options.slow_reader_fraction)) {
    return absl::InvalidArgumentError("--cancel_fraction and --slow_reader_fraction must be in 0..1");
  }
  if (options.shared_prefix_tokens < 0) {
    return absl::InvalidArgumentError("--shared_prefix_tokens must not be negative");
  }
  if (model.vocab_size() <= model.stop_token_ids_size() || model.context_tokens() < 2) {
    return absl::FailedPreconditionError("the daemon's model call names no vocabulary or context");
  }
  Workload workload(options, model);
  if (!options.file.empty()) SPILLWAY_RETURN_IF_ERROR(workload.ReadFile());
  return workload;
}

namespace {

std::string RandomSalt() {
  std::random_device device;
  return absl::StrCat("bench-", absl::Hex(device()), absl::Hex(device()));
}

}  // namespace

Workload::Workload(const WorkloadOptions& options, const v1::Model& model)
    : options_(options),
      vocab_size_(model.vocab_size()),
      context_tokens_(model.context_tokens()),
      stop_ids_(model.stop_token_ids().begin(), model.stop_token_ids().end()),
      random_(options.seed),
      cache_salt_(options.cache_salt.has_value() ? *options.cache_salt : RandomSalt()) {
  for (int64_t i = 0; i < std::min(options.shared_prefix_tokens, context_tokens_); ++i) {
    shared_prefix_.push_back(DrawId());
  }
}

absl::Status Workload::ReadFile() {
  std::ifstream file(options_.file);
  if (!file) return absl::NotFoundError(absl::StrCat("--workload: cannot open ", options_.file));
  std::string text;
  for (int number = 1; std::getline(file, text); ++number) {
    if (text.empty()) continue;
    const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    const bool has_text = json.is_object() && json.contains("prompt") && json["prompt"].is_string();
    const bool has_length =
        json.is_object() && json.contains("prompt_tokens") && json["prompt_tokens"].is_number_integer();
    if (has_text == has_length || !json.contains("max_tokens") || !json["max_tokens"].is_number_integer()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--workload: line ", number, " of ", options_.file,
                       " needs \"prompt\" (text) or \"prompt_tokens\", and \"max_tokens\""));
    }
    Line line;
    if (has_text) line.prompt = json["prompt"].get<std::string>();
    if (has_length) line.prompt_tokens = json["prompt_tokens"].get<int64_t>();
    line.max_tokens = json["max_tokens"].get<int64_t>();
    lines_.push_back(std::move(line));
  }
  if (lines_.empty())
    return absl::InvalidArgumentError(absl::StrCat("--workload: ", options_.file, " is empty"));
  return absl::OkStatus();
}

int32_t Workload::DrawId() {
  while (true) {
    const auto id = static_cast<int32_t>(random_.Between(0, vocab_size_ - 1));
    if (std::find(stop_ids_.begin(), stop_ids_.end(), id) == stop_ids_.end()) return id;
  }
}

void Workload::FillPrompt(int64_t n_tokens, v1::CompleteRequest* request) {
  auto* ids = request->mutable_tokens()->mutable_ids();
  ids->Reserve(static_cast<int>(n_tokens));
  for (int64_t i = 0; i < n_tokens; ++i) {
    // The last token is always drawn: prompts stay different, and something is left to compute.
    const bool shared = i < static_cast<int64_t>(shared_prefix_.size()) && i + 1 < n_tokens;
    ids->Add(shared ? shared_prefix_[static_cast<size_t>(i)] : DrawId());
  }
}

void Workload::PlanCancel(int64_t max_tokens, PlannedRequest* planned) {
  if (random_.Uniform() >= options_.cancel_fraction) return;
  if (random_.Uniform() < 0.5) {
    planned->cancel_after_ns = random_.Between(0, options_.cancel_within.ms * kNsPerMs);
  } else {
    planned->cancel_after_tokens = random_.Between(1, std::max<int64_t>(max_tokens, 1));
  }
}

PlannedRequest Workload::Next() {
  PlannedRequest planned;
  int64_t max_tokens = 0;
  if (lines_.empty()) {
    const int64_t prompt_tokens = options_.prompt.Draw(random_, context_tokens_ - 1);
    max_tokens = options_.output.Draw(random_, context_tokens_ - prompt_tokens);
    FillPrompt(prompt_tokens, &planned.request);
  } else {
    const Line& line = lines_[next_line_++ % lines_.size()];
    max_tokens = line.max_tokens;
    if (line.prompt.empty()) {
      FillPrompt(std::clamp<int64_t>(line.prompt_tokens, 1, context_tokens_ - 1), &planned.request);
    } else {
      planned.request.set_text(line.prompt);
    }
  }
  v1::GenerationOptions* options = planned.request.mutable_options();
  options->set_max_tokens(static_cast<int32_t>(max_tokens));
  options->set_cache_salt(cache_salt_);
  options->mutable_sampling()->set_temperature(options_.temperature);
  options->mutable_stop()->set_ignore_eos(options_.ignore_eos);
  PlanCancel(max_tokens, &planned);
  planned.reads_slowly = random_.Uniform() < options_.slow_reader_fraction;
  return planned;
}

std::string Workload::Describe() const {
  std::string text =
      lines_.empty() ? absl::StrCat("prompts ", options_.prompt.text(), ", outputs ", options_.output.text())
                     : absl::StrCat(lines_.size(), " requests of ", options_.file);
  if (!shared_prefix_.empty()) absl::StrAppend(&text, ", ", shared_prefix_.size(), " shared prefix tokens");
  if (options_.cancel_fraction > 0) absl::StrAppend(&text, ", ", options_.cancel_fraction, " cancelled");
  if (options_.slow_reader_fraction > 0) {
    absl::StrAppend(&text, ", ", options_.slow_reader_fraction, " read slowly");
  }
  absl::StrAppend(&text, ", seed ", options_.seed);
  return text;
}

}  // namespace spillway::bench
