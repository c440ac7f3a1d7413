#include "bench/split_equality.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "bench/distribution.h"
#include "bench/split_session.h"

namespace spillway::bench {
namespace {

constexpr int32_t kSequences = 4;
constexpr int32_t kGenerated = 16;
// bf16: what the tests of the executors allow logits to differ by.
constexpr float kNearTie = 0.1F;

struct Drawn {
  int32_t token = 0;
  float gap = 0;  // between the two likeliest tokens' log probabilities
};

using Tokens = std::vector<std::vector<int32_t>>;  // of each sequence
using Draws = std::vector<std::vector<Drawn>>;     // of each step: of each sequence

// All sequences together take more than a chunk of the ring in either form. The last block is not full.
int32_t PromptTokens(const kv::Geometry& geometry) {
  const int64_t token_bytes = std::min(geometry.beta_bytes(), geometry.chi_bytes());
  return static_cast<int32_t>(kRingChunkBytes / token_bytes / kSequences) + 22;
}

// Of a sequence, with what it generates.
int32_t BlocksEach(int32_t prompt) {
  return (prompt + kGenerated + kSplitBlockTokens - 1) / kSplitBlockTokens;
}

// Blocks of a sequence are its own, one after another.
std::vector<kv::BlockId> BlocksOf(int32_t sequence, int32_t each) {
  std::vector<kv::BlockId> blocks;
  for (int32_t i = 0; i < each; ++i) blocks.push_back(sequence * each + i);
  return blocks;
}

Tokens DrawPrompts(int32_t vocab_size, int32_t prompt, uint64_t seed) {
  Random random(seed);
  Tokens tokens(kSequences);
  for (std::vector<int32_t>& sequence : tokens) {
    for (int32_t i = 0; i < prompt; ++i) {
      sequence.push_back(static_cast<int32_t>(random.Between(0, vocab_size - 1)));
    }
  }
  return tokens;
}

// Reads the prompts, then generates. `tokens` are appended to as drawn, or, where they are longer than the
// prompt already, followed.
absl::StatusOr<Draws> Generate(SplitSession& session, ModePlanner& planner, int32_t prompt, Tokens& tokens) {
  session.DropBlocks();
  std::vector<std::vector<kv::BlockId>> tables;
  for (int32_t s = 0; s < kSequences; ++s) tables.push_back(BlocksOf(s, BlocksEach(prompt)));
  Draws draws;
  for (int32_t step = 0; step <= kGenerated; ++step) {
    // The prompt but for its last token, then a token a step.
    const exec::Phase phase = step == 0 ? exec::Phase::kPrefill : exec::Phase::kDecode;
    const int32_t first = step == 0 ? 0 : prompt - 2 + step;
    const int32_t n = step == 0 ? prompt - 1 : 1;
    std::vector<exec::Segment> segments(kSequences);
    for (size_t s = 0; s < segments.size(); ++s) {
      exec::Segment& segment = segments[s];
      segment.sequence = s;
      segment.tokens =
          absl::MakeConstSpan(tokens[s]).subspan(static_cast<size_t>(first), static_cast<size_t>(n));
      segment.first_position = first;
      segment.blocks = tables[s];
      segment.sample.top_p = segment.sample.repetition_penalty = 1;
      segment.sample.n_logprobs = 2;
      segment.sample.position = first + n;
      if (step > 0) segment.output = exec::Output::kSample;
    }
    if (step == 0) {
      for (const exec::Segment& segment : segments) {
        const exec::SplitPlan plan = session.PlanFor(phase, {&segment, 1}, planner.planner());
        SPILLWAY_RETURN_IF_ERROR(session.Run(phase, {&segment, 1}, plan).status());
      }
      session.WaitForStores();
      continue;
    }
    const exec::SplitPlan plan = session.PlanFor(phase, segments, planner.planner());
    SPILLWAY_ASSIGN_OR_RETURN(const exec::StepResult result, session.Run(phase, segments, plan));
    std::vector<Drawn>& drawn = draws.emplace_back();
    for (size_t s = 0; s < segments.size(); ++s) {
      const device::SampleResult& sample = result.samples[s];
      drawn.push_back({sample.token, sample.top[0].logprob - sample.top[1].logprob});
      if (static_cast<int32_t>(tokens[s].size()) < prompt + step) tokens[s].push_back(sample.token);
    }
  }
  return draws;
}

void Compare(const Draws& resident, const Draws& other, TokenEquality* equality) {
  for (size_t step = 0; step < resident.size(); ++step) {
    for (size_t s = 0; s < resident[step].size(); ++s) {
      ++equality->tokens;
      if (resident[step][s].token == other[step][s].token) continue;
      ++equality->different;
      equality->near_ties += resident[step][s].gap < kNearTie;
    }
  }
}

}  // namespace

absl::Status CompareTokens(const SplitMachine& machine, const SplitBenchOptions& options, SplitReport& report,
                           TokenEquality* equality) {
  const int32_t prompt = PromptTokens(machine.geometry());
  const int32_t tokens_max = kSequences * BlocksEach(prompt) * kSplitBlockTokens;
  Tokens tokens = DrawPrompts(machine.profile().model.vocab_size, prompt, options.seed);
  SplitSessionOptions session_options;
  session_options.max_sequences = kSequences;
  session_options.max_cached_tokens = tokens_max;
  Draws resident;
  for (const double share : {1.0, 0.0, options.resident}) {
    session_options.resident_tokens = static_cast<int64_t>(share * tokens_max);
    SPILLWAY_ASSIGN_OR_RETURN(const auto session, SplitSession::Create(machine, session_options));
    for (const std::string& mode : share == 1 ? std::vector<std::string>{"transfer"} : options.modes) {
      auto planner = ModePlanner::Create(machine, mode, /*feedback=*/false);
      if (absl::IsFailedPrecondition(planner.status()) || absl::IsUnimplemented(planner.status())) continue;
      SPILLWAY_RETURN_IF_ERROR(planner.status());
      SPILLWAY_ASSIGN_OR_RETURN(Draws draws, Generate(*session, **planner, prompt, tokens));
      if (resident.empty()) {
        resident = std::move(draws);
        continue;
      }
      TokenEquality found;
      Compare(resident, draws, &found);
      equality->tokens += found.tokens;
      equality->different += found.different;
      equality->near_ties += found.near_ties;
      report["equality"].push_back({{"model", machine.options().model.name},
                                    {"mode", mode},
                                    {"resident_share", share},
                                    {"tokens", found.tokens},
                                    {"different", found.different},
                                    {"near_ties", found.near_ties}});
    }
  }
  return absl::OkStatus();
}

void SummarizeEquality(const TokenEquality& equality, SplitReport& report) {
  if (equality.tokens == 0) return;
  report.Section("Are tokens those of the resident run?");
  report.Line(
      absl::StrFormat("%d greedy tokens of every mode: %d differ, %d of them at near ties (gap under %.1f)",
                      equality.tokens, equality.different, equality.near_ties, kNearTie));
  report.Ratio("tokens_equal", 1 - static_cast<double>(equality.different - equality.near_ties) /
                                       static_cast<double>(equality.tokens));
}

}  // namespace spillway::bench
