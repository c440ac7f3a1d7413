#include <algorithm>
#include <chrono>
#include <cstdint>
#include <limits>

#include "gtest/gtest.h"
#include "scheduler/planner.h"
#include "tests/scheduler/planner_harness.h"

namespace spillway::scheduler {
namespace {

using exec::BatchShape;
using exec::Lane;
using exec::Resource;
using exec::SplitMode;
using exec::SplitPlan;

TEST(PlannerFeedback, EachResourceIsCorrectedByItsOwnLanes) {
  TestPlanner t;
  SplitPlan plan;
  for (int i = 0; i < 100; ++i) {
    plan = t.planner.PlanFor(Decode(64, 200'000));
    t.planner.OnStep(plan, Measured(t, plan, 1.1, 1.6, 0.9));
  }
  const ResourceFactors factors = t.planner.Snapshot().factors;
  EXPECT_NEAR(factors.link_in, 1.1, 0.01);
  EXPECT_NEAR(factors.link_out, 1.6, 0.01);
  EXPECT_NEAR(factors.compute, 0.9, 0.01);
}

TEST(PlannerFeedback, ComputeThatWaitsForTheLinkIsNoMeasureOfItsRate) {
  TestPlanner t(PatientOptions(), PlanSolver::Options(), GroupedQueryProfile());
  // Compute has a small part of the link's work, and takes twice as long as it would if it were busy.
  BatchShape slack = Decode(8, 1'000'000);
  slack.reads_tokens = 300'000;
  BatchShape prompt = Decode(1, 1000);
  prompt.phase = exec::Phase::kPrefill;
  prompt.new_tokens = 256;
  prompt.reads_tokens = 256 * 1000;
  const SplitPlan decode = t.planner.PlanFor(slack);
  ASSERT_EQ(decode.binding, Resource::kLinkIn);
  ASSERT_LT(SecondsOf(decode, Resource::kCompute), SecondsOf(decode, Resource::kLinkIn) / 4);
  const double before_s = t.planner.PlanFor(prompt).corrected_step_s;
  for (int i = 0; i < 100; ++i) t.planner.OnStep(decode, Measured(t, decode, 1, 1, 2));
  EXPECT_NEAR(t.planner.PlanFor(prompt).corrected_step_s, before_s, 1e-3 * before_s);
  // What takes so long that it is busy all the same is believed.
  const double busy = 0.6 * SecondsOf(decode, Resource::kLinkIn) / SecondsOf(decode, Resource::kCompute);
  for (int i = 0; i < 100; ++i) t.planner.OnStep(decode, Measured(t, decode, 1, 1, busy));
  EXPECT_EQ(t.planner.Snapshot().factors.compute, ResourceFeedback::kMostFactor);
}

TEST(Planner, APassTakesWhatItsItemsTakeOfEachResourceTogether) {
  PlannerOptions options = PatientOptions();
  options.modes.split = SplitMode::kTransfer;
  TestPlanner t(options);
  // A batch that the link is busy for, a piece of a prompt that is all compute: they overlap.
  BatchShape decode = Decode(8, 100'000), prompt = Decode(1, 16);
  prompt.phase = exec::Phase::kPrefill;
  prompt.new_tokens = 512;
  prompt.reads_tokens = 512 * 512;
  decode.weight_load_bytes = prompt.weight_load_bytes = 1'000'000'000;
  const SplitPlan a = t.planner.PlanFor(decode), b = t.planner.PlanFor(prompt);
  ASSERT_EQ(a.binding, Resource::kLinkIn);
  ASSERT_EQ(b.binding, Resource::kCompute);
  const SplitPlan* const both[] = {&a, &b};
  const double link_s = SecondsOf(a, Resource::kLinkIn) + SecondsOf(b, Resource::kLinkIn);
  const double compute_s = SecondsOf(a, Resource::kCompute) + SecondsOf(b, Resource::kCompute);
  PassTimes pass = t.planner.PredictPass(both);
  EXPECT_GE(pass.predicted_s, std::max(link_s, compute_s));
  EXPECT_LT(pass.predicted_s, 1.1 * std::max(link_s, compute_s));
  EXPECT_EQ(pass.corrected_s, pass.predicted_s);
  for (int i = 0; i < 100; ++i) t.planner.OnStep(a, Measured(t, a, 1.5, 1.5, 1.5));
  EXPECT_GT(t.planner.PredictPass(both).corrected_s, 1.4 * pass.predicted_s);
  EXPECT_EQ(t.planner.PredictPass(both).predicted_s, pass.predicted_s);
  const SplitPlan* const alone[] = {&a};
  pass = t.planner.PredictPass(alone);
  EXPECT_DOUBLE_EQ(pass.predicted_s, a.predicted_step_s);
}

TEST(PlannerFeedback, BothPredictionsAreReported) {
  TestPlanner t;
  const SplitPlan before = t.planner.PlanFor(Decode(64, 200'000));
  for (int i = 0; i < 100; ++i) {
    t.planner.OnStep(before, Measured(t, before, 1.5, 1.5, 1.5));
  }
  const SplitPlan after = t.planner.PlanFor(Decode(64, 200'000));
  EXPECT_NEAR(after.corrected_step_s / after.predicted_step_s, 1.5, 0.02);
  EXPECT_NEAR(after.predicted_step_s, before.predicted_step_s, 0.02 * before.predicted_step_s);
}

TEST(PlannerFeedback, ASlowerLinkMovesTheSplitTowardsRebuilding) {
  TestPlanner t;
  const BatchShape shape = [] {
    BatchShape s = Decode(64, 100'000);
    s.reads_tokens = 3'000'000;
    return s;
  }();
  const SplitPlan before = t.planner.PlanFor(shape);
  for (int i = 0; i < 100; ++i) t.planner.OnStep(before, Measured(t, before, 1.8, 1, 1));
  // The known plan serves until the new one is there.
  const auto until = std::chrono::steady_clock::now() + kLong;
  SplitPlan after = t.planner.PlanFor(shape);
  while (after.solve_id == before.solve_id && std::chrono::steady_clock::now() < until) {
    after = t.planner.PlanFor(shape);
  }
  EXPECT_GT(after.tokens.carried_x_tokens, before.tokens.carried_x_tokens * 11 / 10);
}

TEST(PlannerFeedback, IsBoundedAndDeafToWhatCannotBe) {
  TestPlanner t;
  const SplitPlan plan = t.planner.PlanFor(Decode(64, 200'000));
  for (int i = 0; i < 1000; ++i) t.planner.OnStep(plan, Measured(t, plan, 1000, 1e-3, 1000));
  ResourceFactors factors = t.planner.Snapshot().factors;
  EXPECT_EQ(factors.link_in, ResourceFeedback::kMostFactor);
  EXPECT_EQ(factors.compute, ResourceFeedback::kMostFactor);
  EXPECT_GE(factors.link_out, ResourceFeedback::kLeastFactor);
  // Lanes without work say nothing.
  for (int i = 0; i < 1000; ++i) t.planner.OnStep(plan, exec::StepStats());
  EXPECT_EQ(t.planner.Snapshot().factors.link_in, factors.link_in);
  exec::StepStats negative;
  for (exec::LaneStats& lane : negative.lanes) lane.busy_ns = std::numeric_limits<int64_t>::min() / 8;
  t.planner.OnStep(plan, negative);
  EXPECT_EQ(t.planner.Snapshot().factors.link_in, factors.link_in);
}

TEST(PlannerFeedback, WholeBlocksAreNotHeldAgainstTheRates) {
  TestPlanner t;
  const SplitPlan plan = t.planner.PlanFor(Decode(8, 200'000));
  // The executor carried half of what was planned as X as keys and values, at the profile's very rate.
  exec::StepStats stats;
  stats.tokens = plan.tokens;
  const int64_t moved = plan.tokens.carried_x_tokens / 2;
  stats.tokens.carried_x_tokens -= moved;
  stats.tokens.carried_kv_tokens += moved;
  const auto& profile = t.solver.profile();
  const double bytes = static_cast<double>(stats.tokens.carried_kv_tokens) * profile.model.beta_bytes() +
                       static_cast<double>(stats.tokens.carried_x_tokens) * profile.model.chi_bytes();
  exec::LaneStats& load = stats.lanes[static_cast<size_t>(Lane::kKvLoad)];
  load.bytes = static_cast<int64_t>(profile.model.n_layers * bytes);
  load.busy_ns = static_cast<int64_t>(1e9 * static_cast<double>(load.bytes) / profile.copy_in.bytes_per_s);
  // And stored a block that had been filling for many steps.
  exec::LaneStats& store = stats.lanes[static_cast<size_t>(Lane::kKvStore)];
  store.bytes =
      static_cast<int64_t>(100 * SecondsOf(plan, Resource::kLinkOut) * profile.copy_out.bytes_per_s);
  store.busy_ns = static_cast<int64_t>(1e9 * static_cast<double>(store.bytes) / profile.copy_out.bytes_per_s);
  t.planner.OnStep(plan, stats);
  EXPECT_NEAR(t.planner.Snapshot().factors.link_in, 1, 1e-4);
  EXPECT_NEAR(t.planner.Snapshot().factors.link_out, 1, 1e-4);
}

TEST(PlannerFeedback, FrozenItLeavesThePredictionAlone) {
  PlannerOptions options = PatientOptions();
  options.feedback = false;
  TestPlanner t(options);
  const SplitPlan plan = t.planner.PlanFor(Decode(64, 200'000));
  for (int i = 0; i < 50; ++i) t.planner.OnStep(plan, Measured(t, plan, 1.5, 1.5, 1.5));
  const SplitPlan after = t.planner.PlanFor(Decode(64, 200'000));
  EXPECT_EQ(after.corrected_step_s, after.predicted_step_s);
  EXPECT_EQ(after.solve_id, plan.solve_id);
}

TEST(Planner, TheLinksRateIsTakenFromItsBusyTime) {
  TestPlanner t;
  const SplitPlan plan = t.planner.PlanFor(Decode(8, 200'000));
  exec::StepStats stats;
  stats.lanes[static_cast<size_t>(Lane::kKvLoad)] = {1'000'000'000, 0, 15'000'000'000, 10};
  stats.lanes[static_cast<size_t>(Lane::kXLoad)] = {1'000'000'000, 0, 25'000'000'000, 10};
  t.planner.OnStep(plan, stats);
  const PlannerSnapshot now = t.planner.Snapshot();
  EXPECT_NEAR(now.link_in_bytes_per_s, 20e9, 1);
  EXPECT_NEAR(now.link_in_share, 0.8, 1e-9);
  EXPECT_EQ(now.link_out_bytes_per_s, 0);
}

}  // namespace
}  // namespace spillway::scheduler
