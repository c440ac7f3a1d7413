// How long the link executor's steps take on a device of simulated time, whose rates are known: what the
// linear program's rows say, pipelined and in the serial form.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "engine/exec/link_executor.h"
#include "gtest/gtest.h"
#include "tests/engine/exec/tiny_engine.h"
#include "tests/fakes/gguf_writer.h"

namespace spillway::exec {
namespace {

constexpr int32_t kVocab = 320;
constexpr int32_t kLayers = 6;
constexpr int32_t kCached = 1024;

const std::string& ModelPath() {
  static const std::string* const path = [] {
    auto* name = new std::string(::testing::TempDir() + std::to_string(getpid()) + "_step_time.gguf");
    fakes::TinyLlamaOptions options;
    options.n_heads = options.n_kv_heads = 8;
    options.d_model = 256;
    options.n_layers = kLayers;
    options.vocab_size = kVocab;
    if (!fakes::WriteTinyLlama(*name, options).ok()) ADD_FAILURE();
    return name;
  }();
  return *path;
}

class StepTimeTest : public ::testing::Test {
 protected:
  // Rates at which all of a layer's K and V take 20 ms on the link, those from all of its X `rebuild_s`, and
  // the layer's products what reading its weights takes.
  void Make(double rebuild_s, int32_t ring_chunks, double weight_bytes_per_s = 1e10) {
    rebuild_s_ = rebuild_s;
    weight_bytes_per_s_ = weight_bytes_per_s;
    MakeEngine(ring_chunks, 1e15);
    linear_s_ = Step(0, SplitMode::kAuto);
    MakeEngine(ring_chunks, kCached * 2 * 256 * 4 / 0.020);
  }
  void MakeEngine(int32_t ring_chunks, double link_bytes_per_s) {
    TinyEngineOptions options;
    options.chunk_rows = options.max_item_rows = 128;
    options.max_item_segments = 1;
    options.clock = &clock_;
    options.threads = 1;
    TinyLink link;
    link.form = kv::Form::kBoth;
    link.resident_blocks_max = 0;
    link.ring_chunks = ring_chunks;
    link.chunk_blocks = 4;
    link.timed.emplace();
    link.timed->link_in_bytes_per_s = link_bytes_per_s;
    link.timed->link_out_bytes_per_s = 1e12;
    link.timed->copy_overhead_s = 0;
    link.timed->op_s = 1e-6;
    link.timed->read_s = 1e-9;
    link.timed->flop_per_s = kCached * 4.0 * 256 * 256 / rebuild_s_;
    link.timed->weight_bytes_per_s = weight_bytes_per_s_;
    options.link = link;
    engine_ = std::make_unique<TinyEngine>(ModelPath(), options);
    sequence_ = {};
    sequence_.tokens = RandomTokens(1, kCached + 64, kVocab);
    while (sequence_.n_cached < kCached) engine_->Logits(sequence_, 128);
    engine_->link().WaitForStores();
  }
  // Seconds of a decode step by the device's clock, a layer.
  double Step(double x_share, SplitMode mode) {
    engine_->SetMode(mode);
    engine_->CarryAsX(x_share);
    clock_.AdvanceNs(int64_t{3600} * 1'000'000'000);  // everything before is over
    const std::unique_ptr<WorkItem> item = engine_->NewItem(1);
    const Segment segment = engine_->Next(sequence_, 1);
    const StepStats stats = engine_->Run(*item, {&segment, 1}, Phase::kDecode).stats;
    const LaneStats& compute = stats.lanes[static_cast<size_t>(Lane::kCompute)];
    return ToSeconds(compute.busy_ns + compute.stall_ns - stats.head_ns) / kLayers;
  }
  // The KVPR paper's form, x of the tokens carried as X.
  double SerialSeconds(double x) const {
    return std::max(x * 0.010, linear_s_) + std::max(x * rebuild_s_, (1 - x) * 0.020);
  }

  ManualClock clock_;
  std::unique_ptr<TinyEngine> engine_;
  Sequence sequence_;
  double rebuild_s_ = 0;
  double weight_bytes_per_s_ = 0;
  double linear_s_ = 0;  // a layer's compute without rebuilding
};

TEST_F(StepTimeTest, SerialStepsTakeWhatTheSerialFormSays) {
  for (const double rebuild_s : {0.005, 0.020, 0.060}) {
    for (const int32_t ring_chunks : {3, 6, 40}) {
      Make(rebuild_s, ring_chunks);
      for (const double x : {0.0, 0.25, 0.5, 0.75, 1.0}) {
        const double step_s = Step(x, SplitMode::kSerial);
        EXPECT_NEAR(step_s / SerialSeconds(x), 1, 0.1)
            << x << " as X, rebuild " << rebuild_s << ", ring " << ring_chunks;
      }
    }
  }
}

TEST_F(StepTimeTest, SerialStepsDoNotCarryKvWhileTheLayersOtherComputeRuns) {
  Make(/*rebuild_s=*/0.060, /*ring_chunks=*/40, /*weight_bytes_per_s=*/0.3e9);
  ASSERT_GT(linear_s_, 0.004);
  for (const double x : {0.0, 0.25, 0.5}) {
    EXPECT_NEAR(Step(x, SplitMode::kSerial) / SerialSeconds(x), 1, 0.1) << x << " as X";
  }
}

TEST_F(StepTimeTest, PipelinedStepsTakeWhatTheBusiestResourceTakes) {
  for (const double rebuild_s : {0.005, 0.020, 0.060}) {
    Make(rebuild_s, /*ring_chunks=*/16);
    for (const double x : {0.0, 0.25, 0.5, 0.75, 1.0}) {
      const double step_s = Step(x, SplitMode::kAuto);
      const double link_s = (1 - x) * 0.020 + x * 0.010;
      EXPECT_NEAR(step_s / std::max(link_s, x * rebuild_s + linear_s_), 1, 0.1)
          << x << " as X, rebuild " << rebuild_s;
    }
  }
}

// While the last layer and the head are computed and the host prepares the next step, its first chunks come.
TEST_F(StepTimeTest, LinkThatBindsIsBusyAcrossSteps) {
  constexpr int32_t kSteps = 8;
  constexpr int64_t kHostNs = 8'000'000;
  for (const double x : {0.0, 0.5, 1.0}) {
    Make(/*rebuild_s=*/0.004, /*ring_chunks=*/16, /*weight_bytes_per_s=*/1e9);
    engine_->CarryAsX(x);
    const std::unique_ptr<WorkItem> item = engine_->NewItem(1);
    static_cast<fakes::TimedDevice&>(engine_->device()).SetHostClock(&clock_);
    int64_t busy_ns = 0, bytes = 0, carried_tokens = 0;
    MonotonicNs begin_ns = 0;
    for (int32_t step = -2; step < kSteps; ++step) {
      if (step == 0) begin_ns = clock_.NowNs();
      const Segment segment = engine_->Next(sequence_, 1);
      const StepStats stats = engine_->Run(*item, {&segment, 1}, Phase::kDecode).stats;
      clock_.AdvanceNs(kHostNs);
      if (step < 0) continue;
      for (const Lane lane : {Lane::kKvLoad, Lane::kXLoad}) {
        busy_ns += stats.lanes[static_cast<size_t>(lane)].busy_ns;
        bytes += stats.lanes[static_cast<size_t>(lane)].bytes;
      }
      carried_tokens += stats.tokens.carried_kv_tokens + stats.tokens.carried_x_tokens;
    }
    const double busy = static_cast<double>(busy_ns) / static_cast<double>(clock_.NowNs() - begin_ns);
    EXPECT_GT(busy, 0.97) << x << " as X";
    EXPECT_LT(busy, 1.01) << x << " as X";
    // What was fetched ahead was of use.
    EXPECT_EQ(carried_tokens, kSteps * int64_t{kCached});
    const kv::Geometry& geometry = engine_->pool().geometry();
    const double bytes_each =
        (1 - x) * static_cast<double>(geometry.beta_bytes()) + x * static_cast<double>(geometry.chi_bytes());
    EXPECT_EQ(static_cast<double>(bytes), bytes_each * kLayers * static_cast<double>(carried_tokens));
  }
}

}  // namespace
}  // namespace spillway::exec
