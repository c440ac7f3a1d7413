#include "engine/text/utf8.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace spillway::text {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";

std::string Repair(absl::string_view bytes) {
  Utf8Repairer repairer;
  std::string text;
  repairer.Append(bytes, text);
  repairer.Flush(text);
  return text;
}

TEST(Utf8Test, EveryCodePointSurvivesARoundTrip) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    AppendUtf8(c, text);
    const Utf8Step step = NextUtf8(text);
    ASSERT_EQ(step.kind, Utf8Step::Kind::kCharacter) << static_cast<uint32_t>(c);
    ASSERT_TRUE(step.code_point == c);
    ASSERT_EQ(static_cast<size_t>(step.bytes), text.size());
  }
}

TEST(Utf8Test, FirstBadByteIsFound) {
  EXPECT_EQ(FindInvalidUtf8(""), std::nullopt);
  EXPECT_EQ(FindInvalidUtf8("plain ASCII text, longer than eight bytes"), std::nullopt);
  EXPECT_EQ(FindInvalidUtf8("h\xC3\xA9llo \xF0\x9F\x98\x80"), std::nullopt);
  EXPECT_EQ(FindInvalidUtf8("abcdefghij\xFFxyz"), 10u);
  EXPECT_EQ(FindInvalidUtf8("ab\xE2\x82"), 2u);          // ends within a character
  EXPECT_EQ(FindInvalidUtf8("ab\xC0\x80"), 2u);          // overlong
  EXPECT_EQ(FindInvalidUtf8("ab\xE0\x9F\xBF"), 2u);      // overlong
  EXPECT_EQ(FindInvalidUtf8("ab\xED\xA0\x80"), 2u);      // surrogate
  EXPECT_EQ(FindInvalidUtf8("ab\xF4\x90\x80\x80"), 2u);  // past U+10FFFF
  EXPECT_EQ(FindInvalidUtf8("ab\x80"), 2u);              // continuation without a lead
}

TEST(Utf8RepairerTest, MaximalSubpartsBecomeOneReplacementEach) {
  // Unicode 15, table 3-8.
  EXPECT_EQ(Repair("\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64"),
            std::string("a") + kReplacement + kReplacement + kReplacement + "b" + kReplacement + "c" +
                kReplacement + kReplacement + "d");
  EXPECT_EQ(Repair("\xE2\x82"), kReplacement);
  EXPECT_EQ(Repair("\xED\xA0\x80"), std::string(kReplacement) + kReplacement + kReplacement);
}

TEST(Utf8RepairerTest, CuttingTheStreamAnywhereChangesNothing) {
  std::mt19937 random(7);
  for (int round = 0; round < 5000; ++round) {
    std::string bytes;
    for (int i = static_cast<int>(random() % 12); i >= 0; --i) {
      // Mostly leads and continuations, so that characters form, break off and are cut short.
      constexpr unsigned char kBytes[] = {'a',  0x80, 0x9F, 0xA0, 0xBF, 0xC3,
                                          0xE0, 0xE2, 0xED, 0xF0, 0xF4, 0xFF};
      bytes.push_back(static_cast<char>(kBytes[random() % sizeof(kBytes)]));
    }
    Utf8Repairer repairer;
    std::string text;
    for (size_t i = 0; i < bytes.size();) {
      const size_t n = std::min<size_t>(1 + random() % 3, bytes.size() - i);
      repairer.Append(absl::string_view(bytes).substr(i, n), text);
      ASSERT_EQ(FindInvalidUtf8(text), std::nullopt);
      i += n;
    }
    repairer.Flush(text);
    ASSERT_EQ(text, Repair(bytes));
  }
}

}  // namespace
}  // namespace spillway::text
