#include "engine/model/json_object.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace spillway::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string ErrorOf(absl::string_view text, const JsonLimits& limits = {}) {
  const auto parsed = ParseJsonObject(text, "dir/config.json", limits);
  EXPECT_FALSE(parsed.ok());
  return std::string(parsed.status().message());
}

TEST(ParseJsonObject, RefusesWhatIsNoJsonObjectByFile) {
  for (const char* text : {"", "{", "[1]", "7", "{\"a\":1}x", "{\"a\":nan}", "\"\xff\""}) {
    EXPECT_THAT(ErrorOf(text), HasSubstr("dir/config.json: ")) << text;
  }
}

TEST(ParseJsonObject, RefusesDepthBeforeItIsBuilt) {
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100'000; ++i) deep += '[';
  EXPECT_THAT(ErrorOf(deep), AllOf(HasSubstr("byte 36"), HasSubstr("deeper than 32")));
  EXPECT_TRUE(ParseJsonObject("{\"a\":\"[[[[{{{{\\\"[[\"}", "f", {.depth_max = 1}).ok()) << "in a string";
}

TEST(ParseJsonObject, RefusesMoreBytesOrValuesThanTheLimit) {
  EXPECT_THAT(ErrorOf("{\"a\":1}  ", {.bytes_max = 8}), HasSubstr("at most"));
  EXPECT_THAT(ErrorOf("{\"a\":[1,2,3]}", {.values_max = 4}), HasSubstr("more than 4 values"));
  EXPECT_TRUE(ParseJsonObject("{\"a\":[1,2,3]}", "f", {.values_max = 5}).ok());
}

TEST(ParseJsonObject, RefusesAKeyThatIsThereTwice) {
  EXPECT_THAT(ErrorOf(R"({"a": {"b": 1, "b": 2}})"), HasSubstr("'b' is there twice"));
  EXPECT_TRUE(ParseJsonObject(R"({"a": {"b": 1}, "b": {"b": 2}})", "f").ok());
}

class Fields : public testing::Test {
 protected:
  const nlohmann::json root_ = nlohmann::json::parse(
      R"({"i": 7, "big": 18446744073709551615, "f": 2.5, "s": "x", "b": true, "n": null,
          "o": {"inner": "y"}, "l": [1, 2], "t": ["p", "q"], "m": [1, "q"]})");
  const JsonObject json_{root_, "config.json"};
};

TEST_F(Fields, AreTyped) {
  EXPECT_EQ(*json_.Int("i"), 7);
  EXPECT_EQ(*json_.Float("f"), 2.5);
  EXPECT_EQ(*json_.Float("i"), 7);
  EXPECT_EQ(*json_.String("s"), "x");
  EXPECT_EQ(*json_.Bool("b"), true);
  EXPECT_EQ(*json_.Ints("l"), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(*json_.Ints("i"), (std::vector<int64_t>{7}));
  EXPECT_EQ(*json_.Strings("t"), (std::vector<std::string>{"p", "q"}));
}

TEST_F(Fields, NullIsMissing) {
  EXPECT_FALSE(json_.Has("n"));
  EXPECT_EQ(*json_.IntOr("n", 3), 3);
  EXPECT_EQ(json_.Int("n").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(*json_.BoolOr("none", true), true);
}

TEST_F(Fields, OfAnotherTypeAreRefusedByPath) {
  EXPECT_EQ(json_.Int("f").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(json_.Int("big").ok());
  EXPECT_FALSE(json_.Bool("i").ok());
  EXPECT_FALSE(json_.Ints("m").ok());
  EXPECT_FALSE(json_.Strings("m").ok());
  EXPECT_FALSE(json_.Object("l").ok());
  const auto inner = json_.Object("o");
  ASSERT_TRUE(inner.ok());
  EXPECT_THAT(std::string(inner->Int("inner").status().message()),
              HasSubstr("config.json: field 'o.inner': is not a whole number"));
}

}  // namespace
}  // namespace spillway::model
