#include "base/log.h"

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

}  // namespace
}  // namespace spillway
