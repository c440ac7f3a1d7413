#include "engine/device/cpu/thread_team.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "engine/device/cpu/kernels.h"

namespace spillway::device {
namespace {

constexpr int64_t kPanelStrips = kPanelColumns / kStripColumns;

TEST(ThreadTeamTest, EveryThreadDoesEveryJobOnce) {
  for (int32_t threads : {1, 2, 3, 7}) {
    ThreadTeam team(threads, /*openmp=*/false);
    std::vector<int> counts(static_cast<size_t>(threads), 0);
    for (int job = 0; job < 500; ++job) {
      team.Run([&](int32_t thread) { ++counts[static_cast<size_t>(thread)]; });
      // Run returns when all are done: without that, this read would race.
      for (int count : counts) ASSERT_EQ(count, job + 1) << threads << " threads";
    }
  }
}

TEST(ThreadTeamTest, ATeamThatOpenMpMakesSmallerDoesEveryPart) {
  const int levels = omp_get_max_active_levels();
  omp_set_max_active_levels(0);  // a team is one thread, as with OMP_THREAD_LIMIT=1
  ThreadTeam team(3, /*openmp=*/true);
  std::vector<int> counts(3, 0);
  team.Run([&](int32_t thread) { ++counts[static_cast<size_t>(thread)]; });
  omp_set_max_active_levels(levels);
  EXPECT_EQ(counts, std::vector<int>(3, 1));
}

TEST(ThreadTeamTest, RangesAndTasksCoverAllIndicesOnce) {
  ThreadTeam team(3, /*openmp=*/false);
  for (bool parallel : {false, true}) {
    for (int64_t n : {0, 1, 2, 3, 100}) {
      std::vector<int> ranges(static_cast<size_t>(n), 0);
      team.Ranges(parallel, n, [&](int64_t begin, int64_t end, int32_t) {
        for (int64_t i = begin; i < end; ++i) ++ranges[static_cast<size_t>(i)];
      });
      std::vector<int> tasks(static_cast<size_t>(n), 0);
      team.Tasks(parallel, n, [&](const auto& take, int32_t) {
        for (int64_t i = take(); i < n; i = take()) ++tasks[static_cast<size_t>(i)];
      });
      EXPECT_EQ(ranges, std::vector<int>(static_cast<size_t>(n), 1));
      EXPECT_EQ(tasks, std::vector<int>(static_cast<size_t>(n), 1));
    }
  }
}

TEST(ThreadTeamTest, FetchingAheadStaysWithinThePanelsAndOutlivesTheirLastJob) {
  const std::vector<uint8_t> panels(5 * 4096, 1);
  ThreadTeam team(4, /*openmp=*/false);
  for (int job = 0; job < 100; ++job) team.Run([](int32_t) {}, {panels.data(), 5, 4096});
}

TEST(StripQueueTest, OneThreadTakesAllStripsInOrderAPanelAtATime) {
  StripQueue queue(1);
  queue.Reset(2 * kPanelStrips + 1);
  int64_t next = 0;
  for (StripQueue::Strips some = queue.Take(0); some.begin < some.end; some = queue.Take(0)) {
    EXPECT_EQ(some.begin, next);
    EXPECT_LE(some.end - some.begin, kPanelStrips);
    next = some.end;
  }
  EXPECT_EQ(next, 2 * kPanelStrips + 1);
}

TEST(StripQueueTest, EveryStripIsTakenOnceWhoeverIsFast) {
  for (int32_t threads : {1, 2, 3, 5}) {
    for (int64_t strips : {0, 1, 3, 4, 5, 36, 37, 200}) {
      StripQueue queue(threads);
      queue.Reset(strips);
      std::vector<int> taken(static_cast<size_t>(strips), 0);
      // Only the last thread works: it must find what belonged to the others.
      const int32_t worker = threads - 1;
      for (StripQueue::Strips some = queue.Take(worker); some.begin < some.end; some = queue.Take(worker)) {
        EXPECT_EQ(some.begin / kPanelStrips, (some.end - 1) / kPanelStrips) << "a run crosses panels";
        for (int64_t i = some.begin; i < some.end; ++i) ++taken[static_cast<size_t>(i)];
      }
      EXPECT_EQ(taken, std::vector<int>(static_cast<size_t>(strips), 1)) << threads << " threads";
    }
  }
}

TEST(StripQueueTest, ThreadsTogetherTakeEveryStripOnce) {
  constexpr int64_t kStrips = 1003;
  ThreadTeam team(4, /*openmp=*/false);
  StripQueue queue(4);
  for (int round = 0; round < 50; ++round) {
    std::vector<std::atomic<int>> taken(kStrips);
    queue.Reset(kStrips);
    team.Run([&](int32_t thread) {
      for (StripQueue::Strips some = queue.Take(thread); some.begin < some.end; some = queue.Take(thread)) {
        for (int64_t i = some.begin; i < some.end; ++i) taken[static_cast<size_t>(i)].fetch_add(1);
      }
    });
    EXPECT_TRUE(std::all_of(taken.begin(), taken.end(), [](const auto& n) { return n == 1; }));
  }
}

}  // namespace
}  // namespace spillway::device
