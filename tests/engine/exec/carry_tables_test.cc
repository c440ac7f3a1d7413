#include "engine/exec/carry_tables.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "engine/device/cpu/cpu_device.h"
#include "engine/exec/staging_ring.h"
#include "engine/kv/block_store.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace spillway::exec {
namespace {

using ::testing::ElementsAre;

constexpr int32_t kBlockTokens = 16;

// x_slots: 1, as in a multi-head model.
kv::Geometry SmallGeometry() {
  kv::Geometry geometry;
  geometry.n_layers = 1;
  geometry.n_kv_heads = 2;
  geometry.d_head = 16;
  geometry.d = 32;
  geometry.block_tokens = kBlockTokens;
  return geometry;
}

class CarryTablesTest : public ::testing::Test {
 protected:
  void Make(kv::Form form, int32_t chunk_blocks) {
    MakeForms(std::vector<kv::Form>(kBlocks, form), chunk_blocks);
  }
  // Block b is stored in the b-th of these.
  void MakeForms(const std::vector<kv::Form>& forms, int32_t chunk_blocks) {
    const kv::Geometry geometry = SmallGeometry();
    const bool stores_x = std::count(forms.begin(), forms.end(), kv::Form::kKv) < std::ssize(forms);
    store_ = std::make_unique<kv::BlockStore>(stores_x ? 3 * kBlocks : 2 * kBlocks, 1,
                                              kv::FormPolicy{.stores_x = stores_x});
    block_at_.clear();
    for (const kv::Form form : forms) {
      const kv::BlockId block = store_->Allocate(form);
      const kv::Planes& planes = store_->PlanesOf(block);
      if (planes.has_kv()) {
        EXPECT_EQ(planes.v, planes.k + 1);
        block_at_[planes.k] = block;
      }
      if (planes.has_x()) block_at_[planes.x] = block;
    }
    cache_ = kv::DeviceCache::Create(*device_, geometry, 60, kBlocks).value();
    ItemLimits limits;
    limits.max_rows = limits.max_segments = 8;
    limits.max_blocks = 64;
    tables_ = std::make_unique<CarryTables>(limits, geometry, *store_,
                                            chunk_blocks * 2 * geometry.slot_bytes(), kRingChunks);
  }
  // A segment of one row after `n_cached` tokens.
  Segment Reader(const std::vector<kv::BlockId>& blocks, int32_t n_cached) {
    Segment segment;
    segment.tokens = {&token_, 1};
    segment.first_position = n_cached;
    segment.blocks = blocks;
    return segment;
  }
  void Build(const std::vector<Segment>& segments, double x_share = 0, int64_t n_ahead = 0) {
    SplitPlan plan;
    plan.mode = mode_;
    plan.tokens.carried_x_tokens = static_cast<int64_t>(1000 * x_share);
    plan.tokens.carried_kv_tokens = 1000 - plan.tokens.carried_x_tokens;
    tables_->Build(segments, *cache_, plan, n_ahead);
  }
  // Of each carried chunk, its form and its blocks by place, as its copies say.
  std::vector<std::pair<kv::Form, std::vector<kv::BlockId>>> Contents() const {
    std::vector<std::pair<kv::Form, std::vector<kv::BlockId>>> contents;
    const int64_t slot_bytes = SmallGeometry().slot_bytes();
    for (const int32_t c : tables_->carried_chunks()) {
      const CarryChunk& chunk = tables_->chunks()[static_cast<size_t>(c)];
      const bool is_x = chunk.form == kv::Form::kX;
      std::vector<kv::BlockId> blocks;
      for (const CarryRun& run : tables_->runs(chunk)) {
        const int64_t block_bytes = is_x ? slot_bytes : 2 * slot_bytes;
        EXPECT_EQ(run.offset_bytes, static_cast<int64_t>(blocks.size()) * block_bytes);
        for (int64_t i = 0; i < run.size_bytes / block_bytes; ++i) {
          blocks.push_back(block_at_.at(run.slot + static_cast<int32_t>(i) * (is_x ? 1 : 2)));
        }
      }
      EXPECT_EQ(static_cast<int32_t>(blocks.size()), chunk.n_blocks);
      contents.emplace_back(chunk.form, blocks);
    }
    return contents;
  }

  static constexpr int64_t kBlocks = 30;
  static constexpr int32_t kRingChunks = 3;
  const text::TokenId token_ = 1;
  SplitMode mode_ = SplitMode::kAuto;
  std::unique_ptr<device::Device> device_ = device::CreateCpuDevice({}).value();
  std::unique_ptr<kv::BlockStore> store_;
  std::map<int32_t, kv::BlockId> block_at_;  // by the slot of its K, and of its X
  std::unique_ptr<kv::DeviceCache> cache_;
  std::unique_ptr<CarryTables> tables_;
};

TEST_F(CarryTablesTest, NeighboursAreOneRunAndChunksAreEven) {
  Make(kv::Form::kKv, /*chunk_blocks=*/4);
  const std::vector<kv::BlockId> blocks = {3, 4, 5, 9, 10, 20, 21};
  Build({Reader(blocks, 6 * kBlockTokens + 3)});  // the seventh is the unfinished one
  ASSERT_EQ(tables_->chunks().size(), 2u);
  const int64_t slot_bytes = SmallGeometry().slot_bytes();
  const CarryChunk& first = tables_->chunks()[0];
  EXPECT_EQ(first.n_blocks, 3);
  ASSERT_EQ(tables_->runs(first).size(), 1u);
  EXPECT_EQ(tables_->runs(first)[0].slot, 6);
  EXPECT_EQ(tables_->runs(first)[0].size_bytes, 6 * slot_bytes);
  const CarryChunk& second = tables_->chunks()[1];
  ASSERT_EQ(tables_->runs(second).size(), 2u);
  EXPECT_EQ(tables_->runs(second)[1].slot, 40);
  EXPECT_EQ(tables_->runs(second)[1].offset_bytes, 4 * slot_bytes);
  EXPECT_EQ(second.size_bytes, 6 * slot_bytes);
}

TEST_F(CarryTablesTest, SharedBlocksAreCarriedOnceAndReadByAll) {
  Make(kv::Form::kKv, /*chunk_blocks=*/8);
  const std::vector<kv::BlockId> a = {1, 2, 3, 7}, b = {1, 2, 5, 8}, c = {9, 6};
  Build({Reader(a, 50), Reader(b, 49), Reader(c, 20)});
  EXPECT_EQ(tables_->kv_blocks(), 5);  // 1 2 3 5 9
  ASSERT_EQ(tables_->chunks().size(), 1u);
  ASSERT_EQ(tables_->sequences().size(), 3u);
  const device::AttentionSequence& second = tables_->sequences()[1];
  EXPECT_EQ(second.first_row, 1);
  EXPECT_EQ(second.n_blocks, 3);
  EXPECT_EQ(second.key_begin, 0);
  EXPECT_EQ(second.key_end, 48);
  EXPECT_EQ(second.first_position, 49);
  const auto slot = [&](int32_t sequence, int32_t i) {
    return tables_
        ->blocks()[static_cast<size_t>(tables_->sequences()[static_cast<size_t>(sequence)].first_block + i)]
        .k_slot;
  };
  EXPECT_EQ(slot(0, 0), slot(1, 0));
  EXPECT_EQ(slot(0, 1), slot(1, 1));
  EXPECT_NE(slot(0, 2), slot(1, 2));
}

TEST_F(CarryTablesTest, ReadersOfEveryChunkHaveTheirSegmentsRows) {
  Make(kv::Form::kKv, /*chunk_blocks=*/2);
  const std::vector<text::TokenId> tokens(3, 1);
  const std::vector<kv::BlockId> a = {1, 2, 9}, b = {3, 10}, c = {1, 4, 11}, d = {2, 3, 4, 12};
  std::vector<Segment> segments = {Reader(a, 32), Reader(b, 16), Reader(c, 33), Reader(d, 48)};
  segments[0].tokens = tokens;
  segments[2].tokens = absl::MakeConstSpan(tokens).first(2);
  Build(segments);
  ASSERT_EQ(tables_->chunks().size(), 2u);  // 1 2, then 3 4
  const auto rows_of = [&](size_t index) {
    const CarryChunk& chunk = tables_->chunks()[index];
    std::vector<std::pair<int32_t, int32_t>> rows;
    for (int32_t i = 0; i < chunk.n_sequences; ++i) {
      const device::AttentionSequence& sequence =
          tables_->sequences()[static_cast<size_t>(chunk.first_sequence + i)];
      rows.emplace_back(sequence.first_row, sequence.n_rows);
    }
    return rows;
  };
  using Rows = std::pair<int32_t, int32_t>;
  EXPECT_THAT(rows_of(0), ElementsAre(Rows(0, 3), Rows(4, 2), Rows(6, 1)));
  EXPECT_THAT(rows_of(1), ElementsAre(Rows(3, 1), Rows(4, 2), Rows(6, 1)));
}

TEST_F(CarryTablesTest, BlocksOnTheDeviceAreNotCarried) {
  Make(kv::Form::kKv, 8);
  ASSERT_TRUE(cache_->Open(2, false));
  cache_->Seal(2, kv::Residence::kKv);
  const std::vector<kv::BlockId> blocks = {1, 2, 3};
  Build({Reader(blocks, 48)});
  EXPECT_EQ(tables_->kv_blocks(), 2);
  EXPECT_EQ(tables_->sequences()[0].n_blocks, 2);
}

TEST_F(CarryTablesTest, FormsTakeTurnsAndXKeepsItsPositions) {
  Make(kv::Form::kBoth, /*chunk_blocks=*/2);  // 2 blocks of K and V, or 4 of X
  std::vector<kv::BlockId> blocks(17);
  for (int32_t i = 0; i < 17; ++i) blocks[static_cast<size_t>(i)] = i;
  Build({Reader(blocks, 16 * kBlockTokens)}, 0.5);
  EXPECT_EQ(tables_->x_blocks(), 8);
  EXPECT_EQ(tables_->kv_blocks(), 8);
  std::vector<kv::Form> forms;
  for (const CarryChunk& chunk : tables_->chunks()) forms.push_back(chunk.form);
  EXPECT_THAT(forms, ElementsAre(kv::Form::kKv, kv::Form::kX, kv::Form::kKv, kv::Form::kKv, kv::Form::kX,
                                 kv::Form::kKv));
  EXPECT_THAT(tables_->positions(), ElementsAre(0, 16, 32, 48, 64, 80, 96, 112));
  // X planes of neighbours lie side by side, on the host and in the chunk.
  const CarryChunk& x = tables_->chunks()[1];
  ASSERT_EQ(tables_->runs(x).size(), 1u);
  EXPECT_EQ(tables_->runs(x)[0].slot, store_->PlanesOf(0).x);
  EXPECT_EQ(x.size_bytes, 4 * kBlockTokens * SmallGeometry().chi_bytes());
}

TEST_F(CarryTablesTest, APlanOfOneFormIsObeyedAndAPoolOfOneFormDecides) {
  const std::vector<kv::BlockId> blocks = {0, 1, 2, 3, 4};
  for (const kv::Form form : {kv::Form::kKv, kv::Form::kX, kv::Form::kBoth}) {
    Make(form, 2);
    for (const double share : {0.0, 1.0}) {
      Build({Reader(blocks, 64)}, share);
      const int64_t want_x = form == kv::Form::kKv ? 0 : form == kv::Form::kX ? 4 : share == 1.0 ? 4 : 0;
      EXPECT_EQ(tables_->x_blocks(), want_x);
      EXPECT_EQ(tables_->kv_blocks(), 4 - want_x);
    }
  }
}

TEST_F(CarryTablesTest, StoredFormsBoundThePlansShare) {
  std::vector<kv::Form> forms(kBlocks, kv::Form::kBoth);
  for (size_t i = 0; i < 3; ++i) forms[2 + i] = kv::Form::kKv;
  for (size_t i = 0; i < 5; ++i) forms[8 + i] = kv::Form::kX;
  MakeForms(forms, 4);
  std::vector<kv::BlockId> blocks(17);
  for (int32_t i = 0; i < 17; ++i) blocks[static_cast<size_t>(i)] = i;
  for (const SplitMode mode : {SplitMode::kAuto, SplitMode::kSerial}) {
    mode_ = mode;
    for (const double share : {0.0, 0.25, 0.5, 0.75, 1.0}) {
      Build({Reader(blocks, 16 * kBlockTokens)}, share);
      EXPECT_EQ(tables_->x_blocks(), std::clamp<int64_t>(std::llround(16 * share), 5, 13)) << share;
      EXPECT_EQ(tables_->kv_blocks(), 16 - tables_->x_blocks());
      std::set<kv::BlockId> seen;
      for (const auto& [form, in_chunk] : Contents()) {
        for (const kv::BlockId block : in_chunk) {
          seen.insert(block);
          const kv::Form stored = forms[static_cast<size_t>(block)];
          EXPECT_TRUE(stored == kv::Form::kBoth || stored == form) << block;
        }
      }
      EXPECT_EQ(seen.size(), 16u);
    }
  }
}

TEST_F(CarryTablesTest, KAndVThatLieApartAreTwoRunsOfOnePlace) {
  Make(kv::Form::kKv, 4);
  store_ = std::make_unique<kv::BlockStore>(6, 1, kv::FormPolicy{.stores_x = true});
  std::vector<kv::BlockId> x;
  for (int i = 0; i < 6; ++i) x.push_back(store_->Allocate(kv::Form::kX));
  for (const size_t i : {0u, 2u, 4u, 5u}) store_->Unref(x[i]);
  const kv::BlockId together = store_->Allocate(kv::Form::kKv), apart = store_->Allocate(kv::Form::kKv);
  const kv::Planes& planes = store_->PlanesOf(apart);
  ASSERT_GT(std::abs(planes.k - planes.v), 1);
  ItemLimits limits;
  limits.max_rows = limits.max_segments = 8;
  limits.max_blocks = 64;
  const int64_t slot_bytes = SmallGeometry().slot_bytes();
  CarryTables tables(limits, SmallGeometry(), *store_, 8 * slot_bytes, kRingChunks);
  const std::vector<kv::BlockId> blocks = {together, apart};
  tables.Build({{Reader(blocks, 2 * kBlockTokens)}}, *cache_, SplitPlan{});
  ASSERT_EQ(tables.chunks().size(), 1u);
  EXPECT_EQ(tables.max_runs(), 8);
  const absl::Span<const CarryRun> runs = tables.runs(tables.chunks()[0]);
  ASSERT_EQ(runs.size(), 3u);
  EXPECT_EQ(runs[0].size_bytes, 2 * slot_bytes);
  EXPECT_EQ(runs[1].slot, planes.k);
  EXPECT_EQ(runs[1].offset_bytes, 2 * slot_bytes);
  EXPECT_EQ(runs[2].slot, planes.v);
  EXPECT_EQ(runs[2].offset_bytes, 3 * slot_bytes);
}

TEST_F(CarryTablesTest, ChunksFetchedAheadAreDroppedWhereTheirFormIsOrIsNeededElsewhere) {
  // Blocks 0-3 in both forms; a chunk of them ahead as K and V. Of the others four are K and V alone.
  std::vector<kv::Form> forms(kBlocks, kv::Form::kBoth);
  for (size_t i = 4; i < 8; ++i) forms[i] = kv::Form::kKv;
  const std::vector<kv::BlockId> blocks = {0, 1, 2, 3, 4, 5, 6, 7, 20};
  MakeForms(forms, 4);
  Build({Reader(blocks, 4 * kBlockTokens)}, 0);
  Build({Reader(blocks, 8 * kBlockTokens)}, 0.5, 1);
  EXPECT_FALSE(tables_->Took(0)) << "K and V is what 4-7 need";
  EXPECT_EQ(tables_->x_blocks(), 4);
  // One of them lost that form, and there would be room for the chunk.
  MakeForms(std::vector<kv::Form>(kBlocks, kv::Form::kBoth), 4);
  Build({Reader(blocks, 8 * kBlockTokens)}, 0);
  store_->SteerTo(1);
  for (kv::BlockId block = 1; block < kBlocks; ++block) store_->Pin(block);
  while (store_->PlanesOf(0).has_kv()) ASSERT_NE(store_->Allocate(kv::Form::kX), kv::kNoBlock);
  Build({Reader(blocks, 8 * kBlockTokens)}, 0, 1);
  EXPECT_FALSE(tables_->Took(0));
  EXPECT_EQ(tables_->x_blocks(), 1);
}

TEST_F(CarryTablesTest, SerialRoundsFitTheRingAndHoldXBeforeKv) {
  Make(kv::Form::kBoth, /*chunk_blocks=*/2);  // 2 blocks of K and V, or 4 of X
  std::vector<kv::BlockId> blocks(21);
  for (int32_t i = 0; i < 21; ++i) blocks[static_cast<size_t>(i)] = i;
  for (const double share : {0.0, 0.1, 0.3, 0.5, 0.9, 1.0}) {
    mode_ = SplitMode::kSerial;
    Build({Reader(blocks, 20 * kBlockTokens)}, share);
    EXPECT_EQ(tables_->x_blocks(), std::llround(20 * share));
    size_t next = 0;
    int64_t n_x = 0, n_kv = 0;
    for (const CarryRound& round : tables_->rounds()) {
      EXPECT_EQ(static_cast<size_t>(round.first_chunk), next);
      EXPECT_LE(round.n_x + round.n_kv, kRingChunks);
      int64_t round_x = 0;
      for (int32_t i = 0; i < round.n_x + round.n_kv; ++i, ++next) {
        const CarryChunk& chunk = tables_->chunks()[next];
        EXPECT_EQ(chunk.form, i < round.n_x ? kv::Form::kX : kv::Form::kKv);
        EXPECT_GT(chunk.n_blocks, 0);
        (i < round.n_x ? round_x : n_kv) += chunk.n_blocks;
      }
      n_x += round_x;
      // Each round as the whole layer, but for the rounding of blocks.
      EXPECT_NEAR(static_cast<double>(n_x), share * static_cast<double>(n_x + n_kv), 1.0) << share;
    }
    EXPECT_EQ(next, tables_->chunks().size());
    EXPECT_EQ(n_x, tables_->x_blocks());
    EXPECT_EQ(n_kv, tables_->kv_blocks());
  }
  mode_ = SplitMode::kAuto;
  Build({Reader(blocks, 20 * kBlockTokens)}, 0.5);
  EXPECT_TRUE(tables_->rounds().empty());
}

TEST_F(CarryTablesTest, ChunksFetchedAheadComeFirstAsTheyAre) {
  Make(kv::Form::kBoth, /*chunk_blocks=*/2);  // 2 blocks of K and V, or 4 of X
  std::vector<kv::BlockId> a = {9, 8, 7, 6, 5, 4, 3, 2, 20}, b = {12, 21};
  Build({Reader(a, 8 * kBlockTokens), Reader(b, 16)}, 0.5);
  const auto before = Contents();
  ASSERT_GE(before.size(), 3u);
  // The first sequence filled a block, and is the second one now.
  a.push_back(22);
  Build({Reader(b, 17), Reader(a, 9 * kBlockTokens)}, 0.5, 3);
  const auto after = Contents();
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(tables_->Took(static_cast<int64_t>(i))) << i;
    EXPECT_EQ(after[i], before[i]) << i;
  }
  std::multiset<kv::BlockId> all;
  for (const auto& [form, blocks] : after) all.insert(blocks.begin(), blocks.end());
  EXPECT_THAT(all, ElementsAre(2, 3, 4, 5, 6, 7, 8, 9, 12, 20));
  EXPECT_EQ(tables_->x_blocks(), 5);
  EXPECT_EQ(tables_->kv_blocks(), 5);
}

TEST_F(CarryTablesTest, ChunksFetchedAheadAreDroppedWhereOneBlockIsNotCarriedAsItWas) {
  const std::vector<kv::BlockId> a = {0, 1, 2, 3, 4, 5, 20}, b = {6, 7, 8, 9, 10, 11, 21};
  const auto start = [&](kv::Form form, double x_share) {
    Make(form, /*chunk_blocks=*/4);
    Build({Reader(a, 96), Reader(b, 96)}, x_share);
    ASSERT_EQ(tables_->carried_chunks().size(), form == kv::Form::kKv ? 3u : 2u);
  };
  // Of 0-3, 4-7 and 8-11: a sequence left.
  start(kv::Form::kKv, 0);
  Build({Reader(a, 97)}, 0, 3);
  EXPECT_TRUE(tables_->Took(0));
  EXPECT_FALSE(tables_->Took(1));
  EXPECT_FALSE(tables_->Took(2));
  EXPECT_EQ(tables_->kv_blocks(), 6);
  // A block's content was lost, and its id is somebody's again.
  start(kv::Form::kKv, 0);
  cache_->OnBlockLost(5);
  Build({Reader(a, 97), Reader(b, 97)}, 0, 3);
  EXPECT_TRUE(tables_->Took(0));
  EXPECT_FALSE(tables_->Took(1));
  EXPECT_TRUE(tables_->Took(2));
  EXPECT_EQ(Contents()[2].second, std::vector<kv::BlockId>({4, 5, 6, 7}));
  // A block came to stay on the device.
  for (const kv::Residence as : {kv::Residence::kKv, kv::Residence::kX}) {
    start(kv::Form::kKv, 0);
    ASSERT_TRUE(cache_->Open(9, /*with_x=*/true));
    cache_->Seal(9, as);
    Build({Reader(a, 97), Reader(b, 97)}, 0, 3);
    EXPECT_TRUE(tables_->Took(1));
    EXPECT_FALSE(tables_->Took(2));
    EXPECT_EQ(tables_->kv_blocks(), 11);
  }
  // The plan wants less of the form; in the serial form nothing is ahead.
  start(kv::Form::kBoth, 1);
  Build({Reader(a, 97), Reader(b, 97)}, 0.5, 2);
  EXPECT_TRUE(tables_->Took(0));
  EXPECT_FALSE(tables_->Took(1));
  EXPECT_EQ(tables_->x_blocks(), 6);
  mode_ = SplitMode::kSerial;
  Build({Reader(a, 97), Reader(b, 97)}, 0.5, 1);
  EXPECT_FALSE(tables_->Took(0));
}

TEST_F(CarryTablesTest, SmallChunksFetchedAheadDoNotStay) {
  Make(kv::Form::kKv, /*chunk_blocks=*/4);
  const std::vector<kv::BlockId> blocks = {0, 1, 2, 3, 4, 5, 6, 7, 8};
  Build({Reader(blocks, 16)});
  Build({Reader(blocks, 8 * kBlockTokens)}, 0, 1);
  EXPECT_FALSE(tables_->Took(0));
  EXPECT_EQ(tables_->carried_chunks().size(), 2u);
}

// Whether fetching ahead would have been of use shows without doing it.
TEST_F(CarryTablesTest, ChunksRecurAsLongAsTheNextStepCarriesThemAsTheyWere) {
  MakeForms(std::vector<kv::Form>(kBlocks, kv::Form::kBoth), 2);
  const std::vector<kv::BlockId> first_blocks = {0, 1, 2, 3, 4, 5, 6};
  const std::vector<kv::BlockId> second_blocks = {10, 11, 12, 13, 14, 15, 16};
  const Segment first = Reader(first_blocks, 6 * kBlockTokens);
  const Segment second = Reader(second_blocks, 6 * kBlockTokens);
  const int64_t most = AheadChunksMax(kRingChunks);
  Build({first});
  EXPECT_EQ(tables_->recurring_chunks(), 0);
  Build({second});
  EXPECT_EQ(tables_->recurring_chunks(), 0);
  Build({first, second});
  EXPECT_EQ(tables_->recurring_chunks(), most);
  Build({first, second}, /*x_share=*/0, /*n_ahead=*/2);
  EXPECT_EQ(tables_->recurring_chunks(), 2);
  Build({first, second}, /*x_share=*/1);
  EXPECT_EQ(tables_->recurring_chunks(), 0) << "the plan wants another form";
  Build({first, second}, /*x_share=*/1);
  EXPECT_EQ(tables_->recurring_chunks(), most);
  Build({first});
  Build({first});
  EXPECT_EQ(tables_->recurring_chunks(), most);
  for (const kv::BlockId block : first_blocks) cache_->OnBlockLost(block);
  Build({first});
  EXPECT_EQ(tables_->recurring_chunks(), 0) << "of other content";
}

// Every cached block of every reader is found exactly once in the chunks, with its reader's rows.
TEST_F(CarryTablesTest, RandomBatchesReadEveryBlockOnce) {
  for (uint32_t seed = 1; seed <= 200; ++seed) {
    std::mt19937 random(seed);
    mode_ = seed % 2 == 0 ? SplitMode::kAuto : SplitMode::kSerial;
    std::vector<kv::Form> forms(kBlocks, kv::Form::kBoth);
    if (seed % 3 != 0) {
      for (kv::Form& form : forms) form = static_cast<kv::Form>(random() % 3);
    }
    MakeForms(forms, 1 + static_cast<int32_t>(random() % 4));
    std::set<kv::BlockId> resident;
    for (int i = 0; i < 5; ++i) {
      const kv::BlockId block = static_cast<kv::BlockId>(random() % kBlocks);
      if (!resident.insert(block).second) continue;
      ASSERT_TRUE(cache_->Open(block, false));
      cache_->Seal(block, kv::Residence::kKv);
    }
    std::vector<std::vector<kv::BlockId>> tables(1 + random() % 6);
    std::vector<Segment> segments;
    for (auto& blocks : tables) {
      std::vector<kv::BlockId> all(kBlocks);
      for (int64_t i = 0; i < kBlocks; ++i) all[static_cast<size_t>(i)] = static_cast<kv::BlockId>(i);
      std::shuffle(all.begin(), all.end(), random);
      blocks.assign(all.begin(), all.begin() + 1 + static_cast<int64_t>(random() % 9));
      segments.push_back(Reader(blocks, (static_cast<int32_t>(blocks.size()) - 1) * kBlockTokens));
    }
    Build(segments, static_cast<double>(random() % 5) / 4);
    // Once more, with some of it ahead, and some lost.
    for (int i = 0; i < 3; ++i) cache_->OnBlockLost(static_cast<kv::BlockId>(random() % kBlocks));
    std::erase_if(resident, [&](kv::BlockId block) {
      return cache_->StateOf(block) == kv::DeviceCache::State::kAbsent;
    });
    const auto before = Contents();
    const auto n_ahead = static_cast<int64_t>(random() % (std::min<size_t>(before.size(), kRingChunks) + 1));
    Build(segments, static_cast<double>(random() % 5) / 4, n_ahead);
    const auto after = Contents();
    size_t n_taken = 0;
    for (int64_t i = 0; i < n_ahead; ++i) {
      if (!tables_->Took(i)) continue;
      EXPECT_EQ(after[n_taken++], before[static_cast<size_t>(i)]) << "seed " << seed;
    }
    EXPECT_GE(tables_->recurring_chunks(), static_cast<int64_t>(n_taken));
    EXPECT_LE(tables_->recurring_chunks(), std::max<int64_t>(n_ahead, AheadChunksMax(kRingChunks)));

    // Where each block went, from the chunks' runs.
    std::map<std::pair<int32_t, int32_t>, kv::BlockId> at;  // chunk, place
    std::set<kv::BlockId> carried;
    const int64_t slot_bytes = SmallGeometry().slot_bytes();
    for (size_t c = 0; c < tables_->chunks().size(); ++c) {
      const CarryChunk& chunk = tables_->chunks()[c];
      const bool is_x = chunk.form == kv::Form::kX;
      for (const CarryRun& run : tables_->runs(chunk)) {
        const int64_t block_bytes = is_x ? slot_bytes : 2 * slot_bytes;
        for (int64_t i = 0; i < run.size_bytes / block_bytes; ++i) {
          const kv::BlockId block = block_at_.at(run.slot + static_cast<int32_t>(i) * (is_x ? 1 : 2));
          EXPECT_TRUE(is_x ? store_->PlanesOf(block).has_x() : store_->PlanesOf(block).has_kv());
          EXPECT_TRUE(carried.insert(block).second) << "seed " << seed << ": carried twice";
          at[{static_cast<int32_t>(c), static_cast<int32_t>(run.offset_bytes / block_bytes + i)}] = block;
        }
      }
    }
    std::vector<std::multiset<kv::BlockId>> read(segments.size());
    for (size_t c = 0; c < tables_->chunks().size(); ++c) {
      const CarryChunk& chunk = tables_->chunks()[c];
      for (int32_t s = 0; s < chunk.n_sequences; ++s) {
        const device::AttentionSequence& sequence =
            tables_->sequences()[static_cast<size_t>(chunk.first_sequence + s)];
        for (int32_t i = 0; i < sequence.n_blocks; ++i) {
          const int32_t slot = tables_->blocks()[static_cast<size_t>(sequence.first_block + i)].k_slot;
          read[static_cast<size_t>(sequence.first_row)].insert(at.at({static_cast<int32_t>(c), slot / 2}));
        }
      }
    }
    for (size_t s = 0; s < segments.size(); ++s) {
      std::multiset<kv::BlockId> want;
      for (size_t i = 0; i + 1 < tables[s].size(); ++i) {
        if (resident.count(tables[s][i]) == 0) want.insert(tables[s][i]);
      }
      EXPECT_EQ(read[s], want) << "seed " << seed << ", sequence " << s;
    }
  }
}

}  // namespace
}  // namespace spillway::exec
