#include "scheduler/sequence_cache.h"

#include <memory>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/scheduler/harness.h"

namespace spillway::scheduler {
namespace {

using ::testing::ElementsAre;

constexpr int32_t kBlockTokens = 4;

class SequenceCacheTest : public ::testing::Test {
 protected:
  explicit SequenceCacheTest(int64_t n_blocks = 8) : blocks_(n_blocks) {}

  std::vector<kv::BlockHash> HashesOf(const std::vector<text::TokenId>& tokens) {
    std::vector<kv::BlockHash> hashes;
    for (size_t i = 0; i + kBlockTokens <= tokens.size(); i += kBlockTokens) {
      hashes.push_back(hasher_.ChainHash(hashes.empty() ? root_ : hashes.back(),
                                         absl::MakeConstSpan(tokens).subspan(i, kBlockTokens)));
    }
    return hashes;
  }

  kv::BlockStore blocks_;
  kv::BlockHasher hasher_{kBlockTokens};
  CacheRoom room_{blocks_, hasher_, kBlockTokens};
  kv::BlockHash root_{};
};

TEST_F(SequenceCacheTest, AcquiresForTheTokensAndTheReserve) {
  const std::vector<kv::BlockHash> none;
  SequenceCache cache(room_, root_, none);
  EXPECT_TRUE(cache.Acquire(5, 9, 40));
  EXPECT_EQ(cache.blocks().size(), 3u);
  EXPECT_EQ(cache.computed_tokens(), 0);
  cache.Release();
  EXPECT_EQ(blocks_.Counts().free_blocks, 8);
}

TEST_F(SequenceCacheTest, TakesNothingWhenBlocksAreMissing) {
  const std::vector<kv::BlockHash> none;
  SequenceCache a(room_, root_, none), b(room_, root_, none);
  EXPECT_TRUE(a.Acquire(20, 20, 20));
  EXPECT_FALSE(b.Acquire(17, 17, 20));
  EXPECT_TRUE(b.blocks().empty());
  EXPECT_EQ(blocks_.available_blocks(), 3);
  a.Release();
  EXPECT_TRUE(b.Acquire(17, 17, 20));
  b.Release();
}

TEST_F(SequenceCacheTest, FindsFullBlocksButNeverTheLastToken) {
  const std::vector<text::TokenId> tokens = Prompt(12);
  const std::vector<kv::BlockHash> hashes = HashesOf(tokens);
  SequenceCache a(room_, root_, hashes), b(room_, root_, hashes);
  ASSERT_TRUE(a.Acquire(12, 12, 16));
  a.Advance(tokens, 12);
  ASSERT_TRUE(b.Acquire(12, 12, 16));
  EXPECT_EQ(b.computed_tokens(), 8);
  EXPECT_EQ(b.blocks()[0], a.blocks()[0]);
  EXPECT_EQ(b.blocks()[1], a.blocks()[1]);
  EXPECT_NE(b.blocks()[2], a.blocks()[2]);
  a.Release();
  b.Release();
  EXPECT_EQ(blocks_.Counts().in_use_blocks, 0);
}

TEST_F(SequenceCacheTest, WhatIsMissingIsCountedWhileWhatIsFoundIsHeld) {
  const std::vector<text::TokenId> tokens = Prompt(12);
  const std::vector<kv::BlockHash> hashes = HashesOf(tokens);
  SequenceCache a(room_, root_, hashes), b(room_, root_, hashes);
  ASSERT_TRUE(a.Acquire(12, 12, 16));
  a.Advance(tokens, 12);
  a.Release();  // found blocks are cached ones, which count as available until they are held
  const kv::BlockCounts before = blocks_.Counts();
  EXPECT_LE(b.HoldFound(12, 12), 0);
  EXPECT_EQ(b.blocks().size(), 2u);
  const int64_t beside = blocks_.available_blocks();
  EXPECT_EQ(beside, before.total_blocks - 2);
  b.Release();
  const auto room_tokens = static_cast<int32_t>((2 + beside + 5) * room_.block_tokens);
  EXPECT_EQ(b.HoldFound(12, room_tokens), kv::BlockStore::SlotsFor(5));
  b.Release();
  EXPECT_EQ(blocks_.Counts().free_blocks, before.free_blocks);
  EXPECT_EQ(blocks_.Counts().in_use_blocks, before.in_use_blocks);
}

TEST_F(SequenceCacheTest, FoundBlocksAreNotEvictedForItsOwnNeed) {
  const std::vector<text::TokenId> tokens = Prompt(32);
  const std::vector<kv::BlockHash> hashes = HashesOf(tokens);
  SequenceCache a(room_, root_, hashes), b(room_, root_, hashes);
  ASSERT_TRUE(a.Acquire(32, 32, 32));
  a.Advance(tokens, 16);
  a.Release();  // four cached, four free
  ASSERT_TRUE(b.Acquire(32, 32, 32));
  EXPECT_EQ(b.computed_tokens(), 16);
  b.Release();
}

TEST_F(SequenceCacheTest, AdoptsWhatOthersPublishedMeanwhile) {
  const std::vector<text::TokenId> tokens = Prompt(11);
  const std::vector<kv::BlockHash> hashes = HashesOf(tokens);
  SequenceCache a(room_, root_, hashes), b(room_, root_, hashes);
  ASSERT_TRUE(a.Acquire(11, 11, 16));
  ASSERT_TRUE(b.Acquire(11, 11, 16));
  EXPECT_EQ(b.AdoptPublished(11), 0);
  EXPECT_EQ(*b.NextHash(), hashes[0]);
  a.Advance(tokens, 11);
  const int64_t free_before = blocks_.available_blocks();
  EXPECT_EQ(b.AdoptPublished(11), 8);
  EXPECT_EQ(b.computed_tokens(), 8);
  EXPECT_EQ(blocks_.available_blocks(), free_before + 2) << "its own blocks are given back";
  EXPECT_EQ(b.NextHash(), nullptr) << "the last block is not full";
  a.Release();
  b.Release();
}

TEST_F(SequenceCacheTest, GeneratedBlocksAreFoundAfterGivingThemUp) {
  std::vector<text::TokenId> tokens = Prompt(6);
  const std::vector<kv::BlockHash> hashes = HashesOf(tokens);
  SequenceCache cache(room_, root_, hashes);
  ASSERT_TRUE(cache.Acquire(6, 6, 20));
  cache.Advance(tokens, 6);
  for (const text::TokenId token : Prompt(7, 2)) {
    tokens.push_back(token);
    ASSERT_TRUE(cache.Grow(static_cast<int32_t>(tokens.size())));
    cache.Advance(tokens, static_cast<int32_t>(tokens.size()));
  }
  cache.Release();
  ASSERT_TRUE(cache.Acquire(13, 13, 20));
  EXPECT_EQ(cache.computed_tokens(), 12);
  cache.Release();
}

TEST_F(SequenceCacheTest, EndIsEvictedBeforeThePrefix) {
  const std::vector<text::TokenId> tokens = Prompt(32);
  const std::vector<kv::BlockHash> hashes = HashesOf(tokens), none;
  SequenceCache a(room_, root_, hashes), b(room_, root_, none), c(room_, root_, hashes);
  ASSERT_TRUE(a.Acquire(32, 32, 32));
  a.Advance(tokens, 32);
  a.Release();
  ASSERT_TRUE(b.Acquire(8, 8, 8));  // evicts two
  b.Release();
  ASSERT_TRUE(c.Acquire(32, 32, 32));
  EXPECT_EQ(c.computed_tokens(), 24);
  c.Release();
}

}  // namespace
}  // namespace spillway::scheduler
