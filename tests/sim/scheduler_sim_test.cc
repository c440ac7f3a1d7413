#include "tests/sim/scheduler_sim.h"

#include <cstdlib>
#include <iostream>

#include "gtest/gtest.h"

namespace spillway::scheduler {
namespace {

int64_t FromEnvironment(const char* name, int64_t otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::strtoll(value, nullptr, 10);
}

// SPILLWAY_SIM_SEED=n replays one run, SPILLWAY_SIM_SEEDS=n makes so many.
TEST(SchedulerSimTest, EveryRequestEndsOnceAndWithItsOwnTokens) {
  const int64_t one = FromEnvironment("SPILLWAY_SIM_SEED", -1);
  const int64_t first = one >= 0 ? one : 1;
  const int64_t last = one >= 0 ? one : FromEnvironment("SPILLWAY_SIM_SEEDS", 300);
  SimResult total;
  for (int64_t seed = first; seed <= last; ++seed) {
    const SimResult result = Simulate(static_cast<uint64_t>(seed));
    for (size_t i = 0; i < result.faults.size() && i < 10; ++i) {
      ADD_FAILURE() << "SPILLWAY_SIM_SEED=" << seed << ": " << result.faults[i];
    }
    total.steps += result.steps;
    total.accepted += result.accepted;
    total.ended_well += result.ended_well;
    total.preemptions += result.preemptions;
    total.forms_dropped += result.forms_dropped;
    total.prefix_hit_tokens += result.prefix_hit_tokens;
    total.tokens += result.tokens;
    total.slow_readers += result.slow_readers;
    total.engine_failures += result.engine_failures;
  }
  std::cout << "seeds " << first << " to " << last << ": " << total.steps << " steps, " << total.accepted
            << " requests, " << total.ended_well << " ended well, " << total.tokens << " tokens, "
            << total.preemptions << " preemptions, " << total.forms_dropped << " forms dropped, "
            << total.prefix_hit_tokens << " tokens found cached, " << total.slow_readers << " slow readers, "
            << total.engine_failures << " engines failed\n";
  if (one >= 0) return;
  // The weather must have been bad enough to show anything.
  EXPECT_GT(total.preemptions, last);
  EXPECT_GT(total.forms_dropped, last);
  EXPECT_GT(total.prefix_hit_tokens, last);
  EXPECT_GT(total.ended_well, total.accepted / 4);
  EXPECT_GT(total.slow_readers, 0);
}

TEST(SchedulerSimTest, TheSameSeedGivesTheSameRun) {
  const SimResult a = Simulate(12345), b = Simulate(12345);
  EXPECT_EQ(a.steps, b.steps);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.preemptions, b.preemptions);
  EXPECT_EQ(a.prefix_hit_tokens, b.prefix_hit_tokens);
}

}  // namespace
}  // namespace spillway::scheduler
