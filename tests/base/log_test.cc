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

TEST(Log, WhatMovesTextIsEscaped) {
  const std::string texts[] = {"\x1b[2J",
                               "\x0b",
                               "\x7f",
                               "a\xc2\x85z",
                               "a\xe2\x80\xa8z",
                               "\xe2\x80\xae"
                               "gpj",
                               "\xe2\x81\xa6x",
                               "\xef\xbb\xbfx",
                               "\r\n\t"};
  for (const std::string& text : texts) {
    for (const LogFormat format : {LogFormat::kText, LogFormat::kJson}) {
      const std::string line = FormatLogLine(format, LogLevel::kInfo, 0, "m", {{"id", text}});
      for (const char c : line) EXPECT_TRUE(c >= 0x20 && c < 0x7f) << line;
      if (format == LogFormat::kJson) {
        EXPECT_EQ(nlohmann::json::parse(line)["id"], text);
      }
    }
  }
  // Words of any language stay readable.
  EXPECT_NE(FormatLogLine(LogFormat::kText, LogLevel::kInfo, 0, "m", {{"id", "gr\xc3\xbc\xc3\x9f"}})
                .find("id=gr\xc3\xbc\xc3\x9f"),
            std::string::npos);
}

TEST(Log, JsonLinesParseWhateverTheText) {
  const std::string line = FormatLogLine(LogFormat::kJson, LogLevel::kError, 0, "bad \"file\"\n",
                                         {{"path", "\xff\x01"}, {"ok", false}});
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json["message"], "bad \"file\"\n");
  EXPECT_EQ(json["level"], "error");
  EXPECT_EQ(json["ok"], false);
}

TEST(Log, TheLastLineIsARecordWhereTheLogIsJson) {
  const auto written = [] {
    testing::internal::CaptureStderr();
    LogLast("prog", "no \"such\"\nfile");
    return testing::internal::GetCapturedStderr();
  };
  EXPECT_EQ(written(), "prog: no \"such\" file\n");
  SetLogging(LogLevel::kError, LogFormat::kJson);
  const auto json = nlohmann::json::parse(written());
  EXPECT_EQ(json["level"], "error");
  EXPECT_EQ(json["message"], "prog ends");
  EXPECT_EQ(json["error"], "no \"such\"\nfile");
  SetLogging(LogLevel::kInfo, LogFormat::kText);
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
