// Columns: batches that share each layer's load of the weights, and latency passes between their visits.
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/scheduler/harness.h"
#include "tests/scheduler/profiles.h"

namespace spillway::scheduler {
namespace {

constexpr int32_t kLayers = 5;

HarnessOptions Streamed() {
  HarnessOptions options;
  options.executor.n_layers = kLayers;
  options.executor.weight_bytes = 1000;
  options.executor.weight_ns = 50'000;
  options.executor.visits_in_flight = 0;
  options.scheduler.max_sequences = 8;
  options.scheduler.batch_sequences = 2;
  return options;
}

// A batch's compute is dearer than a layer's load: what a latency pass gains is not to wait for the others'.
HarnessOptions StreamedAndBusy() {
  HarnessOptions options = Streamed();
  options.executor.weight_ns = 5'000;
  options.executor.visit_ns = 20'000;
  return options;
}

struct Outcome {
  int64_t weight_loads = 0;
  int32_t most_running = 0;
  std::vector<std::string> faults;
};

// Eight sequences of 40 tokens each.
Outcome RunEight(const HarnessOptions& options) {
  Harness harness(options);
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<Client*> readers;
  for (uint32_t i = 0; i < 8; ++i) {
    Request request = MakeRequest(Prompt(6, i), 40);
    request.ignore_eos = true;
    clients.push_back(harness.MustSubmit(std::move(request)));
    readers.push_back(clients.back().get());
  }
  harness.RunAll(readers);
  Outcome outcome;
  outcome.weight_loads = harness.executor.weight_loads();
  outcome.most_running = harness.executor.most_running();
  for (const auto& client : clients) {
    EXPECT_TRUE(client->ended_well());
    for (std::string& fault : CompareWithAlone(*client, options.executor)) {
      outcome.faults.push_back(std::move(fault));
    }
  }
  EXPECT_EQ(harness.blocks_in_use(), 0);
  return outcome;
}

TEST(ColumnTest, FourBatchesShareEachLoad) {
  HarnessOptions options = Streamed();
  const Outcome column = RunEight(options);
  options.scheduler.schedule = exec::Schedule::kRow;
  const Outcome row = RunEight(options);
  EXPECT_TRUE(column.faults.empty() && row.faults.empty());
  // 39 passes of each sequence, two to a batch, a load of each layer a pass: row needs four times as many,
  // but for the prompts.
  EXPECT_GE(column.most_running, 4);
  EXPECT_LE(row.most_running, 2) << "one pass, and a suspended prompt";
  EXPECT_LT(static_cast<double>(column.weight_loads), 39 * kLayers * 1.5);
  EXPECT_GT(static_cast<double>(row.weight_loads), 39 * 4 * kLayers * 0.9);
}

TEST(ColumnTest, OneBatchOfAllIsARowPass) {
  HarnessOptions options = Streamed();
  options.scheduler.batch_sequences = 0;
  const Outcome outcome = RunEight(options);
  EXPECT_TRUE(outcome.faults.empty());
  EXPECT_LE(outcome.most_running, 3) << "a pass and a prompt's piece";
  EXPECT_LT(static_cast<double>(outcome.weight_loads), 39 * kLayers * 1.5);
}

TEST(ColumnTest, ResidentWeightsRunRowsUnlessTheFlagSaysOtherwise) {
  HarnessOptions options = Streamed();
  options.executor.weight_bytes = 0;
  EXPECT_LE(RunEight(options).most_running, 2);
  options.scheduler.schedule = exec::Schedule::kColumn;
  const Outcome forced = RunEight(options);
  EXPECT_TRUE(forced.faults.empty());
  EXPECT_GE(forced.most_running, 4);
}

// The gaps of a sequence that asks for latency, beside seven that do not.
double MeanGapSeconds(Objective objective) {
  HarnessOptions options = StreamedAndBusy();
  options.scheduler.throughput_share = 0.25;
  Harness harness(options);
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<Client*> readers;
  for (uint32_t i = 0; i < 7; ++i) {
    Request request = MakeRequest(Prompt(6, i), 200);
    request.ignore_eos = true;
    clients.push_back(harness.MustSubmit(std::move(request)));
    readers.push_back(clients.back().get());
  }
  for (int32_t step = 0; step < 300; ++step) harness.scheduler->RunOnce();
  Request quick = MakeRequest(Prompt(6, 99), 30);
  quick.ignore_eos = true;
  quick.objective = objective;
  const auto client = harness.MustSubmit(std::move(quick));
  const MonotonicNs begin_ns = harness.clock.NowNs();
  while (!client->ended) {
    harness.scheduler->RunOnce();
    client->Read();
    for (Client* reader : readers) reader->Read();
  }
  EXPECT_TRUE(client->ended_well());
  EXPECT_TRUE(CompareWithAlone(*client, options.executor).empty());
  const double seconds = ToSeconds(harness.clock.NowNs() - begin_ns);
  readers.push_back(client.get());
  harness.RunAll(readers);
  return seconds / 30;
}

TEST(ColumnTest, ALatencyPassEntersBetweenAnyTwoVisits) {
  const double quick_s = MeanGapSeconds(Objective::kLatency);
  const double slow_s = MeanGapSeconds(Objective::kAuto);
  // A column pass takes 5 loads and 20 visits, 425 us; a latency pass 125 us, and a third of it goes to
  // others.
  EXPECT_GT(slow_s, 400e-6);
  EXPECT_LT(quick_s, 0.6 * slow_s);
}

TEST(ColumnTest, OthersKeepTheirShareBesideLatencyPasses) {
  std::vector<double> latency_over_others;  // tokens of one sequence
  for (const double share : {0.25, 0.75}) {
    HarnessOptions options = StreamedAndBusy();
    options.scheduler.throughput_share = share;
    Harness harness(options);
    std::vector<std::unique_ptr<Client>> clients;
    std::vector<Client*> readers;
    for (uint32_t i = 0; i < 8; ++i) {
      Request request = MakeRequest(Prompt(6, i), 400);
      request.ignore_eos = true;
      request.objective = i < 2 ? Objective::kLatency : Objective::kThroughput;
      clients.push_back(harness.MustSubmit(std::move(request)));
      readers.push_back(clients.back().get());
    }
    const auto tokens = [&](size_t first, size_t end) {
      size_t n = 0;
      for (size_t i = first; i < end; ++i) n += clients[i]->choices[0].tokens.size();
      return static_cast<double>(n) / static_cast<double>(end - first);
    };
    while (tokens(0, 2) < 300 && tokens(2, 8) < 300) {
      ASSERT_TRUE(harness.scheduler->RunOnce());
      for (Client* reader : readers) reader->Read();
    }
    latency_over_others.push_back(tokens(0, 2) / tokens(2, 8));
    harness.RunAll(readers);
  }
  // A latency pass takes 125 us, a column's 325 us, more where layers are loaded again: with a quarter of the
  // time the others have one token for 8 of latency's, with three quarters for 0.9.
  EXPECT_GT(latency_over_others[0], 4);
  EXPECT_LT(latency_over_others[0], 12);
  EXPECT_LT(latency_over_others[1], 1.4);
}

TEST(ColumnTest, EveryStepIsCountedBesideTheReasonThatItsScheduleHad) {
  HarnessOptions options = Streamed();
  options.executor.splits = true;
  options.profile = MultiHeadProfile();
  options.planner.pool_bytes = 200e9;
  Harness harness(options);
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<Client*> readers;
  // Of several lengths, so that a column shrinks to one batch while others wait and prompts come between.
  for (uint32_t i = 0; i < 12; ++i) {
    Request request = MakeRequest(Prompt(6 + static_cast<int32_t>(i), i), 10 + 10 * static_cast<int32_t>(i));
    request.ignore_eos = true;
    request.objective = i == 3 ? Objective::kLatency : Objective::kAuto;
    clients.push_back(harness.MustSubmit(std::move(request)));
    readers.push_back(clients.back().get());
  }
  harness.RunAll(readers);
  const auto planner = harness.scheduler->Snapshot().planner;
  const auto steps = [&](exec::Schedule schedule, ScheduleReason reason) {
    return planner->scheduled[static_cast<size_t>(schedule)][static_cast<size_t>(reason)];
  };
  using exec::Schedule;
  using enum ScheduleReason;
  EXPECT_GT(steps(Schedule::kColumn, kWeightsStreamed), 0U);
  EXPECT_GT(steps(Schedule::kRow, kOneBatchFits), 0U);
  EXPECT_GT(steps(Schedule::kRow, kLatencyWanted), 0U);
  for (const ScheduleReason reason : {kForced, kLatencyWanted, kOneBatchFits, kWeightsResident}) {
    EXPECT_EQ(steps(Schedule::kColumn, reason), 0U) << NameOf(reason);
  }
  for (const ScheduleReason reason : {kForced, kWeightsResident, kWeightsStreamed, kPromptsWait}) {
    EXPECT_EQ(steps(Schedule::kRow, reason), 0U) << NameOf(reason);
  }
  // All items of a pass are told the pass's time.
  ASSERT_FALSE(harness.observer.columns.empty());
  for (const exec::StepStats& stats : harness.observer.columns) EXPECT_GT(stats.predicted_step_s, 0);
}

TEST(ColumnTest, ChoicesOfOneRequestInSeveralBatchesEndTogether) {
  HarnessOptions options = Streamed();
  Harness harness(options);
  Request request = MakeRequest(Prompt(6, 1), 60);
  request.n_choices = 6;
  request.ignore_eos = true;
  request.sampling.temperature = 1;
  const auto client = harness.MustSubmit(std::move(request));
  for (int32_t step = 0; step < 200 + kLayers * 7; ++step) harness.scheduler->RunOnce();
  client->Read();
  ASSERT_FALSE(client->ended);
  EXPECT_GE(harness.executor.most_running(), 3);
  client->Cancel();
  Client* const reader = client.get();
  harness.RunAll({&reader, 1});
  EXPECT_TRUE(client->ended);
  EXPECT_EQ(harness.blocks_in_use(), 0);
  EXPECT_EQ(harness.executor.running_items(), 0);
}

}  // namespace
}  // namespace spillway::scheduler
