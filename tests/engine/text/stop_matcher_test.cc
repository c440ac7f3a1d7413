#include "engine/text/stop_matcher.h"

#include <gtest/gtest.h>

#include <chrono>
#include <random>
#include <string>
#include <vector>

#include "engine/text/utf8.h"

namespace spillway::text {
namespace {

StopMatcher Make(std::vector<std::string> stops) {
  auto matcher = StopMatcher::Create(std::move(stops));
  EXPECT_TRUE(matcher.ok()) << matcher.status();
  return *std::move(matcher);
}

TEST(StopMatcherTest, WithoutStopStringsEverythingIsReleasedAtOnce) {
  StopMatcher matcher;
  EXPECT_EQ(matcher.Append("hello").text, "hello");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, StopStringAcrossTokensNeverLeaks) {
  StopMatcher matcher = Make({"</answer>"});
  EXPECT_EQ(matcher.Append("42</a").text, "42");
  EXPECT_EQ(matcher.Append("ns").text, "");
  const auto end = matcher.Append("wer> and more");
  EXPECT_EQ(end.text, "");
  EXPECT_EQ(end.stop, 0);
  EXPECT_TRUE(matcher.stopped());
}

TEST(StopMatcherTest, HeldTextIsReleasedWhenItCannotBecomeAStopString) {
  StopMatcher matcher = Make({"\n\nUser:"});
  EXPECT_EQ(matcher.Append("a\n").text, "a");
  EXPECT_EQ(matcher.Append("\n").text, "");
  EXPECT_EQ(matcher.Append("\n").text, "\n");  // the last two newlines could still begin it
  EXPECT_EQ(matcher.Append("User").text, "");
  EXPECT_EQ(matcher.Append(" ").text, "\n\nUser ");
}

TEST(StopMatcherTest, FlushReleasesWhatWasHeld) {
  StopMatcher matcher = Make({"END"});
  EXPECT_EQ(matcher.Append("the EN").text, "the ");
  EXPECT_EQ(matcher.Flush(), "EN");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, FirstCompletedWinsThenTheLongest) {
  {
    StopMatcher matcher = Make({"abcd", "bc"});
    const auto result = matcher.Append("xabcd");
    EXPECT_EQ(result.stop, 1);
    EXPECT_EQ(result.text, "xa");
  }
  {
    StopMatcher matcher = Make({"d", "bcd", "cd"});
    const auto result = matcher.Append("abcd");
    EXPECT_EQ(result.stop, 1);
    EXPECT_EQ(result.text, "a");
  }
}

TEST(StopMatcherTest, BadStopStringsAreRefusedByIndex) {
  EXPECT_EQ(StopMatcher::Create({"a", ""}).status().message(), "stop string 1 is empty");
  EXPECT_EQ(StopMatcher::Create({"a\xFF"}).status().message(), "stop string 0 is not valid UTF-8 at byte 1");
  EXPECT_FALSE(StopMatcher::Create({std::string(StopMatcher::kMaxStopStringBytes + 1, 'x')}).ok());
  EXPECT_TRUE(StopMatcher::Create({std::string(StopMatcher::kMaxStopStringBytes, 'x')}).ok());
  EXPECT_FALSE(StopMatcher::Create(std::vector<std::string>(StopMatcher::kMaxStopStrings + 1, "x")).ok());
}

// What the matcher promises, written down without any cleverness: looks at the whole text after every byte.
struct NaiveStop {
  std::string text;
  int stop = -1;
};
NaiveStop FindNaively(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    int best = -1;
    for (size_t s = 0; s < stops.size(); ++s) {
      const std::string& stop = stops[s];
      if (end >= stop.size() && text.compare(end - stop.size(), stop.size(), stop) == 0 &&
          (best < 0 || stop.size() > stops[best].size())) {
        best = static_cast<int>(s);
      }
    }
    if (best >= 0) return {text.substr(0, end - stops[best].size()), best};
  }
  return {text, -1};
}

// The longest end of `text` that is a proper beginning of a stop string.
size_t HeldNaively(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t n = text.size(); n > 0; --n) {
    for (const std::string& stop : stops) {
      if (n < stop.size() && text.compare(text.size() - n, n, stop, 0, n) == 0) return n;
    }
  }
  return 0;
}

TEST(StopMatcherTest, AgreesWithANaiveSearchOnRandomText) {
  const std::vector<std::string> alphabet = {"a", "b", "\xC3\xA9", "\xF0\x9F\x98\x80", "\n"};
  std::mt19937 random(11);
  const auto make = [&](size_t max) {
    std::string text;
    for (size_t n = random() % (max + 1); n > 0; --n) text += alphabet[random() % alphabet.size()];
    return text;
  };
  int stopped = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops;
    for (size_t n = 1 + random() % 4; n > 0; --n) {
      std::string stop = make(6);
      stops.push_back(stop.empty() ? "ab" : stop);
    }
    StopMatcher matcher = Make(stops);
    std::string given, shown;
    int stop = -1;
    for (int parts = 0; parts < 8 && stop < 0; ++parts) {
      const std::string part = make(4);
      given += part;
      const auto result = matcher.Append(part);
      ASSERT_EQ(FindInvalidUtf8(result.text), std::nullopt);
      shown += result.text;
      if (result.stop) {
        stop = *result.stop;
      } else {
        ASSERT_EQ(shown.size() + HeldNaively(given, stops), given.size());  // holds back no more than it must
      }
    }
    if (stop < 0) shown += matcher.Flush();
    const NaiveStop expected = FindNaively(given, stops);
    ASSERT_EQ(shown, expected.text);
    if (expected.stop < 0) {
      ASSERT_EQ(stop, -1);
    } else {
      ASSERT_GE(stop, 0);
      ASSERT_EQ(stops[stop], stops[expected.stop]);
      ++stopped;
    }
  }
  EXPECT_GT(stopped, 5000);
}

}  // namespace
}  // namespace spillway::text
