// How requests end other than well, what pressure does, and what priorities mean.
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "scheduler/scheduler.h"
#include "tests/scheduler/harness.h"

namespace spillway::scheduler {
namespace {

using ::testing::IsEmpty;

std::string Metadata(const absl::Status& status, const std::string& name) {
  for (const auto& [key, value] : MetadataOf(status)) {
    if (key == name) return value;
  }
  return "";
}

void ExpectAsAlone(const Harness& harness, const Client& client) {
  EXPECT_TRUE(client.ended_well()) << client.status;
  EXPECT_EQ(client.times_ended, 1);
  EXPECT_THAT(client.faults, IsEmpty());
  EXPECT_THAT(CompareWithAlone(client, harness.options.executor), IsEmpty());
}

void ExpectEnded(const Harness& harness, const Client& client, Reason reason) {
  EXPECT_TRUE(client.ended);
  EXPECT_EQ(client.times_ended, 1);
  EXPECT_EQ(ReasonOf(client.status), reason) << client.status;
  EXPECT_THAT(client.faults, IsEmpty());
  EXPECT_THAT(CompareWithAlone(client, harness.options.executor), IsEmpty());
}

Request Prioritised(Request request, int32_t priority) {
  request.priority = priority;
  return request;
}

// --- What is refused.

TEST(AdmissionTest, TooLargeIsRefusedNamingTheLargestThatFits) {
  HarnessOptions options;
  options.n_blocks = 10;  // 40 tokens
  Harness harness(options);
  EXPECT_EQ(harness.scheduler->max_sequence_tokens(), 40);

  Client long_prompt(MakeRequest(Prompt(40), 1));
  absl::Status status = harness.Submit(long_prompt);
  EXPECT_EQ(ReasonOf(status), Reason::kPromptTooLong);
  EXPECT_EQ(Metadata(status, "limit"), "39");
  EXPECT_EQ(Metadata(status, "value"), "40");

  Client large(MakeRequest(Prompt(30), 11));
  status = harness.Submit(large);
  EXPECT_EQ(ReasonOf(status), Reason::kRequestTooLarge);
  EXPECT_EQ(Metadata(status, "limit"), "40");
  EXPECT_EQ(Metadata(status, "value"), "41");
  EXPECT_THAT(harness.observer.rejected,
              ::testing::ElementsAre(Reason::kPromptTooLong, Reason::kRequestTooLarge));

  auto largest = harness.MustSubmit(MakeRequest(Prompt(39), 1));
  auto most_output = harness.MustSubmit(MakeRequest(Prompt(1), 39));
  Client* const clients[] = {largest.get(), most_output.get()};
  harness.RunAll(clients);
  ExpectAsAlone(harness, *largest);
  ExpectAsAlone(harness, *most_output);
}

TEST(AdmissionTest, FullQueueRefusesUntilARequestLeavesIt) {
  HarnessOptions options;
  options.scheduler.max_queue = 2;
  options.scheduler.max_sequences = 1;
  Harness harness(options);
  auto running = harness.MustSubmit(MakeRequest(Prompt(4), 200));
  harness.scheduler->RunOnce();
  auto a = harness.MustSubmit(MakeRequest(Prompt(4), 2));
  auto b = harness.MustSubmit(MakeRequest(Prompt(4), 2));
  Client c(MakeRequest(Prompt(4), 2));
  EXPECT_EQ(ReasonOf(harness.Submit(c)), Reason::kQueueFull);
  EXPECT_EQ(Metadata(harness.Submit(c), "value"), "2");
  EXPECT_GE(harness.scheduler->retry_after_ms(), 80);
  a->Cancel();
  harness.scheduler->RunOnce();
  EXPECT_TRUE(harness.Submit(c).ok()) << "a cancelled one leaves the queue at once";
  Client* const clients[] = {running.get(), a.get(), b.get(), &c};
  harness.RunAll(clients);
  ExpectEnded(harness, *a, Reason::kCancelled);
  ExpectAsAlone(harness, *b);
  ExpectAsAlone(harness, c);
}

TEST(AdmissionTest, ChoicesOfOneRequestDoNotFillTheQueue) {
  HarnessOptions options;
  options.scheduler.max_queue = 2;
  options.scheduler.max_sequences = 1;
  Harness harness(options);
  Request many = MakeRequest(Prompt(4), 20);
  many.n_choices = 16;
  auto greedy = harness.MustSubmit(std::move(many));
  while (harness.scheduler->Snapshot().returned_sequences < 15) ASSERT_TRUE(harness.scheduler->RunOnce());
  EXPECT_EQ(harness.scheduler->Snapshot().running_requests, 1);
  EXPECT_EQ(harness.scheduler->Snapshot().waiting_requests, 0) << "a choice is not a request";
  // Fifteen choices find their prompt cached and reserve eight tokens of output each.
  EXPECT_EQ(harness.scheduler->Snapshot().returned_tokens, 15 * 8);
  auto a = harness.MustSubmit(MakeRequest(Prompt(4), 2));
  auto b = harness.MustSubmit(MakeRequest(Prompt(4), 2));
  Client c(MakeRequest(Prompt(4), 2));
  EXPECT_EQ(ReasonOf(harness.Submit(c)), Reason::kQueueFull);
  Client* const clients[] = {greedy.get(), a.get(), b.get()};
  harness.RunAll(clients);
  for (Client* client : clients) ExpectAsAlone(harness, *client);
  EXPECT_EQ(harness.scheduler->Snapshot().returned_sequences, 0);
  EXPECT_EQ(harness.scheduler->Snapshot().returned_tokens, 0);
}

TEST(AdmissionTest, PreemptedSequencesDelayTheRetryOfTheRefused) {
  HarnessOptions options;
  options.scheduler.max_queue = 1;
  options.scheduler.max_sequences = 4;
  Harness harness(options);
  std::vector<std::unique_ptr<Client>> low;
  for (uint32_t i = 0; i < 4; ++i) {
    low.push_back(harness.MustSubmit(Prioritised(MakeRequest(Prompt(60, i), 100), 0)));
    while (harness.scheduler->Snapshot().running_sequences <= static_cast<int32_t>(i)) {
      ASSERT_TRUE(harness.scheduler->RunOnce());
    }
  }
  for (int i = 0; i < 100; ++i) harness.scheduler->RunOnce();
  int64_t tokens = 0;
  for (const auto& client : low) {
    client->Read();
    tokens += 60 + static_cast<int64_t>(client->choices[0].tokens.size()) + 8;
  }
  auto high = Prioritised(MakeRequest(Prompt(200, 9), 100), 5);
  high.n_choices = 4;
  auto greedy = harness.MustSubmit(std::move(high));
  while (harness.observer.preempted < 4) ASSERT_TRUE(harness.scheduler->RunOnce());
  const SchedulerSnapshot snapshot = harness.scheduler->Snapshot();
  EXPECT_EQ(snapshot.returned_sequences, 4);
  EXPECT_GE(snapshot.returned_tokens, tokens) << "prompts and answers are computed again";
  EXPECT_EQ(snapshot.waiting_requests, 0);
  harness.RunAll();
}

TEST(AdmissionTest, DeadlineThatClearlyCannotBeMetIsRefusedEarly) {
  Harness harness;
  std::vector<std::unique_ptr<Client>> clients;
  const auto with_deadline = [&](int32_t n_tokens, int64_t left_ns) {
    Request request = MakeRequest(Prompt(n_tokens, 1000 + static_cast<uint32_t>(clients.size())), 1);
    request.deadline_ns = harness.clock.NowNs() + left_ns;
    return request;
  };
  // Nothing is known yet: it is tried.
  clients.push_back(harness.MustSubmit(with_deadline(400, 1)));
  for (uint32_t i = 0; i < 20; ++i) {
    clients.push_back(harness.MustSubmit(MakeRequest(Prompt(40, 500 + i), 1)));
  }
  harness.RunAll();
  // A row costs about 550 ns in two layers: 400 tokens take some 200 us.
  Client hopeless(with_deadline(400, 20'000));
  const absl::Status status = harness.Submit(hopeless);
  EXPECT_EQ(ReasonOf(status), Reason::kDeadlineUnreachable);
  EXPECT_FALSE(Metadata(status, "value").empty());
  Client doubtful(with_deadline(400, 150'000));
  EXPECT_TRUE(harness.Submit(doubtful).ok()) << "a near miss is tried";
  Client late(with_deadline(4, 0));
  EXPECT_EQ(ReasonOf(harness.Submit(late)), Reason::kDeadlineUnreachable);
  harness.RunAll();
}

// --- How requests end.

TEST(LifecycleTest, CancellationIsSeenAtTheNextVisitInEveryStage) {
  // After each number of visits: waiting, in a piece of prefill, in a decode pass, between passes.
  for (int visits = 0; visits < 40; ++visits) {
    Harness harness;
    auto other = harness.MustSubmit(MakeRequest(Prompt(5, 2), 30));
    auto client = harness.MustSubmit(MakeRequest(Prompt(30), 30));
    for (int i = 0; i < visits; ++i) harness.scheduler->RunOnce();
    client->Cancel();
    harness.scheduler->RunOnce();
    client->Read();
    ExpectEnded(harness, *client, Reason::kCancelled);
    Client* const clients[] = {other.get()};
    harness.RunAll(clients);
    ExpectAsAlone(harness, *other);
    EXPECT_EQ(harness.blocks_in_use(), 0);
    EXPECT_EQ(harness.executor.running_items(), 0);
  }
}

TEST(LifecycleTest, CancelledBeforeItArrivesEndsAtOnce) {
  Harness harness;
  Client client(MakeRequest(Prompt(30), 30));
  client.Cancel();
  ASSERT_TRUE(harness.Submit(client).ok());
  EXPECT_FALSE(harness.scheduler->RunOnce());
  client.Read();
  ExpectEnded(harness, client, Reason::kCancelled);
}

TEST(LifecycleTest, CancelledMemberOfAPackedPieceLeavesTheOthersAlone) {
  Harness harness;
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<Client*> all;
  for (uint32_t i = 0; i < 3; ++i) {
    clients.push_back(harness.MustSubmit(MakeRequest(Prompt(2, i), 5)));
    all.push_back(clients.back().get());
  }
  harness.scheduler->RunOnce();
  ASSERT_EQ(harness.executor.most_segments(), 3);
  clients[1]->Cancel();
  harness.RunAll(all);
  ExpectAsAlone(harness, *clients[0]);
  ExpectEnded(harness, *clients[1], Reason::kCancelled);
  ExpectAsAlone(harness, *clients[2]);
  EXPECT_EQ(harness.blocks_in_use(), 0);
}

TEST(LifecycleTest, DeadlineEndsWaitingAndRunningRequests) {
  HarnessOptions options;
  options.scheduler.max_sequences = 1;
  Harness harness(options);
  Request running_request = MakeRequest(Prompt(5), 400);
  running_request.deadline_ns = 100'000;
  auto running = harness.MustSubmit(running_request);
  Request waiting_request = MakeRequest(Prompt(5), 10);
  waiting_request.deadline_ns = 50'000;
  auto waiting = harness.MustSubmit(waiting_request);
  while (!running->ended) {
    harness.scheduler->RunOnce();
    running->Read();
    waiting->Read();
    ASSERT_LT(harness.clock.NowNs(), 120'000) << "seen within a visit or two";
    EXPECT_TRUE(waiting->ended || harness.clock.NowNs() <= 60'000);
  }
  ExpectEnded(harness, *running, Reason::kDeadlineExceeded);
  EXPECT_FALSE(running->choices[0].tokens.empty()) << "what there was is delivered";
  ExpectEnded(harness, *waiting, Reason::kDeadlineExceeded);
  EXPECT_EQ(harness.blocks_in_use(), 0);
}

TEST(LifecycleTest, SlowReaderPausesOnlyItself) {
  Harness harness;
  Client slow(MakeRequest(Prompt(5, 1), 200), 1 << 20, /*max_bytes=*/64);
  ASSERT_TRUE(harness.Submit(slow).ok());
  auto other = harness.MustSubmit(MakeRequest(Prompt(5, 2), 200));
  Client* const readers[] = {other.get()};
  harness.RunAll(readers);
  ExpectAsAlone(harness, *other);
  EXPECT_EQ(harness.scheduler->Snapshot().paused_sequences, 1);
  EXPECT_FALSE(harness.scheduler->Snapshot().has_work) << "a watchdog must not take it for a stall";
  EXPECT_GT(harness.blocks_in_use(), 0) << "it keeps its blocks";

  // Each take lets it go on until the stream is full again.
  for (int i = 0; i < 1000 && !slow.ended; ++i) {
    slow.Read();
    while (harness.scheduler->RunOnce()) {
    }
  }
  ExpectAsAlone(harness, slow);
  EXPECT_EQ(harness.blocks_in_use(), 0);
}

TEST(LifecycleTest, ReaderThatNeverComesIsGivenUp) {
  Harness harness;
  Client slow(MakeRequest(Prompt(5, 1), 200), 1 << 20, /*max_bytes=*/64);
  ASSERT_TRUE(harness.Submit(slow).ok());
  harness.RunAll();
  harness.clock.AdvanceNs(4999 * kNsPerMs);
  EXPECT_FALSE(harness.scheduler->RunOnce());
  EXPECT_GT(harness.blocks_in_use(), 0);
  harness.clock.AdvanceNs(2 * kNsPerMs);
  harness.scheduler->RunOnce();
  EXPECT_EQ(harness.blocks_in_use(), 0);
  slow.Read();
  ExpectEnded(harness, slow, Reason::kSlowReader);
}

TEST(LifecycleTest, SlowReaderGivesWayToWaitingRequestsAndComesBack) {
  HarnessOptions options;
  options.scheduler.max_sequences = 1;
  Harness harness(options);
  Client slow(MakeRequest(Prompt(5, 1), 60), 1 << 20, /*max_bytes=*/64);
  ASSERT_TRUE(harness.Submit(slow).ok());
  harness.RunAll();
  auto other = harness.MustSubmit(MakeRequest(Prompt(5, 2), 10));
  Client* const readers[] = {other.get()};
  harness.RunAll(readers);
  EXPECT_FALSE(other->ended) << "not at once";
  harness.clock.AdvanceNs(1001 * kNsPerMs);
  harness.RunAll(readers);
  ExpectAsAlone(harness, *other);
  EXPECT_EQ(harness.observer.preempted, 1);
  for (int i = 0; i < 1000 && !slow.ended; ++i) {
    slow.Read();
    harness.RunAll();
  }
  ExpectAsAlone(harness, slow);
}

TEST(LifecycleTest, FailedEngineEndsEveryStreamAndRefuses) {
  for (int visits : {0, 1, 3, 10, 25}) {
    HarnessOptions options;
    options.scheduler.max_sequences = 3;
    Harness harness(options);
    std::vector<std::unique_ptr<Client>> clients;
    for (uint32_t i = 0; i < 5; ++i) {
      clients.push_back(harness.MustSubmit(MakeRequest(Prompt(20, i), 30)));
    }
    harness.executor.FailAfter(visits);
    harness.RunAll();
    for (auto& client : clients) {
      client->Read();
      ExpectEnded(harness, *client, Reason::kEngineFailed);
    }
    EXPECT_TRUE(harness.scheduler->Snapshot().failed);
    EXPECT_EQ(harness.blocks_in_use(), 0);
    Client late(MakeRequest(Prompt(3), 3));
    EXPECT_EQ(ReasonOf(harness.Submit(late)), Reason::kEngineFailed);
    EXPECT_FALSE(harness.scheduler->RunOnce());
  }
}

TEST(LifecycleTest, DrainLetsRunningFinishAndRefusesNew) {
  Harness harness;
  auto client = harness.MustSubmit(MakeRequest(Prompt(20), 30));
  harness.scheduler->RunOnce();
  EXPECT_EQ(harness.scheduler->Drain(/*timeout_ms=*/10'000), 0);
  client->Read();
  ExpectAsAlone(harness, *client);
  Client late(MakeRequest(Prompt(3), 3));
  EXPECT_EQ(ReasonOf(harness.Submit(late)), Reason::kDraining);
}

TEST(LifecycleTest, DrainEndsTheRestWhenItsTimeIsOver) {
  Harness harness;
  auto client = harness.MustSubmit(MakeRequest(Prompt(20), 30));
  for (int i = 0; i < 20; ++i) harness.scheduler->RunOnce();
  EXPECT_EQ(harness.scheduler->Drain(0), 1);
  client->Read();
  ExpectEnded(harness, *client, Reason::kDraining);
  EXPECT_EQ(harness.blocks_in_use(), 0);
}

TEST(LifecycleTest, DestructionEndsWhatIsLeft) {
  auto harness = std::make_unique<Harness>();
  auto client = harness->MustSubmit(MakeRequest(Prompt(20), 30));
  auto waiting = harness->MustSubmit(MakeRequest(Prompt(20), 30));
  harness->scheduler->RunOnce();
  harness->scheduler.reset();
  client->Read();
  ExpectEnded(*harness, *client, Reason::kDraining);
  client->Cancel();  // the stream outlives the scheduler
  waiting->Read();
  ExpectEnded(*harness, *waiting, Reason::kDraining);
}

// --- Pressure.

TEST(PreemptionTest, PreemptedRequestLosesNothing) {
  HarnessOptions options;
  options.n_blocks = 18;  // 72 tokens for four requests that want up to 60 each
  options.scheduler.reserve_output_tokens = 0;
  Harness harness(options);
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<Client*> all;
  for (uint32_t i = 0; i < 4; ++i) {
    Request request = MakeRequest(Prompt(10, i), 50);
    request.sampling.temperature = 1;
    request.sampling.repetition_penalty = 1.1F;
    request.stop_strings = {"fade"};
    clients.push_back(harness.MustSubmit(std::move(request)));
    all.push_back(clients.back().get());
  }
  harness.RunAll(all);
  for (Client* client : all) ExpectAsAlone(harness, *client);
  EXPECT_GT(harness.observer.preempted, 0);
  EXPECT_EQ(clients[0]->usage->preemptions, 0) << "the first to arrive is the last to give way";
  int32_t preemptions = 0;
  for (Client* client : all) preemptions += client->usage->preemptions;
  EXPECT_EQ(preemptions, harness.observer.preempted);
  EXPECT_EQ(harness.blocks_in_use(), 0);
}

TEST(PreemptionTest, PressureDoesNotThrash) {
  HarnessOptions options;
  options.n_blocks = 32;
  options.scheduler.reserve_output_tokens = 0;
  Harness harness(options);
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<Client*> all;
  for (uint32_t i = 0; i < 8; ++i) {
    clients.push_back(harness.MustSubmit(MakeRequest(Prompt(8, i), 100)));
    all.push_back(clients.back().get());
  }
  harness.RunAll(all);
  for (Client* client : all) ExpectAsAlone(harness, *client);
  // Work done twice stays a small part: each of 8 sequences has 107 rows.
  EXPECT_LT(harness.executor.rows_computed(), 2 * 8 * 107);
}

TEST(PreemptionTest, ChoicesOfOneRequestThatDoNotFitTogetherTakeTurns) {
  HarnessOptions options;
  options.n_blocks = 12;  // 48 tokens
  Harness harness(options);
  Request request = MakeRequest(Prompt(9), 35);
  request.n_choices = 4;
  request.sampling.temperature = 1;
  auto client = harness.MustSubmit(std::move(request));
  Client* const clients[] = {client.get()};
  harness.RunAll(clients);
  ExpectAsAlone(harness, *client);
  EXPECT_EQ(harness.blocks_in_use(), 0);
}

TEST(PriorityTest, HigherPriorityLeavesTheQueueFirst) {
  HarnessOptions options;
  options.scheduler.max_sequences = 1;
  Harness harness(options);
  auto first = harness.MustSubmit(Prioritised(MakeRequest(Prompt(5, 1), 10), 3));
  harness.scheduler->RunOnce();
  auto low = harness.MustSubmit(Prioritised(MakeRequest(Prompt(5, 2), 10), 1));
  auto high = harness.MustSubmit(Prioritised(MakeRequest(Prompt(5, 3), 10), 3));
  auto middle = harness.MustSubmit(Prioritised(MakeRequest(Prompt(5, 4), 10), 2));
  std::vector<int32_t> order;
  Client* const clients[] = {first.get(), low.get(), high.get(), middle.get()};
  harness.RunAll(clients);
  for (const RequestRecord& record : harness.observer.records) order.push_back(record.priority);
  EXPECT_THAT(order, ::testing::ElementsAre(3, 3, 2, 1));
  EXPECT_EQ(harness.observer.preempted, 0);
}

TEST(PriorityTest, WaitingHigherPriorityTakesThePlaceOfALower) {
  HarnessOptions options;
  options.scheduler.max_sequences = 2;
  Harness harness(options);
  auto low = harness.MustSubmit(Prioritised(MakeRequest(Prompt(5, 1), 100), 0));
  auto other = harness.MustSubmit(Prioritised(MakeRequest(Prompt(5, 2), 100), 5));
  for (int i = 0; i < 30; ++i) harness.scheduler->RunOnce();
  auto high = harness.MustSubmit(Prioritised(MakeRequest(Prompt(5, 3), 10), 5));
  Client* const clients[] = {low.get(), other.get(), high.get()};
  while (!high->ended) {
    ASSERT_TRUE(harness.scheduler->RunOnce());
    for (Client* client : clients) client->Read();
  }
  EXPECT_FALSE(low->ended);
  harness.RunAll(clients);
  for (Client* client : clients) ExpectAsAlone(harness, *client);
  EXPECT_EQ(low->usage->preemptions, 1);
  EXPECT_EQ(other->usage->preemptions, 0);
}

TEST(PriorityTest, ProgressAfterAPreemptionCountsWhatWasGenerated) {
  HarnessOptions options;
  options.scheduler.max_sequences = 1;
  Harness harness(options);
  auto low = harness.MustSubmit(Prioritised(MakeRequest(Prompt(9, 1), 100), 0));
  for (int i = 0; i < 30; ++i) harness.scheduler->RunOnce();
  auto high = harness.MustSubmit(Prioritised(MakeRequest(Prompt(9, 2), 10), 5));
  Client* const clients[] = {low.get(), high.get()};
  while (!low->ended) {
    ASSERT_TRUE(harness.scheduler->RunOnce());
    for (Client* client : clients) client->Read();
  }
  const ProgressEvent& last = low->progress.back();
  EXPECT_EQ(last.stage, Stage::kPrefill);
  EXPECT_GT(last.total_tokens, 9) << "prompt and generated tokens";
  EXPECT_LE(last.done_tokens, last.total_tokens);
  EXPECT_GT(last.cached_tokens, 0) << "it found its own blocks";
  EXPECT_EQ(low->usage->cached_tokens, 0) << "which others had not computed";
}

// Blocks that two victims share come free with the second of them.
TEST(PriorityTest, BlocksThatVictimsShareMakeRoomToo) {
  HarnessOptions options;
  options.n_blocks = 20;
  options.scheduler.reserve_output_tokens = 0;
  Harness harness(options);
  // Together they never take all 20, so that nothing but the third makes either of them give way.
  auto first = harness.MustSubmit(Prioritised(MakeRequest(Prompt(40, 1), 12), 0));
  for (int i = 0; i < 12; ++i) harness.scheduler->RunOnce();
  auto second = harness.MustSubmit(Prioritised(MakeRequest(Prompt(40, 1), 12), 0));
  for (int i = 0; i < 8; ++i) harness.scheduler->RunOnce();
  const SchedulerSnapshot now = harness.scheduler->Snapshot();
  ASSERT_EQ(now.running_sequences, 2);
  ASSERT_EQ(now.preemptions, 0);
  ASSERT_LT(now.blocks.in_use_blocks, 16) << "they share most";
  auto high = harness.MustSubmit(Prioritised(MakeRequest(Prompt(60, 3), 4), 5));
  Client* const clients[] = {first.get(), second.get(), high.get()};
  while (!high->ended) {
    ASSERT_TRUE(harness.scheduler->RunOnce());
    for (Client* client : clients) client->Read();
  }
  EXPECT_FALSE(first->ended);
  EXPECT_FALSE(second->ended);
  harness.RunAll(clients);
  for (Client* client : clients) ExpectAsAlone(harness, *client);
}

class NotEnoughTest : public ::testing::TestWithParam<int32_t> {};
INSTANTIATE_TEST_SUITE_P(Places, NotEnoughTest, ::testing::Values(2, 64));

TEST_P(NotEnoughTest, NobodyIsSentAwayWhenItWouldNotBeEnough) {
  HarnessOptions options;
  options.n_blocks = 20;
  options.scheduler.reserve_output_tokens = 0;
  options.scheduler.max_sequences = GetParam();  // with and without a place for the third
  Harness harness(options);
  auto same = harness.MustSubmit(Prioritised(MakeRequest(Prompt(40, 1), 30), 5));
  auto low = harness.MustSubmit(Prioritised(MakeRequest(Prompt(4, 2), 8), 0));
  for (int i = 0; i < 12; ++i) harness.scheduler->RunOnce();
  auto high = harness.MustSubmit(Prioritised(MakeRequest(Prompt(60, 3), 4), 5));
  Client* const clients[] = {same.get(), low.get(), high.get()};
  while (!low->ended) {
    ASSERT_TRUE(harness.scheduler->RunOnce());
    for (Client* client : clients) client->Read();
  }
  EXPECT_EQ(low->usage->preemptions, 0);
  harness.RunAll(clients);
  for (Client* client : clients) ExpectAsAlone(harness, *client);
}

// Whatever the newcomer finds cached, or shares with the victim, and in whatever forms that is stored: who is
// sent away for it makes enough room at once.
TEST(PriorityTest, WhoIsSentAwayMakesRoomEnough) {
  constexpr uint32_t kNewcomer = 7, kOther = 2;
  int n_sent_away = 0, n_left_alone = 0;
  for (const bool as_x : {false, true}) {
    for (const uint32_t victims_prompt : {kOther, kNewcomer}) {
      for (const int32_t found_tokens : {0, 4, 8, 12}) {
        for (const int32_t victim_tokens : {6, 9, 14, 17}) {
          for (int64_t missing = -1; missing <= 7; ++missing) {
            HarnessOptions options;
            options.n_blocks = 20;
            if (as_x) options.forms = {.stores_x = true, .both_below = 0, .x_share = 1};
            options.scheduler.reserve_output_tokens = 0;
            Harness harness(options);
            auto before = harness.MustSubmit(MakeRequest(Prompt(found_tokens + 1, kNewcomer), 1));
            harness.RunAll({});
            auto same = harness.MustSubmit(Prioritised(MakeRequest(Prompt(24, 1), 12), 5));
            auto low =
                harness.MustSubmit(Prioritised(MakeRequest(Prompt(victim_tokens, victims_prompt), 12), 0));
            for (int i = 0; i < 8; ++i) harness.scheduler->RunOnce();
            ASSERT_EQ(harness.scheduler->Snapshot().running_sequences, 2);
            const int64_t blocks = found_tokens / 4 + harness.blocks.available_blocks() + missing;
            if (blocks < 1 || blocks >= options.n_blocks) continue;
            auto high = harness.MustSubmit(
                Prioritised(MakeRequest(Prompt(static_cast<int32_t>(4 * blocks), kNewcomer), 1), 5));
            while (!low->ended && harness.scheduler->Snapshot().preemptions == 0) {
              ASSERT_TRUE(harness.scheduler->RunOnce());
              low->Read();
            }
            const SchedulerSnapshot now = harness.scheduler->Snapshot();
            now.preemptions > 0 ? ++n_sent_away : ++n_left_alone;
            if (now.preemptions == 0) continue;
            // The newcomer is in; the victim waits behind it, or found room again in blocks of one slot.
            EXPECT_GE(now.running_sequences, 2)
                << (as_x ? "X: " : "K and V: ") << found_tokens << " tokens are found, the victim has "
                << victim_tokens << " of prompt " << victims_prompt << ", " << missing << " blocks missing";
          }
        }
      }
    }
  }
  EXPECT_GT(n_sent_away, 100);
  EXPECT_GT(n_left_alone, 100);
}

// What a victim holds counts by its memory: blocks of X alone make room for half as many of K and V.
TEST(PriorityTest, NobodyIsSentAwayWhoseSmallBlocksWouldNotBeEnough) {
  HarnessOptions options;
  options.n_blocks = 20;
  options.forms = {.stores_x = true, .both_below = 0, .x_share = 1};
  options.scheduler.reserve_output_tokens = 0;
  Harness harness(options);
  auto same = harness.MustSubmit(Prioritised(MakeRequest(Prompt(40, 1), 30), 5));
  auto low = harness.MustSubmit(Prioritised(MakeRequest(Prompt(16, 2), 8), 0));
  for (int i = 0; i < 10; ++i) harness.scheduler->RunOnce();
  const SchedulerSnapshot now = harness.scheduler->Snapshot();
  ASSERT_EQ(now.running_sequences, 2);
  ASSERT_EQ(now.blocks.forms.x_blocks, now.blocks.in_use_slots);
  // Four blocks are missing, and the victim has four to six, of a slot each.
  const auto n_prompt = static_cast<int32_t>(4 * (harness.blocks.available_blocks() + 4));
  auto high = harness.MustSubmit(Prioritised(MakeRequest(Prompt(n_prompt, 3), 1), 5));
  Client* const clients[] = {same.get(), low.get(), high.get()};
  while (!low->ended) {
    ASSERT_TRUE(harness.scheduler->RunOnce());
    for (Client* client : clients) client->Read();
  }
  EXPECT_EQ(low->usage->preemptions, 0);
  harness.RunAll(clients);
  for (Client* client : clients) ExpectAsAlone(harness, *client);
}

// A pool of 20 blocks of K and V: whatever the forms, one request that fits it runs, and what others are
// promised beside it is there.
TEST(FormsTest, EveryRequestThatFitsAloneIsServedWhateverTheForms) {
  for (const double both_below : {0.0, 0.7, 1.0}) {
    for (const double x_share : {0.0, 0.5, 1.0}) {
      HarnessOptions options;
      options.n_blocks = 20;
      options.forms = {.stores_x = true, .both_below = both_below, .x_share = x_share};
      Harness harness(options);
      EXPECT_EQ(harness.scheduler->max_sequence_tokens(), 80);
      std::vector<std::unique_ptr<Client>> calls;
      std::vector<Client*> clients;
      for (uint32_t i = 0; i < 6; ++i) {
        calls.push_back(harness.MustSubmit(MakeRequest(Prompt(70 - static_cast<int32_t>(i), i), 10)));
        clients.push_back(calls.back().get());
      }
      harness.RunAll(clients);
      for (Client* client : clients) ExpectAsAlone(harness, *client);
      EXPECT_EQ(harness.blocks_in_use(), 0);
    }
  }
}

}  // namespace
}  // namespace spillway::scheduler
