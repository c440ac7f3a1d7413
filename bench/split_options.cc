#include "bench/split_options.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bench/command_line.h"
#include "bench/split_batch.h"
#include "scheduler/plan_modes.h"

namespace spillway::bench {
namespace {

absl::Status ParseWords(absl::string_view text, std::vector<std::string>* words) {
  *words = absl::StrSplit(text, ',', absl::SkipEmpty());
  return words->empty() ? absl::InvalidArgumentError("the list is empty") : absl::OkStatus();
}

}  // namespace

int64_t SplitBenchOptions::cached_tokens_max() const {
  return int64_t{*std::max_element(batches.begin(), batches.end())} *
         *std::max_element(contexts.begin(), contexts.end());
}

int32_t SplitBenchOptions::sequences_max() const { return *std::max_element(batches.begin(), batches.end()); }

void AddSplitFlags(client::FlagTable& flags, SplitBenchOptions* options) {
  flags.Section("The sweep: every combination is a row");
  const auto add_words = [&flags](absl::string_view name, std::vector<std::string>* words,
                                  absl::string_view help) {
    flags.AddSetter(name, "LIST", help, [words](absl::string_view text) { return ParseWords(text, words); });
  };
  add_words("models", &options->models, "Default: multi-head,grouped-query.");
  AddNumbers(flags, "batches", &options->batches, 1, 64, "Sequences of a step. Default: 1,8.");
  AddNumbers(flags, "contexts", &options->contexts, kSplitBlockTokens, 8192,
             "Cached tokens of each, multiples of 16. Default: 256,512,1024.");
  AddNumbers(
      flags, "link_mb_per_s", &options->links_mb_per_s, 1.0, 1e5,
      "Rates of the emulated link; what is measured at one rate only is measured at the first. Default: "
      "100,50,150.");
  add_words(
      "modes", &options->modes,
      "As spillwayd's --split. Default: transfer,fixed:0.5,rebuild,serial,auto; those that a model cannot "
      "be served with are left out.");
  flags.Add("resident", &options->resident, "SHARE",
            "Of the tokens, resident as K and V in the rows that say so. Default: 0.5.");
  flags.Section("Measuring");
  flags.Add(
      "device", &options->device, "cpu|cuda",
      "What computes: the CPU behind an emulated link, or a GPU behind its own, whose rate is measured and "
      "which streamed weights and large contexts are left out for. Default: cpu.");
  flags.Add("cuda_module", &options->cuda_module, "FILE", "As spillwayd's. Default: beside this program.");
  flags.Add("overlap_kernels", &options->overlap_kernels, "auto|off", "As spillwayd's. Default: auto.");
  flags.Add(
      "steps", &options->steps, "N",
      "Measured steps of each row at most, half of them where these agree; their median counts. Default: 5.");
  flags.Add("unseen", &options->unseen, "N", "Ragged shapes whose steps are predicted. Default: 24.");
  flags.Add("seed", &options->seed, "N", "Of the ragged shapes. Default: 1.");
  flags.Add("threads", &options->threads, "N", "Threads that compute. Default: the cores of this process.");
  flags.Add("profile_s", &options->profile_s, "S", "For measuring a machine's profile. Default: 8.");
  flags.AddSwitch(
      "quick", &options->quick,
      "One link, batch and context, two or three steps, shorter profiles: under 50 s on two idle cores.");
  AddJson(flags, &options->json);
}

void MakeQuick(SplitBenchOptions* options, const SplitBenchOptions& given) {
  const SplitBenchOptions defaults;
  if (given.batches == defaults.batches) options->batches = {8};
  if (given.contexts == defaults.contexts) options->contexts = {512};
  if (given.links_mb_per_s == defaults.links_mb_per_s) options->links_mb_per_s = {100};
  if (given.modes == defaults.modes) options->modes = {"transfer", "serial", "auto"};
  if (given.steps == defaults.steps) options->steps = 3;
  if (given.unseen == defaults.unseen) options->unseen = 12;
  if (given.profile_s == defaults.profile_s) options->profile_s = 3;
}

std::string Complaint(const SplitBenchOptions& options) {
  if (options.device != "cpu" && options.device != "cuda") return "--device must be cpu or cuda";
  if (options.overlap_kernels != "auto" && options.overlap_kernels != "off") {
    return "--overlap_kernels must be auto or off";
  }
  for (const std::string& model : options.models) {
    if (model != "multi-head" && model != "grouped-query") {
      return absl::StrCat("--models: \"", model, "\" is neither multi-head nor grouped-query");
    }
  }
  for (const int32_t context : options.contexts) {
    if (context % kSplitBlockTokens != 0) return "--contexts must be multiples of 16";
  }
  for (const std::string& mode : options.modes) {
    const auto parsed = scheduler::ParsePlanModes(mode, "auto", "row");
    if (!parsed.ok()) return absl::StrCat("--modes: ", parsed.status().message());
  }
  if (!(options.resident >= 0 && options.resident <= 1)) return "--resident must be in 0..1";
  if (options.steps < 1 || options.steps > 1000) return "--steps must be in 1..1000";
  if (options.unseen < 0 || options.unseen > 1000) return "--unseen must be in 0..1000";
  if (!(options.profile_s >= 1 && options.profile_s <= 20)) return "--profile_s must be in 1..20";
  if (options.threads < 0 || options.threads > 1024) return "--threads must be in 0..1024";
  return "";
}

}  // namespace spillway::bench
