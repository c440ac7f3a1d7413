#include "client/flags.h"

#include <cmath>
#include <optional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace spillway::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct Targets {
  std::string name;
  std::optional<int32_t> count;
  std::vector<std::string> stops;
  double rate = 0;
  bool json = false;
  FlagDuration wait;
  int choice = -1;
};

FlagTable TableFor(Targets& targets) {
  FlagTable flags;
  flags.Section("All");
  flags.Add("name", &targets.name, "TEXT", "A name.");
  flags.Add("max_tokens", &targets.count, "N", "A count.");
  flags.Add("stop", &targets.stops, "TEXT", "A list.");
  flags.Add("rate", &targets.rate, "R", "A rate.");
  flags.AddSwitch("json", &targets.json, "A switch.");
  flags.Add("wait", &targets.wait, "TIME", "A time.");
  flags.AddChoice("objective", {"auto", "latency"}, "A choice.", [&](int index) { targets.choice = index; });
  return flags;
}

std::string ErrorOf(const std::vector<std::string>& args) {
  Targets targets;
  const auto parsed = TableFor(targets).Parse(args);
  return parsed.ok() ? "" : std::string(parsed.status().message());
}

TEST(FlagTableTest, ValuesAreTakenAfterAnEqualsSignOrAsTheNextArgument) {
  Targets targets;
  const auto parsed = TableFor(targets).Parse({"--name=a=b", "x", "--max_tokens", "-5", "--json", "y"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(targets.name, "a=b");
  EXPECT_EQ(targets.count, -5);
  EXPECT_TRUE(targets.json);
  EXPECT_THAT(parsed->positional, ElementsAre("x", "y"));
  EXPECT_FALSE(parsed->help);
}

TEST(FlagTableTest, AFlagThatIsNotGivenLeavesItsTarget) {
  Targets targets;
  ASSERT_TRUE(TableFor(targets).Parse({}).ok());
  EXPECT_FALSE(targets.count.has_value());
}

TEST(FlagTableTest, SwitchesCanBeNegated) {
  Targets targets;
  targets.json = true;
  ASSERT_TRUE(TableFor(targets).Parse({"--nojson"}).ok());
  EXPECT_FALSE(targets.json);
  ASSERT_TRUE(TableFor(targets).Parse({"--json=true"}).ok());
  EXPECT_TRUE(targets.json);
  EXPECT_THAT(ErrorOf({"--nojson=1"}), HasSubstr("takes no value"));
  EXPECT_THAT(ErrorOf({"--noname"}), HasSubstr("unknown flag --noname"));
}

TEST(FlagTableTest, ListsGrowAndOthersKeepTheLast) {
  Targets targets;
  ASSERT_TRUE(TableFor(targets).Parse({"--stop=a", "--stop=b", "--name=c", "--name=d"}).ok());
  EXPECT_THAT(targets.stops, ElementsAre("a", "b"));
  EXPECT_EQ(targets.name, "d");
}

TEST(FlagTableTest, TwoDashesEndTheFlags) {
  Targets targets;
  const auto parsed = TableFor(targets).Parse({"--json", "--", "--name", "-"});
  ASSERT_TRUE(parsed.ok());
  EXPECT_THAT(parsed->positional, ElementsAre("--name", "-"));
}

TEST(FlagTableTest, ASingleDashIsPositional) {
  Targets targets;
  const auto parsed = TableFor(targets).Parse({"-"});
  ASSERT_TRUE(parsed.ok());
  EXPECT_THAT(parsed->positional, ElementsAre("-"));
}

TEST(FlagTableTest, LeadingFlagsStopAtTheFirstWord) {
  Targets targets;
  const auto parsed = TableFor(targets).ParseLeading({"--name", "a", "complete", "--unknown"});
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(targets.name, "a");
  EXPECT_THAT(parsed->positional, ElementsAre("complete", "--unknown"));
}

TEST(FlagTableTest, UnknownFlagsAreRefusedWithTheNearestName) {
  EXPECT_EQ(ErrorOf({"--max_tokns=3"}), "unknown flag --max_tokns; did you mean --max_tokens?");
  EXPECT_EQ(ErrorOf({"--max-tokens=3"}), "unknown flag --max-tokens; did you mean --max_tokens?");
  EXPECT_EQ(ErrorOf({"--xylophone"}), "unknown flag --xylophone; see --help");
  EXPECT_THAT(ErrorOf({"-n"}), HasSubstr("unknown flag -n"));
}

TEST(FlagTableTest, BadValuesNameTheFlagAndWhatIsWanted) {
  EXPECT_EQ(ErrorOf({"--max_tokens=ten"}),
            "--max_tokens: \"ten\" is not a whole number from -2147483648 to 2147483647");
  EXPECT_THAT(ErrorOf({"--max_tokens=2147483648"}), HasSubstr("is not a whole number"));
  EXPECT_THAT(ErrorOf({"--max_tokens= 3"}), HasSubstr("is not a whole number"));
  EXPECT_THAT(ErrorOf({"--max_tokens="}), HasSubstr("is not a whole number"));
  EXPECT_THAT(ErrorOf({"--rate=fast"}), HasSubstr("--rate: \"fast\" is not a number"));
  EXPECT_THAT(ErrorOf({"--json=maybe"}), HasSubstr("is not true or false"));
  EXPECT_THAT(ErrorOf({"--objective=none"}), HasSubstr("is not one of auto, latency"));
  EXPECT_THAT(ErrorOf({"--name"}), HasSubstr("--name needs a value: --name=TEXT"));
}

TEST(FlagTableTest, ChoicesGiveTheirIndex) {
  Targets targets;
  ASSERT_TRUE(TableFor(targets).Parse({"--objective=latency"}).ok());
  EXPECT_EQ(targets.choice, 1);
}

TEST(FlagTableTest, HelpIsAskedForByNameOrLetterAndListsEveryFlag) {
  Targets targets;
  FlagTable flags = TableFor(targets);
  EXPECT_TRUE(flags.Parse({"--help"})->help);
  EXPECT_TRUE(flags.Parse({"-h"})->help);
  const std::string help = flags.Help();
  for (const char* wanted : {"All:", "--name=TEXT", "--[no]json", "--objective=auto|latency", "A time."}) {
    EXPECT_THAT(help, HasSubstr(wanted));
  }
}

TEST(FlagDurationTest, UnitsAndPlainSeconds) {
  const auto parse = [](absl::string_view text) {
    FlagDuration duration{-1};
    return ParseFlagValue(text, &duration).ok() ? duration.ms : -1;
  };
  EXPECT_EQ(parse("250ms"), 250);
  EXPECT_EQ(parse("30s"), 30'000);
  EXPECT_EQ(parse("1.5"), 1'500);
  EXPECT_EQ(parse("5m"), 300'000);
  EXPECT_EQ(parse("1h"), 3'600'000);
  EXPECT_EQ(parse("0"), 0);
  for (const char* bad : {"", "s", "-1s", "inf", "nan", "10 parsecs", "1e300h"}) {
    EXPECT_EQ(parse(bad), -1) << bad;
  }
}

TEST(NearestNameTest, FarNamesAreNotSuggested) {
  EXPECT_EQ(NearestName("compete", {"complete", "chat"}), "complete");
  EXPECT_EQ(NearestName("CHAT", {"complete", "chat"}), "chat");
  EXPECT_THAT(NearestName("zebra", {"complete", "chat"}), IsEmpty());
  EXPECT_THAT(NearestName("x", {}), IsEmpty());
}

}  // namespace
}  // namespace spillway::client
