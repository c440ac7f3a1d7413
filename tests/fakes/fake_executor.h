// FakeExecutor: a deterministic "model" behind the Executor interface, which finds out what the scheduler
// does to blocks, and a cost model that turns a manual clock.
//
// What a row puts into its block in a layer depends on its token and on everything read back from the blocks
// before it, in that layer; the token drawn depends on the last row. So a wrong block table, a block given
// away too early, a row computed twice in another place or never, or a stale prefix hit change the tokens
// that follow. ReferenceModel computes the same without any blocks.
#ifndef SPILLWAY_TESTS_FAKES_FAKE_EXECUTOR_H_
#define SPILLWAY_TESTS_FAKES_FAKE_EXECUTOR_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "engine/exec/executor.h"
#include "engine/kv/block_store.h"

namespace spillway::fakes {

struct FakeExecutorOptions {
  int32_t vocab_size = 64;
  int32_t n_layers = 2;
  int32_t chunk_rows = 8;
  int32_t block_tokens = 4;

  // Cost of a visit: fixed, per row, and per (row, cached token) read; and of a sampled row.
  double visit_ns = 1000;
  double row_ns = 100;
  double read_ns = 1;
  double sample_ns = 100;
  // Behind a link: full blocks are on the host, every other one in both forms and the rest as KV; what is not
  // full lies on the device. A token carried costs so much, as X half of it.
  bool splits = false;
  double carry_ns = 4;
  // Of a layer; 0: they are resident. Else two layers are held, and a visit of another one loads it first.
  int64_t weight_bytes = 0;
  double weight_ns = 0;  // of such a load
  // Visits that are enqueued before the caller waits, as on a device.
  int32_t visits_in_flight = 2;
};

// The fake's model over plain arrays.
class ReferenceModel {
 public:
  explicit ReferenceModel(const FakeExecutorOptions& options) : attended_(options.n_layers, 0) {}
  void Append(text::TokenId token);
  // Draws after the last token appended.
  text::TokenId Draw(const device::SampleRow& row, int32_t vocab_size) const;

 private:
  std::vector<uint64_t> attended_;  // [n_layers]
  int32_t position_ = 0;
  uint64_t hidden_ = 0;
};

class FakeExecutor : public exec::Executor {
 public:
  // Reads reference counts from `blocks`, which must outlive the executor. Turns `clock`.
  FakeExecutor(const FakeExecutorOptions& options, kv::BlockStore& blocks, ManualClock& clock);
  ~FakeExecutor() override;

  absl::StatusOr<std::unique_ptr<exec::WorkItem>> CreateWorkItem(const exec::ItemLimits& limits) override;
  int32_t chunk_rows() const override { return options_.chunk_rows; }
  int32_t n_layers() const override { return options_.n_layers; }
  int32_t vocab_size() const override { return options_.vocab_size; }
  bool splits() const override { return options_.splits; }
  int64_t weight_pass_bytes() const override { return options_.weight_bytes * options_.n_layers; }
  exec::BatchShape ShapeOf(exec::Phase phase, absl::Span<const exec::Segment> segments) override;
  void Begin(exec::WorkItem& item, exec::Phase phase, absl::Span<const exec::Segment> segments,
             const exec::SplitPlan& plan) override;
  absl::Status Visit(exec::WorkItem& item) override;
  absl::StatusOr<exec::StepResult> Finish(exec::WorkItem& item) override;
  void Abandon(exec::WorkItem& item) override;
  absl::Span<const float> LogitsOf(const exec::WorkItem& item, int32_t segment, int32_t row) const override;

  // Every visit from now on fails, after `visits` good ones.
  void FailAfter(int64_t visits) { visits_to_failure_ = visits; }

  // What was seen so far.
  int64_t visits() const { return visits_; }
  int64_t rows_computed() const { return rows_computed_; }
  int64_t weight_loads() const { return weight_loads_; }
  int32_t most_running() const { return most_running_; }                // items at a time
  int64_t distinct_mismatches() const { return distinct_mismatches_; }  // plans with a wrong count of tokens
  int32_t most_segments() const { return most_segments_; }
  int64_t planned_steps() const { return planned_steps_; }  // whose plan came of a solve
  const exec::SplitPlan& last_plan() const { return last_plan_; }
  int64_t running_items() const { return static_cast<int64_t>(running_.size()); }

 private:
  class Item;

  uint64_t& Content(int32_t layer, kv::BlockId block, int32_t offset);
  // Cached tokens by block, each block once.
  std::map<kv::BlockId, int32_t> CachedTokens(absl::Span<const exec::Segment> segments) const;
  void CheckPlan(const Item& item, const exec::SplitPlan& plan);
  void CountCarried(const exec::TokenClasses& tokens, exec::StepStats& stats) const;
  void CheckWrites(const Item& item) const;
  void Compute(Item& item, int32_t layer, int32_t first_row, int32_t n_rows);
  double LoadNs(int32_t layer);
  double CostNs(const Item& item, int32_t first_row, int32_t n_rows) const;
  void Stop(Item& item);
  void WaitUntil(MonotonicNs time);

  const FakeExecutorOptions options_;
  kv::BlockStore& blocks_;
  ManualClock& clock_;
  std::vector<uint64_t> content_;  // [n_layers, n_blocks, block_tokens]
  std::vector<Item*> running_;
  MonotonicNs busy_until_ns_ = 0;
  int64_t visits_to_failure_ = -1;
  int64_t visits_ = 0;
  int64_t rows_computed_ = 0;
  std::array<int32_t, 2> held_layers_ = {-1, -1};  // used last, and before that
  int64_t weight_loads_ = 0;
  int32_t most_running_ = 0;
  int64_t distinct_mismatches_ = 0;
  int32_t most_segments_ = 0;
  int64_t planned_steps_ = 0;
  exec::SplitPlan last_plan_;
};

}  // namespace spillway::fakes

#endif  // SPILLWAY_TESTS_FAKES_FAKE_EXECUTOR_H_
