#include "scheduler/planner.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <future>
#include <memory>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "base/reason.h"
#include "gtest/gtest.h"
#include "scheduler/shape_buckets.h"
#include "tests/scheduler/planner_harness.h"

namespace spillway::scheduler {
namespace {

using exec::BatchShape;
using exec::Resource;
using exec::SplitMode;
using exec::SplitPlan;

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
