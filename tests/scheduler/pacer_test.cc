#include "scheduler/pacer.h"

#include <gtest/gtest.h>

namespace spillway::scheduler {
namespace {

constexpr int32_t kChunkRows = 64;
constexpr int32_t kPieceRows = 128;
constexpr int32_t kLayers = 4;
constexpr double kGapMs = 10;

exec::StepStats Stats(int32_t rows, double visit_ns) {
  exec::StepStats stats;
  stats.rows = rows;
  stats.visits = (rows + kChunkRows - 1) / kChunkRows * kLayers;
  stats.lanes[static_cast<size_t>(exec::Lane::kCompute)].busy_ns =
      static_cast<int64_t>(visit_ns * stats.visits);
  return stats;
}

class PacerTest : public ::testing::Test {
 protected:
  Pacer pacer_{kGapMs, kChunkRows, kPieceRows, kLayers};
};

TEST_F(PacerTest, PrefillHasOneVisitBetweenPassesAtLeast) {
  pacer_.OnDecodePass(2 * kNsPerMs);
  EXPECT_FALSE(pacer_.DecodeIsDue(1000 * kNsPerMs, 0, 1e6));
  pacer_.OnPrefillVisit(1e6);
  EXPECT_TRUE(pacer_.DecodeIsDue(1000 * kNsPerMs, 0, 1e6));
}

TEST_F(PacerTest, PassBeginsWhenItCouldJustEndWithinTheGap) {
  pacer_.OnDecodePass(2 * kNsPerMs);
  pacer_.OnPrefillVisit(1e6);
  // 10 ms from the last token: a visit of 1 ms and a pass of 2 ms fit until 7 ms.
  EXPECT_FALSE(pacer_.DecodeIsDue(7 * kNsPerMs, 0, 1e6));
  EXPECT_TRUE(pacer_.DecodeIsDue(7 * kNsPerMs + 1, 0, 1e6));
}

TEST_F(PacerTest, GapThatCannotBeKeptLeavesPrefillAFifth) {
  pacer_.OnDecodePass(40 * kNsPerMs);
  for (int visits = 1; visits < 10; ++visits) {
    pacer_.OnPrefillVisit(1e6);
    EXPECT_FALSE(pacer_.DecodeIsDue(1000 * kNsPerMs, 0, 1e6)) << visits;
  }
  pacer_.OnPrefillVisit(1e6);
  EXPECT_TRUE(pacer_.DecodeIsDue(1000 * kNsPerMs, 0, 1e6));
}

TEST_F(PacerTest, VisitsAreEstimatedFromTheirLikes) {
  EXPECT_EQ(pacer_.VisitNs(64), 1) << "nothing measured";
  pacer_.OnPrefillFinished(Stats(64, 6400), 0);
  EXPECT_EQ(pacer_.VisitNs(64), 6400);
  EXPECT_EQ(pacer_.VisitNs(200), 6400) << "a visit computes a chunk";
  EXPECT_EQ(pacer_.VisitNs(3), 6400) << "a larger one bounds it";
  pacer_.OnPrefillFinished(Stats(3, 500), 0);
  EXPECT_EQ(pacer_.VisitNs(3), 500);
  EXPECT_EQ(pacer_.VisitNs(64), 6400);
}

TEST_F(PacerTest, SmallerVisitsBoundLargerOnesByTheirRows) {
  pacer_.OnPrefillFinished(Stats(16, 1600), 0);
  EXPECT_EQ(pacer_.VisitNs(64), 6400);
}

TEST_F(PacerTest, PiecesShrinkAsTheirContextGrows) {
  EXPECT_EQ(pacer_.PieceRows(0, false), kPieceRows) << "nothing measured";
  pacer_.OnPrefillFinished(Stats(kPieceRows, 64'000), 0);
  EXPECT_EQ(pacer_.PieceRows(1000, false), kPieceRows) << "like the first chunk";
  EXPECT_EQ(pacer_.PieceRows(2000, false), kPieceRows) << "twice as dear still is a full visit";
  EXPECT_EQ(pacer_.PieceRows(4000, false), 32);
  EXPECT_EQ(pacer_.PieceRows(1e9, false), 16) << "never so small that weights are all the cost";
}

TEST_F(PacerTest, PiecesLetWaitingStreamsKeepTheirGap) {
  pacer_.OnPrefillFinished(Stats(64, 6.4e6), 0);
  pacer_.OnDecodePass(4 * kNsPerMs);
  EXPECT_EQ(pacer_.PieceRows(1e5, false), kPieceRows);
  // Half of the 6 ms that are left, at 0.1 ms a row.
  EXPECT_EQ(pacer_.PieceRows(1e5, true), 30);
}

TEST_F(PacerTest, HeadIsNotPartOfARowsCost) {
  exec::StepStats stats = Stats(64, 6400);
  stats.head_ns = 1000;
  stats.lanes[static_cast<size_t>(exec::Lane::kCompute)].busy_ns += 1000;
  EXPECT_EQ(pacer_.RowNs(stats), 100);
}

}  // namespace
}  // namespace spillway::scheduler
