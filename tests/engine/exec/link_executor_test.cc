// The link executor against the row executor that reads every block in place: the same logits, however cached
// tokens reach attention. Links here are emulated.
#include "engine/exec/link_executor.h"

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/exec/link_models.h"
#include "tests/engine/exec/tiny_engine.h"
#include "tests/engine/exec/tiny_link_device.h"

namespace spillway::exec {
namespace {

void Append(Logits& logits, const Logits& more) { logits.insert(logits.end(), more.begin(), more.end()); }

// How one engine brings cached tokens to attention.
struct Case {
  std::string name;
  Heads heads = Heads::kMany;
  device::DType dtype = device::DType::kF32;
  TinyLink link;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

// On a device that is slow.
bool StandsForOthers(const Case& c) {
  if ((c.heads == Heads::kMany) != (c.dtype == device::DType::kF32)) return false;
  for (const char* name :
       {"all_x", "mixed_half_resident", "streamed_mixed", "serial", "all_forms_and_classes"}) {
    if (c.name == absl::StrCat(name, c.heads == Heads::kMany ? "_mha_" : "_gqa_", device::NameOf(c.dtype)))
      return true;
  }
  return false;
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const auto dtype : {device::DType::kF32, device::DType::kBF16}) {
    for (const auto heads : {Heads::kMany, Heads::kGrouped}) {
      const auto add = [&](const std::string& name, kv::Form form, double x_share,
                           int64_t resident_blocks_max, SplitMode mode = SplitMode::kAuto,
                           bool stream_weights = false, ResidencyTargets residency = {}) {
        Case c;
        c.name = absl::StrCat(name, heads == Heads::kMany ? "_mha_" : "_gqa_", device::NameOf(dtype));
        c.heads = heads;
        c.dtype = dtype;
        c.link.form = form;
        c.link.x_share = x_share;
        c.link.resident_blocks_max = resident_blocks_max;
        c.link.mode = mode;
        c.link.stream_weights = stream_weights;
        c.link.residency = residency;
        cases.push_back(c);
      };
      add("resident", kv::Form::kKv, 0, 64);
      add("all_kv", kv::Form::kKv, 0, 0);
      add("all_x", kv::Form::kX, 1, 0);
      add("mixed", kv::Form::kBoth, 0.5, 0);
      add("both_as_x", kv::Form::kBoth, 1, 0);
      add("mixed_half_resident", kv::Form::kBoth, 0.4, 4);
      add("streamed_resident", kv::Form::kKv, 0, 64, SplitMode::kAuto, /*stream_weights=*/true);
      add("streamed_mixed", kv::Form::kBoth, 0.5, 0, SplitMode::kAuto, /*stream_weights=*/true);
      add("serial", kv::Form::kBoth, 0.6, 0, SplitMode::kSerial);
      add("serial_kv", kv::Form::kKv, 0, 2, SplitMode::kSerial);
      add("resident_x", kv::Form::kBoth, 0.5, 64, SplitMode::kAuto, false, {.kv = 0, .x = 1});
      add("all_classes", kv::Form::kBoth, 0.5, 64, SplitMode::kAuto, false, {.kv = 0.3, .x = 0.3});
      add("serial_all_classes", kv::Form::kBoth, 0.5, 64, SplitMode::kSerial, false, {.kv = 0.2, .x = 0.3});
      // Every second block is stored as X, the others as K and V; then the first ones in both forms.
      add("forms_in_turn", kv::Form::kBoth, 0.5, 0);
      cases.back().link.policy = {.stores_x = true, .both_below = 0, .x_share = 0.5};
      add("forms_in_turn_serial", kv::Form::kBoth, 0.3, 4, SplitMode::kSerial);
      cases.back().link.policy = {.stores_x = true, .both_below = 0, .x_share = 0.6};
      add("all_forms_and_classes", kv::Form::kBoth, 0.4, 64, SplitMode::kAuto, false, {.kv = 0.2, .x = 0.3});
      cases.back().link.policy = {.stores_x = true, .both_below = 0.01, .x_share = 0.7};
    }
  }
  if (TinyLinkIsSlow()) std::erase_if(cases, [](const Case& c) { return !StandsForOthers(c); });
  return cases;
}

class LinkExecutorTest : public ::testing::TestWithParam<Case> {
 protected:
  TinyEngine& Resident(device::DType dtype) {
    std::unique_ptr<TinyEngine>& engine = resident_[dtype];
    if (engine == nullptr) {
      TinyEngineOptions options;
      options.dtype = dtype;
      engine = std::make_unique<TinyEngine>(ModelPath(GetParam().heads), options);
    }
    return *engine;
  }
  // `got`: logits of the sequence's rows from `first` on. In f32 they equal the resident run's but for the
  // order of sums. In bf16 every way of merging rounds the softmax's weights anew: what that changes is less
  // than what bf16 loses against f32 in the resident run.
  void ExpectAlike(const Logits& got, const Sequence& sequence, int32_t first) {
    const auto rows = [&](const Logits& all) {
      return Logits(all.begin() + first, all.begin() + first + static_cast<int32_t>(got.size()));
    };
    const Logits exact = Resident(device::DType::kF32).LogitsOfAll(sequence.tokens);
    if (GetParam().dtype == device::DType::kF32) {
      EXPECT_LT(MaxDifference(got, rows(exact)), LogitTolerance(device::DType::kF32));
      return;
    }
    const Logits want = Resident(GetParam().dtype).LogitsOfAll(sequence.tokens);
    EXPECT_LT(Difference(got, rows(want)).rms, Difference(want, exact).rms);
  }
  TinyEngine& Linked() {
    if (linked_ == nullptr) {
      TinyEngineOptions options;
      options.dtype = GetParam().dtype;
      options.chunk_rows = 64;
      options.max_item_segments = 2;
      options.max_item_rows = 32;
      options.head_rows = 10;
      options.link = GetParam().link;
      linked_ = std::make_unique<TinyEngine>(ModelPath(GetParam().heads), options);
    }
    return *linked_;
  }

 private:
  std::map<device::DType, std::unique_ptr<TinyEngine>> resident_;
  std::unique_ptr<TinyEngine> linked_;
};

INSTANTIATE_TEST_SUITE_P(Ways, LinkExecutorTest, ::testing::ValuesIn(Cases()),
                         [](const ::testing::TestParamInfo<Case>& test) { return test.param.name; });

// Pieces of a prompt, then single tokens: every later step reads what earlier ones stored.
TEST_P(LinkExecutorTest, PiecewisePrefillAndDecodeEqualTheResidentRun) {
  Sequence sequence;
  sequence.tokens = RandomTokens(3, 150, kVocab);
  Logits got;
  for (const int32_t piece : {32, 32, 7, 25, 32}) Append(got, Linked().Logits(sequence, piece));
  while (sequence.n_cached < sequence.size()) Append(got, Linked().Logits(sequence, 1));
  ExpectAlike(got, sequence, 0);
}

TEST_P(LinkExecutorTest, SequencesWithASharedPrefixEqualTheResidentRun) {
  Sequence first;
  first.tokens = RandomTokens(4, 130, kVocab);
  TinyEngine& engine = Linked();
  for (int32_t i = 0; i < 4; ++i) engine.Logits(first, 32);
  // The second one has the first four blocks in common and goes on otherwise.
  Sequence second;
  second.tokens = RandomTokens(5, 100, kVocab);
  std::copy_n(first.tokens.begin(), 64, second.tokens.begin());
  for (int32_t i = 0; i < 4; ++i) {
    second.blocks.push_back(first.blocks[static_cast<size_t>(i)]);
    engine.store().Ref(second.blocks.back());
  }
  second.n_cached = 64;
  for (const int32_t piece : {20, 14}) engine.Logits(second, piece);

  const std::unique_ptr<WorkItem> item = engine.NewItem(2);
  const Segment segments[] = {engine.Next(first, 1), engine.Next(second, 1)};
  const StepResult result = engine.Run(*item, segments, Phase::kDecode);
  ExpectAlike(engine.KeptLogits(*item, 0, 1), first, 128);
  ExpectAlike(engine.KeptLogits(*item, 1, 1), second, 98);

  // Each distinct token once, whoever reads it: 128 of the first, 98 - 64 more of the second.
  EXPECT_EQ(result.stats.tokens.total_tokens(), 128 + 34);
  const TokenClasses& tokens = result.stats.tokens;
  const kv::Geometry& geometry = engine.pool().geometry();
  EXPECT_EQ(result.stats.lanes[static_cast<size_t>(Lane::kKvLoad)].bytes,
            tokens.carried_kv_tokens * geometry.beta_bytes() * kLayers);
  EXPECT_EQ(result.stats.lanes[static_cast<size_t>(Lane::kXLoad)].bytes,
            tokens.carried_x_tokens * geometry.chi_bytes() * kLayers);
}

TEST_P(LinkExecutorTest, ShapeCountsWhatTheStepThenFinds) {
  TinyEngine& engine = Linked();
  Sequence sequence;
  sequence.tokens = RandomTokens(6, 120, kVocab);
  for (int32_t i = 0; i < 3; ++i) engine.Logits(sequence, 32);
  const std::unique_ptr<WorkItem> item = engine.NewItem(4);
  const Segment segment = engine.Next(sequence, 3);
  engine.link().WaitForStores();
  const BatchShape shape = engine.executor().ShapeOf(Phase::kPrefill, {&segment, 1});
  EXPECT_EQ(shape.new_tokens, 3);
  EXPECT_EQ(shape.head_rows, 3);  // every row's logits are kept
  EXPECT_EQ(shape.reads_tokens, 97 + 98 + 99);
  const StepResult result = engine.Run(*item, {&segment, 1});
  EXPECT_EQ(shape.resident_kv_tokens, result.stats.tokens.resident_kv_tokens);
  EXPECT_EQ(shape.resident_x_tokens, result.stats.tokens.resident_x_tokens);
  EXPECT_EQ(shape.host_kv_tokens + shape.host_x_tokens + shape.host_both_tokens,
            result.stats.tokens.carried_kv_tokens + result.stats.tokens.carried_x_tokens);
}

// Work items in turn, visit by visit, on a ring too small for both: what one fetched ahead the other takes.
TEST_P(LinkExecutorTest, ItemsVisitedInTurnGiveTheSameLogits) {
  TinyEngine& engine = Linked();
  Sequence sequences[2];
  std::vector<std::unique_ptr<WorkItem>> items;
  std::vector<Segment> segments;
  for (uint32_t i = 0; i < 2; ++i) {
    sequences[i].tokens = RandomTokens(20 + i, 100, kVocab);
    for (int32_t piece = 0; piece < 3; ++piece) engine.Logits(sequences[i], 32);
    items.push_back(engine.NewItem(2));
  }
  for (uint32_t i = 0; i < 2; ++i) {
    segments.push_back(engine.Next(sequences[i], 2));
    engine.executor().Begin(*items[i], Phase::kPrefill, {&segments[i], 1}, engine.plan());
  }
  std::mt19937 random(1);
  while (!items[0]->done() || !items[1]->done()) {
    WorkItem& item = *items[random() % 2];
    if (item.done()) continue;
    ASSERT_TRUE(engine.executor().Visit(item).ok());
  }
  for (uint32_t i = 0; i < 2; ++i) {
    ASSERT_TRUE(engine.executor().Finish(*items[i]).ok());
    ExpectAlike(engine.KeptLogits(*items[i], 0, 2), sequences[i], 96);
  }
}

// A column: each layer is visited by all items before any goes to the next. A pass of an item that is none of
// them comes in between, as one that must be quick does.
TEST_P(LinkExecutorTest, ColumnWithARowPassInBetweenGivesTheSameLogits) {
  TinyEngine& engine = Linked();
  constexpr size_t kItems = 3;  // the last is the row
  Sequence sequences[kItems];
  std::vector<std::unique_ptr<WorkItem>> items;
  std::vector<Segment> segments;
  for (uint32_t i = 0; i < kItems; ++i) {
    sequences[i].tokens = RandomTokens(40 + i, 66, kVocab);
    for (int32_t piece = 0; piece < 2; ++piece) engine.Logits(sequences[i], 32);
    items.push_back(engine.NewItem(2));
    segments.push_back(engine.Next(sequences[i], 2));
  }
  SplitPlan plan;
  plan.tokens.carried_x_tokens = static_cast<int64_t>(GetParam().link.x_share * 100);
  plan.tokens.carried_kv_tokens = 100 - plan.tokens.carried_x_tokens;
  plan.schedule = Schedule::kColumn;
  for (uint32_t i = 0; i + 1 < kItems; ++i) {
    engine.executor().Begin(*items[i], Phase::kPrefill, {&segments[i], 1}, plan);
  }
  for (int32_t layer = 0; layer < kLayers; ++layer) {
    for (uint32_t i = 0; i + 1 < kItems; ++i) {
      ASSERT_TRUE(engine.executor().Visit(*items[i]).ok());
      if (layer != 1 || i != 0) continue;
      plan.schedule = Schedule::kRow;
      engine.executor().Begin(*items[kItems - 1], Phase::kPrefill, {&segments[kItems - 1], 1}, plan);
      while (!items[kItems - 1]->done()) ASSERT_TRUE(engine.executor().Visit(*items[kItems - 1]).ok());
      ASSERT_TRUE(engine.executor().Finish(*items[kItems - 1]).ok());
    }
  }
  for (uint32_t i = 0; i < kItems; ++i) {
    if (i + 1 < kItems) {
      ASSERT_TRUE(engine.executor().Finish(*items[i]).ok());
    }
    ExpectAlike(engine.KeptLogits(*items[i], 0, 2), sequences[i], 64);
  }
}

TEST_P(LinkExecutorTest, AbandonedItemsLeaveTheRestAlone) {
  TinyEngine& engine = Linked();
  Sequence sequence;
  sequence.tokens = RandomTokens(8, 100, kVocab);
  for (int32_t piece = 0; piece < 2; ++piece) engine.Logits(sequence, 32);
  const std::unique_ptr<WorkItem> item = engine.NewItem(20);
  for (int32_t n_visits = 0; n_visits < kLayers; ++n_visits) {
    const Segment segment = engine.Next(sequence, 20);
    engine.executor().Begin(*item, Phase::kPrefill, {&segment, 1}, engine.plan());
    for (int32_t i = 0; i < n_visits; ++i) ASSERT_TRUE(engine.executor().Visit(*item).ok());
    engine.executor().Abandon(*item);
    sequence.n_cached -= 20;
  }
  ExpectAlike(engine.Logits(sequence, 20), sequence, 64);
}

// Between two visits of a step somebody else needs room, and stores to it before the step goes on: forms are
// dropped, but not of what the step carries.
TEST(LinkExecutorFormsTest, WhatAStepCarriesKeepsItsFormsWhileOthersTakeRoom) {
  for (const bool as_x : {false, true}) {
    TinyEngineOptions options;
    options.n_blocks = 13;  // in both forms: 39 slots
    options.max_item_segments = 2;
    options.max_item_rows = 32;
    options.link.emplace();
    options.link->form = kv::Form::kBoth;
    options.link->resident_blocks_max = 0;
    options.link->x_share = as_x ? 1 : 0;
    options.link->check_blocks = true;
    TinyEngine reference(ModelPath(Heads::kMany), {});
    TinyEngine engine(ModelPath(Heads::kMany), options);
    Sequence first, second, third;
    first.tokens = RandomTokens(80, 97, kVocab);
    second.tokens = RandomTokens(81, 90, kVocab);
    third.tokens = RandomTokens(82, 64, kVocab);
    for (int i = 0; i < 3; ++i) engine.Logits(first, 32);
    for (int i = 0; i < 2; ++i) engine.Logits(second, 32);
    engine.link().WaitForStores();
    const std::unique_ptr<WorkItem> item = engine.NewItem(2);
    const Segment segment = engine.Next(first, 1);
    ASSERT_TRUE(engine.store().PlanesOf(first.blocks[0]).has_both());
    // What goes, were it not pinned, is the form that is carried: the first sequence's was used longest ago.
    engine.store().SteerTo(as_x ? 0 : 1);
    engine.executor().Begin(*item, Phase::kDecode, {&segment, 1}, engine.plan());
    ASSERT_TRUE(engine.executor().Visit(*item).ok());
    for (int i = 0; i < 2; ++i) engine.Logits(third, 32);
    engine.link().WaitForStores();
    EXPECT_GE(engine.store().Counts().dropped_kv + engine.store().Counts().dropped_x, 2);
    while (!item->done()) ASSERT_TRUE(engine.executor().Visit(*item).ok());
    ASSERT_TRUE(engine.executor().Finish(*item).ok());
    EXPECT_LT(MaxDifference(engine.KeptLogits(*item, 0, 1), {reference.LogitsOfAll(first.tokens)[96]}),
              LogitTolerance(device::DType::kF32));
    for (Sequence* sequence : {&first, &second, &third}) engine.Release(*sequence);
  }
}

TEST(LinkExecutorChecksTest, APlaneThatChangedOnTheHostIsNamedAndNothingGoesOn) {
  for (const bool as_x : {false, true}) {
    TinyEngineOptions options;
    options.max_item_segments = 2;
    options.max_item_rows = 64;
    options.link.emplace();
    options.link->form = kv::Form::kBoth;
    options.link->resident_blocks_max = 0;
    options.link->x_share = as_x ? 1 : 0;
    options.link->check_blocks = true;
    TinyEngine engine(ModelPath(Heads::kMany), options);
    const std::unique_ptr<WorkItem> item = engine.NewItem(2);
    Sequence sequence;
    sequence.tokens = RandomTokens(72, 90, kVocab);
    engine.Logits(sequence, 64);
    engine.link().WaitForStores();  // what is not stored yet has nothing to be compared with
    const auto step = [&] {
      const Segment segment = engine.Next(sequence, 1);
      engine.executor().Begin(*item, Phase::kDecode, {&segment, 1}, engine.plan());
      while (!item->done()) {
        if (absl::Status status = engine.executor().Visit(*item); !status.ok()) {
          engine.executor().Abandon(*item);
          return status;
        }
      }
      return engine.executor().Finish(*item).status();
    };
    EXPECT_TRUE(step().ok());
    EXPECT_EQ(engine.link().checks()->planes_checked(), 4 * kLayers * (as_x ? 1 : 2));
    engine.link().WaitForStores();
    const kv::Planes planes = engine.store().PlanesOf(sequence.blocks[2]);
    // What is not carried may be anything.
    engine.pool().Slot(1, as_x ? planes.k : planes.x)[7] ^= 1;
    EXPECT_TRUE(step().ok());
    engine.pool().Slot(1, as_x ? planes.x : planes.v)[7] ^= 1;
    const absl::Status status = step();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(status.message()),
                ::testing::HasSubstr(
                    absl::StrCat("block ", sequence.blocks[2], ", layer 1, plane ", as_x ? "X" : "V")));
    EXPECT_EQ(step(), status) << "once wrong, always";
    engine.Release(sequence);
  }
}

// On a link so slow that a step is over before its stores are.
TEST(LinkExecutorStoresTest, BytesOfStoresAreCountedWithTheirTime) {
  TinyEngineOptions options;
  options.max_item_rows = 32;
  options.max_item_segments = 2;
  options.link.emplace();
  options.link->stream.link_bytes_per_s = 1e6;
  TinyEngine engine(ModelPath(Heads::kGrouped), options);
  Sequence sequence;
  sequence.tokens = RandomTokens(9, 34, kVocab);
  const std::unique_ptr<WorkItem> item = engine.NewItem(32);
  const auto step = [&](int32_t n) {
    const Segment segment = engine.Next(sequence, n);
    return engine.Run(*item, {&segment, 1}).stats.lanes[static_cast<size_t>(Lane::kKvStore)];
  };
  int64_t bytes = 0;
  const auto check = [&bytes](const LaneStats& lane) {
    EXPECT_EQ(lane.bytes > 0, lane.busy_ns > 0);
    EXPECT_EQ(lane.bytes > 0, lane.copies > 0);
    bytes += lane.bytes;
  };
  check(step(32));
  check(step(1));
  engine.link().WaitForStores();
  check(step(1));
  EXPECT_EQ(bytes, 32 * engine.pool().geometry().beta_bytes() * kLayers);
}

// A member that is cancelled in the step that fills its block gives it up unpublished while it is stored, and
// the next one is given the same id.
TEST(LinkExecutorStoresTest, BlockGivenUpWhileItIsStoredIsNotSealedUnderItsNewOwner) {
  TinyEngineOptions options;
  options.max_item_rows = 32;
  options.max_item_segments = 2;
  options.link.emplace();
  options.link->stream.link_bytes_per_s = 1e6;  // a block takes a twentieth of a second
  options.link->resident_blocks_max = 0;
  TinyEngine reference(ModelPath(Heads::kMany), {});
  TinyEngine engine(ModelPath(Heads::kMany), options);
  const kv::DeviceCache& cache = engine.link().cache();
  const std::unique_ptr<WorkItem> item = engine.NewItem(32);
  Sequence cancelled, next;
  cancelled.tokens = RandomTokens(74, 16, kVocab);
  next.tokens = RandomTokens(75, 20, kVocab);
  Logits logits;
  const auto step = [&](Sequence& sequence, int32_t n) {
    const Segment segment = engine.Next(sequence, n);
    engine.Run(*item, {&segment, 1});
    Append(logits, engine.KeptLogits(*item, 0, n));
  };
  // Without outputs, which would come behind what is stored.
  const Segment segment = engine.Next(cancelled, 16, Output::kNone);
  engine.Run(*item, {&segment, 1});
  const kv::BlockId block = cancelled.blocks[0];
  engine.Release(cancelled);
  EXPECT_TRUE(cache.IsLingering(block)) << "its store is under way";
  step(next, 9);
  ASSERT_EQ(next.blocks[0], block);
  engine.link().WaitForStores();
  ASSERT_EQ(cache.StateOf(block), kv::DeviceCache::State::kOpen);
  step(next, 9);
  engine.link().WaitForStores();
  EXPECT_TRUE(cache.IsElsewhere(block));
  step(next, 2);
  EXPECT_LT(MaxDifference(logits, reference.LogitsOfAll(next.tokens)), LogitTolerance(device::DType::kF32));
  engine.Release(next);
}

TEST(LinkExecutorStoresTest, AbandonedStepStoresNothingAfterwards) {
  TinyEngineOptions options;
  options.max_item_rows = 32;
  options.max_item_segments = 2;
  options.link.emplace();
  options.link->stream.link_bytes_per_s = 1e6;
  TinyEngine engine(ModelPath(Heads::kMany), options);
  const std::unique_ptr<WorkItem> item = engine.NewItem(32);
  Sequence abandoned, other;
  abandoned.tokens = RandomTokens(76, 16, kVocab);
  other.tokens = RandomTokens(77, 16, kVocab);
  const Segment segment = engine.Next(abandoned, 16);
  engine.executor().Begin(*item, Phase::kPrefill, {&segment, 1}, engine.plan());
  ASSERT_TRUE(engine.executor().Visit(*item).ok());
  engine.executor().Abandon(*item);
  // Whose memory it may be by now.
  const kv::Geometry& geometry = engine.pool().geometry();
  uint8_t* const slot = engine.pool().Slot(0, engine.store().PlanesOf(abandoned.blocks[0]).k);
  const std::vector<uint8_t> content(static_cast<size_t>(geometry.slot_bytes()), uint8_t{0x5a});
  std::copy(content.begin(), content.end(), slot);
  // What is stored later is stored behind it.
  const Segment behind = engine.Next(other, 16);
  engine.Run(*item, {&behind, 1});
  engine.link().WaitForStores();
  EXPECT_TRUE(std::equal(content.begin(), content.end(), slot));
  for (Sequence* sequence : {&abandoned, &other}) engine.Release(*sequence);
}

TEST(LinkExecutorLimitsTest, CacheTooSmallForOpenBlocksIsRefusedWithTheSizeThatWorks) {
  TinyEngineOptions options;
  options.max_item_segments = 2;
  options.max_item_rows = 16;
  options.link.emplace();
  options.link->cache_blocks = 12;
  TinyEngine engine(ModelPath(Heads::kMany), options);
  ItemLimits limits;
  limits.max_rows = 64;
  limits.max_segments = 64;
  limits.max_blocks = 256;
  const auto item = engine.executor().CreateWorkItem(limits);
  ASSERT_FALSE(item.ok());
  EXPECT_THAT(std::string(item.status().message()), ::testing::HasSubstr("it needs"));
}

}  // namespace
}  // namespace spillway::exec
