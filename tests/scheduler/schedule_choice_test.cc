#include "scheduler/schedule_choice.h"

#include <limits>

#include "gtest/gtest.h"

namespace spillway::scheduler {
namespace {

using exec::Schedule;

LoadDescription Load(int32_t running, int32_t waiting, int32_t max_sequences) {
  LoadDescription load;
  load.running_sequences = running;
  load.waiting_sequences = waiting;
  load.max_sequences = max_sequences;
  return load;
}

TEST(ScheduleChoice, ResidentWeightsLeaveNothingToShare) {
  const ScheduleChoice choice = ChooseSchedule(Load(8, 100, 16), std::nullopt);
  EXPECT_EQ(choice.schedule, Schedule::kRow);
  EXPECT_EQ(choice.reason, ScheduleReason::kWeightsResident);
  EXPECT_EQ(choice.n_items, 1);
}

TEST(ScheduleChoice, StreamedWeightsAreSharedByWhatOneBatchCannotHold) {
  LoadDescription load = Load(8, 100, 16);
  load.weights_streamed = true;
  const ScheduleChoice choice = ChooseSchedule(load, std::nullopt);
  EXPECT_EQ(choice.schedule, Schedule::kColumn);
  EXPECT_EQ(choice.reason, ScheduleReason::kWeightsStreamed);
  EXPECT_EQ(choice.n_items, 7);
  EXPECT_EQ(choice.largest_batch, 16);
}

TEST(ScheduleChoice, AQueueAloneNeverSelectsColumn) {
  // Many batches' worth of requests wait, and one larger batch holds them all.
  LoadDescription load = Load(8, 100, 256);
  load.weights_streamed = true;
  const ScheduleChoice choice = ChooseSchedule(load, std::nullopt);
  EXPECT_EQ(choice.schedule, Schedule::kRow);
  EXPECT_EQ(choice.reason, ScheduleReason::kOneBatchFits);
}

TEST(ScheduleChoice, APromptSharesTheLoadOfADecodeBatch) {
  LoadDescription load = Load(2, 0, 64);
  load.prompts = 30;
  EXPECT_EQ(ChooseSchedule(load, std::nullopt).reason, ScheduleReason::kWeightsResident);
  load.weights_streamed = true;
  const ScheduleChoice choice = ChooseSchedule(load, std::nullopt);
  EXPECT_EQ(choice.schedule, Schedule::kColumn);
  EXPECT_EQ(choice.reason, ScheduleReason::kPromptsWait);
  EXPECT_EQ(choice.n_items, 2) << "the batch and one prompt's piece";
  load.running_sequences = 0;
  EXPECT_EQ(ChooseSchedule(load, std::nullopt).schedule, Schedule::kRow);
}

TEST(ScheduleChoice, LatencyAndTheFlagHaveTheLastWord) {
  LoadDescription load = Load(8, 100, 16);
  load.weights_streamed = true;
  load.latency_wanted = true;
  EXPECT_EQ(ChooseSchedule(load, std::nullopt).reason, ScheduleReason::kLatencyWanted);
  EXPECT_EQ(ChooseSchedule(load, std::nullopt).schedule, Schedule::kRow);
  const ScheduleChoice forced = ChooseSchedule(load, Schedule::kColumn);
  EXPECT_EQ(forced.schedule, Schedule::kColumn);
  EXPECT_EQ(forced.reason, ScheduleReason::kForced);
  EXPECT_EQ(ChooseSchedule(load, Schedule::kRow).n_items, 1);
}

TEST(ScheduleChoice, TheLargestBatchObeysEveryBound) {
  LoadDescription load;
  EXPECT_EQ(LargestBatch(load), std::numeric_limits<int32_t>::max()) << "nothing bounds it";
  load.max_sequences = 100;
  EXPECT_EQ(LargestBatch(load), 100);
  load.pool_tokens = 10'000;
  load.tokens_per_sequence = 200;
  EXPECT_EQ(LargestBatch(load), 50);
  load.device_bytes = 1'000'000;
  load.device_bytes_per_sequence = 30'000;
  EXPECT_EQ(LargestBatch(load), 33);
  load.tokens_per_sequence = 1'000'000;
  EXPECT_EQ(LargestBatch(load), 1) << "one runs always";
}

}  // namespace
}  // namespace spillway::scheduler
