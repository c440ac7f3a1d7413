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

TEST(Tenant, NewLimitsKeepWhatWasSpent) {
  const auto tenant = std::make_shared<Tenant>("acme", TenantLimits{.tokens_per_minute = 60});
  EXPECT_TRUE(tenant->Spend(60, kBegin_ns).ok());
  tenant->SetLimits({.tokens_per_minute = 100});
  EXPECT_FALSE(tenant->Spend(41, kBegin_ns).ok());
  EXPECT_TRUE(tenant->Spend(40, kBegin_ns).ok());
  tenant->SetLimits({.max_concurrent_requests = 1});
  EXPECT_TRUE(tenant->Spend(1'000'000, kBegin_ns).ok());
  const auto place = tenant->Enter();
  EXPECT_FALSE(tenant->Enter().ok());
}

}  // namespace
}  // namespace spillway::server
