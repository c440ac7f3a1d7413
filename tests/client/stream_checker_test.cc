#include "client/stream_checker.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/fake_daemon.h"

namespace spillway::client {
namespace {

using ::testing::HasSubstr;

// The first complaint about a stream that ended OK, or empty.
std::string ComplaintAbout(const std::vector<v1::StreamEvent>& events, int32_t choices = 1) {
  StreamChecker checker(choices);
  for (const v1::StreamEvent& event : events) {
    if (absl::Status status = checker.OnEvent(event); !status.ok()) return std::string(status.message());
  }
  return std::string(checker.OnEnd().message());
}

TEST(StreamCheckerTest, SoundStreamsPass) {
  EXPECT_EQ(ComplaintAbout(AnswerOf({"a", "b"}).events), "");
  EXPECT_EQ(ComplaintAbout({StartedEvent(3), ProgressEvent(v1::STAGE_PREFILL, 1, 3), DeltaEvent("a", {1}, 1),
                            DeltaEvent("b", {2}, 0), FinishedEvent(v1::FINISH_REASON_LENGTH, 1),
                            FinishedEvent(v1::FINISH_REASON_LENGTH, 0), UsageEvent(3, 2)},
                           2),
            "");
}

TEST(StreamCheckerTest, AnUndeliveredEndTokenMayBeCounted) {
  EXPECT_EQ(ComplaintAbout({StartedEvent(3), DeltaEvent("a", {1}),
                            FinishedEvent(v1::FINISH_REASON_STOP_TOKEN), UsageEvent(3, 2)}),
            "");
}

TEST(StreamCheckerTest, OrderIsHeld) {
  EXPECT_THAT(ComplaintAbout({DeltaEvent("a", {1})}), HasSubstr("before started"));
  EXPECT_THAT(ComplaintAbout({StartedEvent(3), StartedEvent(3)}), HasSubstr("started twice"));
  std::vector<v1::StreamEvent> late = AnswerOf({"a"}).events;
  late.push_back(DeltaEvent("b", {2}));
  EXPECT_THAT(ComplaintAbout(late), HasSubstr("after usage"));
  EXPECT_THAT(
      ComplaintAbout({StartedEvent(3), FinishedEvent(v1::FINISH_REASON_LENGTH), DeltaEvent("a", {1})}),
      HasSubstr("after it had finished"));
}

TEST(StreamCheckerTest, EveryIndexFinishesOnce) {
  EXPECT_THAT(ComplaintAbout({StartedEvent(3), FinishedEvent(v1::FINISH_REASON_LENGTH),
                              FinishedEvent(v1::FINISH_REASON_LENGTH)}),
              HasSubstr("finished twice"));
  EXPECT_THAT(
      ComplaintAbout({StartedEvent(3), FinishedEvent(v1::FINISH_REASON_LENGTH, 0), UsageEvent(3, 0)}, 2),
      HasSubstr("before index 1"));
  EXPECT_THAT(ComplaintAbout({StartedEvent(3), DeltaEvent("a", {1}, 1)}), HasSubstr("index 1"));
  EXPECT_THAT(ComplaintAbout({StartedEvent(3), DeltaEvent("a", {1}, -1)}), HasSubstr("index -1"));
}

TEST(StreamCheckerTest, UsageAgreesWithWhatCame) {
  EXPECT_THAT(ComplaintAbout({StartedEvent(3)}), HasSubstr("without usage"));
  const auto with_usage = [](int32_t prompt, int32_t generated) {
    return ComplaintAbout({StartedEvent(3), DeltaEvent("ab", {1, 2}), FinishedEvent(v1::FINISH_REASON_LENGTH),
                           UsageEvent(prompt, generated)});
  };
  EXPECT_EQ(with_usage(3, 2), "");
  EXPECT_THAT(with_usage(4, 2), HasSubstr("prompt tokens"));
  EXPECT_THAT(with_usage(3, 1), HasSubstr("generated tokens"));
  EXPECT_THAT(with_usage(3, 3), HasSubstr("generated tokens"));
}

TEST(StreamCheckerTest, LogprobsComeWithEveryTokenOrNone) {
  v1::StreamEvent delta = DeltaEvent("ab", {1, 2});
  delta.mutable_delta()->add_logprobs();
  EXPECT_THAT(ComplaintAbout({StartedEvent(3), delta}), HasSubstr("1 log probabilities for 2 tokens"));
}

TEST(StreamCheckerTest, UnknownEventsPass) {
  EXPECT_EQ(ComplaintAbout({StartedEvent(3), v1::StreamEvent(), DeltaEvent("a", {1}),
                            FinishedEvent(v1::FINISH_REASON_LENGTH), UsageEvent(3, 1)}),
            "");
}

}  // namespace
}  // namespace spillway::client
