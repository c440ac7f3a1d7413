// The link executor while sequences come, go, share and change hands, and with what is fetched ahead of a
// step. Links here are emulated.
#include <algorithm>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "engine/exec/link_executor.h"
#include "gtest/gtest.h"
#include "tests/engine/exec/link_models.h"
#include "tests/engine/exec/tiny_engine.h"
#include "tests/engine/exec/tiny_link_device.h"

namespace spillway::exec {
namespace {

// Sequences come, go and share, while every stream is delayed at random: what is not waited for is NaN or
// somebody else's.
TEST(LinkExecutorStressTest, RandomJoinsLeavesAndPreemptionsFindNothing) {
  int64_t n_dropped = 0;
  for (const auto& [seed, stream_weights] :
       {std::pair(1U, false), std::pair(2U, true), std::pair(3U, false), std::pair(3U, true),
        std::pair(4U, false), std::pair(5U, true)}) {
    const bool forms = seed % 2 == 1;
    TinyEngineOptions options;
    options.n_blocks = forms ? 20 : 40;  // in both forms; 30 as K and V
    options.max_item_segments = 4;
    options.max_item_rows = 32;
    options.chunk_rows = 32;
    TinyEngine reference(ModelPath(Heads::kMany), {});
    TinyLink link;
    link.form = kv::Form::kBoth;
    link.cache_blocks = 24;
    link.check_order = true;
    link.stream.jitter_us = 200;
    link.stream.jitter_seed = seed;
    link.stream_weights = stream_weights;
    link.check_blocks = true;
    if (forms) link.policy = {.stores_x = true, .both_below = 1, .x_share = 0.5};
    options.link = link;
    TinyEngine engine(ModelPath(Heads::kMany), options);
    std::mt19937 random(seed);
    std::vector<Sequence> sequences(4);
    std::vector<Logits> wants(4);
    const std::unique_ptr<WorkItem> item = engine.NewItem(32);
    for (int32_t step = 0; step < 40; ++step) {
      engine.CarryAsX(static_cast<double>(random() % 5) / 4);
      engine.SetMode(random() % 4 == 0 ? SplitMode::kSerial : SplitMode::kAuto);
      engine.store().SteerTo(static_cast<double>(random() % 5) / 4);
      if (random() % 3 == 0) {
        const double kv = static_cast<double>(random() % 4) / 4;
        engine.SetResidency({.kv = kv, .x = (1 - kv) * static_cast<double>(random() % 3) / 2});
      }
      std::vector<Segment> segments;
      std::vector<std::pair<size_t, int32_t>> members;  // sequence, its first row's position
      for (size_t s = 0; s < sequences.size(); ++s) {
        Sequence& sequence = sequences[s];
        const bool ends =
            !sequence.tokens.empty() && (sequence.n_cached == sequence.size() || random() % 12 == 0);
        if (ends) {
          engine.Release(sequence);
          sequence = {};
        }
        if (sequence.tokens.empty()) {
          sequence.tokens = RandomTokens(static_cast<uint32_t>(random() % 6),
                                         60 + static_cast<int32_t>(random() % 70), kVocab);
          wants[s] = reference.LogitsOfAll(sequence.tokens);
        }
        const int32_t left = sequence.size() - sequence.n_cached;
        const int32_t n = std::min<int32_t>(left, random() % 2 == 0 ? 1 : 8);
        members.emplace_back(s, sequence.n_cached);
        segments.push_back(engine.Next(sequence, n));
      }
      if (random() % 5 == 0) {  // cancelled on the way; the same rows again
        engine.executor().Begin(*item, Phase::kPrefill, segments, engine.plan());
        for (uint32_t i = random() % (kLayers + 1); i > 0; --i) {
          ASSERT_TRUE(engine.executor().Visit(*item).ok());
        }
        engine.executor().Abandon(*item);
      }
      engine.Run(*item, segments);
      for (size_t m = 0; m < members.size(); ++m) {
        const auto [s, first] = members[m];
        const int32_t n = static_cast<int32_t>(segments[m].tokens.size());
        ASSERT_LT(MaxDifference(engine.KeptLogits(*item, static_cast<int32_t>(m), n),
                                Logits(wants[s].begin() + first, wants[s].begin() + first + n)),
                  LogitTolerance(device::DType::kF32))
            << "seed " << seed << ", step " << step << ", sequence " << s;
      }
    }
    for (Sequence& sequence : sequences) engine.Release(sequence);
    engine.link().WaitForStores();
    EXPECT_EQ(engine.link().cache().open_blocks(), 0);
    n_dropped += engine.store().Counts().dropped_kv + engine.store().Counts().dropped_x;
    EXPECT_EQ(engine.order().unordered_reads(), 0);
    EXPECT_EQ(engine.order().unordered_writes(), 0);
  }
  EXPECT_GT(n_dropped, 20);
}

// Decode steps that follow one another fetch ahead, while sequences leave, others take their blocks at once
// and store them anew, prefixes are shared, steps are given up, plans and residency change, and every stream
// is delayed at random on a slow link: a chunk of a former content, or one that a store overtook, would show.
TEST(LinkExecutorStressTest, ChunksFetchedAheadAreTheStepsOwnWhateverHappensInBetween) {
  int64_t n_ahead = 0, n_dropped = 0, n_forms_dropped = 0;
  for (const auto& [seed, stream_weights] : {std::pair(1U, false), std::pair(2U, false), std::pair(3U, true),
                                             std::pair(4U, false), std::pair(5U, false)}) {
    const bool forms = seed % 2 == 1;
    TinyEngineOptions options;
    options.n_blocks = forms ? 18 : 34;  // so that what is freed is taken again
    options.max_item_segments = 4;
    options.max_item_rows = options.chunk_rows = 32;
    TinyEngine reference(ModelPath(Heads::kMany), {});
    TinyLink link;
    link.form = kv::Form::kBoth;
    link.cache_blocks = 24;
    link.resident_blocks_max = 6;
    link.ring_chunks = 2 + 2 * static_cast<int32_t>(seed % 3);
    link.stream.link_bytes_per_s = 1.5e8;
    link.check_order = true;
    link.stream.jitter_us = 200;
    link.stream.jitter_seed = seed;
    link.stream_weights = stream_weights;
    link.check_blocks = true;
    if (forms) link.policy = {.stores_x = true, .both_below = 1, .x_share = 0.5};
    options.link = link;
    TinyEngine engine(ModelPath(Heads::kMany), options);
    std::mt19937 random(seed);
    const auto one_in = [&random](uint32_t n) { return random() % n == 0; };
    std::vector<Sequence> sequences(3);
    std::vector<Logits> wants(3);
    const std::unique_ptr<WorkItem> item = engine.NewItem(4);
    for (int32_t step = 0; step < 60; ++step) {
      if (one_in(6)) engine.CarryAsX(static_cast<double>(random() % 5) / 4);
      if (one_in(6)) engine.store().SteerTo(static_cast<double>(random() % 5) / 4);
      if (one_in(8)) engine.SetMode(one_in(4) ? SplitMode::kSerial : SplitMode::kAuto);
      if (one_in(8)) {
        engine.SetResidency(
            {.kv = static_cast<double>(random() % 3) / 4, .x = static_cast<double>(random() % 3) / 4});
      }
      for (size_t s = 0; s < sequences.size(); ++s) {
        Sequence& sequence = sequences[s];
        if (!sequence.tokens.empty() && sequence.n_cached < sequence.size() && !one_in(15)) continue;
        engine.Release(sequence);
        sequence = {};
        sequence.tokens = RandomTokens(100 * seed + static_cast<uint32_t>(random() % 50),
                                       80 + static_cast<int32_t>(random() % 64), kVocab);
        // Some go on from another's first blocks.
        const Sequence& other = sequences[(s + 1) % sequences.size()];
        const auto n_shared = static_cast<int32_t>(random() % 3);
        if (one_in(2) && other.n_cached / 16 >= n_shared) {
          std::copy_n(other.tokens.begin(), n_shared * 16, sequence.tokens.begin());
          for (int32_t i = 0; i < n_shared; ++i) {
            sequence.blocks.push_back(other.blocks[static_cast<size_t>(i)]);
            engine.store().Ref(sequence.blocks.back());
          }
          sequence.n_cached = n_shared * 16;
        }
        wants[s] = reference.LogitsOfAll(sequence.tokens);
        // In another item, while this one's chunks are on their way.
        while (sequence.n_cached < 64) engine.Logits(sequence, 16);
      }
      std::vector<Segment> segments;
      std::vector<size_t> members;
      for (size_t s = 0; s < sequences.size(); ++s) {
        if (one_in(8)) continue;  // waits a step
        members.push_back(s);
        segments.push_back(engine.Next(sequences[s], 1));
      }
      if (members.empty()) continue;
      if (one_in(10)) {
        engine.executor().Begin(*item, Phase::kDecode, segments, engine.plan());
        for (uint32_t visit = random() % (kLayers + 1); visit > 0; --visit) {
          ASSERT_TRUE(engine.executor().Visit(*item).ok());
        }
        engine.executor().Abandon(*item);
        for (const size_t s : members) --sequences[s].n_cached;
        continue;
      }
      const StepStats stats = engine.Run(*item, segments, Phase::kDecode).stats;
      n_ahead += stats.chunks_ahead;
      n_dropped += stats.chunks_dropped;
      for (size_t m = 0; m < members.size(); ++m) {
        const size_t s = members[m];
        const auto row = static_cast<size_t>(sequences[s].n_cached - 1);
        ASSERT_LT(MaxDifference(engine.KeptLogits(*item, static_cast<int32_t>(m), 1), {wants[s][row]}),
                  2 * LogitTolerance(device::DType::kF32))  // longer contexts than elsewhere
            << "seed " << seed << ", step " << step << ", sequence " << s;
      }
    }
    for (Sequence& sequence : sequences) engine.Release(sequence);
    engine.link().WaitForStores();
    EXPECT_EQ(engine.link().cache().open_blocks(), 0);
    n_forms_dropped += engine.store().Counts().dropped_kv + engine.store().Counts().dropped_x;
    EXPECT_EQ(engine.order().unordered_reads(), 0);
    EXPECT_EQ(engine.order().unordered_writes(), 0);
  }
  EXPECT_GT(n_forms_dropped, 10);
  EXPECT_GT(n_ahead, 100);
  EXPECT_GT(n_dropped, 50);
}

// A chunk that holds a block of a sequence that left, and whose id holds another's content since, is not
// read.
TEST(LinkExecutorAheadTest, BlocksThatChangedHandsBetweenTwoStepsAreFetchedAgain) {
  TinyEngineOptions options;
  options.n_blocks = 12;
  options.max_item_segments = 2;
  options.max_item_rows = 80;
  options.link.emplace();
  options.link->cache_blocks = 24;
  options.link->resident_blocks_max = 0;
  options.link->ring_chunks = 6;
  TinyEngine reference(ModelPath(Heads::kMany), {});
  TinyEngine engine(ModelPath(Heads::kMany), options);
  const std::unique_ptr<WorkItem> item = engine.NewItem(2);
  Sequence first, second;
  first.tokens = RandomTokens(70, 90, kVocab);
  second.tokens = RandomTokens(71, 90, kVocab);
  const auto step = [&](Sequence& sequence) {
    const Segment segment = engine.Next(sequence, 1);
    return engine.Run(*item, {&segment, 1}, Phase::kDecode).stats;
  };
  engine.Logits(first, 80);
  engine.link().WaitForStores();  // what still lies on the device is not carried
  step(first);
  step(first);
  EXPECT_EQ(step(first).chunks_ahead, 3);  // of five blocks, two a chunk
  const std::vector<kv::BlockId> blocks = first.blocks;
  engine.Release(first);
  engine.Logits(second, 80);
  ASSERT_EQ(std::set<kv::BlockId>(second.blocks.begin(), second.blocks.end()),
            std::set<kv::BlockId>(blocks.begin(), blocks.end()));
  const StepStats stats = step(second);
  EXPECT_EQ(stats.chunks_ahead, 0);
  EXPECT_GE(stats.chunks_dropped, 1);
  EXPECT_LT(MaxDifference(engine.KeptLogits(*item, 0, 1), {reference.LogitsOfAll(second.tokens)[80]}),
            LogitTolerance(device::DType::kF32));
}

// Batches that take turns in an item, as those do whose members are more than a batch takes: what the last
// step carried says nothing about the next one. Then one of them goes on alone.
TEST(LinkExecutorAheadTest, BatchesThatTakeTurnsFetchNothingAheadUntilOneGoesOnAlone) {
  TinyEngineOptions options;
  options.max_item_segments = 2;
  options.max_item_rows = 80;
  options.link.emplace();
  options.link->resident_blocks_max = 0;
  options.link->ring_chunks = 6;
  TinyEngine engine(ModelPath(Heads::kMany), options);
  const std::unique_ptr<WorkItem> item = engine.NewItem(2);
  std::vector<Sequence> sequences(2);
  for (Sequence& sequence : sequences) {
    sequence.tokens = RandomTokens(73, 95, kVocab);
    engine.Logits(sequence, 80);
  }
  engine.link().WaitForStores();
  const auto step = [&](Sequence& sequence) {
    const Segment segment = engine.Next(sequence, 1);
    return engine.Run(*item, {&segment, 1}, Phase::kDecode).stats;
  };
  const int64_t carried_bytes = 80 * engine.pool().geometry().beta_bytes() * kLayers;
  int64_t bytes = 0, n_ahead = 0, n_dropped = 0;
  for (size_t i = 0; i < 20; ++i) {
    const StepStats stats = step(sequences[i % 2]);
    EXPECT_EQ(stats.tokens.carried_kv_tokens, 80);
    bytes += stats.lanes[static_cast<size_t>(Lane::kKvLoad)].bytes;
    n_ahead += stats.chunks_ahead;
    n_dropped += stats.chunks_dropped;
  }
  EXPECT_EQ(n_ahead, 0);
  EXPECT_EQ(n_dropped, 0);
  EXPECT_EQ(bytes, 20 * carried_bytes);
  step(sequences[0]);
  step(sequences[0]);
  for (int i = 0; i < 2; ++i) {
    const StepStats stats = step(sequences[0]);
    EXPECT_EQ(stats.chunks_ahead, 3);
    EXPECT_EQ(stats.chunks_dropped, 0);
  }
  for (Sequence& sequence : sequences) engine.Release(sequence);
}

}  // namespace
}  // namespace spillway::exec
