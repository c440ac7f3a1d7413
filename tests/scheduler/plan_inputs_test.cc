#include "scheduler/plan_inputs.h"

#include <limits>
#include <random>
#include <string>
#include <vector>

#include "base/reason.h"
#include "gtest/gtest.h"
#include "scheduler/plan_explanation.h"
#include "tests/scheduler/profiles.h"

namespace spillway::scheduler {
namespace {

using profiler::MachineProfile;

exec::BatchShape Decode(int32_t sequences, int64_t tokens_each) {
  exec::BatchShape shape;
  shape.sequences = shape.new_tokens = shape.head_rows = sequences;
  shape.reads_tokens = sequences * tokens_each;
  shape.host_both_tokens = sequences * tokens_each;
  return shape;
}

const PlanAlternative& Find(const PlanExplanation& e, const std::string& name) {
  for (const PlanAlternative& alternative : e.alternatives) {
    if (alternative.name == name) return alternative;
  }
  ADD_FAILURE() << name;
  return e.alternatives.front();
}

TEST(PlanInputs, PrefillReadsAtItsOwnRateWhereThatWasMeasured) {
  MachineProfile profile = MultiHeadProfile();
  exec::BatchShape shape = Decode(4, 1000);
  const auto attention_s = [&] { return MakeSplitInputs(profile, shape).groups.front().attention_s; };
  const double decode_s = attention_s();
  shape.phase = exec::Phase::kPrefill;
  EXPECT_EQ(attention_s(), decode_s) << "not measured apart";
  profile.prefill_attention = LinearCost(1e-9);
  EXPECT_NEAR(attention_s() / decode_s, 0.1, 1e-6);
  shape.phase = exec::Phase::kDecode;
  EXPECT_EQ(attention_s(), decode_s);
}

TEST(PlanInputs, WhatFollowsTheLastChunkIsAddedToTheLink) {
  MachineProfile profile = MultiHeadProfile();
  exec::BatchShape shape = Decode(4, 8000);
  shape.phase = exec::Phase::kPrefill;
  SplitPolicy policy;
  policy.mode = exec::SplitMode::kRebuild;
  const auto step = [&] {
    const auto solution = SolveSplit(MakeSplitInputs(profile, shape, policy));
    EXPECT_TRUE(solution.ok()) << solution.status();
    return *solution;
  };
  const SplitSolution without = step();
  ASSERT_EQ(without.binding, exec::Resource::kLinkIn);
  // A chunk of 256 tokens is rebuilt and attended to, the last layer is completed, a token is drawn.
  profile.model.chunk_tokens = 256;
  const double tail_s = profile.rebuild.At(256) + profile.attention.At(32'000) * 256 / 32'000 +
                        profile.linear.At(4) + profile.head.At(4);
  const SplitSolution with = step();
  EXPECT_NEAR(with.step_s - without.step_s, tail_s, 1e-9);
  EXPECT_EQ(with.resource_s, without.resource_s) << "it is no work of the link";
  // Nothing is rebuilt where all is carried as keys and values.
  policy.mode = exec::SplitMode::kTransfer;
  EXPECT_NEAR(step().step_s - step().resource_s[static_cast<size_t>(exec::Resource::kLinkIn)],
              tail_s - profile.rebuild.At(256), 1e-9);
}

TEST(PlanInputs, WhatIsFetchedForTheNextStepHidesTheTailOfADecodeStep) {
  MachineProfile profile = MultiHeadProfile();
  profile.model.chunk_tokens = 256;
  SplitPolicy policy;
  policy.mode = exec::SplitMode::kTransfer;
  const auto tail_s = [&](const exec::BatchShape& shape) {
    return MakeSplitInputs(profile, shape, policy).link_tail_s;
  };
  exec::BatchShape prefill = Decode(4, 8000);
  prefill.phase = exec::Phase::kPrefill;
  const double whole_s = tail_s(prefill);
  ASSERT_GT(whole_s, 0);
  // Three chunks, half of the ring.
  const double ahead_s = 3 * 256 * profile.model.beta_bytes() / profile.copy_in.bytes_per_s;
  EXPECT_DOUBLE_EQ(tail_s(Decode(4, 8000)), std::max(0.0, whole_s - ahead_s));
  // On a slow link they hide all of it, and where there is little to fetch, little.
  profile.copy_in.bytes_per_s = 1e6;
  EXPECT_EQ(tail_s(Decode(4, 8000)), 0);
  profile.copy_in.bytes_per_s = 1e15;
  EXPECT_NEAR(tail_s(Decode(4, 8000)) / whole_s, 1, 1e-3);
  // Streamed weights come first, and a serial plan says what may be under way when.
  profile.copy_in.bytes_per_s = 1e6;
  exec::BatchShape streamed = Decode(4, 8000);
  streamed.weight_load_bytes = 1'000'000;
  EXPECT_GT(tail_s(streamed), 0);
  policy.mode = exec::SplitMode::kSerial;
  EXPECT_GT(tail_s(Decode(4, 8000)), 0);
}

TEST(SplitInputsOfAProfile, GroupedQueryModelsFindTransferUnaided) {
  for (const int sequences : {1, 16, 128}) {
    const auto solution = SolveSplit(MakeSplitInputs(GroupedQueryProfile(), Decode(sequences, 8000)));
    ASSERT_TRUE(solution.ok()) << solution.status();
    EXPECT_EQ(solution->groups[0].carried_x_tokens, 0) << sequences;
  }
}

TEST(SplitInputsOfAProfile, SerialClosedFormOfThePaperAtTheProfilesRates) {
  MachineProfile profile = MultiHeadProfile();
  const double d_b_over_p = 0.31;
  profile.rebuild = LinearCost(profile.model.beta_bytes() / profile.copy_in.bytes_per_s * d_b_over_p);
  profile.linear = LinearCost(0.01);  // X hides behind it
  SplitPolicy policy;
  policy.mode = exec::SplitMode::kSerial;
  const auto solution = SolveSplit(MakeSplitInputs(profile, Decode(4, 8000), policy));
  ASSERT_TRUE(solution.ok()) << solution.status();
  EXPECT_NEAR(solution->groups[0].carried_x_tokens / 32'000, 1 / (1 + d_b_over_p), 1e-5);
}

TEST(SplitInputsOfAProfile, TheSameTokensAreCarriedDifferentlyByTwoBatchShapes) {
  // One sequence leaves compute with slack for rebuilding; 64 that share its tokens take that slack.
  exec::BatchShape alone = Decode(1, 32'000);
  exec::BatchShape many = alone;
  many.sequences = many.new_tokens = many.head_rows = 64;
  many.reads_tokens = 64 * alone.reads_tokens;
  const auto one = SolveSplit(MakeSplitInputs(MultiHeadProfile(), alone));
  const auto all = SolveSplit(MakeSplitInputs(MultiHeadProfile(), many));
  ASSERT_TRUE(one.ok() && all.ok());
  EXPECT_GT(one->groups[0].carried_x_tokens, all->groups[0].carried_x_tokens * 1.2);
}

TEST(SplitInputsOfAProfile, TheHeadIsChargedForTheRowsThatItIsComputedFor) {
  const MachineProfile profile = MultiHeadProfile();
  exec::BatchShape piece = Decode(4, 1000);
  piece.phase = exec::Phase::kPrefill;
  piece.new_tokens = 256;
  piece.head_rows = 0;
  EXPECT_EQ(MakeSplitInputs(profile, piece).head_s, 0);
  piece.head_rows = 2;
  EXPECT_EQ(MakeSplitInputs(profile, piece).head_s, profile.head.At(2));
  EXPECT_GT(profile.head.At(2), 0);
}

TEST(SplitInputsOfAProfile, FactorsScaleTheirOwnResource) {
  const exec::BatchShape shape = [] {
    exec::BatchShape s = Decode(8, 4000);
    s.resident_x_tokens = 500;
    return s;
  }();
  SplitPolicy policy;
  policy.store_x = true;
  const std::vector<GroupSplit> split = {{20'000, 12'000, 0, 0, 500, 0, 0, 32'000}};
  const StepTimes plain = EvaluateTimes(MakeSplitInputs(MultiHeadProfile(), shape, policy), split);
  const StepTimes scaled =
      EvaluateTimes(MakeSplitInputs(MultiHeadProfile(), shape, policy, {1.5, 2, 0.7}), split);
  const auto ratio = [&](exec::Resource resource) {
    return scaled.resource_s[static_cast<size_t>(resource)] / plain.resource_s[static_cast<size_t>(resource)];
  };
  EXPECT_NEAR(ratio(exec::Resource::kLinkIn), 1.5, 1e-9);
  EXPECT_NEAR(ratio(exec::Resource::kLinkOut), 2, 1e-9);
  EXPECT_NEAR(ratio(exec::Resource::kCompute), 0.7, 1e-9);
  EXPECT_NEAR(ratio(exec::Resource::kHostMemory), 1, 1e-9);
  EXPECT_NEAR(ratio(exec::Resource::kLinkBoth), 2 / (1 / 1.5 + 1 / 2.0), 1e-9) << "equal rates both ways";
}

TEST(ExplainPlan, WhatSpillwayDoesIsNoSlowerThanAnyAlternative) {
  for (const int sequences : {1, 8, 64}) {
    for (const int64_t context : {1000, 8000, 32000}) {
      PlanQuery query;
      query.sequences = sequences;
      query.context_tokens = context;
      query.host_pool_bytes = 1e14;
      const auto e = ExplainPlan(MultiHeadProfile(), query);
      ASSERT_TRUE(e.ok()) << e.status();
      for (const PlanAlternative& other : e->alternatives) {
        EXPECT_LE(e->alternatives.front().solution.step_s, other.solution.step_s * (1 + 1e-6)) << other.name;
      }
    }
  }
}

// A pool that holds the tokens as X and not as K and V: what can be done is told, and of the rest why not.
TEST(ExplainPlan, AlternativesThatDoNotFitAreNamedBesideThosePlanned) {
  const profiler::MachineProfile profile = MultiHeadProfile();
  PlanQuery query;
  query.sequences = 64;
  query.context_tokens = 4096;
  query.host_pool_bytes = 0.75 * 64 * 4096 * profile.model.beta_bytes() * profile.model.n_layers;
  const auto e = ExplainPlan(profile, query);
  ASSERT_TRUE(e.ok()) << e.status();
  int do_not_fit = 0;
  for (const PlanAlternative& alternative : e->alternatives) {
    const bool transfers = alternative.name.starts_with("transfer");
    EXPECT_EQ(alternative.does_not_fit.empty(), !transfers) << alternative.name;
    EXPECT_EQ(alternative.solution.step_s > 0, !transfers) << alternative.name;
    do_not_fit += transfers;
  }
  EXPECT_EQ(do_not_fit, 2);
  EXPECT_NE(FormatExplanation(*e).find("does not fit: the host pool's"), std::string::npos);
  EXPECT_NE(ExplanationToJson(*e).find("\"does_not_fit\""), std::string::npos);
  query.host_pool_bytes /= 2;
  EXPECT_EQ(ExplainPlan(profile, query).status().code(), absl::StatusCode::kFailedPrecondition)
      << "where the first does not fit there is no plan";
}

TEST(ExplainPlan, SharedPrefixIsCarriedOnce) {
  PlanQuery query;
  query.sequences = 16;
  query.context_tokens = 8000;
  query.host_pool_bytes = 1e14;
  const auto apart = ExplainPlan(MultiHeadProfile(), query);
  query.shared_tokens = 8000;
  const auto shared = ExplainPlan(MultiHeadProfile(), query);
  ASSERT_TRUE(apart.ok() && shared.ok());
  const std::string off = "transfer, residency off";
  EXPECT_NEAR(Find(*apart, off).solution.groups[0].carried_kv_tokens,
              16 * Find(*shared, off).solution.groups[0].carried_kv_tokens, 1);
}

// The number before " bytes (" in a refusal.
int64_t BytesThatWouldDo(const absl::Status& refused) {
  const std::string message(refused.message());
  const size_t end = message.find(" bytes (");
  if (end == std::string::npos) return -1;
  return std::stoll(message.substr(message.rfind(' ', end - 1) + 1, end));
}

TEST(ExplainPlan, DeviceMemoryThatWouldDoDoes) {
  for (const double scratch_bytes : {-1.0, 0.0, 3e9}) {
    for (const bool streamed : {false, true}) {
      PlanQuery query;
      query.device_memory_bytes = 1e8;
      query.stream_weights = streamed;
      if (scratch_bytes >= 0) query.scratch_bytes = scratch_bytes;
      const auto refused = ExplainPlan(MultiHeadProfile(), query);
      ASSERT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
      query.device_memory_bytes = static_cast<double>(BytesThatWouldDo(refused.status()));
      EXPECT_TRUE(ExplainPlan(MultiHeadProfile(), query).ok()) << refused.status();
      query.device_memory_bytes -= 1000;
      EXPECT_FALSE(ExplainPlan(MultiHeadProfile(), query).ok()) << "not the least: " << refused.status();
    }
  }
}

TEST(ExplainPlan, HostPoolThatWouldDoDoes) {
  std::mt19937 random(5);
  for (int i = 0; i < 200; ++i) {
    PlanQuery query;
    query.sequences = 1 + static_cast<int32_t>(random() % 100);
    query.context_tokens = 1 + static_cast<int64_t>(random() % 5000);
    query.stream_weights = i % 2 == 0;
    query.host_pool_bytes = 1;
    query.device_memory_bytes = 1.4e10;
    query.scratch_bytes = 0;
    const auto refused = ExplainPlan(MultiHeadProfile(), query);
    if (refused.ok()) continue;  // all of it fits on the device
    ASSERT_EQ(refused.status().code(), absl::StatusCode::kFailedPrecondition);
    query.host_pool_bytes = static_cast<double>(BytesThatWouldDo(refused.status()));
    EXPECT_TRUE(ExplainPlan(MultiHeadProfile(), query).ok()) << refused.status();
  }
}

TEST(ExplainPlan, StreamedWeightsLieBesideAPoolThatIsGiven) {
  PlanQuery query;
  query.sequences = 8;
  query.context_tokens = 1024;
  query.stream_weights = true;
  query.host_pool_bytes =
      8.0 * 1024 * MultiHeadProfile().model.beta_bytes() * MultiHeadProfile().model.n_layers;
  EXPECT_TRUE(ExplainPlan(MultiHeadProfile(), query).ok());
}

TEST(ExplainPlan, AQueryWithoutMemoriesIsAboutTheDaemons) {
  const ServedMemory served{
      .device_memory_bytes = 3e9, .host_pool_bytes = 5e10, .residency_bytes = 7e8, .streams_weights = true};
  const auto e = ExplainPlan(MultiHeadProfile(), WithDefaults(PlanQuery(), served));
  ASSERT_TRUE(e.ok()) << e.status();
  EXPECT_EQ(e->query.device_memory_bytes, 3e9);
  EXPECT_EQ(e->query.host_pool_bytes, 5e10);
  EXPECT_TRUE(e->query.stream_weights);
  EXPECT_EQ(e->residency_bytes, 7e8);
  EXPECT_EQ(*e->query.scratch_bytes, 3e9 - 7e8 - e->weight_bytes);

  PlanQuery other;
  other.device_memory_bytes = 2e10;
  const PlanQuery about = WithDefaults(other, served);
  EXPECT_EQ(about.device_memory_bytes, 2e10);
  EXPECT_EQ(about.host_pool_bytes, 5e10);
  EXPECT_FALSE(about.stream_weights);
  EXPECT_FALSE(about.residency_bytes.has_value());
}

TEST(ExplainPlan, NoNumberCrashesIt) {
  const double numbers[] = {0, -1, 1e300, std::numeric_limits<double>::quiet_NaN(),
                            std::numeric_limits<double>::infinity()};
  for (const double number : numbers) {
    PlanQuery query;
    query.device_memory_bytes = number;
    (void)ExplainPlan(MultiHeadProfile(), query);
    query = PlanQuery{};
    query.host_pool_bytes = number;
    (void)ExplainPlan(MultiHeadProfile(), query);
    query = PlanQuery{};
    query.scratch_bytes = number;
    (void)ExplainPlan(MultiHeadProfile(), query);
  }
  PlanQuery query;
  query.context_tokens = std::numeric_limits<int64_t>::max();
  EXPECT_FALSE(ExplainPlan(MultiHeadProfile(), query).ok());
  query.context_tokens = 1000;
  query.shared_tokens = 1001;
  EXPECT_FALSE(ExplainPlan(MultiHeadProfile(), query).ok());
  query.shared_tokens = 0;
  query.sequences = 0;
  EXPECT_FALSE(ExplainPlan(MultiHeadProfile(), query).ok());
  query.sequences = 1'000'000;
  query.context_tokens = 1'000'000'000;
  EXPECT_EQ(ReasonOf(ExplainPlan(MultiHeadProfile(), query).status()), Reason::kInvalidField)
      << "too many tokens";
}

TEST(ExplainPlan, EveryBadNumberIsNamed) {
  PlanQuery query;
  query.sequences = -1;
  query.shared_tokens = 1 << 30;
  query.scratch_bytes = -5;
  const auto violations = ViolationsOf(ExplainPlan(MultiHeadProfile(), query).status());
  ASSERT_EQ(violations.size(), 3U);
  EXPECT_EQ(violations[0].field, "sequences");
  EXPECT_EQ(violations[1].field, "shared_tokens");
  EXPECT_EQ(violations[2].field, "scratch_bytes");
}

TEST(ExplainPlan, ABadNumberIsNamedAloneAndTellsItselfFromItsBound) {
  PlanQuery query;
  query.context_tokens = -1;
  auto violations = ViolationsOf(ExplainPlan(MultiHeadProfile(), query).status());
  ASSERT_EQ(violations.size(), 1U);
  EXPECT_EQ(violations[0].field, "context_tokens");
  query = PlanQuery{};
  query.host_pool_bytes = 1e15 + 1;
  violations = ViolationsOf(ExplainPlan(MultiHeadProfile(), query).status());
  ASSERT_EQ(violations.size(), 1U);
  EXPECT_EQ(violations[0].description, "is 1000000000000001; it must lie in [0, 1000000000000000]");
}

TEST(ExplainPlan, NoPlanIsMadeForMoreThanTheModelCan) {
  profiler::MachineProfile profile = MultiHeadProfile();
  EXPECT_EQ(ExplainPlan(profile, PlanQuery{})->query.context_tokens, 4096);
  profile.model.context_length = 2048;
  EXPECT_EQ(ExplainPlan(profile, PlanQuery{})->query.context_tokens, 2048);
  profile.model.context_length = 100'000;
  EXPECT_EQ(ExplainPlan(profile, PlanQuery{})->query.context_tokens, 4096);
  profile.model.context_length = 2048;
  PlanQuery query;
  query.context_tokens = 2048;
  EXPECT_TRUE(ExplainPlan(profile, query).ok());
  query.context_tokens = 2049;
  const auto violations = ViolationsOf(ExplainPlan(profile, query).status());
  ASSERT_EQ(violations.size(), 1U);
  EXPECT_EQ(violations[0].field, "context_tokens");
  EXPECT_EQ(violations[0].description, "is 2049; multi-head was made for 2048");
}

TEST(ExplainPlan, TheTextNamesWhatBinds) {
  PlanQuery query;
  query.sequences = 32;
  query.context_tokens = 8000;
  const auto e = ExplainPlan(MultiHeadProfile(), query);
  ASSERT_TRUE(e.ok()) << e.status();
  const std::string text = FormatExplanation(*e);
  EXPECT_NE(text.find("<- binds"), std::string::npos);
  EXPECT_NE(text.find("transfer, residency off"), std::string::npos) << text;
}

}  // namespace
}  // namespace spillway::scheduler
