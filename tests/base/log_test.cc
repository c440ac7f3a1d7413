#include "base/log.h"

#include <limits>
#include <string>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace spillway {
namespace {

TEST(Log, TextQuotesOnlyWhatNeedsIt) {
  EXPECT_EQ(FormatLogLine(LogFormat::kText, LogLevel::kInfo, 0, "ready",
                          {{"path", "/a"}, {"why", "a b"}, {"n", 3}}),
            "1970-01-01T00:00:00.000Z info    ready path=/a why=\"a b\" n=3");
}

TEST(Log, JsonLinesParseWhateverTheText) {
  const std::string line = FormatLogLine(LogFormat::kJson, LogLevel::kError, 0, "bad \"file\"\n",
                                         {{"path", "\xff\x01"}, {"ok", false}});
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json["message"], "bad \"file\"\n");
  EXPECT_EQ(json["level"], "error");
  EXPECT_EQ(json["ok"], false);
}

TEST(Log, NumbersHaveThreeDecimalsAndTinyOnesThreeDigits) {
  const auto text_of = [](double value) {
    const std::string line = FormatLogLine(LogFormat::kText, LogLevel::kInfo, 0, "m", {{"x", value}});
    return line.substr(line.find("x=") + 2);
  };
  EXPECT_EQ(text_of(0.934865), "0.935");
  EXPECT_EQ(text_of(123456.78912), "123456.789");
  EXPECT_EQ(text_of(-2.0), "-2.0");
  EXPECT_EQ(text_of(0), "0.0");
  EXPECT_EQ(text_of(0.0000123456), "1.23e-05");
  EXPECT_EQ(text_of(std::numeric_limits<double>::quiet_NaN()), "null");
}

}  // namespace
}  // namespace spillway
