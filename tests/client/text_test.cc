// What a terminal may be shown, and what may be sent.
#include "client/console.h"
#include "client/utf8.h"
#include "gtest/gtest.h"

namespace spillway::client {
namespace {

TEST(EscapeForTerminalTest, OrdinaryTextPassesUnchanged) {
  const std::string text = "Zürich, 東京 🙂\n\tindented";
  EXPECT_EQ(EscapeForTerminal(text), text);
}

TEST(EscapeForTerminalTest, ControlCharactersAreMadeVisible) {
  EXPECT_EQ(EscapeForTerminal("\x1b]0;title\x07"), "\\x1b]0;title\\x07");
  EXPECT_EQ(EscapeForTerminal("over\rwritten\b\x7f"), "over\\x0dwritten\\x08\\x7f");
  EXPECT_EQ(EscapeForTerminal(absl::string_view("a\0b", 3)), "a\\x00b");
  EXPECT_EQ(EscapeForTerminal("\xC2\x9B"
                              "31m"),
            "\\x9b31m")
      << "CSI as one C1 character";
}

TEST(EscapeForTerminalTest, CharactersThatShareTheLeadByteOfC1Pass) {
  EXPECT_EQ(EscapeForTerminal("\xC2\xA0\xC2\xB5"), "\xC2\xA0\xC2\xB5");
}

TEST(EscapeToOneLineTest, LineBreaksAreEscapedToo) { EXPECT_EQ(EscapeToOneLine("a\nb\tc"), "a\\nb\\tc"); }

TEST(ValidUtf8PrefixTest, ValidTextIsTakenWhole) {
  for (const char* text : {"", "plain", "é", "東", "🙂", "\xF4\x8F\xBF\xBF", "\xED\x9F\xBF"}) {
    EXPECT_EQ(ValidUtf8Prefix(text), std::string(text).size()) << text;
  }
}

TEST(ValidUtf8PrefixTest, StopsAtTheFirstByteThatBeginsNoCharacter) {
  EXPECT_EQ(ValidUtf8Prefix("ab\xFF"
                            "cd"),
            2U);
  for (const char* bad : {"\x80", "\xC0\xAF", "\xC1\xBF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF0\x80\x80\x80",
                          "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xE2\x82", "\xE2\x28\xA1"}) {
    EXPECT_EQ(ValidUtf8Prefix(bad), 0U);
  }
}

}  // namespace
}  // namespace spillway::client
