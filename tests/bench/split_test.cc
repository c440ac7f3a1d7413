// The split benchmark's arithmetic, and one small run of it.
#include "bench/split.h"

#include <chrono>
#include <cmath>
#include <sstream>
#include <vector>

#include "bench/command_line.h"
#include "bench/split_batch.h"
#include "bench/split_checks.h"
#include "bench/split_equality.h"
#include "bench/split_machine.h"
#include "bench/split_measure.h"
#include "bench/split_options.h"
#include "bench/split_session.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace spillway::bench {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(CommandLine, NumbersOutOfRangeOrBrokenAreRefused) {
  std::vector<int32_t> numbers = {7};
  EXPECT_TRUE(ParseNumbers("1,4,16", 1, 64, &numbers).ok());
  EXPECT_THAT(numbers, ElementsAre(1, 4, 16));
  for (const char* bad : {"", "1,", "0", "65", "1.5", "x", "nan"}) {
    EXPECT_FALSE(ParseNumbers(bad, 1, 64, &numbers).ok()) << bad;
  }
  std::vector<double> rates;
  EXPECT_TRUE(ParseNumbers("62.5", 1.0, 1e5, &rates).ok());
  EXPECT_THAT(rates, ElementsAre(62.5));
}

TEST(SplitBatch, WhatIsSharedCountsOnce) {
  const SplitBatch batch = UniformBatch(8, 512, 384);
  EXPECT_EQ(batch.cached_tokens(), 8 * 512);
  EXPECT_EQ(batch.distinct_tokens(), 384 + 8 * 128);
  EXPECT_EQ(batch.rows(), 8);
}

TEST(SplitBatch, DrawnShapesAreRaggedAndCanBeRepeated) {
  const std::vector<SplitBatch> batches = DrawBatches(3, 24, 1024, 4096);
  ASSERT_EQ(batches.size(), 24);
  int shared = 0, prefills = 0, ragged = 0;
  for (const SplitBatch& batch : batches) {
    shared += batch.shared > 0;
    prefills += batch.phase == exec::Phase::kPrefill;
    EXPECT_LE(batch.distinct_tokens(), 4096);
    EXPECT_LE(batch.rows(), kPieceRowsMax);
    EXPECT_EQ(batch.shared % kSplitBlockTokens, 0);
    for (const SplitSequence& sequence : batch.sequences) {
      ragged += sequence.cached % kSplitBlockTokens != 0;
      EXPECT_GE(sequence.cached, batch.shared);
      EXPECT_LE(sequence.cached, 1024);
      // One more token does not fill a block: then it could not be written a second time.
      if (batch.phase == exec::Phase::kDecode) {
        EXPECT_NE(sequence.cached % kSplitBlockTokens, kSplitBlockTokens - 1);
      }
    }
  }
  EXPECT_EQ(prefills, 6);
  EXPECT_GE(shared, 4);
  EXPECT_GE(ragged, 24);
  EXPECT_EQ(DrawBatches(3, 24, 1024, 4096)[20].Describe(), batches[20].Describe());
  EXPECT_NE(DrawBatches(4, 24, 1024, 4096)[20].Describe(), batches[20].Describe());
}

TEST(SplitMeasure, PercentilesAreNearestRanks) {
  EXPECT_EQ(Median({3, 1, 2}), 2);
  EXPECT_EQ(Median({4, 1, 2, 3}), 2.5);
  std::vector<double> values;
  for (int i = 1; i <= 20; ++i) values.push_back(i);
  EXPECT_EQ(Percentile(values, 95), 19);
  EXPECT_EQ(Percentile(values, 100), 20);
}

TEST(SplitChecks, ALineIsFound) {
  const LineFit line = FitLine({1, 2, 3, 4}, {5, 7, 9, 11});
  EXPECT_DOUBLE_EQ(line.intercept, 3);
  EXPECT_DOUBLE_EQ(line.slope, 2);
  EXPECT_DOUBLE_EQ(line.r2, 1);
  EXPECT_LT(FitLine({1, 2, 3, 4}, {5, 11, 7, 9}).r2, 0.5);
}

TEST(SplitEquality, ANearTieExcusesTheTokenAndNotTheLogProbability) {
  const Draws resident = {{{7, 1.0F, -2.0F}, {8, 0.01F, -3.0F}}, {{9, 0.5F, -1.0F}, {5, 0.02F, -2.5F}}};
  Draws other = resident;
  EXPECT_EQ(CompareDraws(resident, other, 0.05).wrong, 0);
  other[0][1] = {4, 0.01F, -3.01F};  // what a near tie is
  TokenEquality found = CompareDraws(resident, other, 0.05);
  EXPECT_EQ(found.tokens, 4);
  EXPECT_EQ(found.different, 1);
  EXPECT_EQ(found.near_ties, 1);
  EXPECT_EQ(found.wrong, 0);
  EXPECT_NEAR(found.largest_difference, 0.01, 1e-6);
  other[1][1] = {6, 0.3F, -2.9F};  // the same gap, and another model's distribution
  EXPECT_EQ(CompareDraws(resident, other, 0.05).wrong, 1);
  other[1][1] = {5, 0.02F, -2.9F};  // even though the token is the same
  found = CompareDraws(resident, other, 0.05);
  EXPECT_EQ(found.off, 1);
  EXPECT_EQ(found.wrong, 1);
  other[1][0] = {3, 0.5F, -1.01F};
  EXPECT_EQ(CompareDraws(resident, other, 0.05).wrong, 2) << "no near tie";
  other[0][0].logprob = std::nanf("");
  EXPECT_EQ(CompareDraws(resident, other, 0.05).wrong, 3);
}

TEST(SplitOptions, QuickKeepsWhatWasGiven) {
  SplitBenchOptions options;
  options.contexts = {64};
  MakeQuick(&options, SplitBenchOptions(options));
  EXPECT_THAT(options.contexts, ElementsAre(64));
  EXPECT_THAT(options.batches, ElementsAre(8));
  EXPECT_EQ(Complaint(options), "");
  options.modes = {"auto", "sideways"};
  EXPECT_THAT(Complaint(options), HasSubstr("sideways"));
  options.modes = {"auto"};
  options.device = "gpu";
  EXPECT_THAT(Complaint(options), HasSubstr("--device must be cpu or cuda"));
}

TEST(SplitMachine, AGpuThatIsNotThereIsNamed) {
  SplitMachineOptions options;
  options.model = MultiHeadModel();
  options.cuda = true;
  options.cuda_module = "/nowhere/libspillway_cuda.so";
  const auto machine = SplitMachine::Create(options);
  ASSERT_FALSE(machine.ok());
  EXPECT_THAT(std::string(machine.status().message()), HasSubstr("no CUDA module"));
}

// One reader leaves compute with slack for rebuilding; eight readers of the same blocks take it.
TEST(SplitSession, AutoCarriesTheSameBlocksDifferentlyForTwoBatchShapes) {
  SplitMachineOptions machine_options;
  machine_options.model = MultiHeadModel();
  machine_options.link_mb_per_s = 400;
  machine_options.threads = 1;
  machine_options.profile_budget_s = 1;
  const auto machine = SplitMachine::Create(machine_options);
  ASSERT_TRUE(machine.ok()) << machine.status();
  // Costs of compute by hand: the test must not depend on how busy this machine is.
  const auto linear = [](double per_unit_s) {
    return *profiler::FitConvex({{1, per_unit_s}, {1000, 1000 * per_unit_s}});
  };
  profiler::MachineProfile profile = (*machine)->profile();
  const double carry_s = profile.model.beta_bytes() / profile.copy_in.bytes_per_s;
  profile.attention = linear(0.75 * carry_s);  // a read
  profile.rebuild = linear(0.25 * carry_s);
  profile.linear = profile.head = linear(1e-6);
  profile.compute_slowdown_by_link = 1;
  scheduler::PlanSolver solver(profile);
  scheduler::PlannerOptions planner_options;
  planner_options.store_x = true;
  planner_options.feedback = false;
  planner_options.longest_wait = std::chrono::seconds(20);
  scheduler::Planner planner(solver, planner_options);

  SplitSessionOptions session_options;
  session_options.max_cached_tokens = 512;
  const auto session = SplitSession::Create(**machine, session_options);
  ASSERT_TRUE(session.ok()) << session.status();
  std::vector<exec::TokenClasses> carried;
  for (const int32_t readers : {1, 8}) {
    const SplitBatch batch = UniformBatch(readers, 512, readers > 1 ? 512 : 0);
    ASSERT_EQ(batch.distinct_tokens(), 512);
    ASSERT_TRUE((*session)->SetBatch(batch).ok());
    const auto step = (*session)->Step(planner);
    ASSERT_TRUE(step.ok()) << step.status();
    carried.push_back(step->stats.tokens);
    EXPECT_EQ(carried.back().carried_kv_tokens + carried.back().carried_x_tokens, 512);
  }
  EXPECT_GT(carried[0].carried_x_tokens, 128);
  EXPECT_EQ(carried[1].carried_x_tokens, 0);
}

// Counts and tokens, no times: they are those of a busy machine.
TEST(SplitBenchmark, ASmallRunReportsEverything) {
  std::istringstream in;
  std::ostringstream out, err;
  client::Console console{in, out, err, false, false, false};
  const std::atomic<bool> stop = false;
  const std::vector<std::string> args = {
      "--quick",     "--json=-",     "--models=multi-head", "--contexts=64",
      "--batches=2", "--threads=1",  "--link_mb_per_s=400", "--steps=1",
      "--unseen=4",  "--profile_s=1"};
  ASSERT_EQ(RunSplit(args, console, stop), client::kExitOk) << err.str();
  const nlohmann::json report = nlohmann::json::parse(out.str());
  EXPECT_EQ(report["link"], "emulated");
  EXPECT_EQ(report["rows"].size(), 5) << "three modes, and two with half of the tokens resident";
  for (const nlohmann::json& row : report["rows"]) {
    const bool none = row["resident_share"] == 0.0;
    EXPECT_EQ(row["resident_tokens"], none ? 0 : 64) << row;
    if (row["mode"] == "transfer") {
      EXPECT_EQ(row["carried_bytes"], (none ? 128 : 64) * 4096 * 4) << row;
    }
  }
  EXPECT_EQ(report["sharing"]["carried_bytes"], report["sharing"]["distinct_bytes"]);
  EXPECT_EQ(report["ratios"]["tokens_equal"], 1.0);
  for (const nlohmann::json& mode : report["equality"]) {
    EXPECT_LE(mode["logprob_difference_max"], mode["logprob_tolerance"]) << mode;
    EXPECT_LT(mode["resident_run_near_ties"], 64) << mode;
  }
  EXPECT_EQ(report["unseen"].size(), 4);
  EXPECT_THAT(err.str(), HasSubstr("EMULATED"));
}

}  // namespace
}  // namespace spillway::bench
