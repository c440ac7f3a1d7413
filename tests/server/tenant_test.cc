#include "server/tenant.h"

#include <utility>
#include <vector>

#include "base/reason.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace spillway::server {
namespace {

constexpr MonotonicNs kBegin_ns = 5 * kNsPerSecond;

std::string MetadataAt(const absl::Status& status, const std::string& name) {
  for (const auto& [key, value] : MetadataOf(status)) {
    if (key == name) return value;
  }
  return "";
}

TEST(Tenant, AsManyRunAsMayAndAPlaceComesBackOnce) {
  const auto tenant = std::make_shared<Tenant>("acme", TenantLimits{.max_concurrent_requests = 2});
  auto a = tenant->Enter();
  auto b = tenant->Enter();
  ASSERT_TRUE(a.ok() && b.ok());
  const auto refused = tenant->Enter();
  EXPECT_EQ(ReasonOf(refused.status()), Reason::kTenantRequests);
  EXPECT_EQ(MetadataAt(refused.status(), "limit"), "2");
  Tenant::Place moved = *std::move(a);
  *a = Tenant::Place();
  EXPECT_EQ(tenant->running(), 2) << "the place went with the move";
  moved = Tenant::Place();
  EXPECT_EQ(tenant->running(), 1);
  EXPECT_TRUE(tenant->Enter().ok());
}

TEST(Tenant, WithoutLimitsNothingIsRefused) {
  const auto tenant = std::make_shared<Tenant>("acme", TenantLimits());
  std::vector<Tenant::Place> places;
  for (int i = 0; i < 1000; ++i) {
    auto place = tenant->Enter();
    ASSERT_TRUE(place.ok());
    places.push_back(*std::move(place));
    ASSERT_TRUE(tenant->Spend(1'000'000, kBegin_ns).ok());
    tenant->Pay(1'000'000, kBegin_ns);
  }
}

TEST(Tenant, AMinutesTokensComeBackEvenly) {
  const auto tenant = std::make_shared<Tenant>("acme", TenantLimits{.tokens_per_minute = 600});
  EXPECT_TRUE(tenant->Spend(600, kBegin_ns).ok()) << "a minute's at once";
  const absl::Status refused = tenant->Spend(100, kBegin_ns);
  EXPECT_EQ(ReasonOf(refused), Reason::kTenantTokens);
  EXPECT_EQ(MetadataAt(refused, "retry_after_ms"), "10000") << "10 tokens a second";
  EXPECT_FALSE(tenant->Spend(100, kBegin_ns + 9 * kNsPerSecond).ok());
  EXPECT_TRUE(tenant->Spend(100, kBegin_ns + 10 * kNsPerSecond).ok());
  EXPECT_FALSE(tenant->Spend(601, kBegin_ns + 69 * kNsPerSecond).ok()) << "a whole minute's is asked for it";
  // However long nothing comes, no more than a minute's is left.
  EXPECT_TRUE(tenant->Spend(600, kBegin_ns + 3600 * kNsPerSecond).ok());
  EXPECT_FALSE(tenant->Spend(1, kBegin_ns + 3600 * kNsPerSecond).ok());
}

TEST(Tenant, AnswersArePaidAfterwardsAndDebtsWaitedOut) {
  const auto tenant = std::make_shared<Tenant>("acme", TenantLimits{.tokens_per_minute = 60});
  EXPECT_TRUE(tenant->Spend(10, kBegin_ns).ok());
  tenant->Pay(80, kBegin_ns);  // 30 in debt
  const absl::Status refused = tenant->Spend(1, kBegin_ns);
  EXPECT_EQ(MetadataAt(refused, "retry_after_ms"), "31000");
  EXPECT_TRUE(tenant->Spend(1, kBegin_ns + 31 * kNsPerSecond).ok());
}

TEST(Tenant, APromptLargerThanAMinuteIsServedWhenNothingElseWas) {
  const auto tenant = std::make_shared<Tenant>("acme", TenantLimits{.tokens_per_minute = 60});
  EXPECT_TRUE(tenant->Spend(180, kBegin_ns).ok());
  EXPECT_FALSE(tenant->Spend(180, kBegin_ns + 170 * kNsPerSecond).ok());
  EXPECT_TRUE(tenant->Spend(180, kBegin_ns + 181 * kNsPerSecond).ok());
}

TEST(Tenant, WhatARefusedRequestHadPaidComesBack) {
  const auto tenant = std::make_shared<Tenant>("acme", TenantLimits{.tokens_per_minute = 60});
  EXPECT_TRUE(tenant->Spend(60, kBegin_ns).ok());
  tenant->GiveBack(60);
  EXPECT_TRUE(tenant->Spend(60, kBegin_ns).ok());
}

TEST(Tenant, ALowerLimitIsWaitedForAtItsOwnScale) {
  const auto tenant = std::make_shared<Tenant>("acme", TenantLimits{.tokens_per_minute = 6000});
  EXPECT_TRUE(tenant->Spend(6000, kBegin_ns).ok());
  tenant->SetLimits({.tokens_per_minute = 60}, kBegin_ns);
  EXPECT_EQ(MetadataAt(tenant->Spend(30, kBegin_ns), "retry_after_ms"), "30000");
  EXPECT_TRUE(tenant->Spend(30, kBegin_ns + 30 * kNsPerSecond).ok());
}

TEST(Tenant, WhatCameBackBeforeNewLimitsCameBackAtTheOldRate) {
  const auto tenant = std::make_shared<Tenant>("acme", TenantLimits{.tokens_per_minute = 6000});
  EXPECT_TRUE(tenant->Spend(6000, kBegin_ns).ok());
  const MonotonicNs change_ns = kBegin_ns + 30 * kNsPerSecond;  // half of a minute's are back
  tenant->SetLimits({.tokens_per_minute = 60}, change_ns);
  EXPECT_FALSE(tenant->Spend(31, change_ns).ok());
  EXPECT_TRUE(tenant->Spend(30, change_ns).ok());
  tenant->SetLimits({.tokens_per_minute = 600}, change_ns + 15 * kNsPerSecond);
  EXPECT_FALSE(tenant->Spend(151, change_ns + 15 * kNsPerSecond).ok());
  EXPECT_TRUE(tenant->Spend(150, change_ns + 15 * kNsPerSecond).ok());
}

TEST(Tenant, ADebtOfManyMinutesIsOneOfNewLimits) {
  const auto tenant = std::make_shared<Tenant>("acme", TenantLimits{.tokens_per_minute = 600});
  tenant->Pay(60'000, kBegin_ns);
  tenant->SetLimits({.tokens_per_minute = 60}, kBegin_ns);
  EXPECT_EQ(MetadataAt(tenant->Spend(1, kBegin_ns), "retry_after_ms"), "61000");
}

TEST(Tenant, NewLimitsKeepWhatWasSpent) {
  const auto tenant = std::make_shared<Tenant>("acme", TenantLimits{.tokens_per_minute = 60});
  EXPECT_TRUE(tenant->Spend(60, kBegin_ns).ok());
  tenant->SetLimits({.tokens_per_minute = 60}, kBegin_ns);
  EXPECT_FALSE(tenant->Spend(1, kBegin_ns).ok());
  tenant->SetLimits({.tokens_per_minute = 120}, kBegin_ns);
  EXPECT_FALSE(tenant->Spend(1, kBegin_ns).ok()) << "a part of nothing is nothing";
  EXPECT_TRUE(tenant->Spend(2, kBegin_ns + kNsPerSecond).ok());
}

TEST(Tenant, NewLimitsOfOneThatHasSpentNothingAreWhole) {
  const auto tenant = std::make_shared<Tenant>("acme", TenantLimits{.tokens_per_minute = 60});
  tenant->SetLimits({.tokens_per_minute = 6000}, kBegin_ns);
  EXPECT_TRUE(tenant->Spend(6000, kBegin_ns).ok());
  EXPECT_FALSE(tenant->Spend(1, kBegin_ns).ok());
}

TEST(Tenant, ALimitThatIsTakenAwayIsForgotten) {
  const auto tenant = std::make_shared<Tenant>("acme", TenantLimits{.tokens_per_minute = 60});
  tenant->Pay(6000, kBegin_ns);
  tenant->SetLimits({.max_concurrent_requests = 1}, kBegin_ns);
  EXPECT_TRUE(tenant->Spend(1'000'000, kBegin_ns).ok());
  const auto place = tenant->Enter();
  EXPECT_FALSE(tenant->Enter().ok());
  tenant->SetLimits({.tokens_per_minute = 100}, kBegin_ns);
  EXPECT_TRUE(tenant->Spend(100, kBegin_ns).ok());
  EXPECT_FALSE(tenant->Spend(1, kBegin_ns).ok());
}

}  // namespace
}  // namespace spillway::server
