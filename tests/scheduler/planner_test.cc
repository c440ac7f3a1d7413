#include "scheduler/planner.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <future>
#include <limits>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "base/reason.h"
#include "gtest/gtest.h"
#include "scheduler/shape_buckets.h"
#include "tests/scheduler/profiles.h"

namespace spillway::scheduler {
namespace {

using exec::BatchShape;
using exec::Lane;
using exec::Resource;
using exec::SplitMode;
using exec::SplitPlan;

// No test waits so long unless it is about to fail.
constexpr std::chrono::seconds kLong(20);

BatchShape Decode(int32_t sequences, int64_t tokens) {
  BatchShape shape;
  shape.sequences = shape.new_tokens = shape.head_rows = sequences;
  shape.reads_tokens = tokens + sequences;
  shape.host_both_tokens = tokens;
  return shape;
}

PlannerOptions PatientOptions() {
  PlannerOptions options;
  options.store_x = true;
  options.residency_bytes = 4e9;
  options.pool_bytes = 200e9;
  options.longest_wait = kLong;
  return options;
}

struct TestPlanner {
  explicit TestPlanner(const PlannerOptions& options = PatientOptions(),
                       const PlanSolver::Options& solver_options = PlanSolver::Options(),
                       const profiler::MachineProfile& profile = MultiHeadProfile())
      : solver(profile, solver_options), planner(solver, options) {}

  PlanSolver solver;
  Planner planner;
};

double SecondsOf(const SplitPlan& plan, Resource resource) {
  return plan.predicted_s[static_cast<size_t>(resource)];
}

void ExpectEveryTokenInOneClass(const SplitPlan& plan) {
  const BatchShape& s = plan.shape;
  const exec::TokenClasses& t = plan.tokens;
  EXPECT_EQ(t.total_tokens(), s.resident_kv_tokens + s.resident_x_tokens + s.host_kv_tokens +
                                  s.host_x_tokens + s.host_both_tokens);
  EXPECT_EQ(t.resident_kv_tokens, s.resident_kv_tokens);
  EXPECT_EQ(t.resident_x_tokens, s.resident_x_tokens);
  EXPECT_GE(t.carried_x_tokens, s.host_x_tokens);
  EXPECT_LE(t.carried_x_tokens, s.host_x_tokens + s.host_both_tokens);
  EXPECT_GE(t.carried_kv_tokens, 0);
  EXPECT_GE(t.host_attended_tokens, 0);
  EXPECT_LE(t.carried_kv_tokens + t.host_attended_tokens, s.host_kv_tokens + s.host_both_tokens);
}

TEST(ShapeBuckets, AreGeometricAndNearWhatTheyStandFor) {
  for (int64_t count = 0; count < 64; ++count) EXPECT_EQ(BucketOf(count), count);
  EXPECT_EQ(BucketOf(int64_t{-5}), 0);
  std::mt19937_64 random(1);
  for (int i = 0; i < 100'000; ++i) {
    const int64_t count = static_cast<int64_t>(random() >> (2 + random() % 61));
    const int64_t bucket = BucketOf(count);
    ASSERT_LE(std::abs(static_cast<double>(bucket - count)), static_cast<double>(count) / 64) << count;
    ASSERT_EQ(BucketOf(bucket), bucket) << "a bucket's middle is in it";
  }
}

BatchShape RandomShape(std::mt19937_64& random) {
  const auto count = [&random](double most) {
    return static_cast<int64_t>(std::exp(std::uniform_real_distribution<double>(0, std::log(most))(random)));
  };
  BatchShape shape = Decode(static_cast<int32_t>(count(256)), 0);
  shape.host_both_tokens = count(1e6);
  if (random() % 3 == 0) shape.host_kv_tokens = count(1e5);
  if (random() % 3 == 0) shape.host_x_tokens = count(1e5);
  if (random() % 3 == 0) shape.resident_kv_tokens = count(1e5);
  if (random() % 3 == 0) shape.resident_x_tokens = count(1e5);
  const int64_t cached = shape.host_both_tokens + shape.host_kv_tokens + shape.host_x_tokens +
                         shape.resident_kv_tokens + shape.resident_x_tokens;
  shape.reads_tokens = cached + static_cast<int64_t>(random() % static_cast<uint64_t>(cached * 4 + 1));
  return shape;
}

TEST(Planner, ABucketsPlanCostsLittleAgainstTheShapesOwnOptimum) {
  PlannerOptions options = PatientOptions();
  options.pool_bytes = 1e13;  // targets are found for every shape
  TestPlanner t(options);
  std::mt19937_64 random(2);
  std::vector<double> losses;
  for (int i = 0; i < 2000; ++i) {
    const BatchShape shape = RandomShape(random);
    const SplitPlan plan = t.planner.PlanFor(shape);
    ExpectEveryTokenInOneClass(plan);
    SplitPolicy policy;
    policy.store_x = true;
    const auto own = SolveSplit(MakeSplitInputs(t.solver.profile(), shape, policy));
    ASSERT_TRUE(own.ok()) << own.status();
    losses.push_back(plan.predicted_step_s / own->step_s - 1);
    ASSERT_LT(losses.back(), 0.02) << i;
  }
  std::sort(losses.begin(), losses.end());
  EXPECT_LT(losses[losses.size() / 2], 0.002);
  EXPECT_EQ(t.planner.Snapshot().failures, 0U);
  EXPECT_EQ(t.planner.Snapshot().timeouts, 0U);
}

TEST(Planner, AKnownBucketIsNotSolvedAgain) {
  TestPlanner t;
  const SplitPlan first = t.planner.PlanFor(Decode(8, 100'000));
  const SplitPlan second = t.planner.PlanFor(Decode(8, 100'100));
  EXPECT_NE(first.solve_id, 0U);
  EXPECT_EQ(second.solve_id, first.solve_id);
  EXPECT_EQ(t.planner.Snapshot().memo_hits, 1U);
  EXPECT_EQ(second.tokens.total_tokens(), 100'100) << "scaled to its own shape";
  EXPECT_NE(t.planner.PlanFor(Decode(8, 200'000)).solve_id, first.solve_id);
}

TEST(Planner, TheSameTokensAreCarriedDifferentlyByTwoBatchShapes) {
  TestPlanner t;
  BatchShape many = Decode(64, 32'000);
  many.reads_tokens = 64 * 32'000;
  const SplitPlan one = t.planner.PlanFor(Decode(1, 32'000));
  const SplitPlan all = t.planner.PlanFor(many);
  EXPECT_GT(static_cast<double>(one.tokens.carried_x_tokens),
            1.2 * static_cast<double>(all.tokens.carried_x_tokens));
}

TEST(Planner, GroupedQueryModelsFindTransferUnaided) {
  TestPlanner t(PatientOptions(), PlanSolver::Options(), GroupedQueryProfile());
  EXPECT_EQ(t.planner.PlanFor(Decode(16, 64'000)).tokens.carried_x_tokens, 0);
}

TEST(Planner, ThePredictionIsWhatTheRowsSay) {
  TestPlanner t;
  const SplitPlan plan = t.planner.PlanFor(Decode(8, 100'000));
  const auto& model = t.solver.profile().model;
  const double bytes = static_cast<double>(plan.tokens.carried_kv_tokens) * model.beta_bytes() +
                       static_cast<double>(plan.tokens.carried_x_tokens) * model.chi_bytes();
  EXPECT_NEAR(SecondsOf(plan, Resource::kLinkIn),
              model.n_layers * bytes / t.solver.profile().copy_in.bytes_per_s, 1e-9);
  EXPECT_EQ(plan.predicted_step_s, *std::max_element(plan.predicted_s.begin(), plan.predicted_s.end()));
  EXPECT_EQ(plan.corrected_step_s, plan.predicted_step_s) << "nothing was measured yet";
  EXPECT_EQ(plan.predicted_s[static_cast<size_t>(plan.binding)], plan.predicted_step_s);
}

TEST(Planner, BaselinesAreObeyedExactlyAndNeedNoSolver) {
  PlannerOptions options = PatientOptions();
  PlanSolver::Options solver;
  solver.solve = [](const SplitInputs&) { return absl::InternalError("not asked"); };
  BatchShape shape = Decode(4, 10'001);
  shape.host_kv_tokens = 99;
  options.modes.split = SplitMode::kTransfer;
  EXPECT_EQ(TestPlanner(options, solver).planner.PlanFor(shape).tokens.carried_x_tokens, 0);
  options.modes.split = SplitMode::kRebuild;
  EXPECT_EQ(TestPlanner(options, solver).planner.PlanFor(shape).tokens.carried_x_tokens, 10'001);
  options.modes.split = SplitMode::kFixed;
  options.modes.split_fraction = 0.5;
  EXPECT_EQ(TestPlanner(options, solver).planner.PlanFor(shape).tokens.carried_x_tokens, 5050);
}

TEST(Planner, SerialPlansPredictTheSerialStep) {
  PlannerOptions options = PatientOptions();
  options.modes.split = SplitMode::kSerial;
  TestPlanner serial(options);
  TestPlanner pipelined;
  const SplitPlan plan = serial.planner.PlanFor(Decode(8, 100'000));
  EXPECT_EQ(plan.mode, SplitMode::kSerial);
  EXPECT_GT(plan.predicted_step_s, pipelined.planner.PlanFor(Decode(8, 100'000)).predicted_step_s);
}

TEST(Planner, AShapeWithoutAChoiceIsNotSolved) {
  TestPlanner t;
  BatchShape shape = Decode(4, 0);
  shape.host_kv_tokens = 1000;
  shape.host_x_tokens = 10;
  shape.resident_kv_tokens = 77;
  const SplitPlan plan = t.planner.PlanFor(shape);
  EXPECT_EQ(plan.solve_id, 0U);
  EXPECT_EQ(plan.tokens.carried_kv_tokens, 1000);
  EXPECT_EQ(plan.tokens.carried_x_tokens, 10);
  ExpectEveryTokenInOneClass(plan);
  ExpectEveryTokenInOneClass(t.planner.PlanFor(BatchShape()));
}

// --- When solving goes wrong

TEST(Planner, AFailedSolveLeavesTheLastGoodPlanInUse) {
  std::atomic<bool> fail{false};
  PlanSolver::Options solver;
  solver.solve = [&fail](const SplitInputs& in) -> absl::StatusOr<SplitSolution> {
    if (fail) return absl::InternalError("the solver gave up");
    return SolveSplit(in);
  };
  TestPlanner t(PatientOptions(), solver);
  const SplitPlan good = t.planner.PlanFor(Decode(8, 100'000));
  fail = true;
  const SplitPlan next = t.planner.PlanFor(Decode(8, 200'000));
  ExpectEveryTokenInOneClass(next);
  EXPECT_NEAR(static_cast<double>(next.tokens.carried_x_tokens),
              2 * static_cast<double>(good.tokens.carried_x_tokens), 2);
  EXPECT_GE(t.planner.Snapshot().failures, 1U);
  // It is asked again now and then, and heals.
  fail = false;
  for (int i = 0; i < 200 && t.planner.PlanFor(Decode(8, 200'000)).solve_id <= good.solve_id; ++i) {
  }
  SplitPlan healed = t.planner.PlanFor(Decode(8, 200'000));
  const auto until = std::chrono::steady_clock::now() + kLong;
  while (healed.solve_id <= good.solve_id && std::chrono::steady_clock::now() < until) {
    healed = t.planner.PlanFor(Decode(8, 200'000));
  }
  EXPECT_GT(healed.solve_id, good.solve_id);
}

TEST(Planner, GarbageOfTheSolverIsNotObeyed) {
  std::atomic<int> kind{0};
  PlanSolver::Options solver;
  solver.solve = [&kind](const SplitInputs& in) -> absl::StatusOr<SplitSolution> {
    SplitSolution solution = *SolveSplit(in);
    if (in.placement.has_value()) return solution;
    GroupSplit& split = solution.groups[0];
    if (kind == 0) split.carried_x_tokens = std::nan("");
    if (kind == 1) split.carried_x_tokens = -5000;
    if (kind == 2) split.carried_x_tokens = 1e9;
    if (kind == 3) split.host_attended_tokens = 1e300;
    if (kind == 4) solution.step_s = std::nan("");
    if (kind == 5) solution.groups.clear();
    if (kind == 6) {  // feasible, and far from the best
      split.carried_x_tokens = in.groups[0].host_both_tokens;
      split.carried_kv_tokens = 0;
    }
    return solution;
  };
  for (; kind < 7; ++kind) {
    TestPlanner t(PatientOptions(), solver);
    // So many sequences that rebuilding everything is slower than carrying everything.
    BatchShape shape = Decode(64, 100'000);
    shape.reads_tokens = 20'000'000;
    const SplitPlan plan = t.planner.PlanFor(shape);
    ExpectEveryTokenInOneClass(plan);
    EXPECT_EQ(plan.tokens.carried_x_tokens, 0) << "kind " << kind << ": what needs no solver serves";
    EXPECT_EQ(t.planner.Snapshot().failures, 1U) << kind;
  }
}

TEST(Planner, AStepDoesNotWaitForASolverThatHangs) {
  std::promise<void> release;
  const std::shared_future<void> released = release.get_future().share();
  std::atomic<bool> hang{false};
  PlanSolver::Options solver;
  solver.solve = [&, released](const SplitInputs& in) {
    if (hang) released.wait();
    return SolveSplit(in);
  };
  PlannerOptions options = PatientOptions();
  TestPlanner known(options, PlanSolver::Options());
  const SplitPlan expected = known.planner.PlanFor(Decode(8, 400'000));
  options.longest_wait = std::chrono::milliseconds(1);
  TestPlanner t(options, solver);
  hang = true;
  const auto begin = std::chrono::steady_clock::now();
  SplitPlan plan = t.planner.PlanFor(Decode(8, 400'000));
  EXPECT_EQ(plan.solve_id, 0U);
  for (int i = 0; i < 1000; ++i) plan = t.planner.PlanFor(Decode(8, 400'000));  // asked for: no second wait
  EXPECT_LT(std::chrono::steady_clock::now() - begin, kLong);
  ExpectEveryTokenInOneClass(plan);
  EXPECT_EQ(t.planner.Snapshot().timeouts, 1001U);
  // More open questions than there is room for are dropped, not waited for.
  for (int64_t i = 1; i < 100; ++i)
    ExpectEveryTokenInOneClass(t.planner.PlanFor(Decode(8, 400'000 + i * 20'000)));
  // The answer is taken when it comes.
  hang = false;
  release.set_value();
  const auto until = std::chrono::steady_clock::now() + kLong;
  while (plan.solve_id == 0 && std::chrono::steady_clock::now() < until) {
    plan = t.planner.PlanFor(Decode(8, 400'000));
  }
  EXPECT_EQ(plan.tokens.carried_x_tokens, expected.tokens.carried_x_tokens);
}

TEST(Planner, TheMemoIsBoundedAndDropsWhatIsUsedLeast) {
  PlannerOptions options = PatientOptions();
  options.max_plans = 8;
  TestPlanner t(options);
  const uint64_t first = t.planner.PlanFor(Decode(1, 1000)).solve_id;
  for (int32_t i = 2; i <= 50; ++i) {
    t.planner.PlanFor(Decode(i, 1000 * i));
    ASSERT_EQ(t.planner.PlanFor(Decode(1, 1000)).solve_id, first) << "used all the time: kept";
  }
  EXPECT_EQ(t.planner.Snapshot().plans, 8);
  const uint64_t again = t.planner.PlanFor(Decode(2, 2000)).solve_id;
  EXPECT_GT(again, first) << "dropped, and solved again";
}

TEST(PlanMemo, FindsWhatWasPutAndNothingElse) {
  PlanMemo memo(16);
  std::mt19937_64 random(5);
  std::vector<std::pair<BatchShape, uint64_t>> put;
  for (uint64_t i = 1; i < 5000; ++i) {
    const BatchShape shape = BucketOf(RandomShape(random));
    memo.Put(shape).solve_id = i;
    std::erase_if(put, [&](const auto& known) { return known.first == shape; });
    put.emplace_back(shape, i);
    if (put.size() > 16) put.erase(put.begin());
    // In order, so that the order of use stays that of putting.
    for (const auto& [known, id] : put) {
      PlanMemo::Entry* const entry = memo.Find(known);
      ASSERT_NE(entry, nullptr) << i;
      ASSERT_EQ(entry->solve_id, id);
    }
    ASSERT_EQ(memo.size(), static_cast<int32_t>(put.size()));
  }
}

// --- Feedback

// What a step would measure that did as planned, each resource slower by its factor.
exec::StepStats Measured(const TestPlanner& t, const SplitPlan& plan, double in, double out, double compute) {
  exec::StepStats stats;
  stats.tokens = plan.tokens;
  const auto copy = [&stats](Lane lane, double seconds, double bytes_per_s, double factor) {
    stats.lanes[static_cast<size_t>(lane)].bytes = static_cast<int64_t>(seconds * bytes_per_s);
    stats.lanes[static_cast<size_t>(lane)].busy_ns = static_cast<int64_t>(seconds * factor * 1e9);
  };
  const double in_s = SecondsOf(plan, Resource::kLinkIn), out_s = SecondsOf(plan, Resource::kLinkOut);
  const double in_rate = t.solver.profile().copy_in.bytes_per_s;
  const double out_rate = t.solver.profile().copy_out.bytes_per_s;
  copy(Lane::kKvLoad, in_s * 0.7, in_rate, in);
  copy(Lane::kXLoad, in_s * 0.2, in_rate, in);
  copy(Lane::kWeightLoad, in_s * 0.1, in_rate, in);
  copy(Lane::kKvStore, out_s * 0.5, out_rate, out);
  copy(Lane::kXStore, out_s * 0.5, out_rate, out);
  stats.lanes[static_cast<size_t>(Lane::kCompute)].busy_ns =
      static_cast<int64_t>(SecondsOf(plan, Resource::kCompute) * compute * 1e9);
  return stats;
}

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

// --- Targets

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

// --- ExplainPlan's questions

TEST(PlanSolver, AnswersQuestionsOnItsThreadAndRefusesTooMany) {
  std::promise<void> release;
  const std::shared_future<void> released = release.get_future().share();
  PlanSolver::Options options;
  options.max_questions = 2;
  options.solve = [released](const SplitInputs& in) {
    released.wait();
    return SolveSplit(in);
  };
  std::vector<std::future<absl::StatusOr<PlanExplanation>>> answers;
  const auto ask = [&answers](PlanSolver& solver) {
    auto promise = std::make_shared<std::promise<absl::StatusOr<PlanExplanation>>>();
    answers.push_back(promise->get_future());
    return solver.Explain({}, [promise](auto answer) { promise->set_value(std::move(answer)); });
  };
  {
    PlanSolver solver(MultiHeadProfile(), options);
    SolveRequest request;
    request.shape = Decode(8, 1000);
    ASSERT_TRUE(solver.Ask(request));
    // The thread may take one of them before it takes the step's; then that one is answered.
    absl::Status status = ask(solver);
    for (int i = 0; i < 4 && status.ok(); ++i) status = ask(solver);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(ReasonOf(status), Reason::kPlannerBusy);
    answers.pop_back();
    release.set_value();
    SolveAnswer answer;
    ASSERT_TRUE(solver.TakeAnswer(&answer, kLong));
    EXPECT_TRUE(answer.ok);
    ASSERT_GE(answers.size(), 2U);
    EXPECT_TRUE(answers[0].get().ok());
  }
  // Whoever still waited heard of the end.
  for (size_t i = 1; i < answers.size(); ++i) {
    EXPECT_EQ(answers[i].wait_for(std::chrono::seconds(0)), std::future_status::ready) << i;
  }
}

TEST(PlanSolver, QuestionsDoNotDelayAStepForLong) {
  TestPlanner t;
  std::atomic<int> answered{0};
  int asked = 0;
  for (int64_t i = 0; i < 300; ++i) {
    PlanQuery query;
    query.sequences = 64;
    query.context_tokens = 1000 + i;
    query.host_pool_bytes = 1e14;
    asked += t.solver.Explain(query, [&answered](const auto&) { ++answered; }).ok();
    t.planner.PlanFor(Decode(8, 1000 + i * 1000));
  }
  EXPECT_EQ(t.planner.Snapshot().timeouts, 0U);
  const auto until = std::chrono::steady_clock::now() + kLong;
  while (answered < asked && std::chrono::steady_clock::now() < until) std::this_thread::yield();
  EXPECT_EQ(answered, asked);
}

}  // namespace
}  // namespace spillway::scheduler
