#include <chrono>
#include <cstdint>

#include "gtest/gtest.h"
#include "scheduler/planner.h"
#include "tests/scheduler/planner_harness.h"

namespace spillway::scheduler {
namespace {

using exec::BatchShape;
using exec::SplitMode;
using exec::SplitPlan;

PlacementTargets TargetsOf(TestPlanner& t, const BatchShape& shape, uint64_t newer_than = 0) {
  const auto until = std::chrono::steady_clock::now() + kLong;
  while (t.planner.targets().version <= newer_than && std::chrono::steady_clock::now() < until) {
    t.planner.PlanFor(shape);
  }
  return t.planner.targets();
}

TEST(PlannerTargets, FollowTheLoadAndNotEveryStep) {
  TestPlanner t;
  const PlacementTargets small = TargetsOf(t, Decode(8, 4'000));
  EXPECT_NEAR(small.resident_kv + small.resident_x, 1, 1e-6) << "all of it fits the device";
  const PlacementTargets large = TargetsOf(t, Decode(8, 100'000), small.version);
  EXPECT_LT(large.resident_kv + large.resident_x, 0.6);
  EXPECT_NEAR(large.stored_kv + large.stored_x + large.stored_both, 1, 1e-6);
  EXPECT_GT(large.step_s, 0);
  t.planner.PlanFor(Decode(8, 100'100));
  TargetsOf(t, Decode(8, 400'000), large.version);
  EXPECT_EQ(t.planner.targets().version, 3U);
}

// Under the same load: what is resident and in which form follows what steps measure of the rates.
TEST(PlannerTargets, FollowTheFeedback) {
  TestPlanner t;
  const BatchShape shape = [] {
    BatchShape s = Decode(64, 100'000);
    s.reads_tokens = 3'000'000;
    return s;
  }();
  const PlacementTargets before = TargetsOf(t, shape);
  const SplitPlan plan = t.planner.PlanFor(shape);
  for (int i = 0; i < 100; ++i) t.planner.OnStep(plan, Measured(t, plan, 1.8, 1, 1));
  const PlacementTargets after = TargetsOf(t, shape, before.version);
  EXPECT_EQ(after.version, before.version + 1);
  EXPECT_GT(after.step_s, before.step_s * 1.1) << "the link is slower";
}

// Targets are shares of a load, so a load that is only roughly known would leave memory unused.
TEST(PlannerTargets, FillTheDeviceWhateverTheLoad) {
  const double budget_bytes = PatientOptions().residency_bytes;
  TestPlanner t;
  const profiler::ProfiledModel& model = t.solver.profile().model;
  const double all_kv_tokens = budget_bytes / (model.n_layers * model.beta_bytes());
  for (double load = 2.5; load < 5.5; load *= 1.07) {
    const auto tokens = static_cast<int64_t>(load * all_kv_tokens);
    const PlacementTargets targets = TargetsOf(t, Decode(8, tokens), t.planner.targets().version);
    const double used_bytes =
        static_cast<double>(tokens * model.n_layers) *
        (targets.resident_kv * model.beta_bytes() + targets.resident_x * model.chi_bytes());
    EXPECT_NEAR(used_bytes / budget_bytes, 1, 0.02) << tokens << " tokens";
  }
}

// Several batches take turns: memory is shared out for all of them, whichever is planned for.
TEST(PlannerTargets, AreOfTheWholeLoadAndNotOfTheBatchThatIsPlannedFor) {
  TestPlanner t;
  const auto set_load = [&t](int64_t tokens) { t.planner.SetLoad(64, tokens, tokens, 0); };
  set_load(400'000);
  const PlacementTargets all = TargetsOf(t, Decode(8, 50'000));
  EXPECT_LT(all.resident_kv + all.resident_x, 0.6);
  const SplitPlan small = t.planner.PlanFor(Decode(1, 100));
  ASSERT_TRUE(small.residency.has_value());
  EXPECT_EQ(small.residency->decode_load_tokens, 400'000);
  EXPECT_EQ(small.residency->kv, all.resident_kv);
  for (int i = 0; i < 20; ++i) t.planner.PlanFor(Decode(1 + i % 8, 100 + 5'000 * (i % 8)));
  EXPECT_EQ(t.planner.targets().version, all.version);
  set_load(100'000);
  const PlacementTargets less = TargetsOf(t, Decode(8, 50'000), all.version);
  EXPECT_GT(less.resident_kv + less.resident_x, 1.5 * (all.resident_kv + all.resident_x));
}

TEST(PlannerTargets, AFullPoolIsNoFailure) {
  PlannerOptions options = PatientOptions();
  options.pool_bytes = 1e9;
  options.store_x = false;
  TestPlanner t(options, PlanSolver::Options(), GroupedQueryProfile());
  const profiler::ProfiledModel& model = t.solver.profile().model;
  const auto fits = static_cast<int64_t>(1e9 / (model.n_layers * model.beta_bytes()));
  // A last block that is not full counts as one, and more tokens are counted than there are slots for.
  for (int64_t tokens = fits - 40; tokens <= fits + fits / 20; tokens += fits / 100) {
    t.planner.PlanFor(Decode(8, tokens));
    while (t.solver.open_questions() > 0) t.planner.PlanFor(Decode(8, tokens));
  }
  EXPECT_EQ(t.planner.Snapshot().failures, 0U);
  EXPECT_GE(t.planner.targets().version, 1U);
}

TEST(PlannerTargets, WhereXIsNotStoredNothingIsPlannedAsX) {
  PlannerOptions options = PatientOptions();
  options.store_x = false;
  TestPlanner t(options, PlanSolver::Options(), GroupedQueryProfile());
  BatchShape streamed = Decode(8, 20'000);
  streamed.weight_load_bytes = int64_t{64} << 30;  // the link binds, and not by what is cached
  const PlacementTargets targets = TargetsOf(t, streamed);
  EXPECT_EQ(targets.resident_x, 0);
  EXPECT_GT(targets.resident_kv, 0);
  EXPECT_NEAR(targets.stored_kv, 1, 1e-6);
}

// Half of the tokens resident, the rest carried as X: what is stored anew in one form is X, all of it.
TEST(PlannerTargets, FormsAreSteeredByWhatIsCarried) {
  PlannerOptions options = PatientOptions();
  options.modes.residency = ResidencyMode::kFixed;
  options.modes.residency_fraction = 0.5;
  options.modes.split = exec::SplitMode::kFixed;
  options.modes.split_fraction = 0.8;
  options.residency_bytes = 1e13;
  TestPlanner t(options);
  const PlacementTargets targets = TargetsOf(t, Decode(8, 20'000));
  EXPECT_NEAR(targets.resident_kv, 0.5, 1e-6);
  EXPECT_NEAR(targets.x_share, 0.8, 1e-6);
}

TEST(PlannerTargets, ResidencyModesAreObeyed) {
  PlannerOptions options = PatientOptions();
  options.modes.residency = ResidencyMode::kOff;
  TestPlanner off(options);
  const PlacementTargets none = TargetsOf(off, Decode(8, 20'000));
  EXPECT_NEAR(none.resident_kv + none.resident_x, 0, 1e-9);
  options.modes.residency = ResidencyMode::kFixed;
  options.modes.residency_fraction = 0.25;
  options.residency_bytes = 1e12;
  TestPlanner fixed(options);
  EXPECT_NEAR(TargetsOf(fixed, Decode(8, 20'000)).resident_kv, 0.25, 1e-6);
  EXPECT_EQ(TargetsOf(fixed, Decode(8, 20'000)).resident_x, 0);
  options.residency_bytes = 1e9;  // less than a quarter of the tokens
  TestPlanner tight(options);
  const PlacementTargets fitted = TargetsOf(tight, Decode(8, 20'000));
  EXPECT_GT(fitted.resident_kv, 0.01);
  EXPECT_LT(fitted.resident_kv, 0.2);
}

}  // namespace
}  // namespace spillway::scheduler
