#include "bench/split_equality.h"

#include <algorithm>
#include <cmath>
#include <iterator>
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

using Tokens = std::vector<std::vector<int32_t>>;  // of each sequence

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

// A token's log probability; of one that is not among the likeliest, theirs are all above it.
float LogprobOf(const device::SampleResult& sample, int32_t token) {
  for (int32_t i = 0; i < sample.n_top; ++i) {
    if (sample.top[i].token == token) return sample.top[i].logprob;
  }
  return sample.top[sample.n_top - 1].logprob;
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
      segment.sample.n_logprobs = device::kMaxTopLogprobs;
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
      if (static_cast<int32_t>(tokens[s].size()) < prompt + step) tokens[s].push_back(sample.token);
      const int32_t next = tokens[s][static_cast<size_t>(prompt + step - 1)];
      drawn.push_back({sample.token, sample.top[0].logprob - sample.top[1].logprob, LogprobOf(sample, next)});
    }
  }
  return draws;
}

}  // namespace

// bf16: half of what the tests of the executors allow logits to differ by. f32: sums in another order.
double LogprobTolerance(device::DType dtype) { return dtype == device::DType::kF32 ? 1e-3 : 0.05; }

void TokenEquality::Add(const TokenEquality& other) {
  tokens += other.tokens;
  different += other.different;
  near_ties += other.near_ties;
  off += other.off;
  wrong += other.wrong;
  largest_difference = std::max(largest_difference, other.largest_difference);
  tolerance = std::max(tolerance, other.tolerance);
  resident_tokens += other.resident_tokens;
  resident_near_ties += other.resident_near_ties;
}

TokenEquality CompareDraws(const Draws& resident, const Draws& other, double tolerance) {
  TokenEquality equality;
  equality.tolerance = tolerance;
  for (size_t step = 0; step < resident.size(); ++step) {
    for (size_t s = 0; s < resident[step].size(); ++s) {
      const Drawn& want = resident[step][s];
      const Drawn& got = other[step][s];
      const double difference = std::abs(double{want.logprob} - double{got.logprob});
      const bool different = want.token != got.token;
      const bool near_tie = want.gap < 2 * tolerance;
      const bool off = !(difference <= tolerance);  // NaN is
      ++equality.tokens;
      equality.different += different;
      equality.near_ties += different && near_tie;
      equality.off += off;
      equality.wrong += off || (different && !near_tie);
      equality.largest_difference = std::max(equality.largest_difference, difference);
    }
  }
  return equality;
}

absl::Status CompareTokens(const SplitMachine& machine, const SplitBenchOptions& options, SplitReport& report,
                           TokenEquality* equality) {
  const int32_t prompt = PromptTokens(machine.geometry());
  const int32_t tokens_max = kSequences * BlocksEach(prompt) * kSplitBlockTokens;
  Tokens tokens = DrawPrompts(machine.profile().model.vocab_size, prompt, options.seed);
  SplitSessionOptions session_options;
  session_options.max_sequences = kSequences;
  session_options.max_cached_tokens = tokens_max;
  const double tolerance = LogprobTolerance(machine.device().info().compute_dtype);
  Draws resident;
  int64_t resident_near_ties = 0;
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
        for (const std::vector<Drawn>& step : resident) {
          for (const Drawn& drawn : step) resident_near_ties += drawn.gap < 2 * tolerance;
        }
        equality->resident_tokens += int64_t{kSequences} * std::ssize(resident);
        equality->resident_near_ties += resident_near_ties;
        continue;
      }
      const TokenEquality found = CompareDraws(resident, draws, tolerance);
      equality->Add(found);
      report["equality"].push_back({{"model", machine.options().model.name},
                                    {"mode", mode},
                                    {"resident_share", share},
                                    {"tokens", found.tokens},
                                    {"different", found.different},
                                    {"near_ties", found.near_ties},
                                    {"resident_run_near_ties", resident_near_ties},
                                    {"near_tie_gap", 2 * tolerance},
                                    {"logprob_tolerance", tolerance},
                                    {"logprob_difference_max", found.largest_difference},
                                    {"beyond_tolerance", found.off}});
    }
  }
  return absl::OkStatus();
}

void SummarizeEquality(const TokenEquality& equality, SplitReport& report) {
  if (equality.tokens == 0) return;
  report.Section("Are tokens those of the resident run?");
  report.Line(
      absl::StrFormat("%d greedy tokens of every mode: %d differ, %d of them at near ties (gap under %.2g)",
                      equality.tokens, equality.different, equality.near_ties, 2 * equality.tolerance));
  report.Line(absl::StrFormat("%d of the resident run's own %d tokens are near ties",
                              equality.resident_near_ties, equality.resident_tokens));
  report.Line(absl::StrFormat("log probabilities of its tokens differ by %.2g at most; %d by more than %.2g",
                              equality.largest_difference, equality.off, equality.tolerance));
  report.Ratio("tokens_equal",
               1 - static_cast<double>(equality.wrong) / static_cast<double>(equality.tokens));
}

}  // namespace spillway::bench
