#include "scheduler/prefill_policy.h"

#include <map>
#include <vector>

#include "gtest/gtest.h"

namespace spillway::scheduler {
namespace {

PrefillCandidate Candidate(uint64_t number, int64_t rows_left, bool has_item = true, int32_t priority = 0) {
  PrefillCandidate candidate;
  candidate.priority = priority;
  candidate.number = number;
  candidate.rows_left = rows_left;
  candidate.due_ns = PrefillPolicy::DueNs(0, static_cast<double>(rows_left));
  candidate.has_item = has_item;
  candidate.is_long = rows_left > 100;
  candidate.visit_ns = static_cast<double>(std::min<int64_t>(rows_left, 100));
  return candidate;
}

TEST(PrefillPolicyTest, ShortestGoesFirst) {
  PrefillPolicy policy;
  EXPECT_EQ(policy.Choose({Candidate(1, 5000), Candidate(2, 40), Candidate(3, 60)}, 1).index, 1);
}

TEST(PrefillPolicyTest, ALongOneThatWaitedLongInProportionGoesBeforeShorterOnes) {
  PrefillPolicy policy;
  const auto at = [](uint64_t number, int64_t rows_left, double arrival_ns) {
    PrefillCandidate candidate = Candidate(number, rows_left);
    candidate.due_ns = PrefillPolicy::DueNs(arrival_ns, static_cast<double>(rows_left));
    return candidate;
  };
  // The first is the oldest, which has its own share; of the others the second came long before the third.
  const double patience_ns = PrefillPolicy::kPatience * (500 - 40);
  EXPECT_EQ(policy.Choose({at(1, 9000, 0), at(2, 500, 0), at(3, 40, patience_ns - 1)}, 1).index, 2);
  EXPECT_EQ(policy.Choose({at(1, 9000, 0), at(2, 500, 0), at(3, 40, patience_ns + 1)}, 1).index, 1);
}

TEST(PrefillPolicyTest, AmongEqualsTheOlderGoesFirst) {
  PrefillPolicy policy;
  EXPECT_EQ(policy.Choose({Candidate(7, 40), Candidate(2, 40)}, 1).index, 1);
}

TEST(PrefillPolicyTest, PriorityGoesBeforeLength) {
  PrefillPolicy policy;
  EXPECT_EQ(policy.Choose({Candidate(1, 10), Candidate(2, 5000, true, 1)}, 1).index, 1);
}

TEST(PrefillPolicyTest, OldestHasAQuarterOfTheTimeWhateverArrives) {
  PrefillPolicy policy;
  std::map<bool, double> time_ns;
  for (int i = 0; i < 4000; ++i) {
    // New short ones without end; a visit of the long one costs as much as ten of theirs.
    const PrefillPolicy::Choice choice =
        policy.Choose({Candidate(1, 100'000), Candidate(10 + static_cast<uint64_t>(i) / 3, 10)}, 1);
    policy.OnVisited(choice);
    time_ns[choice.is_oldest] += choice.visit_ns;
  }
  EXPECT_NEAR(time_ns[true] / (time_ns[true] + time_ns[false]), 0.25, 0.01);
}

TEST(PrefillPolicyTest, CreditDoesNotGrowWithoutBound) {
  PrefillPolicy policy;
  // The oldest cannot start: no item is free, and many visits go to others.
  for (int i = 0; i < 1000; ++i) {
    const auto choice = policy.Choose({Candidate(1, 100'000, false), Candidate(2, 10)}, 0);
    EXPECT_EQ(choice.index, 1);
    policy.OnVisited(choice);
  }
  int in_a_row = 0;
  while (true) {
    const auto choice = policy.Choose({Candidate(1, 100'000), Candidate(2, 10)}, 0);
    if (!choice.is_oldest) break;
    policy.OnVisited(choice);
    ++in_a_row;
  }
  EXPECT_LE(in_a_row, 3);
}

TEST(PrefillPolicyTest, OldestThatHadMoreThanItsShareLetsOthersPassForAWhile) {
  PrefillPolicy policy;
  for (int i = 0; i < 1000; ++i) policy.OnVisited(policy.Choose({Candidate(1, 100'000)}, 3));
  double others_ns = 0;
  while (true) {
    const auto choice = policy.Choose({Candidate(1, 100'000), Candidate(2, 10)}, 3);
    if (choice.is_oldest) break;
    policy.OnVisited(choice);
    others_ns += choice.visit_ns;
  }
  // Sixteen of its visits and one that comes due, at a quarter of the time; not the thousand that it had.
  EXPECT_NEAR(others_ns, 4 * (16 + 0.75) * 100, 20);
}

TEST(PrefillPolicyTest, LongOnesLeaveAnItemForShortOnes) {
  PrefillPolicy policy;
  // One free item; the oldest runs already. A long one may not take the last item, a short one may.
  EXPECT_EQ(policy.Choose({Candidate(1, 900), Candidate(2, 300, false)}, 1).index, 0);
  EXPECT_EQ(policy.Choose({Candidate(1, 900), Candidate(2, 300, false)}, 2).index, 1);
  EXPECT_EQ(policy.Choose({Candidate(1, 900), Candidate(2, 30, false)}, 1).index, 1);
}

TEST(PrefillPolicyTest, AnItemStaysFreeForTheOldest) {
  PrefillPolicy policy;
  // The oldest waits for an item; others may not take the last one, it may.
  EXPECT_EQ(policy.Choose({Candidate(1, 900, false), Candidate(2, 30, false)}, 1).index, 0);
  EXPECT_EQ(policy.Choose({Candidate(1, 900, false), Candidate(2, 30, false)}, 2).index, 1);
}

TEST(PrefillPolicyTest, LowerPriorityThatHoldsTheItemsIsFinishedFirst) {
  PrefillPolicy policy;
  const auto choice = policy.Choose(
      {Candidate(1, 900, true), Candidate(2, 300, true), Candidate(3, 50, false, /*priority=*/5)}, 0);
  EXPECT_EQ(choice.index, 1);
}

}  // namespace
}  // namespace spillway::scheduler
