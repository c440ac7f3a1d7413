// What stays on the device and what comes to stay there, by counts. Links here are emulated.
#include "engine/exec/residency.h"

#include <unistd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "engine/exec/link_executor.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/exec/tiny_engine.h"
#include "tests/fakes/gguf_writer.h"

namespace spillway::exec {
namespace {

using kv::Residence;

constexpr int32_t kVocab = 320;
constexpr int32_t kLayers = 3;
constexpr int32_t kBlockTokens = 16;

const std::string& ModelPath() {
  static const std::string* const path = [] {
    auto* name = new std::string(::testing::TempDir() + std::to_string(getpid()) + "_residency.gguf");
    fakes::TinyLlamaOptions options;
    options.n_heads = options.n_kv_heads = 8;
    options.d_model = 128;
    options.n_layers = kLayers;
    options.vocab_size = kVocab;
    options.seed = 5;
    if (!fakes::WriteTinyLlama(*name, options).ok()) ADD_FAILURE();
    return name;
  }();
  return *path;
}

class ResidencyTest : public ::testing::Test {
 protected:
  void Make(double x_share, ResidencyTargets residency, int64_t cache_blocks = 64) {
    item_.reset();
    TinyEngineOptions options;
    options.chunk_rows = options.max_item_rows = 32;
    options.max_item_segments = 4;
    options.link.emplace();
    options.link->form = kv::Form::kBoth;
    options.link->x_share = x_share;
    options.link->residency = residency;
    options.link->cache_blocks = cache_blocks;
    engine_ = std::make_unique<TinyEngine>(ModelPath(), options);
    TinyEngineOptions in_place;
    in_place.max_item_rows = 600;
    reference_ = std::make_unique<TinyEngine>(ModelPath(), in_place);
    item_ = engine_->NewItem(8);
  }
  Sequence Computed(uint32_t seed, int32_t n_tokens, int32_t n_more = 40) {
    Sequence sequence;
    sequence.tokens = RandomTokens(seed, n_tokens + n_more, kVocab);
    while (sequence.n_cached < n_tokens) {
      engine_->Logits(sequence, std::min(32, n_tokens - sequence.n_cached));
    }
    engine_->link().WaitForStores();
    return sequence;
  }
  // A sequence whose first blocks are `other`'s.
  Sequence Sharing(const Sequence& other, int32_t n_blocks) {
    Sequence sequence;
    sequence.tokens = other.tokens;
    for (int32_t i = 0; i < n_blocks; ++i) {
      sequence.blocks.push_back(other.blocks[static_cast<size_t>(i)]);
      engine_->store().Ref(sequence.blocks.back());
    }
    sequence.n_cached = n_blocks * kBlockTokens;
    return sequence;
  }
  StepStats Decode(std::vector<Sequence*> sequences) {
    std::vector<Segment> segments;
    for (Sequence* sequence : sequences) segments.push_back(engine_->Next(*sequence, 1));
    const StepStats stats = engine_->Run(*item_, segments, Phase::kDecode).stats;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const auto want = reference_->LogitsOfAll(sequences[i]->tokens);
      EXPECT_LT(MaxDifference(engine_->KeptLogits(*item_, static_cast<int32_t>(i), 1),
                              {want[static_cast<size_t>(sequences[i]->n_cached - 1)]}),
                2 * LogitTolerance(device::DType::kF32));  // longer contexts than elsewhere
    }
    return stats;
  }
  int32_t Resident(Residence as) { return engine_->link().cache().resident_blocks(as); }
  kv::DeviceCache::State StateOf(kv::BlockId block) { return engine_->link().cache().StateOf(block); }

  std::unique_ptr<TinyEngine> engine_;
  std::unique_ptr<TinyEngine> reference_;
  std::unique_ptr<WorkItem> item_;
};

int64_t CarriedBytes(const StepStats& stats) {
  return stats.lanes[static_cast<size_t>(Lane::kKvLoad)].bytes +
         stats.lanes[static_cast<size_t>(Lane::kXLoad)].bytes;
}

TEST_F(ResidencyTest, BlocksThatAreResidentAsXTakeNoLink) {
  Make(0.5, {.kv = 0, .x = 1});
  Sequence sequence = Computed(1, 96);
  EXPECT_EQ(Resident(Residence::kX), 6);
  EXPECT_EQ(Resident(Residence::kKv), 0);
  const StepStats stats = Decode({&sequence});
  EXPECT_EQ(stats.tokens.resident_x_tokens, 96);
  EXPECT_EQ(stats.tokens.total_tokens(), 96);
  EXPECT_EQ(CarriedBytes(stats), 0);
}

TEST_F(ResidencyTest, SealedBlocksStayInTheFormThatLacksMost) {
  Make(0, {.kv = 0.25, .x = 0.5});
  Sequence sequence = Computed(2, 256);
  EXPECT_NEAR(Resident(Residence::kKv), 4, 1);
  EXPECT_NEAR(Resident(Residence::kX), 8, 1);
  const StepStats stats = Decode({&sequence});
  EXPECT_EQ(stats.tokens.total_tokens(), 256);
  EXPECT_NEAR(static_cast<double>(stats.tokens.resident_kv_tokens), 64, 16);
  EXPECT_NEAR(static_cast<double>(stats.tokens.resident_x_tokens), 128, 16);
}

TEST_F(ResidencyTest, AFixedShareIsOfTheCachedTokensNotOfThePool) {
  Make(0, {.kv = 0.5, .x = 0});
  Sequence sequence = Computed(3, 160);  // of a pool of 4096 tokens
  for (int i = 0; i < 3; ++i) Decode({&sequence});
  EXPECT_EQ(Resident(Residence::kKv), 6);  // half of ten and the one that is written
  Sequence other = Computed(4, 160);
  for (int i = 0; i < 6; ++i) Decode({&sequence, &other});
  EXPECT_NEAR(Resident(Residence::kKv), 11, 1);
}

TEST_F(ResidencyTest, BlocksThatLieOnlyOnTheHostClimbToTheTargets) {
  for (const double x_share : {0.0, 0.4, 1.0}) {
    Make(x_share, {.kv = 0, .x = 0});
    Sequence sequence = Computed(5, 320);  // 20 blocks
    EXPECT_EQ(Resident(Residence::kKv) + Resident(Residence::kX), 0);
    Sequence hit = Sharing(sequence, 20);
    engine_->Release(sequence);
    for (int step = 0; step < 4; ++step) Decode({&hit});  // the prefill is no load any more
    EXPECT_EQ(Resident(Residence::kKv) + Resident(Residence::kX), 0);
    engine_->SetResidency({.kv = 0.5, .x = x_share > 0 ? 0.25 : 0});
    int64_t before = 0;
    StepStats stats;
    for (int step = 4; step < 12; ++step) {
      stats = Decode({&hit});
      const int64_t resident = stats.tokens.resident_kv_tokens + stats.tokens.resident_x_tokens;
      EXPECT_GE(resident, before);
      EXPECT_EQ(stats.tokens.total_tokens(), 320 + step);
      before = resident;
    }
    // Of 21 blocks, one of which is being written.
    EXPECT_EQ(Resident(Residence::kKv), 11) << x_share;
    EXPECT_EQ(Resident(Residence::kX), x_share > 0 ? 6 : 0) << x_share;
    EXPECT_EQ(stats.promoted_tokens, 0);
    EXPECT_EQ(stats.tokens.carried_kv_tokens + stats.tokens.carried_x_tokens,
              (20 - Resident(Residence::kKv) - Resident(Residence::kX)) * kBlockTokens);
    // Less is wanted: what is beyond goes.
    engine_->SetResidency({.kv = 0.25, .x = 0});
    Decode({&hit});
    EXPECT_EQ(Resident(Residence::kKv), 6);
    EXPECT_EQ(Resident(Residence::kX), 0);
  }
}

// Batches that take turns share the device: what one leaves is there when its turn comes again.
TEST_F(ResidencyTest, BatchesThatTakeTurnsLeaveEachOthersBlocksAlone) {
  Make(0, {.kv = 0, .x = 0});
  std::vector<Sequence> sequences;
  std::vector<std::unique_ptr<WorkItem>> items;
  constexpr int32_t kBatches = 4, kBlocks = 8;
  for (uint32_t i = 0; i < kBatches; ++i) {
    sequences.push_back(Computed(20 + i, kBlocks * kBlockTokens));
    items.push_back(engine_->NewItem(1));
  }
  engine_->SetResidency({.kv = 0.5, .x = 0, .decode_load_tokens = kBatches * kBlocks * kBlockTokens});
  int64_t promoted = 0, resident = 0;
  for (int pass = 0; pass < 12; ++pass) {
    promoted = resident = 0;
    for (size_t i = 0; i < kBatches; ++i) {
      const Segment segment = engine_->Next(sequences[i], 1);
      const StepStats stats = engine_->Run(*items[i], {&segment, 1}, Phase::kDecode).stats;
      promoted += stats.promoted_tokens;
      resident += stats.tokens.resident_kv_tokens;
    }
  }
  EXPECT_EQ(promoted, 0) << "what is resident stays";
  EXPECT_EQ(Resident(Residence::kKv), kBatches * kBlocks / 2);
  EXPECT_GE(resident, kBatches * kBlocks / 2 * kBlockTokens);
  items.clear();
}

TEST_F(ResidencyTest, BlocksWithMostReadersArePromotedFirstThenTheNewest) {
  Make(0, {.kv = 0, .x = 0});
  Sequence first = Computed(6, 192);  // 12 blocks
  Sequence second = Sharing(first, 3);
  for (int i = 0; i < 4; ++i) Decode({&first, &second});  // the prefill is no load any more
  engine_->SetResidency({.kv = 5.0 / 13, .x = 0});
  Decode({&first, &second});
  int32_t shared = 0;
  for (int32_t i = 0; i < 3; ++i) {
    shared += StateOf(first.blocks[static_cast<size_t>(i)]) == kv::DeviceCache::State::kResident;
  }
  EXPECT_EQ(shared, 3);
  // 12 blocks and two that are being written: 6 of 14 may stay.
  for (int32_t i = 3; i < 12; ++i) {
    EXPECT_EQ(StateOf(first.blocks[static_cast<size_t>(i)]),
              i >= 9 ? kv::DeviceCache::State::kResident : kv::DeviceCache::State::kAbsent)
        << i;
  }
}

TEST_F(ResidencyTest, AnAbandonedStepPromotesNothing) {
  Make(0.5, {.kv = 0, .x = 0});
  Sequence sequence = Computed(7, 160);
  engine_->SetResidency({.kv = 1, .x = 0});
  for (int32_t n_visits = 0; n_visits <= kLayers; ++n_visits) {
    const Segment segment = engine_->Next(sequence, 1);
    engine_->executor().Begin(*item_, Phase::kDecode, {&segment, 1}, engine_->plan());
    EXPECT_EQ(Resident(Residence::kKv), 10);  // arriving
    for (int32_t i = 0; i < n_visits; ++i) ASSERT_TRUE(engine_->executor().Visit(*item_).ok());
    engine_->executor().Abandon(*item_);
    --sequence.n_cached;
    EXPECT_EQ(Resident(Residence::kKv), 0);
  }
  EXPECT_EQ(Decode({&sequence}).promoted_tokens, 160);
}

// A block that a step reads and one that is written are never given up for one that was carried.
TEST_F(ResidencyTest, PromotionTakesOnlyRoomThatIsFree) {
  Make(0, {.kv = 1, .x = 0}, /*cache_blocks=*/24);
  Sequence first = Computed(8, 512);
  const int32_t resident = Resident(Residence::kKv);
  EXPECT_GT(resident, 4);
  EXPECT_LT(resident, 32);
  const StepStats stats = Decode({&first});
  EXPECT_GT(stats.tokens.carried_kv_tokens, 0);
  EXPECT_EQ(stats.tokens.resident_kv_tokens, resident * kBlockTokens);
  EXPECT_LE(2 * Resident(Residence::kKv), engine_->link().cache().n_slots());
  for (int i = 0; i < 20; ++i) Decode({&first});
}

}  // namespace
}  // namespace spillway::exec
