#include "engine/exec/step_tables.h"

#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace spillway::exec {
namespace {

using ::testing::ElementsAre;

constexpr int32_t kBlockTokens = 16;

ItemLimits Limits() {
  ItemLimits limits;
  limits.max_rows = 64;
  limits.max_segments = 8;
  limits.max_blocks = 64;
  limits.max_outputs = 8;
  limits.max_kept_logits = 64;
  return limits;
}

kv::Planes InPool(kv::BlockId block) { return {2 * block, 2 * block + 1, -1}; }

Segment MakeSegment(const std::vector<text::TokenId>& tokens, int32_t first_position,
                    const std::vector<kv::BlockId>& blocks, Output output = Output::kNone) {
  Segment segment;
  segment.tokens = tokens;
  segment.first_position = first_position;
  segment.blocks = blocks;
  segment.output = output;
  return segment;
}

TEST(ShapeWithoutCacheTest, CountsRowsReadsAndWhoseLogitsAreComputed) {
  const std::vector<text::TokenId> three = {1, 2, 3}, one = {4};
  const std::vector<kv::BlockId> blocks = {0, 1, 2};
  const BatchShape shape = ShapeWithoutCache(
      Phase::kPrefill,
      std::vector<Segment>{MakeSegment(three, 10, blocks), MakeSegment(three, 0, blocks, Output::kSample),
                           MakeSegment(one, 30, blocks, Output::kSample),
                           MakeSegment(three, 5, blocks, Output::kAllLogits)});
  EXPECT_EQ(shape.sequences, 4);
  EXPECT_EQ(shape.new_tokens, 10);
  EXPECT_EQ(shape.head_rows, 0 + 1 + 1 + 3);
  EXPECT_EQ(shape.reads_tokens, (11 + 12 + 13) + (1 + 2 + 3) + 31 + (6 + 7 + 8));
}

TEST(StepTablesTest, ChunkBordersCutSegmentsAndRowsCountFromTheChunk) {
  StepTables tables(Limits(), /*chunk_rows=*/4, kBlockTokens);
  DistinctTokens distinct(10);
  const std::vector<text::TokenId> three = {1, 2, 3};
  const std::vector<text::TokenId> four = {4, 5, 6, 7};
  const std::vector<kv::BlockId> first_blocks = {9};
  const std::vector<kv::BlockId> second_blocks = {2, 5, 7};
  tables.Build(
      std::vector<Segment>{MakeSegment(three, 0, first_blocks), MakeSegment(four, 15, second_blocks)}, 10,
      100, InPool, distinct);
  EXPECT_THAT(tables.ids(), ElementsAre(1, 2, 3, 4, 5, 6, 7));
  ASSERT_EQ(tables.chunks().size(), 2u);
  EXPECT_EQ(tables.chunks()[0].n_rows, 4);
  EXPECT_EQ(tables.chunks()[0].n_sequences, 2);
  EXPECT_EQ(tables.chunks()[1].first_row, 4);
  EXPECT_EQ(tables.chunks()[1].n_rows, 3);
  EXPECT_EQ(tables.chunks()[1].first_sequence, 2);
  EXPECT_EQ(tables.chunks()[1].n_sequences, 1);

  ASSERT_EQ(tables.sequences().size(), 3u);
  const device::AttentionSequence& cut = tables.sequences()[1];  // the second segment's first row
  EXPECT_EQ(cut.first_row, 3);
  EXPECT_EQ(cut.n_rows, 1);
  EXPECT_EQ(cut.first_position, 15);
  EXPECT_EQ(cut.first_block, 1);
  EXPECT_EQ(cut.n_blocks, 1);
  EXPECT_EQ(cut.key_end, 16);
  const device::AttentionSequence& rest = tables.sequences()[2];
  EXPECT_EQ(rest.first_row, 0);
  EXPECT_EQ(rest.n_rows, 3);
  EXPECT_EQ(rest.first_position, 16);
  EXPECT_EQ(rest.first_block, 1);
  EXPECT_EQ(rest.n_blocks, 2);
  EXPECT_EQ(rest.key_end, 19);

  // The block of each row, and only blocks that hold tokens: block 7 is spare.
  ASSERT_EQ(tables.blocks().size(), 3u);
  EXPECT_EQ(tables.blocks()[2].k_slot, 2 * 5);
  EXPECT_EQ(tables.blocks()[2].v_slot, 2 * 5 + 1);
  EXPECT_EQ(tables.append()[3].k_slot, 2 * 2);
  EXPECT_EQ(tables.append()[3].offset_tokens, 15);
  EXPECT_EQ(tables.append()[4].k_slot, 2 * 5);
  EXPECT_EQ(tables.append()[4].offset_tokens, 0);
  EXPECT_EQ(tables.append()[4].position, 16);
  EXPECT_EQ(tables.append()[4].x_slot, -1);
}

TEST(StepTablesTest, SampledRowsComeFirstThenKeptOnes) {
  StepTables tables(Limits(), 64, kBlockTokens);
  DistinctTokens distinct(10);
  const std::vector<text::TokenId> two = {1, 2};
  const std::vector<std::vector<kv::BlockId>> blocks = {{0}, {1}, {2}, {3}};
  tables.Build(std::vector<Segment>{MakeSegment(two, 0, blocks[0], Output::kAllLogits),
                                    MakeSegment(two, 0, blocks[1], Output::kSample),
                                    MakeSegment(two, 0, blocks[2], Output::kNone),
                                    MakeSegment(two, 0, blocks[3], Output::kAllLogits)},
               10, 100, InPool, distinct);
  EXPECT_THAT(tables.output_rows(), ElementsAre(3, 0, 1, 6, 7));
  EXPECT_EQ(tables.samples().size(), 1u);
  EXPECT_THAT(tables.kept_begin(), ElementsAre(0, -1, -1, 2));
}

TEST(StepTablesTest, CachedTokensOfSharedBlocksCountOnce) {
  StepTables tables(Limits(), 64, kBlockTokens);
  DistinctTokens distinct(10);
  const std::vector<text::TokenId> one = {1};
  const std::vector<kv::BlockId> first = {0, 1, 2}, second = {0, 1, 3}, third = {0, 4};
  const std::vector<Segment> segments = {MakeSegment(one, 40, first), MakeSegment(one, 33, second),
                                         MakeSegment(one, 16, third)};
  for (int round = 0; round < 2; ++round) {  // the second count knows nothing of the first
    tables.Build(segments, 10, 100, InPool, distinct);
    EXPECT_EQ(tables.cached_tokens(), 16 + 16 + 8 + 1);
    EXPECT_EQ(tables.reads_tokens(), 41 + 34 + 17);
  }
}

TEST(StepTablesTest, BlocksThatAreElsewhereAreLeftOutAndTheRestMovesUp) {
  StepTables tables(Limits(), 64, kBlockTokens);
  DistinctTokens distinct(10);
  const std::vector<text::TokenId> two = {1, 2};
  const std::vector<kv::BlockId> blocks = {4, 5, 6, 7};
  const auto planes = [](kv::BlockId block) {
    return block == 4 || block == 6 ? kv::Planes{} : kv::Planes{10 * block, 10 * block + 1, 10 * block + 2};
  };
  tables.Build(std::vector<Segment>{MakeSegment(two, 50, blocks)}, 10, 100, planes, distinct);
  ASSERT_EQ(tables.blocks().size(), 2u);
  EXPECT_EQ(tables.blocks()[0].k_slot, 50);
  EXPECT_EQ(tables.blocks()[1].k_slot, 70);
  const device::AttentionSequence& sequence = tables.sequences()[0];
  EXPECT_EQ(sequence.n_blocks, 2);
  EXPECT_EQ(sequence.first_position, 50);
  EXPECT_EQ(sequence.key_begin, 32);  // block 5 stands where 6 was, the unfinished one where it is
  EXPECT_EQ(sequence.key_end, 52);
  EXPECT_EQ(tables.append()[1].x_slot, 72);
  EXPECT_EQ(tables.append()[1].offset_tokens, 3);
  EXPECT_EQ(tables.append()[1].position, 51);
}

TEST(DistinctTokensTest, LongerShareOfABlockCountsTheDifference) {
  DistinctTokens distinct(2);
  distinct.StartCount();
  distinct.Add(0, 5);
  distinct.Add(0, 9);
  distinct.Add(0, 3);
  distinct.Add(1, 1);
  EXPECT_EQ(distinct.count(), 10);
}

TEST(StepTablesTest, LimitsAreReachedWithoutGrowing) {
  ItemLimits limits = Limits();
  limits.max_rows = 10;
  limits.max_segments = 3;
  StepTables tables(limits, /*chunk_rows=*/3, kBlockTokens);
  const int64_t max_sequences = tables.max_sequences();
  DistinctTokens distinct(10);
  const std::vector<text::TokenId> four = {1, 2, 3, 4}, two = {5, 6};
  const std::vector<std::vector<kv::BlockId>> blocks = {{0}, {1}, {2}};
  tables.Build(std::vector<Segment>{MakeSegment(four, 0, blocks[0]), MakeSegment(two, 0, blocks[1]),
                                    MakeSegment(four, 0, blocks[2])},
               10, 100, InPool, distinct);
  EXPECT_EQ(tables.chunks().size(), 4u);
  EXPECT_LE(static_cast<int64_t>(tables.sequences().size()), max_sequences);
  EXPECT_EQ(tables.max_sequences(), max_sequences);
}

}  // namespace
}  // namespace spillway::exec
