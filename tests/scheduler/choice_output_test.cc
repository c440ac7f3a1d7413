#include "scheduler/choice_output.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/scheduler/harness.h"

namespace spillway::scheduler {
namespace {

text::TokenId Id(absl::string_view bytes) {
  const text::Tokenizer& tokenizer = TestTokenizer();
  for (text::TokenId id = kFirstLetter; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.TokenBytes(id) == bytes) return id;
  }
  ADD_FAILURE() << "no token is " << bytes;
  return 0;
}

struct Generation {
  explicit Generation(StopRules the_rules, std::vector<std::string> stops = {})
      : rules(std::move(the_rules)),
        output(TestTokenizer(), rules, text::StopMatcher::Create(std::move(stops)).value()) {}

  // Appends until finished; `shown` is the text after each token.
  void Append(const std::vector<absl::string_view>& tokens) {
    for (const absl::string_view token : tokens) AppendId(Id(token));
  }
  void AppendId(text::TokenId id) {
    ASSERT_FALSE(finished.has_value());
    ChoiceOutput::Outcome outcome = output.Append(id);
    text += outcome.text;
    finished = outcome.finished;
  }

  StopRules rules;
  ChoiceOutput output;
  std::string text;
  std::optional<FinishedEvent> finished;
};

StopRules Rules(int32_t max_tokens) {
  StopRules rules;
  rules.stop_ids = {kStopToken};
  rules.max_tokens = max_tokens;
  return rules;
}

TEST(ChoiceOutputTest, LengthEndsWithTheLastToken) {
  Generation g(Rules(2));
  g.Append({"a", "b"});
  ASSERT_TRUE(g.finished.has_value());
  EXPECT_EQ(g.finished->reason, FinishReason::kLength);
  EXPECT_EQ(g.text, "ab");
}

TEST(ChoiceOutputTest, StopTokenEndsWithoutText) {
  Generation g(Rules(9));
  g.Append({"a"});
  g.AppendId(kStopToken);
  ASSERT_TRUE(g.finished.has_value());
  EXPECT_EQ(g.finished->reason, FinishReason::kStopToken);
  EXPECT_EQ(g.finished->stop_token, kStopToken);
  EXPECT_EQ(g.text, "a");
}

TEST(ChoiceOutputTest, StopStringAcrossTokensNeverShows) {
  Generation g(Rules(9), {"bcd"});
  g.Append({"ab"});
  EXPECT_EQ(g.text, "a");
  g.Append({"c"});
  EXPECT_EQ(g.text, "a");
  g.Append({"de"});
  ASSERT_TRUE(g.finished.has_value());
  EXPECT_EQ(g.finished->reason, FinishReason::kStopString);
  EXPECT_EQ(g.finished->stop_string, "bcd");
  EXPECT_EQ(g.text, "a");
}

TEST(ChoiceOutputTest, IncludedStopStringIsTheTextsEnd) {
  StopRules rules = Rules(9);
  rules.include_stop = true;
  Generation g(rules, {"bc"});
  g.Append({"ab", "cd"});
  EXPECT_EQ(g.text, "abc");
}

TEST(ChoiceOutputTest, HeldBackTextAppearsWhenTheStopDoesNotCome) {
  Generation at_length(Rules(2), {"bcd"});
  at_length.Append({"ab", "c"});
  EXPECT_EQ(at_length.text, "abc");

  Generation at_stop_token(Rules(9), {"bcd"});
  at_stop_token.Append({"ab", "c"});
  at_stop_token.AppendId(kStopToken);
  EXPECT_EQ(at_stop_token.text, "abc");
}

TEST(ChoiceOutputTest, StopStringInTheLastTokenIsTheReason) {
  Generation g(Rules(1), {"b"});
  g.Append({"ab"});
  ASSERT_TRUE(g.finished.has_value());
  EXPECT_EQ(g.finished->reason, FinishReason::kStopString);
  EXPECT_EQ(g.text, "a");
}

TEST(ChoiceOutputTest, NoStopStringIsFoundInTheTextOfTheFirstTokens) {
  StopRules rules = Rules(9);
  rules.min_tokens = 3;
  Generation g(rules, {"bc", "de"});
  g.Append({"bc", "a", "d"});
  EXPECT_EQ(g.text, "bcad") << "nothing is held back either";
  EXPECT_FALSE(g.finished.has_value());
  g.Append({"e"});
  EXPECT_FALSE(g.finished.has_value()) << "it began before";
  g.Append({"b"});
  EXPECT_EQ(g.text, "bcade");
  g.Append({"c"});
  ASSERT_TRUE(g.finished.has_value());
  EXPECT_EQ(g.finished->reason, FinishReason::kStopString);
  EXPECT_EQ(g.text, "bcade");
}

TEST(ChoiceOutputTest, MinTokensUpToTheLastTokenLeaveStopsInTheText) {
  StopRules rules = Rules(2);
  rules.min_tokens = 2;
  Generation g(rules, {"b"});
  g.Append({"a", "b"});
  ASSERT_TRUE(g.finished.has_value());
  EXPECT_EQ(g.finished->reason, FinishReason::kLength);
  EXPECT_EQ(g.text, "ab");
}

TEST(ChoiceOutputTest, HalfACharacterWaitsAndIsReplacedAtTheEnd) {
  Generation whole(Rules(9));
  whole.Append({"\xC3"});
  EXPECT_EQ(whole.text, "");
  whole.Append({"\xA9"});
  EXPECT_EQ(whole.text, "\xC3\xA9");

  Generation cut(Rules(2));
  cut.Append({"a", "\xC3"});
  EXPECT_EQ(cut.text, "a\xEF\xBF\xBD");
}

TEST(ChoiceOutputTest, IdsBeyondTheVocabularyHaveNoText) {
  Generation g(Rules(9));
  g.AppendId(kVocabSize + 5);
  EXPECT_EQ(g.text, "");
  EXPECT_FALSE(g.finished.has_value());
}

}  // namespace
}  // namespace spillway::scheduler
