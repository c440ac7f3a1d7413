#include "base/reason.h"

#include <set>
#include <string>

#include "gtest/gtest.h"

namespace spillway {
namespace {

TEST(Reason, TableIsCompleteAndNamesAreUnique) {
  std::set<std::string> names;
  for (const ReasonInfo& info : AllReasons()) {
    EXPECT_TRUE(names.insert(std::string(info.name)).second) << info.name;
    EXPECT_FALSE(info.meaning.empty()) << info.name;
    EXPECT_FALSE(info.remedy.empty()) << info.name;
    EXPECT_NE(info.code, absl::StatusCode::kOk) << info.name;
    EXPECT_EQ(&InfoOf(info.reason), &info);
  }
  EXPECT_EQ(names.size(), static_cast<size_t>(kReasons - 1));
}

TEST(Reason, SurvivesTheStatus) {
  const absl::Status status = MakeError(Reason::kQueueFull, "512 requests wait", {{"limit", "512"}});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ReasonOf(status), Reason::kQueueFull);
  EXPECT_EQ(MetadataOf(status), (ReasonMetadata{{"limit", "512"}}));
  EXPECT_TRUE(ViolationsOf(status).empty());
}

TEST(Reason, FieldErrorsKeepEveryViolation) {
  const absl::Status status = MakeFieldError({{"a", "too \"big\""}, {"b[1]", "bad \xff byte"}});
  EXPECT_EQ(ReasonOf(status), Reason::kInvalidField);
  const auto violations = ViolationsOf(status);
  ASSERT_EQ(violations.size(), 2);
  EXPECT_EQ(violations[0].description, "too \"big\"");
  EXPECT_EQ(violations[1].field, "b[1]");
}

TEST(Reason, FieldErrorsMayHaveAReasonOfTheirOwn) {
  const absl::Status status =
      MakeFieldError({{"prompt", "too long"}}, Reason::kPromptTooLong, {{"limit", "8191"}});
  EXPECT_EQ(ReasonOf(status), Reason::kPromptTooLong);
  EXPECT_EQ(MetadataOf(status), (ReasonMetadata{{"limit", "8191"}}));
  EXPECT_EQ(ViolationsOf(status).size(), 1);
}

TEST(Reason, OfTextsThatAClientSentOnlyTheBeginningIsKept) {
  const std::string endless(16 << 20, 'x');
  const absl::Status named = MakeError(Reason::kModelNotFound, endless, {{"value", endless}});
  EXPECT_EQ(ReasonOf(named), Reason::kModelNotFound);
  EXPECT_LT(named.message().size(), 8192U);
  EXPECT_LT(MetadataOf(named)[0].second.size(), 8192U);
  const absl::Status fields = MakeFieldError({{endless, endless}, {"other", endless}});
  EXPECT_LT(fields.message().size(), 32768U);
  ASSERT_EQ(ViolationsOf(fields).size(), 2U);
  EXPECT_LT(ViolationsOf(fields)[0].field.size(), 8192U);
}

TEST(Reason, ForeignErrorsAreInternal) {
  EXPECT_EQ(ReasonOf(absl::UnknownError("x")), Reason::kInternal);
  EXPECT_EQ(ReasonOf(absl::OkStatus()), Reason::kNone);
}

}  // namespace
}  // namespace spillway
