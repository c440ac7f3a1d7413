#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "scheduler/scheduler.h"
#include "tests/scheduler/harness.h"

namespace spillway::scheduler {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Runs until nothing is left to do and reads everything.
void Finish(Harness& harness, const std::vector<Client*>& clients) {
  harness.RunAll(clients);
  for (Client* client : clients) {
    EXPECT_TRUE(client->ended);
    EXPECT_EQ(client->times_ended, 1);
    EXPECT_THAT(client->faults, IsEmpty());
  }
}

void ExpectAsAlone(const Harness& harness, const Client& client) {
  EXPECT_TRUE(client.ended_well()) << client.status;
  EXPECT_THAT(CompareWithAlone(client, harness.options.executor), IsEmpty());
}

TEST(SchedulerTest, OneRequestGivesWhatTheModelGives) {
  Harness harness;
  auto client = harness.MustSubmit(MakeRequest(Prompt(19), 12));
  Finish(harness, {client.get()});
  ExpectAsAlone(harness, *client);
  EXPECT_EQ(harness.blocks_in_use(), 0);
  ASSERT_TRUE(client->started.has_value());
  EXPECT_EQ(client->started->prompt_tokens, 19);
  EXPECT_EQ(client->usage->cached_tokens, 0);
  EXPECT_EQ(client->usage->preemptions, 0);
  EXPECT_GT(client->usage->timings.first_token_ms, 0);
  EXPECT_NEAR(client->usage->timings.first_token_ms,
              client->usage->timings.queue_ms + client->usage->timings.prefill_ms, 1e-9);
  EXPECT_GE(client->usage->timings.total_ms,
            client->usage->timings.first_token_ms + client->usage->timings.decode_ms);
}

TEST(SchedulerTest, RequestsJoinAndLeaveARunningBatch) {
  Harness harness;
  auto first = harness.MustSubmit(MakeRequest(Prompt(9, 1), 40));
  for (int i = 0; i < 20; ++i) harness.scheduler->RunOnce();
  auto second = harness.MustSubmit(MakeRequest(Prompt(30, 2), 5));
  for (int i = 0; i < 7; ++i) harness.scheduler->RunOnce();
  auto third = harness.MustSubmit(MakeRequest(Prompt(3, 3), 60));
  Finish(harness, {first.get(), second.get(), third.get()});
  for (Client* client : {first.get(), second.get(), third.get()}) ExpectAsAlone(harness, *client);
  EXPECT_GE(harness.executor.most_segments(), 2) << "they never ran together";
}

TEST(SchedulerTest, SampledDrawsDependOnSeedChoiceAndPositionOnly) {
  Harness harness;
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<Client*> all;
  for (int i = 0; i < 6; ++i) {
    Request request = MakeRequest(Prompt(5 + i, 1), 20);
    request.sampling.temperature = 0.7F;
    request.sampling.seed = 42 + i % 2;
    request.sampling.repetition_penalty = i % 3 == 0 ? 1.2F : 1.0F;
    clients.push_back(harness.MustSubmit(std::move(request)));
    all.push_back(clients.back().get());
  }
  Finish(harness, all);
  for (Client* client : all) ExpectAsAlone(harness, *client);
}

TEST(SchedulerTest, StopTokensEndUnlessIgnoredAndNotBeforeMinTokens) {
  Harness harness;
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<Client*> all;
  for (uint32_t i = 0; i < 40; ++i) {
    Request request = MakeRequest(Prompt(6, 100 + i), 60);
    request.ignore_eos = i % 4 == 3;
    request.stop_ids = {10, 11, 12};
    request.min_tokens = i % 2 == 0 ? 0 : 30;
    clients.push_back(harness.MustSubmit(std::move(request)));
    all.push_back(clients.back().get());
  }
  Finish(harness, all);
  int stopped = 0;
  for (Client* client : all) {
    ExpectAsAlone(harness, *client);
    const Client::Choice& choice = client->choices[0];
    stopped += choice.finished->reason == FinishReason::kStopToken;
    EXPECT_GT(static_cast<int32_t>(choice.tokens.size()), client->request.min_tokens);
  }
  EXPECT_GT(stopped, 10);
}

TEST(SchedulerTest, StopStringNeverLeaks) {
  Harness harness;
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<Client*> all;
  for (uint32_t i = 0; i < 40; ++i) {
    Request request = MakeRequest(Prompt(6, 200 + i), 80);
    request.stop_strings = {"bad", "ef", "ffa"};
    request.include_stop = i % 5 == 4;
    clients.push_back(harness.MustSubmit(std::move(request)));
    all.push_back(clients.back().get());
  }
  // Looked at after every step: nothing of a stop string is shown even for a moment.
  while (harness.scheduler->RunOnce()) {
    for (Client* client : all) {
      client->Read();
      const std::string& text = client->choices[0].text;
      if (client->request.include_stop) continue;
      for (const std::string& stop : client->request.stop_strings) {
        EXPECT_EQ(text.find(stop), std::string::npos) << text;
      }
    }
  }
  Finish(harness, all);
  int stopped = 0;
  for (Client* client : all) {
    ExpectAsAlone(harness, *client);
    stopped += client->choices[0].finished->reason == FinishReason::kStopString;
  }
  EXPECT_GT(stopped, 20);
}

TEST(SchedulerTest, LogprobsComeWithEveryToken) {
  Harness harness;
  Request request = MakeRequest(Prompt(6), 9);
  request.sampling.n_logprobs = 3;
  auto client = harness.MustSubmit(std::move(request));
  Finish(harness, {client.get()});
  ASSERT_EQ(client->choices[0].logprobs.size(), 9u);
  for (size_t i = 0; i < 9; ++i) {
    EXPECT_EQ(client->choices[0].logprobs[i].token, client->choices[0].tokens[i]);
    EXPECT_EQ(client->choices[0].logprobs[i].top.size(), 3u);
  }
}

TEST(SchedulerTest, PrefixIsFoundAndTheLastTokenComputedAnew) {
  Harness harness;
  auto first = harness.MustSubmit(MakeRequest(Prompt(32), 6));
  Finish(harness, {first.get()});
  const int64_t rows_before = harness.observer.prefill_rows;

  // The whole prompt is cached, in eight blocks; the last one is computed again.
  auto second = harness.MustSubmit(MakeRequest(Prompt(32), 6));
  Finish(harness, {second.get()});
  ExpectAsAlone(harness, *second);
  EXPECT_EQ(second->usage->cached_tokens, 28);
  EXPECT_EQ(harness.observer.prefill_rows - rows_before, 4);

  // Generated tokens are found too: prompt 32 + 5 computed, nine full blocks.
  std::vector<text::TokenId> longer = Prompt(32);
  longer.insert(longer.end(), first->choices[0].tokens.begin(), first->choices[0].tokens.end());
  auto third = harness.MustSubmit(MakeRequest(longer, 3));
  Finish(harness, {third.get()});
  ExpectAsAlone(harness, *third);
  EXPECT_EQ(third->usage->cached_tokens, 36);
  EXPECT_EQ(harness.scheduler->Snapshot().prefix_hit_tokens, 28 + 36);
}

TEST(SchedulerTest, TokensAdoptedWhileWaitingAreHitsAndTheWarmUpIsNot) {
  Harness harness;
  Request warm_up = MakeRequest(Prompt(32, 7), 1);
  warm_up.warm_up = true;
  auto first = harness.MustSubmit(warm_up);
  Finish(harness, {first.get()});
  auto again = harness.MustSubmit(warm_up);
  Finish(harness, {again.get()});
  EXPECT_EQ(again->usage->cached_tokens, 28);
  EXPECT_EQ(harness.scheduler->Snapshot().prefix_queried_tokens, 0);
  EXPECT_EQ(harness.scheduler->Snapshot().prefix_hit_tokens, 0);

  // Both are scheduled while nothing is cached; the second takes over what the first computes.
  auto a = harness.MustSubmit(MakeRequest(Prompt(60), 2));
  auto b = harness.MustSubmit(MakeRequest(Prompt(60), 2));
  Finish(harness, {a.get(), b.get()});
  EXPECT_EQ(b->usage->cached_tokens, 56);
  EXPECT_EQ(harness.scheduler->Snapshot().prefix_queried_tokens, 120);
  EXPECT_EQ(harness.scheduler->Snapshot().prefix_hit_tokens, 56);
}

TEST(SchedulerTest, WithoutAPrefixCacheARequestFindsOnlyItsOwn) {
  HarnessOptions options;
  options.scheduler.prefix_cache = false;
  Harness harness(options);
  auto first = harness.MustSubmit(MakeRequest(Prompt(32), 3));
  Finish(harness, {first.get()});
  Request request = MakeRequest(Prompt(32), 3);
  request.n_choices = 3;
  request.sampling.temperature = 1;
  const int64_t rows_before = harness.observer.prefill_rows;
  auto second = harness.MustSubmit(std::move(request));
  Finish(harness, {second.get()});
  ExpectAsAlone(harness, *second);
  EXPECT_EQ(second->usage->cached_tokens, 0);
  EXPECT_EQ(harness.observer.prefill_rows - rows_before, 32 + 4 + 4) << "its choices share their prompt";
  EXPECT_EQ(harness.scheduler->Snapshot().prefix_queried_tokens, 0);
  EXPECT_EQ(harness.scheduler->Snapshot().prefix_hit_tokens, 0);
}

TEST(SchedulerTest, ProgressTellsOfEveryChoice) {
  Harness harness;
  Request request = MakeRequest(Prompt(32), 3);
  request.n_choices = 2;
  auto client = harness.MustSubmit(std::move(request));
  Client* const clients[] = {client.get()};
  while (!client->ended) {
    ASSERT_TRUE(harness.scheduler->RunOnce());
    for (Client* one : clients) one->Read();
  }
  std::vector<std::vector<int32_t>> prefill;  // index, done, total, cached
  for (const ProgressEvent& progress : client->progress) {
    if (progress.stage != Stage::kPrefill) continue;
    prefill.push_back({progress.index, progress.done_tokens, progress.total_tokens, progress.cached_tokens});
  }
  ASSERT_FALSE(prefill.empty());
  EXPECT_THAT(prefill.front(), ElementsAre(0, 0, 32, 0));
  EXPECT_THAT(prefill.back(), ElementsAre(1, 28, 32, 28)) << "the second finds the first one's prompt";
}

TEST(SchedulerTest, PrefixesOfAnotherSaltAreNotFound) {
  Harness harness;
  auto first = harness.MustSubmit(MakeRequest(Prompt(32), 3));
  Finish(harness, {first.get()});
  Request request = MakeRequest(Prompt(32), 3);
  request.cache_salt = {9};
  auto second = harness.MustSubmit(std::move(request));
  Finish(harness, {second.get()});
  EXPECT_EQ(second->usage->cached_tokens, 0);
  ExpectAsAlone(harness, *second);
}

TEST(SchedulerTest, EqualPromptsThatArriveTogetherAreComputedOnce) {
  Harness harness;
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<Client*> all;
  for (int i = 0; i < 6; ++i) {
    clients.push_back(harness.MustSubmit(MakeRequest(Prompt(50), 4)));
    all.push_back(clients.back().get());
  }
  Finish(harness, all);
  for (Client* client : all) ExpectAsAlone(harness, *client);
  // 50 rows once, and the two rows after the last full block for each of the others.
  EXPECT_EQ(harness.observer.prefill_rows, 50 + 5 * 2);
}

TEST(SchedulerTest, EqualShortPromptsAreNotComputedSideBySide) {
  HarnessOptions options;
  options.executor.chunk_rows = 16;  // both would fit into one piece
  Harness harness(options);
  auto first = harness.MustSubmit(MakeRequest(Prompt(7), 4));
  auto second = harness.MustSubmit(MakeRequest(Prompt(7), 4));
  auto other = harness.MustSubmit(MakeRequest(Prompt(1, 9), 4));
  Finish(harness, {first.get(), second.get(), other.get()});
  EXPECT_EQ(harness.observer.prefill_rows, 7 + 3 + 1);
  EXPECT_EQ(second->usage->cached_tokens, 4);
  ExpectAsAlone(harness, *second);
}

TEST(SchedulerTest, PieceThatASecondPromptNeedsIsWaitedFor) {
  Harness harness;
  auto first = harness.MustSubmit(MakeRequest(Prompt(100), 4));
  harness.scheduler->RunOnce();
  ASSERT_EQ(harness.executor.running_items(), 1);
  // Shorter, so it would go first; but its beginning is being computed.
  std::vector<text::TokenId> prompt = Prompt(60);
  const std::vector<text::TokenId> end = Prompt(10, 2);
  prompt.insert(prompt.end(), end.begin(), end.end());
  auto second = harness.MustSubmit(MakeRequest(prompt, 4));
  Finish(harness, {first.get(), second.get()});
  EXPECT_EQ(harness.observer.prefill_rows, 100 + 10) << "what they share is computed once";
  ExpectAsAlone(harness, *first);
  ExpectAsAlone(harness, *second);
}

TEST(SchedulerTest, ChoicesShareThePromptAndDifferInTheirDraws) {
  Harness harness;
  Request request = MakeRequest(Prompt(42), 20);
  request.n_choices = 5;
  request.sampling.temperature = 1;
  request.sampling.seed = 7;
  auto client = harness.MustSubmit(std::move(request));
  Finish(harness, {client.get()});
  ExpectAsAlone(harness, *client);
  EXPECT_NE(client->choices[0].tokens, client->choices[1].tokens);
  EXPECT_EQ(harness.observer.prefill_rows, 42 + 4 * 2);
  EXPECT_EQ(client->usage->generated_tokens, 100);
  EXPECT_EQ(client->usage->cached_tokens, 0) << "what it shares with itself was not found cached";
  EXPECT_EQ(harness.observer.first_token_s.size(), 1u);
}

TEST(SchedulerTest, ShortPromptsThatWaitTogetherShareAPiece) {
  Harness harness;
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<Client*> all;
  for (uint32_t i = 0; i < 4; ++i) {
    clients.push_back(harness.MustSubmit(MakeRequest(Prompt(2, 50 + i), 2)));
    all.push_back(clients.back().get());
  }
  Finish(harness, all);
  EXPECT_EQ(harness.executor.most_segments(), 4);
  EXPECT_EQ(harness.observer.steps, 2) << "one piece of prefill and one decode pass";
  for (Client* client : all) ExpectAsAlone(harness, *client);
}

TEST(SchedulerTest, PlansCountSharedBlocksOnce) {
  Harness harness;
  std::vector<std::unique_ptr<Client>> clients;
  std::vector<Client*> all;
  for (uint32_t i = 0; i < 12; ++i) {
    std::vector<text::TokenId> prompt = Prompt(24, i % 3);
    const std::vector<text::TokenId> end = Prompt(static_cast<int32_t>(i), 100 + i);
    prompt.insert(prompt.end(), end.begin(), end.end());
    Request request = MakeRequest(prompt, 10 + static_cast<int32_t>(i));
    request.n_choices = i % 4 == 0 ? 3 : 1;
    clients.push_back(harness.MustSubmit(std::move(request)));
    all.push_back(clients.back().get());
  }
  Finish(harness, all);
  EXPECT_GT(harness.observer.steps, 0);
  EXPECT_EQ(harness.executor.distinct_mismatches(), 0);
}

TEST(SchedulerTest, ProgressTellsOfQueueAndPrefill) {
  HarnessOptions options;
  options.scheduler.max_sequences = 1;
  Harness harness(options);
  auto first = harness.MustSubmit(MakeRequest(Prompt(40), 4));
  auto second = harness.MustSubmit(MakeRequest(Prompt(9, 2), 4));
  harness.scheduler->RunOnce();
  second->Read();
  ASSERT_EQ(second->progress.size(), 1u);
  EXPECT_EQ(second->progress[0].stage, Stage::kQueued);
  EXPECT_EQ(second->progress[0].requests_ahead, 1);
  EXPECT_EQ(second->progress[0].done_tokens, 0);
  Finish(harness, {first.get(), second.get()});
  std::vector<int32_t> done;
  for (const ProgressEvent& progress : first->progress) {
    if (progress.stage == Stage::kPrefill) done.push_back(progress.done_tokens);
  }
  EXPECT_THAT(done, ElementsAre(0, 16, 32));
}

TEST(SchedulerTest, ObserverCountsWhatHappened) {
  Harness harness;
  auto client = harness.MustSubmit(MakeRequest(Prompt(20), 11));
  Finish(harness, {client.get()});
  EXPECT_EQ(harness.observer.tokens, 10) << "after the first token";
  EXPECT_EQ(harness.observer.first_token_s.size(), 1u);
  EXPECT_EQ(harness.observer.queue_s.size(), 1u);
  EXPECT_EQ(harness.observer.prefilled, 1);
  ASSERT_EQ(harness.observer.records.size(), 1u);
  const RequestRecord& record = harness.observer.records[0];
  EXPECT_EQ(record.reason, Reason::kNone);
  EXPECT_THAT(record.finishes, ElementsAre(FinishReason::kLength));
  EXPECT_EQ(record.usage.generated_tokens, 11);
}

TEST(SchedulerTest, SnapshotFollowsTheWork) {
  HarnessOptions options;
  options.scheduler.max_sequences = 2;
  Harness harness(options);
  EXPECT_FALSE(harness.scheduler->Snapshot().has_work);
  auto a = harness.MustSubmit(MakeRequest(Prompt(9, 1), 30));
  auto b = harness.MustSubmit(MakeRequest(Prompt(9, 2), 30));
  auto c = harness.MustSubmit(MakeRequest(Prompt(9, 3), 30));
  EXPECT_EQ(harness.scheduler->Snapshot().waiting_requests, 3);
  EXPECT_EQ(harness.scheduler->Snapshot().waiting_tokens, 27);
  for (int i = 0; i < 30; ++i) harness.scheduler->RunOnce();
  SchedulerSnapshot snapshot = harness.scheduler->Snapshot();
  EXPECT_EQ(snapshot.running_sequences, 2);
  EXPECT_EQ(snapshot.running_requests, 2);
  EXPECT_EQ(snapshot.waiting_requests, 1);
  EXPECT_EQ(snapshot.waiting_tokens, 9);
  EXPECT_TRUE(snapshot.has_work);
  EXPECT_GT(snapshot.visits, 0);
  EXPECT_GT(snapshot.prompt_tokens_per_s, 0);
  EXPECT_GT(snapshot.generated_tokens_per_s, 0);
  EXPECT_GT(snapshot.blocks.in_use_blocks, 0);
  Finish(harness, {a.get(), b.get(), c.get()});
  snapshot = harness.scheduler->Snapshot();
  EXPECT_FALSE(snapshot.has_work);
  EXPECT_EQ(snapshot.running_sequences, 0);
  EXPECT_EQ(snapshot.running_requests, 0);
  EXPECT_EQ(snapshot.waiting_requests, 0);
  EXPECT_EQ(snapshot.blocks.in_use_blocks, 0);
}

}  // namespace
}  // namespace spillway::scheduler
