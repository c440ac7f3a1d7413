// Weights that are loaded layer by layer while the link executor's items take turns. Links here are emulated.
#include "engine/exec/weight_stream.h"

#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/exec/link_models.h"
#include "tests/engine/exec/tiny_engine.h"
#include "tests/engine/exec/tiny_link_device.h"

namespace spillway::exec {
namespace {

class WeightStreamTest : public ::testing::Test {
 protected:
  static TinyEngineOptions Options() {
    TinyEngineOptions options;
    options.max_item_rows = 32;
    options.max_item_segments = 2;
    options.link.emplace();
    options.link->stream_weights = true;
    options.link->stream.jitter_us = 300;
    return options;
  }
  // Items of one row each that are begun together; what they copied of weights, all together.
  static LaneStats RunColumn(TinyEngine& engine, std::vector<Sequence>& sequences,
                             std::vector<std::unique_ptr<WorkItem>>& items, Schedule schedule) {
    SplitPlan plan;
    plan.schedule = schedule;
    plan.tokens.carried_kv_tokens = 100;
    std::vector<Segment> segments;
    for (Sequence& sequence : sequences) segments.push_back(engine.Next(sequence, 1));
    LaneStats sum;
    const auto finish = [&](WorkItem& item) {
      const auto result = engine.executor().Finish(item);
      EXPECT_TRUE(result.ok());
      const LaneStats& lane = result->stats.lanes[static_cast<size_t>(Lane::kWeightLoad)];
      EXPECT_EQ(lane.bytes > 0, lane.busy_ns > 0);
      sum.bytes += lane.bytes;
      sum.copies += lane.copies;
      weight_waits_ += result->stats.weight_waits;
    };
    if (schedule == Schedule::kRow) {
      for (size_t i = 0; i < items.size(); ++i) {
        engine.executor().Begin(*items[i], Phase::kDecode, {&segments[i], 1}, plan);
        while (!items[i]->done()) EXPECT_TRUE(engine.executor().Visit(*items[i]).ok());
        finish(*items[i]);
      }
      return sum;
    }
    for (size_t i = 0; i < items.size(); ++i) {
      engine.executor().Begin(*items[i], Phase::kDecode, {&segments[i], 1}, plan);
    }
    for (int32_t layer = 0; layer < kLayers; ++layer) {
      for (auto& item : items) EXPECT_TRUE(engine.executor().Visit(*item).ok());
    }
    for (auto& item : items) finish(*item);
    return sum;
  }
  static inline int64_t weight_waits_ = 0;
};

TEST_F(WeightStreamTest, ColumnLoadsALayerOnceForAllItsItemsAndRowOnceForEach) {
  constexpr size_t kItems = 3;
  for (const Schedule schedule : {Schedule::kRow, Schedule::kColumn}) {
    TinyEngine engine(ModelPath(Heads::kMany), Options());
    std::vector<Sequence> sequences(kItems);
    std::vector<std::unique_ptr<WorkItem>> items;
    for (uint32_t i = 0; i < kItems; ++i) {
      sequences[i].tokens = RandomTokens(60 + i, 70, kVocab);
      for (int32_t piece = 0; piece < 2; ++piece) engine.Logits(sequences[i], 32);
      items.push_back(engine.NewItem(1));
    }
    weight_waits_ = 0;
    LaneStats sum;
    constexpr int32_t kRounds = 3;
    for (int32_t round = 0; round < kRounds; ++round) {
      sum.copies += RunColumn(engine, sequences, items, schedule).copies;
    }
    const int64_t passes = kRounds * (schedule == Schedule::kRow ? int64_t{kItems} : 1);
    // The prefetch of the next pass's first layer is counted when it is over, so one may be counted before
    // the first round or after the last.
    EXPECT_NEAR(static_cast<double>(sum.copies), static_cast<double>(passes * kLayers), 1);
    EXPECT_EQ(weight_waits_, 0) << "in order, each layer is on its way before it is used";
  }
}

TEST_F(WeightStreamTest, DeviceHoldsTwoLayersHoweverManyThereAre) {
  TinyEngineOptions options = Options();
  TinyEngine streamed(ModelPath(Heads::kMany), options);
  options.link->stream_weights = false;
  TinyEngine resident(ModelPath(Heads::kMany), options);
  const model::ModelWeights& weights = *streamed.model().weights;
  EXPECT_EQ(resident.device().allocated_bytes() - streamed.device().allocated_bytes(),
            weights.host_bytes() - 2 * weights.largest_layer_bytes());
  EXPECT_GE(weights.host_bytes(), kLayers * weights.LayerBytes(0));
}

TEST_F(WeightStreamTest, ShapeSaysWhatAPassLoads) {
  TinyEngine engine(ModelPath(Heads::kMany), Options());
  Sequence sequence;
  sequence.tokens = RandomTokens(1, 20, kVocab);
  const Segment segment = engine.Next(sequence, 20);
  EXPECT_EQ(engine.executor().ShapeOf(Phase::kPrefill, {&segment, 1}).weight_load_bytes,
            engine.model().weights->host_bytes());
}

}  // namespace
}  // namespace spillway::exec
