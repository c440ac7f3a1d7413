// Steps of an executor that splits: planned, told back, and counted.
#include <memory>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/scheduler/harness.h"
#include "tests/scheduler/profiles.h"

namespace spillway::scheduler {
namespace {

using ::testing::IsEmpty;

HarnessOptions Splitting() {
  HarnessOptions options;
  options.executor.splits = true;
  options.profile = MultiHeadProfile();
  options.planner.pool_bytes = 200e9;
  return options;
}

void RunSixRequests(Harness& harness) {
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<Client*> all;
  for (uint32_t i = 0; i < 6; ++i) {
    clients.push_back(harness.MustSubmit(MakeRequest(Prompt(40 + static_cast<int32_t>(i) * 7, i), 30)));
    all.push_back(clients.back().get());
  }
  harness.RunAll(all);
  for (const Client* client : all) {
    EXPECT_TRUE(client->ended_well()) << client->status;
    EXPECT_THAT(CompareWithAlone(*client, harness.options.executor), IsEmpty());
  }
  EXPECT_EQ(harness.executor.distinct_mismatches(), 0);
}

TEST(SchedulerPlan, EveryStepOfAnExecutorThatSplitsIsPlanned) {
  Harness harness(Splitting());
  RunSixRequests(harness);
  EXPECT_GT(harness.executor.planned_steps(), 20);
  EXPECT_EQ(harness.observer.predicted_steps, harness.observer.steps);
  const auto planner = harness.scheduler->Snapshot().planner;
  ASSERT_TRUE(planner.has_value());
  EXPECT_GT(planner->solves, 0U);
  EXPECT_GT(planner->memo_hits, 0U);
  EXPECT_EQ(planner->failures, 0U);
  EXPECT_EQ(planner->timeouts, 0U);
  EXPECT_GT(planner->targets.version, 0U);
}

TEST(SchedulerPlan, ARecordSaysWhatTheRequestsStepsAttendedTo) {
  HarnessOptions options = Splitting();
  options.profile.reset();
  Harness harness(options);
  const auto alone = harness.MustSubmit(MakeRequest(Prompt(64, 1), 5));
  harness.RunAll({alone.get()});
  const auto a = harness.MustSubmit(MakeRequest(Prompt(64, 2), 5));
  const auto b = harness.MustSubmit(MakeRequest(Prompt(64, 3), 5));
  harness.RunAll({a.get(), b.get()});
  ASSERT_EQ(harness.observer.records.size(), 3U);
  // The prompt in pieces of 16 rows, then four decode steps after the first token; and not what the other one
  // attended to in the same steps.
  const int64_t expected = 16 + 32 + 48 + 64 + 65 + 66 + 67;
  for (const RequestRecord& record : harness.observer.records) {
    EXPECT_EQ(record.attended.total_tokens(), expected);
    EXPECT_GT(record.attended.carried_kv_tokens, 0);
    EXPECT_EQ(record.attended.carried_x_tokens, 0);
  }
}

TEST(SchedulerPlan, WithoutAPlannerWhatIsNotResidentIsCarriedAsKv) {
  HarnessOptions options = Splitting();
  options.profile.reset();
  Harness harness(options);
  RunSixRequests(harness);
  EXPECT_EQ(harness.executor.planned_steps(), 0);
  EXPECT_GT(harness.executor.last_plan().tokens.carried_kv_tokens, 0);
  EXPECT_EQ(harness.executor.last_plan().tokens.carried_x_tokens, 0);
  EXPECT_FALSE(harness.scheduler->Snapshot().planner.has_value());
}

TEST(SchedulerPlan, AnExecutorThatReadsInPlaceIsNotPlannedFor) {
  HarnessOptions options = Splitting();
  options.executor.splits = false;
  Harness harness(options);
  RunSixRequests(harness);
  EXPECT_EQ(harness.observer.predicted_steps, 0);
  EXPECT_EQ(harness.scheduler->Snapshot().planner->solves, 0U);
}

TEST(SchedulerPlan, WhatStepsMeasureReachesTheFeedback) {
  HarnessOptions options = Splitting();
  options.profile->copy_in.bytes_per_s = 10e6;  // 12.8 us a token and layer; the fake takes 16
  options.executor.carry_ns = 16'000;
  options.planner.modes.split = exec::SplitMode::kTransfer;
  Harness harness(options);
  RunSixRequests(harness);
  EXPECT_NEAR(harness.scheduler->Snapshot().planner->factors.link_in, 1.25, 0.02);
  EXPECT_NEAR(harness.scheduler->Snapshot().planner->link_in_bytes_per_s, 8e6, 1e5);
}

TEST(SchedulerPlan, TheChoiceOfScheduleIsCountedBySteps) {
  Harness harness(Splitting());
  RunSixRequests(harness);
  const auto planner = harness.scheduler->Snapshot().planner;
  uint64_t steps = 0;
  for (const auto& reasons : planner->scheduled) {
    for (const uint64_t count : reasons) steps += count;
  }
  EXPECT_EQ(steps, static_cast<uint64_t>(harness.observer.steps));
  EXPECT_GT(planner->scheduled[static_cast<size_t>(exec::Schedule::kRow)]
                              [static_cast<size_t>(ScheduleReason::kWeightsResident)],
            0U);
  EXPECT_GE(planner->schedule.largest_batch, 1);
  EXPECT_LE(planner->schedule.largest_batch, harness.options.scheduler.max_sequences);
}

}  // namespace
}  // namespace spillway::scheduler
