#include "scheduler/plan_modes.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace spillway::scheduler {
namespace {

using exec::SplitMode;
using ::testing::HasSubstr;

std::string ErrorOf(const char* split, const char* residency = "auto", const char* schedule = "auto") {
  return std::string(ParsePlanModes(split, residency, schedule).status().message());
}

TEST(PlanModes, AreParsedAsTheyAreWritten) {
  const auto plain = ParsePlanModes("auto", "auto", "auto");
  ASSERT_TRUE(plain.ok());
  EXPECT_EQ(plain->split, SplitMode::kAuto);
  EXPECT_EQ(plain->residency, ResidencyMode::kAuto);
  EXPECT_FALSE(plain->schedule.has_value());
  for (const char* text : {"auto", "serial", "transfer", "rebuild", "fixed:0.25"}) {
    const auto modes = ParsePlanModes(text, "auto", "row");
    ASSERT_TRUE(modes.ok()) << modes.status();
    EXPECT_EQ(SplitText(*modes), text);
  }
  for (const char* text : {"auto", "off", "fixed:0", "fixed:1"}) {
    const auto modes = ParsePlanModes("auto", text, "column");
    ASSERT_TRUE(modes.ok()) << modes.status();
    EXPECT_EQ(ResidencyText(*modes), text);
  }
}

TEST(PlanModes, AFractionOutsideOfItsRangeIsRefusedWithFlagAndRange) {
  for (const char* number : {"1.01", "-0.1", "nan", "inf", "", "half", "0.5x", "1e300"}) {
    const std::string split = std::string("fixed:") + number;
    EXPECT_THAT(ErrorOf(split.c_str()), HasSubstr("--split=" + split + ": the fraction must lie in 0..1"));
    EXPECT_THAT(ErrorOf("auto", split.c_str()),
                HasSubstr("--residency=" + split + ": the fraction must lie in 0..1"));
  }
}

TEST(PlanModes, UnknownWordsAreRefusedWithWhatIsAllowed) {
  EXPECT_THAT(ErrorOf("fast"), HasSubstr("--split=fast: use auto, serial, transfer, rebuild or fixed:F"));
  EXPECT_THAT(ErrorOf("auto", "on"), HasSubstr("--residency=on: use auto, off or fixed:F"));
  EXPECT_THAT(ErrorOf("auto", "auto", "diagonal"), HasSubstr("--schedule=diagonal: use auto, row or column"));
}

TEST(PlanModes, AModeThatCannotServeTheModelIsRefused) {
  const ServedCache multi_head{16384, 8192, /*has_link=*/true, /*has_profile=*/true};
  const ServedCache grouped{4096, 8192, /*has_link=*/true, /*has_profile=*/true};
  for (const char* split : {"auto", "serial", "transfer", "fixed:0"}) {
    EXPECT_TRUE(CheckPlanModes(*ParsePlanModes(split, "off", "row"), grouped).ok()) << split;
  }
  for (const char* split : {"rebuild", "fixed:0.3"}) {
    const auto modes = *ParsePlanModes(split, "auto", "auto");
    EXPECT_TRUE(CheckPlanModes(modes, multi_head).ok()) << split;
    EXPECT_THAT(std::string(CheckPlanModes(modes, grouped).message()),
                HasSubstr(std::string("--split=") + split));
  }
  const PlanModes column = *ParsePlanModes("auto", "auto", "column");
  EXPECT_TRUE(CheckPlanModes(column, multi_head).ok());
  ServedCache in_place = multi_head;
  in_place.has_link = false;
  EXPECT_THAT(std::string(CheckPlanModes(column, in_place).message()), HasSubstr("--schedule=row"));
}

TEST(PlanModes, WithoutAProfileThereIsOnlyTransfer) {
  const ServedCache unknown{16384, 8192, /*has_link=*/true, /*has_profile=*/false};
  EXPECT_TRUE(CheckPlanModes(*ParsePlanModes("auto", "off", "row"), unknown).ok());
  EXPECT_TRUE(CheckPlanModes(*ParsePlanModes("transfer", "auto", "row"), unknown).ok());
  EXPECT_THAT(std::string(CheckPlanModes(*ParsePlanModes("rebuild", "auto", "row"), unknown).message()),
              HasSubstr("--split=rebuild: steps are planned with a profile; give one with --profile"));
}

TEST(PlanModes, WithoutALinkThereIsNothingToChoose) {
  const ServedCache in_place{16384, 8192, /*has_link=*/false, /*has_profile=*/false};
  EXPECT_TRUE(CheckPlanModes(*ParsePlanModes("auto", "auto", "row"), in_place).ok());
  EXPECT_THAT(std::string(CheckPlanModes(*ParsePlanModes("transfer", "auto", "auto"), in_place).message()),
              HasSubstr("--split=transfer: this device reads the cache where it lies"));
  EXPECT_THAT(std::string(CheckPlanModes(*ParsePlanModes("auto", "off", "auto"), in_place).message()),
              HasSubstr("--residency=off: "));
}

}  // namespace
}  // namespace spillway::scheduler
