// The timeline: what is recorded, when, and that nothing is while nobody asked.
#include "engine/exec/timeline.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/exec/tiny_engine.h"
#include "tests/fakes/gguf_writer.h"

namespace spillway::exec {
namespace {

constexpr int32_t kVocab = 320;
constexpr int32_t kLayers = 3;
constexpr int32_t kRows = 32;  // of a step: whole blocks

const std::string& ModelPath() {
  static const std::string* const path = [] {
    auto* name = new std::string(absl::StrCat(::testing::TempDir(), getpid(), "_timeline.gguf"));
    fakes::TinyLlamaOptions options;
    options.n_heads = options.n_kv_heads = 8;
    options.d_model = 128;
    options.n_layers = kLayers;
    options.vocab_size = kVocab;
    if (const absl::Status status = fakes::WriteTinyLlama(*name, options); !status.ok())
      ADD_FAILURE() << status;
    return name;
  }();
  return *path;
}

TEST(TimelineTest, OnlyOneRecordingIsUnderWayAndEachBeginsEmpty) {
  Timeline timeline;
  EXPECT_EQ(timeline.recording(), 0U);
  timeline.Add(0, {});  // of nobody
  ASSERT_TRUE(timeline.Start(2));
  const uint64_t first = timeline.recording();
  EXPECT_FALSE(timeline.Start(2));
  for (int i = 0; i < 5; ++i) timeline.Add(first, {});
  const Recording full = timeline.Stop();
  EXPECT_EQ(full.spans.size(), 2U);
  EXPECT_EQ(full.dropped_spans, 3);
  EXPECT_LE(full.begin_ns, full.end_ns);

  ASSERT_TRUE(timeline.Start(2));
  timeline.Add(first, {});  // late: that recording is over
  EXPECT_THAT(timeline.Stop().spans, ::testing::IsEmpty());
}

class StepTimelineTest : public ::testing::Test {
 protected:
  // Ten steps of a sequence, recorded from the second on.
  void Run(bool over_link) {
    TinyEngineOptions options;
    options.timeline = &timeline_;
    if (over_link) {
      options.link.emplace();
      options.link->form = kv::Form::kBoth;
      options.link->x_share = 0.5;
      options.link->resident_blocks_max = 0;
      options.chunk_rows = 64;
      options.max_item_segments = 2;
      options.max_item_rows = 32;
    }
    TinyEngine engine(ModelPath(), options);
    Sequence sequence;
    sequence.tokens = RandomTokens(1, 330, kVocab);
    beta_bytes_ = engine.pool().geometry().beta_bytes();
    chi_bytes_ = engine.pool().geometry().chi_bytes();
    const std::unique_ptr<WorkItem> item = engine.NewItem(kRows);
    const auto step = [&] {
      const Segment segment = engine.Next(sequence, kRows);
      return engine.Run(*item, {&segment, 1}).stats;
    };
    step();
    ASSERT_TRUE(timeline_.Start(10'000));
    for (int i = 0; i < 8; ++i) stats_.push_back(step());
    if (over_link) engine.link().WaitForStores();
    // What stores took is collected by the step that follows.
    step();
    recording_ = timeline_.Stop();
  }
  int64_t Bytes(Lane lane, uint64_t step) const {
    int64_t bytes = 0;
    for (const TimelineSpan& span : recording_.spans) {
      if (span.label.lane == lane && span.label.step == step) bytes += span.label.bytes;
    }
    return bytes;
  }

  Timeline timeline_;
  int64_t beta_bytes_ = 0;
  int64_t chi_bytes_ = 0;
  std::vector<StepStats> stats_;
  Recording recording_;
};

TEST_F(StepTimelineTest, EveryVisitAndCopyOfAStepIsASpan) {
  Run(/*over_link=*/true);
  EXPECT_EQ(recording_.dropped_spans, 0);
  for (size_t i = 0; i < stats_.size(); ++i) {
    const uint64_t step = i + 2;
    std::vector<int32_t> computed;
    for (const TimelineSpan& span : recording_.spans) {
      if (span.label.step != step || span.label.lane != Lane::kCompute || span.label.waiting) continue;
      computed.push_back(span.label.layer);
    }
    EXPECT_THAT(computed, ::testing::ElementsAre(0, 1, 2, kLayers)) << "the layers, and the head";
    for (const Lane lane : {Lane::kKvLoad, Lane::kXLoad}) {
      EXPECT_EQ(Bytes(lane, step), stats_[i].lanes[static_cast<size_t>(lane)].bytes);
    }
    // What a step stores may be counted in a later one, but its spans are its own.
    EXPECT_EQ(Bytes(Lane::kKvStore, step), kRows * beta_bytes_ * kLayers);
    EXPECT_EQ(Bytes(Lane::kXStore, step), kRows * chi_bytes_ * kLayers);
  }
  EXPECT_GT(Bytes(Lane::kXLoad, 9), 0);
  EXPECT_GT(Bytes(Lane::kKvLoad, 9), 0);
}

TEST_F(StepTimelineTest, SpansLieOnTheHostsClockAndALanesOwnInOrder) {
  Run(/*over_link=*/true);
  std::array<MonotonicNs, kLanes> last_end{};
  for (const TimelineSpan& span : recording_.spans) {
    EXPECT_LE(span.begin_ns, span.end_ns);
    EXPECT_GE(span.begin_ns, recording_.begin_ns - kNsPerSecond);
    EXPECT_LE(span.end_ns, recording_.end_ns);
    if (span.label.waiting) continue;  // within a span of the same lane
    MonotonicNs& last = last_end[static_cast<size_t>(span.label.lane)];
    EXPECT_GE(span.begin_ns, last);
    last = span.end_ns;
  }
  // A wait of compute lies within the visit that waits.
  for (const TimelineSpan& wait : recording_.spans) {
    if (!wait.label.waiting || wait.label.lane != Lane::kCompute) continue;
    const bool within =
        std::any_of(recording_.spans.begin(), recording_.spans.end(), [&](const TimelineSpan& s) {
          return s.label.lane == Lane::kCompute && !s.label.waiting && s.label.step == wait.label.step &&
                 s.label.layer == wait.label.layer && s.begin_ns <= wait.begin_ns && wait.end_ns <= s.end_ns;
        });
    EXPECT_TRUE(within);
  }
}

TEST_F(StepTimelineTest, WithoutALinkThereAreVisitsAlone) {
  Run(/*over_link=*/false);
  EXPECT_EQ(recording_.spans.size(), 9U * (kLayers + 1));
  for (const TimelineSpan& span : recording_.spans) EXPECT_EQ(span.label.lane, Lane::kCompute);
}

}  // namespace
}  // namespace spillway::exec
