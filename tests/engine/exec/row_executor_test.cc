#include "engine/exec/row_executor.h"

#include <unistd.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/exec/tiny_engine.h"
#include "tests/fakes/forwarding_device.h"
#include "tests/fakes/gguf_writer.h"

namespace spillway::exec {
namespace {

using Logits = std::vector<std::vector<float>>;

constexpr int32_t kVocab = 320;

// One file for all tests of this binary.
const std::string& TinyModelPath() {
  static const std::string* const path = [] {
    auto* name = new std::string(::testing::TempDir() + std::to_string(getpid()) + "_row_executor_test.gguf");
    fakes::TinyLlamaOptions options;
    options.n_heads = 6;
    options.n_kv_heads = 2;
    options.d_model = 96;
    options.n_layers = 3;
    options.vocab_size = kVocab;
    options.seed = 7;
    const absl::Status status = fakes::WriteTinyLlama(*name, options);
    if (!status.ok()) ADD_FAILURE() << status;
    return name;
  }();
  return *path;
}

Logits Rows(const Logits& logits, int32_t begin, int32_t end) {
  return Logits(logits.begin() + begin, logits.begin() + end);
}

void Append(Logits& logits, const Logits& more) { logits.insert(logits.end(), more.begin(), more.end()); }

class RowExecutorTest : public ::testing::TestWithParam<device::DType> {
 protected:
  TinyEngine& MakeEngine(int32_t chunk_rows = 256, int32_t block_tokens = 16) {
    TinyEngineOptions options;
    options.dtype = GetParam();
    options.chunk_rows = chunk_rows;
    options.head_rows = 10;  // kept logits and samples cross the border
    options.block_tokens = block_tokens;
    engine_ = std::make_unique<TinyEngine>(TinyModelPath(), options);
    return *engine_;
  }
  double tolerance() const { return LogitTolerance(GetParam()); }

  std::unique_ptr<TinyEngine> engine_;
};

INSTANTIATE_TEST_SUITE_P(DTypes, RowExecutorTest,
                         ::testing::Values(device::DType::kF32, device::DType::kBF16),
                         [](const ::testing::TestParamInfo<device::DType>& test) {
                           return device::NameOf(test.param);
                         });

TEST_P(RowExecutorTest, LogitsDifferFromRowToRow) {
  // Were they alike, the comparisons below would mean nothing.
  const Logits logits = MakeEngine().LogitsOfAll(RandomTokens(1, 20, kVocab));
  for (int32_t i = 1; i < 20; ++i) {
    EXPECT_GT(MaxDifference(Rows(logits, i - 1, i), Rows(logits, i, i + 1)), 4 * tolerance());
  }
}

TEST_P(RowExecutorTest, PrefillThenDecodeEqualsOneShotAtEveryBlockBorder) {
  TinyEngine& engine = MakeEngine();
  const std::vector<text::TokenId> tokens = RandomTokens(2, 52, kVocab);
  const Logits expected = engine.LogitsOfAll(tokens);
  for (const int32_t n_prompt : {1, 2, 15, 16, 17, 31, 32, 33, 47, 48}) {
    Sequence sequence;
    sequence.tokens = tokens;
    Logits logits = engine.Logits(sequence, n_prompt);
    for (int32_t i = n_prompt; i < n_prompt + 4; ++i) Append(logits, engine.Logits(sequence, 1));
    EXPECT_LT(MaxDifference(logits, Rows(expected, 0, n_prompt + 4)), tolerance()) << n_prompt;
    engine.Release(sequence);
  }
}

TEST_P(RowExecutorTest, LargerBlocksGiveTheSameLogits) {
  const std::vector<text::TokenId> tokens = RandomTokens(3, 70, kVocab);
  const Logits expected = MakeEngine().LogitsOfAll(tokens);
  for (const int32_t block_tokens : {32, 64, 128}) {
    EXPECT_LT(MaxDifference(MakeEngine(256, block_tokens).LogitsOfAll(tokens), expected), tolerance());
  }
}

TEST_P(RowExecutorTest, ChunkedPrefillEqualsOneShot) {
  const std::vector<text::TokenId> tokens = RandomTokens(4, 75, kVocab);
  const Logits expected = MakeEngine(256).LogitsOfAll(tokens);
  for (const int32_t chunk_rows : {1, 7, 16, 24, 74, 75}) {
    EXPECT_LT(MaxDifference(MakeEngine(chunk_rows).LogitsOfAll(tokens), expected), tolerance()) << chunk_rows;
  }
}

TEST_P(RowExecutorTest, PiecewisePrefillOfManyItemsEqualsOneShot) {
  TinyEngine& engine = MakeEngine(16);
  Sequence sequence;
  sequence.tokens = RandomTokens(5, 60, kVocab);
  const Logits expected = engine.LogitsOfAll(sequence.tokens);
  Logits logits;
  for (const int32_t piece : {5, 11, 16, 1, 20, 7}) Append(logits, engine.Logits(sequence, piece));
  EXPECT_LT(MaxDifference(logits, expected), tolerance());
}

TEST_P(RowExecutorTest, RaggedBatchEqualsItsSequencesOneByOne) {
  TinyEngine& engine = MakeEngine(/*chunk_rows=*/20);  // chunks cut sequences in two
  const std::vector<int32_t> cached = {0, 1, 15, 16, 17, 40, 0, 63};
  const std::vector<int32_t> fresh = {30, 1, 1, 1, 3, 1, 17, 2};
  std::vector<Sequence> sequences(cached.size());
  std::vector<Logits> expected;
  for (size_t i = 0; i < cached.size(); ++i) {
    const std::vector<text::TokenId> tokens =
        RandomTokens(static_cast<uint32_t>(10 + i), cached[i] + fresh[i], kVocab);
    expected.push_back(Rows(engine.LogitsOfAll(tokens), cached[i], cached[i] + fresh[i]));
    sequences[i].tokens = tokens;
    if (cached[i] > 0) engine.Logits(sequences[i], cached[i]);
  }
  std::vector<Segment> segments;
  for (size_t i = 0; i < cached.size(); ++i) segments.push_back(engine.Next(sequences[i], fresh[i]));
  const std::unique_ptr<WorkItem> item = engine.NewItem();
  engine.Run(*item, segments);
  for (size_t i = 0; i < cached.size(); ++i) {
    EXPECT_LT(MaxDifference(engine.KeptLogits(*item, static_cast<int32_t>(i), fresh[i]), expected[i]),
              tolerance())
        << i;
  }
}

TEST_P(RowExecutorTest, BlocksInAnyOrderGiveTheSameBits) {
  TinyEngine& engine = MakeEngine();
  const std::vector<text::TokenId> tokens = RandomTokens(6, 60, kVocab);
  const Logits expected = engine.LogitsOfAll(tokens);
  Sequence sequence;
  sequence.tokens = tokens;
  engine.Cover(sequence);
  std::reverse(sequence.blocks.begin(), sequence.blocks.end());
  EXPECT_EQ(engine.Logits(sequence, 60), expected);
}

TEST_P(RowExecutorTest, SharedPrefixEqualsRecomputing) {
  TinyEngine& engine = MakeEngine();
  const std::vector<text::TokenId> prefix = RandomTokens(7, 32, kVocab);
  Sequence first;
  first.tokens = prefix;
  engine.Logits(first, 32);
  std::vector<Sequence> readers(3);
  std::vector<Logits> expected;
  std::vector<Segment> segments;
  for (size_t i = 0; i < readers.size(); ++i) {
    std::vector<text::TokenId> tokens = prefix;
    for (text::TokenId id : RandomTokens(static_cast<uint32_t>(20 + i), 9, kVocab)) tokens.push_back(id);
    expected.push_back(Rows(engine.LogitsOfAll(tokens), 32, 41));
    readers[i].tokens = tokens;
    readers[i].blocks = first.blocks;
    for (kv::BlockId block : first.blocks) engine.store().Ref(block);
    readers[i].n_cached = 32;
  }
  for (Sequence& reader : readers) segments.push_back(engine.Next(reader, 9));
  const std::unique_ptr<WorkItem> item = engine.NewItem();
  engine.Run(*item, segments);
  for (int32_t i = 0; i < 3; ++i) {
    EXPECT_LT(MaxDifference(engine.KeptLogits(*item, i, 9), expected[static_cast<size_t>(i)]), tolerance());
  }
}

TEST_P(RowExecutorTest, PrefillSuspendedAtAnyVisitGivesTheSameBits) {
  TinyEngine& engine = MakeEngine(/*chunk_rows=*/16);
  const std::vector<text::TokenId> prompt = RandomTokens(8, 50, kVocab);
  const Logits expected = engine.LogitsOfAll(prompt);
  const std::vector<text::TokenId> other = RandomTokens(9, 45, kVocab);
  Logits other_expected;
  {
    Sequence sequence;
    sequence.tokens = other;
    other_expected = engine.Logits(sequence, 20);
    while (sequence.n_cached < sequence.size()) Append(other_expected, engine.Logits(sequence, 1));
    engine.Release(sequence);
  }

  const std::unique_ptr<WorkItem> prefill = engine.NewItem();
  Sequence suspended;
  suspended.tokens = prompt;
  Sequence decoding;
  decoding.tokens = other;
  Logits other_logits = engine.Logits(decoding, 20);
  const Segment segment = engine.Next(suspended, 50);
  engine.executor().Begin(*prefill, Phase::kPrefill, {&segment, 1}, AllResidentPlan({}));
  EXPECT_EQ(prefill->visits_total(), 3 * 4);
  while (!prefill->done()) {
    ASSERT_TRUE(engine.executor().Visit(*prefill).ok());
    Append(other_logits, engine.Logits(decoding, 1));  // a whole decode step in between
  }
  ASSERT_TRUE(engine.executor().Finish(*prefill).ok());
  EXPECT_EQ(engine.KeptLogits(*prefill, 0, 50), expected);
  while (decoding.n_cached < decoding.size()) Append(other_logits, engine.Logits(decoding, 1));
  EXPECT_EQ(other_logits, other_expected);
}

TEST_P(RowExecutorTest, TwoItemsVisitedInTurnGiveTheSameBits) {
  TinyEngine& engine = MakeEngine(/*chunk_rows=*/16);
  const std::vector<text::TokenId> tokens[2] = {RandomTokens(10, 40, kVocab), RandomTokens(11, 33, kVocab)};
  const Logits expected[2] = {engine.LogitsOfAll(tokens[0]), engine.LogitsOfAll(tokens[1])};
  Sequence sequences[2];
  Segment segments[2];
  std::unique_ptr<WorkItem> items[2];
  for (int i = 0; i < 2; ++i) {
    sequences[i].tokens = tokens[i];
    segments[i] = engine.Next(sequences[i], sequences[i].size());
    items[i] = engine.NewItem();
    engine.executor().Begin(*items[i], Phase::kPrefill, {&segments[i], 1}, AllResidentPlan({}));
  }
  while (!items[0]->done() || !items[1]->done()) {
    for (const auto& item : items) {
      if (item->done()) continue;
      ASSERT_TRUE(engine.executor().Visit(*item).ok());
    }
  }
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(engine.executor().Finish(*items[i]).ok());
    EXPECT_EQ(engine.KeptLogits(*items[i], 0, sequences[i].size()), expected[i]);
  }
}

TEST_P(RowExecutorTest, AbandonAtAnyVisitLeavesOthersAloneAndTheItemReusable) {
  TinyEngine& engine = MakeEngine(/*chunk_rows=*/16);
  const std::vector<text::TokenId> kept_tokens = RandomTokens(12, 40, kVocab);
  const Logits expected = engine.LogitsOfAll(kept_tokens);
  const std::unique_ptr<WorkItem> item = engine.NewItem();
  for (int32_t n_visits = 0; n_visits < 3 * 3; ++n_visits) {
    Sequence kept;
    kept.tokens = kept_tokens;
    Logits logits = engine.Logits(kept, 20);
    Sequence gone;
    gone.tokens = RandomTokens(13, 45, kVocab);
    const Segment segment = engine.Next(gone, 45);
    engine.executor().Begin(*item, Phase::kPrefill, {&segment, 1}, AllResidentPlan({}));
    for (int32_t i = 0; i < n_visits; ++i) ASSERT_TRUE(engine.executor().Visit(*item).ok());
    engine.executor().Abandon(*item);
    EXPECT_FALSE(item->running());
    engine.Release(gone);
    Append(logits, engine.Logits(kept, 20));  // may get the blocks of the one that is gone
    EXPECT_LT(MaxDifference(logits, expected), tolerance()) << n_visits;
    engine.Release(kept);
  }
  Sequence again;
  again.tokens = kept_tokens;
  const Segment segment = engine.Next(again, 40);
  engine.Run(*item, {&segment, 1});
  EXPECT_EQ(engine.KeptLogits(*item, 0, 40), expected);
}

TEST_P(RowExecutorTest, EverySegmentIsSampledFromItsLastRowByItsOwnParameters) {
  TinyEngine& engine = MakeEngine();
  const std::unique_ptr<WorkItem> item = engine.NewItem();
  std::vector<Sequence> sequences(30);  // of which more than head_rows sample
  std::vector<Segment> segments;
  std::vector<text::TokenId> likeliest(sequences.size());
  std::vector<text::TokenId> expected;
  for (size_t i = 0; i < sequences.size(); ++i) {
    sequences[i].tokens = RandomTokens(static_cast<uint32_t>(30 + i), 5, kVocab);
    std::vector<float> last = engine.LogitsOfAll(sequences[i].tokens).back();
    const auto argmax = [&] {
      return static_cast<text::TokenId>(std::max_element(last.begin(), last.end()) - last.begin());
    };
    likeliest[i] = argmax();
    // Some sample, some only fill the cache, one keeps its logits: their outputs must not mix.
    const Output output = i % 5 == 1 ? Output::kNone : i == 12 ? Output::kAllLogits : Output::kSample;
    segments.push_back(engine.Next(sequences[i], 5, output));
    if (i % 2 == 0) {  // may not draw the likeliest token
      segments.back().sample.forbidden_ids = &likeliest[i];
      segments.back().sample.n_forbidden_ids = 1;
      last[static_cast<size_t>(likeliest[i])] = std::numeric_limits<float>::lowest();
    }
    expected.push_back(argmax());
  }
  const StepResult result = engine.Run(*item, segments);
  size_t next = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (segments[i].output != Output::kSample) continue;
    EXPECT_EQ(result.samples[next++].token, expected[i]) << i;
  }
  EXPECT_EQ(result.samples.size(), next);
  EXPECT_EQ(result.stats.sampled_rows, static_cast<int32_t>(next));
  EXPECT_LT(MaxDifference(engine.KeptLogits(*item, 12, 5), engine.LogitsOfAll(sequences[12].tokens)),
            tolerance());
}

TEST_P(RowExecutorTest, DrawsDoNotDependOnTheBatch) {
  TinyEngine& engine = MakeEngine();
  constexpr int32_t kSteps = 12;
  // The text of `index` drawn among the given company.
  const auto draw = [&](size_t index, const std::vector<size_t>& company) {
    std::vector<Sequence> sequences(company.size());
    for (size_t i = 0; i < company.size(); ++i) {
      sequences[i].tokens = RandomTokens(static_cast<uint32_t>(50 + company[i]),
                                         3 + static_cast<int32_t>(company[i]) * 4, kVocab);
    }
    const std::unique_ptr<WorkItem> item = engine.NewItem();
    std::vector<text::TokenId> text;
    for (int32_t step = 0; step < kSteps; ++step) {
      std::vector<Segment> segments;
      for (size_t i = 0; i < company.size(); ++i) {
        Segment segment =
            engine.Next(sequences[i], sequences[i].size() - sequences[i].n_cached, Output::kSample);
        segment.sample.temperature = 1;
        segment.sample.seed = 1000 + company[i];
        segments.push_back(segment);
      }
      const StepResult result = engine.Run(*item, segments);
      for (size_t i = 0; i < company.size(); ++i) {
        sequences[i].tokens.push_back(result.samples[i].token);
        if (company[i] == index) text.push_back(result.samples[i].token);
      }
    }
    for (Sequence& sequence : sequences) engine.Release(sequence);
    return text;
  };
  const std::vector<text::TokenId> alone = draw(2, {2});
  EXPECT_EQ(draw(2, {0, 1, 2, 3, 4, 5}), alone);
  EXPECT_EQ(draw(2, {5, 2}), alone);
  EXPECT_GT(std::set<text::TokenId>(alone.begin(), alone.end()).size(), 3u);  // it is drawn, not greedy
  EXPECT_NE(draw(3, {3}), alone);
}

TEST_P(RowExecutorTest, StatsCountWhatTheStepDid) {
  TinyEngine& engine = MakeEngine(/*chunk_rows=*/8);
  Sequence first;
  first.tokens = RandomTokens(14, 40, kVocab);
  engine.Logits(first, 36);
  Sequence second;  // shares the first two blocks: 32 cached tokens
  second.tokens = first.tokens;
  second.tokens.resize(38);
  second.blocks = {first.blocks[0], first.blocks[1]};
  for (kv::BlockId block : second.blocks) engine.store().Ref(block);
  second.n_cached = 32;
  const std::vector<Segment> segments = {engine.Next(first, 4, Output::kSample),
                                         engine.Next(second, 6, Output::kNone)};
  const std::unique_ptr<WorkItem> item = engine.NewItem();
  SplitPlan plan;
  plan.predicted_step_s = 0.25;
  plan.corrected_step_s = 0.5;
  engine.executor().Begin(*item, Phase::kDecode, segments, plan);
  while (!item->done()) ASSERT_TRUE(engine.executor().Visit(*item).ok());
  const auto result = engine.executor().Finish(*item);
  ASSERT_TRUE(result.ok());
  const StepStats& stats = result->stats;
  EXPECT_EQ(stats.phase, Phase::kDecode);
  EXPECT_EQ(stats.schedule, Schedule::kRow);
  EXPECT_EQ(stats.sequences, 2);
  EXPECT_EQ(stats.rows, 10);
  EXPECT_EQ(stats.stored_tokens, 10);
  EXPECT_EQ(stats.sampled_rows, 1);
  EXPECT_EQ(stats.visits, 3 * 2);
  EXPECT_EQ(stats.tokens.resident_kv_tokens, 36);  // the shared 32 once
  EXPECT_EQ(stats.tokens.total_tokens(), 36);
  EXPECT_EQ(stats.reads_tokens, (37 + 38 + 39 + 40) + (33 + 34 + 35 + 36 + 37 + 38));
  EXPECT_EQ(stats.predicted_step_s, 0.25);
  EXPECT_EQ(stats.corrected_step_s, 0.5);
  EXPECT_GT(stats.head_ns, 0);
  EXPECT_GT(stats.lanes[static_cast<size_t>(Lane::kCompute)].busy_ns, stats.head_ns);
  EXPECT_GE(stats.wall_ns, stats.active_ns);
  EXPECT_EQ(stats.lanes[static_cast<size_t>(Lane::kKvLoad)].bytes, 0);
}

TEST(RowExecutorTimesTest, WallCountsWhatOthersDoInBetweenAndActiveDoesNot) {
  ManualClock clock;
  TinyEngineOptions options;
  options.clock = &clock;
  TinyEngine engine(TinyModelPath(), options);
  const std::unique_ptr<WorkItem> item = engine.NewItem();
  Sequence sequence;
  sequence.tokens = RandomTokens(15, 4, kVocab);
  const Segment segment = engine.Next(sequence, 4);
  clock.AdvanceNs(1000);
  engine.executor().Begin(*item, Phase::kPrefill, {&segment, 1}, AllResidentPlan({}));
  while (!item->done()) {
    clock.AdvanceNs(70);
    ASSERT_TRUE(engine.executor().Visit(*item).ok());
  }
  const auto result = engine.executor().Finish(*item);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->stats.begin_ns, 1000);
  EXPECT_EQ(result->stats.wall_ns, 3 * 70);
  EXPECT_EQ(result->stats.active_ns, 0);
}

// Says that an operation failed once `broken` is set.
class BreakableDevice : public device::ForwardingDevice {
 public:
  using ForwardingDevice::ForwardingDevice;
  absl::Status status() const override {
    return broken ? absl::InternalError("the device fell off") : absl::OkStatus();
  }
  const device::DeviceInfo& info() const override {
    return overridden_info ? *overridden_info : target_info();
  }
  void Record(device::EventId event, device::StreamId stream) override {
    last_recorded = event;
    ForwardingDevice::Record(event, stream);
  }
  absl::Status Synchronize(device::EventId event) override {
    last_synchronized = event;
    return broken ? status() : ForwardingDevice::Synchronize(event);
  }

  bool broken = false;
  std::optional<device::EventId> last_recorded;
  std::optional<device::EventId> last_synchronized;
  std::unique_ptr<device::DeviceInfo> overridden_info;

 private:
  const device::DeviceInfo& target_info() const { return ForwardingDevice::info(); }
};

TEST(RowExecutorErrorsTest, DeviceErrorIsReturnedByVisitAndTheItemCanBeAbandoned) {
  TinyEngine engine(TinyModelPath(), {});
  BreakableDevice device(engine.device());
  auto executor = RowExecutor::Create(device, engine.model().config, *engine.model().weights, engine.pool(),
                                      engine.store(), {});
  ASSERT_TRUE(executor.ok());
  auto item = (*executor)->CreateWorkItem({16, 4, 16, 4, 0});
  ASSERT_TRUE(item.ok());
  Sequence sequence;
  sequence.tokens = RandomTokens(16, 4, kVocab);
  const Segment segment = engine.Next(sequence, 4, Output::kNone);
  (*executor)->Begin(**item, Phase::kPrefill, {&segment, 1}, AllResidentPlan({}));
  ASSERT_TRUE((*executor)->Visit(**item).ok());
  device.broken = true;
  EXPECT_EQ((*executor)->Visit(**item).code(), absl::StatusCode::kInternal);
  (*executor)->Abandon(**item);
  EXPECT_FALSE((*item)->running());
}

TEST(RowExecutorErrorsTest, AbandonAndDestructionWaitForTheLastVisit) {
  TinyEngine engine(TinyModelPath(), {});
  BreakableDevice device(engine.device());
  auto executor = RowExecutor::Create(device, engine.model().config, *engine.model().weights, engine.pool(),
                                      engine.store(), {});
  ASSERT_TRUE(executor.ok());
  Sequence sequence;
  sequence.tokens = RandomTokens(18, 4, kVocab);
  const Segment segment = engine.Next(sequence, 4, Output::kNone);
  for (const bool abandon : {true, false}) {
    auto item = (*executor)->CreateWorkItem({16, 4, 16, 4, 0});
    ASSERT_TRUE(item.ok());
    (*executor)->Begin(**item, Phase::kPrefill, {&segment, 1}, AllResidentPlan({}));
    ASSERT_TRUE((*executor)->Visit(**item).ok());
    device.last_synchronized.reset();
    if (abandon) {
      (*executor)->Abandon(**item);
    } else {
      item->reset();
    }
    EXPECT_TRUE(device.last_synchronized.has_value());
    EXPECT_EQ(device.last_synchronized, device.last_recorded);
  }
}

TEST(RowExecutorErrorsTest, DeviceThatDoesNotAddressThePoolIsRefused) {
  TinyEngine engine(TinyModelPath(), {});
  BreakableDevice device(engine.device());
  device.overridden_info = std::make_unique<device::DeviceInfo>(engine.device().info());
  device.overridden_info->host_addressable = false;
  const auto executor = RowExecutor::Create(device, engine.model().config, *engine.model().weights,
                                            engine.pool(), engine.store(), {});
  EXPECT_EQ(executor.status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(RowExecutorErrorsTest, ScratchThatDoesNotFitIsRefusedByName) {
  TinyEngine engine(TinyModelPath(), {});
  class FullDevice : public device::ForwardingDevice {
   public:
    using ForwardingDevice::ForwardingDevice;
    absl::StatusOr<device::DevicePtr> Allocate(int64_t, absl::string_view what) override {
      return absl::ResourceExhaustedError(std::string(what));
    }
  } device(engine.device());
  const auto executor = RowExecutor::Create(device, engine.model().config, *engine.model().weights,
                                            engine.pool(), engine.store(), {});
  EXPECT_EQ(executor.status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(RowExecutorDeathTest, ProgrammersMistakesAreCaught) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";  // the pool has a thread
  TinyEngineOptions options;
  options.threads = 1;
  TinyEngine engine(TinyModelPath(), options);
  const std::unique_ptr<WorkItem> item = engine.NewItem(8);
  Sequence sequence;
  sequence.tokens = RandomTokens(17, 20, kVocab);
  const Segment good = engine.Next(sequence, 8);
  const auto begin = [&](const Segment& segment) {
    engine.executor().Begin(*item, Phase::kPrefill, {&segment, 1}, AllResidentPlan({}));
  };
  Segment segment = good;
  segment.tokens = {};
  EXPECT_DEATH(begin(segment), "tokens");
  segment = good;
  segment.tokens = absl::MakeConstSpan(sequence.tokens).first(9);
  EXPECT_DEATH(begin(segment), "max_rows");
  segment = good;
  segment.first_position = 30;
  EXPECT_DEATH(begin(segment), "blocks");
  const std::vector<text::TokenId> strange = {1, kVocab};
  segment = good;
  segment.tokens = strange;
  EXPECT_DEATH(begin(segment), "vocab_size");
  EXPECT_DEATH((void)engine.executor().Visit(*item), "running");
  begin(good);
  EXPECT_DEATH(begin(good), "running");
  EXPECT_DEATH((void)engine.executor().Finish(*item), "done");
  engine.executor().Abandon(*item);
}

}  // namespace
}  // namespace spillway::exec
