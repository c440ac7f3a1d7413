#include "scheduler/plan_inputs.h"

#include <limits>
#include <string>

#include "gtest/gtest.h"

namespace spillway::scheduler {
namespace {

using profiler::CostCurve;
using profiler::MachineProfile;

CostCurve Linear(double per_unit_s) {
  return *profiler::FitConvex({{1, per_unit_s}, {100, 100 * per_unit_s}});
}

// A GPU on a 25 GB/s link with a 16-bit multi-head model of 32 layers.
MachineProfile MultiHead() {
  MachineProfile p;
  p.description = "made by hand";
  p.model = {"multi-head", 32, 4096, 32, 32, 128, 50000, 2, 32, 4e8, 13.4e9};
  p.copy_in = {25e9, 1e-5, Linear(1 / 25e9), Linear(1 / 25e9), {}};
  p.copy_out = p.copy_in;
  p.copy_both_bytes_per_s = 45e9;
  p.rebuild = Linear(2e-7);
  p.linear = Linear(2e-5);
  p.head = Linear(1e-4);
  p.attention = Linear(1e-8);
  p.host_memory_bytes_per_s = 150e9;
  p.device_memory_bytes = 24e9;
  p.host_memory_bytes = 256e9;
  return p;
}

const PlanAlternative& Find(const PlanExplanation& e, const std::string& name) {
  for (const PlanAlternative& alternative : e.alternatives) {
    if (alternative.name == name) return alternative;
  }
  ADD_FAILURE() << name;
  return e.alternatives.front();
}

TEST(ExplainPlan, WhatSpillwayDoesIsNoSlowerThanAnyAlternative) {
  for (const int sequences : {1, 8, 64}) {
    for (const int64_t context : {1000, 8000, 32000}) {
      PlanQuery query;
      query.sequences = sequences;
      query.context_tokens = context;
      query.host_pool_bytes = 1e14;
      const auto e = ExplainPlan(MultiHead(), query);
      ASSERT_TRUE(e.ok()) << e.status();
      for (const PlanAlternative& other : e->alternatives) {
        EXPECT_LE(e->alternatives.front().solution.step_s, other.solution.step_s * (1 + 1e-6)) << other.name;
      }
    }
  }
}

TEST(ExplainPlan, SharedPrefixIsCarriedOnce) {
  PlanQuery query;
  query.sequences = 16;
  query.context_tokens = 8000;
  query.host_pool_bytes = 1e14;
  const auto apart = ExplainPlan(MultiHead(), query);
  query.shared_tokens = 8000;
  const auto shared = ExplainPlan(MultiHead(), query);
  ASSERT_TRUE(apart.ok() && shared.ok());
  const std::string off = "transfer, residency off";
  EXPECT_NEAR(Find(*apart, off).solution.groups[0].carried_kv_tokens,
              16 * Find(*shared, off).solution.groups[0].carried_kv_tokens, 1);
}

TEST(ExplainPlan, MemoryTooSmallSaysHowMuchWouldDo) {
  PlanQuery query;
  query.device_memory_bytes = 8e9;
  const auto weights = ExplainPlan(MultiHead(), query);
  EXPECT_EQ(weights.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_NE(weights.status().message().find("13.5 GiB"), absl::string_view::npos) << weights.status();
  query.stream_weights = true;
  EXPECT_TRUE(ExplainPlan(MultiHead(), query).ok());
}

TEST(ExplainPlan, NoNumberCrashesIt) {
  const double numbers[] = {0, -1, 1e300, std::numeric_limits<double>::quiet_NaN(),
                            std::numeric_limits<double>::infinity()};
  for (const double number : numbers) {
    PlanQuery query;
    query.device_memory_bytes = number;
    (void)ExplainPlan(MultiHead(), query);
    query = PlanQuery{};
    query.host_pool_bytes = number;
    (void)ExplainPlan(MultiHead(), query);
    query = PlanQuery{};
    query.scratch_bytes = number;
    (void)ExplainPlan(MultiHead(), query);
  }
  PlanQuery query;
  query.context_tokens = std::numeric_limits<int64_t>::max();
  EXPECT_FALSE(ExplainPlan(MultiHead(), query).ok());
  query.context_tokens = 1000;
  query.shared_tokens = 1001;
  EXPECT_FALSE(ExplainPlan(MultiHead(), query).ok());
  query.shared_tokens = 0;
  query.sequences = 0;
  EXPECT_FALSE(ExplainPlan(MultiHead(), query).ok());
}

TEST(ExplainPlan, TheTextNamesWhatBinds) {
  PlanQuery query;
  query.sequences = 32;
  query.context_tokens = 8000;
  const auto e = ExplainPlan(MultiHead(), query);
  ASSERT_TRUE(e.ok()) << e.status();
  const std::string text = FormatExplanation(MultiHead(), *e);
  EXPECT_NE(text.find("<- binds"), std::string::npos);
  EXPECT_NE(text.find("transfer, residency off"), std::string::npos) << text;
}

}  // namespace
}  // namespace spillway::scheduler
