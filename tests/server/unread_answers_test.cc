#include "server/unread_answers.h"

#include "base/reason.h"
#include "gtest/gtest.h"

namespace spillway::server {
namespace {

TEST(UnreadAnswers, ACallerHasItsLimitAndOneAnswerOfAnySize) {
  UnreadAnswers unread({.caller_bytes = 100, .bytes = 1000});
  EXPECT_TRUE(unread.Begin("a", 700).ok());
  EXPECT_EQ(ReasonOf(unread.Begin("a", 0)), Reason::kAnswersUnread);
  EXPECT_TRUE(unread.Begin("b", 60).ok());
  EXPECT_TRUE(unread.Begin("b", 40).ok());
  EXPECT_EQ(ReasonOf(unread.Begin("b", 1)), Reason::kAnswersUnread);
  EXPECT_EQ(unread.bytes(), 800);
  unread.End("b", 60);
  EXPECT_TRUE(unread.Begin("b", 60).ok());
  unread.End("a", 700);
  EXPECT_TRUE(unread.Begin("a", 50).ok());
  EXPECT_TRUE(unread.Begin("a", 50).ok());
}

TEST(UnreadAnswers, AllTogetherHaveALimitThatKeepsNobodyOutWhoReads) {
  UnreadAnswers unread({.caller_bytes = 100, .bytes = 150});
  EXPECT_TRUE(unread.Begin("a", 100).ok());
  EXPECT_TRUE(unread.Begin("b", 50).ok());
  EXPECT_EQ(ReasonOf(unread.Begin("b", 1)), Reason::kAnswersUnread);
  EXPECT_TRUE(unread.Begin("c", 90).ok()) << "it has nothing unread";
  EXPECT_EQ(ReasonOf(unread.Begin("c", 1)), Reason::kAnswersUnread);
  unread.End("a", 100);
  EXPECT_TRUE(unread.Begin("c", 1).ok());
  for (const int64_t bytes : {90, 1}) unread.End("c", bytes);
  unread.End("b", 50);
  EXPECT_EQ(unread.bytes(), 0);
}

}  // namespace
}  // namespace spillway::server
