// Samples of the CUDA device cross in mapped memory: when results come, and what a slot holds.
#include <gmock/gmock.h>

#include <vector>

#include "tests/engine/device/cuda_harness.h"

namespace spillway::device {
namespace {

using fakes::cuda::MachineOptions;

class CudaSampleTest : public CudaFaultTest {
 protected:
  static constexpr int32_t kVocab = 70;

  // A device that does nothing until it is waited for.
  static MachineOptions Lazy() {
    MachineOptions machine;
    machine.lazy = true;
    return machine;
  }
  static SampleRow Greedy() {
    SampleRow row{};
    row.top_p = row.repetition_penalty = 1;
    row.n_logprobs = -1;
    return row;
  }
  void Sample(const std::vector<float>& logits, const SampleRow& row, SampleResult& result) {
    SampleArgs args;
    args.rows = 1;
    args.vocab = kVocab;
    args.logits = device_->Allocate(kVocab * 4, "logits").value();
    device_->CopyIn(stream_, args.logits, logits.data(), kVocab * 4);
    args.sample = &row;
    args.results = &result;
    device_->Sample(stream_, args);
  }
  void SampleBest(int32_t token, SampleResult& result) {
    std::vector<float> logits(kVocab, 0.0F);
    logits[static_cast<size_t>(token)] = 1;
    Sample(logits, Greedy(), result);
  }
};

TEST_F(CudaSampleTest, ResultsOfSamplesComeWhenAnEventAfterThemHasRun) {
  // More calls than there are slots between two looks at the device.
  std::vector<SampleResult> results(20);
  for (int32_t i = 0; i < 20; ++i) SampleBest(7 + i, results[static_cast<size_t>(i)]);
  ASSERT_TRUE(Synchronize().ok());
  for (int32_t i = 0; i < 20; ++i) EXPECT_EQ(results[static_cast<size_t>(i)].token, 7 + i);
}

TEST_F(CudaSampleTest, ResultsOfSamplesDoNotComeWithAnotherStreamsEvent) {
  Start(Lazy());
  SampleResult result;
  result.token = -5;
  SampleBest(7, result);
  const EventId other = device_->CreateEvent();
  device_->Record(other, device_->CreateStream("other"));
  ASSERT_TRUE(device_->Synchronize(other).ok());
  EXPECT_EQ(result.token, -5);
  device_->Record(event_, stream_);
  for (int polls = 0; !device_->IsComplete(event_); ++polls) ASSERT_LT(polls, 1000);
  EXPECT_EQ(result.token, 7) << "to who polls, too";
}

TEST_F(CudaSampleTest, WhatASamplePointsToIsReadAtOnce) {
  Start(Lazy());
  std::vector<int32_t> history = {7}, ids = {9};
  std::vector<uint32_t> mask = {1U << 8, 0, 1U << 5};
  SampleRow row = Greedy();
  row.presence_penalty = 100;
  row.history = history.data();
  row.n_history = 1;
  row.forbidden = mask.data();
  row.forbidden_ids = ids.data();
  row.n_forbidden_ids = 1;
  std::vector<float> logits(kVocab, 0.0F);
  for (size_t i = 7; i <= 9; ++i) logits[i] = static_cast<float>(20 - i);
  logits[69] = 3;
  logits[68] = 2;
  SampleResult result;
  Sample(logits, row, result);
  history[0] = ids[0] = 68;
  mask = {0, 0, ~0U};
  ASSERT_TRUE(Synchronize().ok());
  EXPECT_EQ(result.token, 68);
}

// In parts of two rows, the first of which lies in the last slot.
TEST_F(CudaSampleTest, RowsWhoseHistoriesFillASlotAreSampledInParts) {
  std::vector<SampleResult> before(3), results(5);
  for (int32_t i = 0; i < 3; ++i) SampleBest(7 + i, before[static_cast<size_t>(i)]);
  const std::vector<int32_t> history(50000, 3);
  SampleRow row = Greedy();
  row.presence_penalty = 1;
  row.history = history.data();
  row.n_history = static_cast<int32_t>(history.size());
  const std::vector<SampleRow> rows(5, row);
  std::vector<float> logits(5 * kVocab, 0.0F);
  for (size_t r = 0; r < 5; ++r) logits[r * kVocab + 20 + r] = 1;
  SampleArgs args;
  args.rows = 5;
  args.vocab = kVocab;
  args.logits = device_->Allocate(5 * kVocab * 4, "logits").value();
  device_->CopyIn(stream_, args.logits, logits.data(), 5 * kVocab * 4);
  args.sample = rows.data();
  args.results = results.data();
  device_->Sample(stream_, args);
  ASSERT_TRUE(Synchronize().ok());
  for (int32_t i = 0; i < 3; ++i) EXPECT_EQ(before[static_cast<size_t>(i)].token, 7 + i);
  for (int32_t r = 0; r < 5; ++r) EXPECT_EQ(results[static_cast<size_t>(r)].token, 20 + r);
}

TEST_F(CudaSampleTest, LargerSlotsComeWhenTheSmallerOnesAreDone) {
  Start(Lazy());
  std::vector<SampleResult> results(4);
  for (int32_t i = 0; i < 3; ++i) SampleBest(7 + i, results[static_cast<size_t>(i)]);
  const std::vector<int32_t> history(300000, 8);
  SampleRow row = Greedy();
  row.presence_penalty = 100;
  row.history = history.data();
  row.n_history = static_cast<int32_t>(history.size());
  std::vector<float> logits(kVocab, 0.0F);
  logits[8] = 2;
  logits[30] = 1;
  Sample(logits, row, results[3]);
  for (int32_t i = 0; i < 3; ++i) EXPECT_EQ(results[static_cast<size_t>(i)].token, 7 + i) << "before they go";
  ASSERT_TRUE(Synchronize().ok());
  EXPECT_EQ(results[3].token, 30);
}

TEST_F(CudaSampleTest, HistoriesLongerThanASlotAreSampledWhole) {
  constexpr int32_t kTokens = 1000;
  std::vector<float> logits(kTokens, 0.0F);
  logits[7] = 3;
  logits[8] = 2;
  logits[9] = 1;
  const DevicePtr memory = device_->Allocate(3 * kTokens * 4, "logits").value();
  for (int i = 0; i < 3; ++i) device_->CopyIn(stream_, memory + i * kTokens * 4, logits.data(), kTokens * 4);
  std::vector<int32_t> history(300000, 8);
  history.back() = 7;
  SampleRow row{};
  row.top_p = row.repetition_penalty = 1;
  row.presence_penalty = 2.5;
  row.n_logprobs = 0;
  row.history = history.data();
  row.n_history = static_cast<int32_t>(history.size());
  std::vector<SampleRow> rows(3, row);
  rows[1].n_history = 1;
  std::vector<SampleResult> results(3);
  SampleArgs args;
  args.rows = 3;
  args.vocab = kTokens;
  args.logits = memory;
  args.sample = rows.data();
  args.results = results.data();
  device_->Sample(stream_, args);
  ASSERT_TRUE(Synchronize().ok());
  EXPECT_EQ(results[0].token, 9);
  EXPECT_EQ(results[1].token, 7);
  EXPECT_EQ(results[2].token, 9);
  device_->Free(memory);
}

}  // namespace
}  // namespace spillway::device
