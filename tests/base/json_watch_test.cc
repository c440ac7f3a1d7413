#include "base/json_watch.h"

#include <functional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace spillway {
namespace {

using testing::HasSubstr;

std::string ProblemOf(const std::string& text) {
  JsonWatch watch;
  const auto json = nlohmann::json::parse(text, std::ref(watch), /*allow_exceptions=*/false);
  return watch.problem();
}

std::string Nested(const std::string& open, const std::string& close, int levels) {
  std::string text;
  for (int i = 0; i < levels; ++i) text += open;
  text += "1";
  for (int i = 0; i < levels; ++i) text += close;
  return text;
}

TEST(JsonWatch, DepthIsRefusedWhereverItIs) {
  EXPECT_EQ(ProblemOf(Nested("[", "]", 32)), "");
  EXPECT_EQ(ProblemOf(Nested("{\"a\":", "}", 32)), "");
  for (const int levels : {33, 250'000}) {
    EXPECT_THAT(ProblemOf(Nested("[", "]", levels)), HasSubstr("deeper than 32 levels"));
    EXPECT_THAT(ProblemOf(Nested("{\"a\":", "}", levels)), HasSubstr("deeper than 32 levels"));
  }
  // What follows is read on, without its ends.
  EXPECT_THAT(ProblemOf("{\"a\": " + Nested("{\"a\":", "}", 40) + ", \"b\": {\"c\": {}}, \"a\": 1}"),
              HasSubstr("deeper than 32 levels"));
}

TEST(JsonWatch, NothingBelowTheLimitIsBuilt) {
  JsonWatch watch(2);
  const auto json =
      nlohmann::json::parse(R"({"a": {"b": [[[7]]]}})", std::ref(watch), /*allow_exceptions=*/false);
  EXPECT_TRUE(watch.too_deep());
  EXPECT_EQ(json.dump().find('7'), std::string::npos) << json.dump();
}

TEST(JsonWatch, AKeyIsThereTwiceInItsOwnObjectAlone) {
  EXPECT_EQ(ProblemOf(R"({"a": {"b": 1}, "b": {"b": 2}, "c": [{"b": 3}, {"b": 4}]})"), "");
  EXPECT_THAT(ProblemOf(R"({"a": {"b": 1, "b": 2}})"), HasSubstr("\"b\" is there twice"));
}

}  // namespace
}  // namespace spillway
