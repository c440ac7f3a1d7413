#include "scheduler/token_stream.h"

#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace spillway::scheduler {
namespace {

using ::testing::ElementsAre;

DeltaEvent Delta(int32_t index, std::string text, text::TokenId token) {
  DeltaEvent delta;
  delta.index = index;
  delta.text = std::move(text);
  delta.tokens = {token};
  return delta;
}

std::vector<Event> Take(TokenStream& stream) {
  std::vector<Event> events;
  absl::Status status;
  EXPECT_FALSE(stream.Take(&events, &status));
  return events;
}

TEST(TokenStreamTest, DeltasOfOneIndexJoinWhileTheyWait) {
  TokenStream stream(8, [] {});
  stream.Push(Delta(0, "a", 1));
  stream.Push(Delta(1, "x", 7));
  stream.Push(Delta(0, "b", 2));
  const std::vector<Event> events = Take(stream);
  ASSERT_EQ(events.size(), 2);
  const DeltaEvent& first = std::get<DeltaEvent>(events[0]);
  EXPECT_EQ(first.text, "ab");
  EXPECT_THAT(first.tokens, ElementsAre(1, 2));
  EXPECT_EQ(std::get<DeltaEvent>(events[1]).text, "x");
  stream.Push(Delta(0, "c", 3));
  EXPECT_EQ(std::get<DeltaEvent>(Take(stream).at(0)).text, "c");
}

TEST(TokenStreamTest, ReaderIsToldOnceUntilItTakes) {
  int ready = 0;
  TokenStream stream(8, [&] { ++ready; });
  stream.Push(StartedEvent{3});
  stream.Push(Delta(0, "a", 1));
  EXPECT_EQ(ready, 1);
  Take(stream);
  stream.Push(Delta(0, "b", 1));
  EXPECT_EQ(ready, 2);
  stream.End(absl::OkStatus());
  EXPECT_EQ(ready, 3);
}

TEST(TokenStreamTest, EndComesAfterAllEventsAndOnce) {
  TokenStream stream(8, [] {});
  stream.Push(UsageEvent{});
  stream.End(absl::CancelledError("gone"));
  std::vector<Event> events;
  absl::Status status;
  EXPECT_TRUE(stream.Take(&events, &status));
  EXPECT_EQ(events.size(), 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_DEATH(stream.Push(UsageEvent{}), "after the stream's end");
  EXPECT_DEATH(stream.End(absl::OkStatus()), "ends once");
}

TEST(TokenStreamTest, FullByBytesOfTextIdsAndLogprobs) {
  TokenStream by_text(
      100, [] {}, 32);
  by_text.Push(Delta(0, std::string(20, 'a'), 1));
  EXPECT_FALSE(by_text.Full());
  by_text.Push(Delta(0, std::string(20, 'a'), 1));
  EXPECT_TRUE(by_text.Full());
  Take(by_text);
  EXPECT_FALSE(by_text.Full());

  // Tokens without text are bounded too.
  TokenStream by_ids(
      100, [] {}, 32);
  for (int i = 0; i < 8; ++i) by_ids.Push(Delta(0, "", 1));
  EXPECT_TRUE(by_ids.Full());

  TokenStream by_logprobs(
      100, [] {}, 200);
  DeltaEvent delta = Delta(0, "", 1);
  delta.logprobs.emplace_back().top.resize(20);
  by_logprobs.Push(std::move(delta));
  EXPECT_TRUE(by_logprobs.Full());
}

TEST(TokenStreamTest, FullByEventsDropsProgressOnly) {
  TokenStream stream(2, [] {});
  stream.Push(StartedEvent{});
  stream.Push(Delta(0, "a", 1));
  EXPECT_TRUE(stream.Full());
  ProgressEvent progress;
  progress.stage = Stage::kPreempted;
  stream.Push(progress);
  stream.Push(FinishedEvent{});
  stream.Push(UsageEvent{});
  const std::vector<Event> events = Take(stream);
  ASSERT_EQ(events.size(), 4);
  EXPECT_TRUE(std::holds_alternative<FinishedEvent>(events[2]));
  EXPECT_TRUE(std::holds_alternative<UsageEvent>(events[3]));
}

TEST(TokenStreamTest, ProgressOfAnotherChoiceIsKept) {
  TokenStream stream(8, [] {});
  for (const int32_t index : {0, 1, 1}) {
    ProgressEvent progress;
    progress.stage = Stage::kPrefill;
    progress.index = index;
    stream.Push(progress);
  }
  std::vector<Event> events;
  absl::Status status;
  EXPECT_FALSE(stream.Take(&events, &status));
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(std::get<ProgressEvent>(events[1]).index, 1);
}

TEST(TokenStreamTest, WaitingProgressOfOneStageIsReplaced) {
  TokenStream stream(8, [] {});
  for (int done : {1, 2, 3}) {
    ProgressEvent progress;
    progress.stage = Stage::kPrefill;
    progress.done_tokens = done;
    stream.Push(progress);
  }
  ProgressEvent preempted;
  preempted.stage = Stage::kPreempted;
  stream.Push(preempted);
  const std::vector<Event> events = Take(stream);
  ASSERT_EQ(events.size(), 2);
  EXPECT_EQ(std::get<ProgressEvent>(events[0]).done_tokens, 3);
}

TEST(TokenStreamTest, ListenerHearsOfCancelAndOfATakeThatMadeRoom) {
  TokenStream stream(1, [] {});
  int heard = 0;
  stream.SetListener([&] { ++heard; });
  stream.Push(Delta(0, "a", 1));
  Take(stream);
  EXPECT_EQ(heard, 0) << "nobody had found the stream full";
  stream.Push(Delta(0, "a", 1));
  EXPECT_TRUE(stream.Full());
  Take(stream);
  EXPECT_EQ(heard, 1);
  Take(stream);
  EXPECT_EQ(heard, 1);
  EXPECT_EQ(stream.why_cancelled(), Reason::kNone);
  stream.Cancel(Reason::kDeadlineExceeded);
  EXPECT_TRUE(stream.cancelled());
  EXPECT_EQ(heard, 2);
  stream.End(absl::OkStatus());
  stream.Cancel();
  EXPECT_EQ(heard, 2) << "the listener is let go at the end";
  EXPECT_EQ(stream.why_cancelled(), Reason::kDeadlineExceeded) << "the first cause stays";
}

TEST(TokenStreamTest, TakesCountsThoseThatFoundEvents) {
  TokenStream stream(4, [] {});
  Take(stream);
  EXPECT_EQ(stream.takes(), 0u);
  stream.Push(StartedEvent{});
  Take(stream);
  EXPECT_EQ(stream.takes(), 1u);
}

}  // namespace
}  // namespace spillway::scheduler
