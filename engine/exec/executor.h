// Executor: runs work items through the model's layers, a visit at a time.
//
// A work item is a decode batch or a piece of prefill: ragged rows of one or more sequences. A visit is one
// (layer, chunk of the item's rows) pair, the point where work may change: between any two visits the caller
// may run another item, and come back. So a prefill is suspended by not visiting it, and resumed by visiting
// it.
//
//   plan = planner.PlanFor(executor.ShapeOf(phase, segments));   // where executor.splits()
//   executor.Begin(item, phase, segments, plan);        // freezes membership and plan
//   while (!item.done()) executor.Visit(item);          // or another item in between
//   auto results = executor.Finish(item);               // head and sampling, stats
//
// Owned by the scheduler's step thread, which makes every call. Nothing here allocates after creation.
#ifndef SPILLWAY_ENGINE_EXEC_EXECUTOR_H_
#define SPILLWAY_ENGINE_EXEC_EXECUTOR_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/device/ops.h"
#include "engine/exec/split_plan.h"
#include "engine/exec/step_stats.h"
#include "engine/kv/geometry.h"
#include "engine/text/vocabulary.h"

namespace spillway::exec {

enum class Output : uint8_t {
  kNone,       // only K and V are wanted (a prompt's earlier pieces)
  kSample,     // sample the token that follows the segment's last row
  kAllLogits,  // keep every row's logits (tests, echo); read with LogitsOf; needs max_kept_logits
};

// One sequence's rows in a work item. Everything borrowed stays alive and unchanged until Finish or Abandon.
struct Segment {
  uint64_t sequence = 0;  // label, for stats and traces
  // The rows' ids, at positions first_position, first_position + 1, ...; at least one.
  absl::Span<const text::TokenId> tokens;
  int32_t first_position = 0;            // tokens cached before this segment
  absl::Span<const kv::BlockId> blocks;  // the sequence's table; covers first_position + tokens.size() tokens
  Output output = Output::kNone;
  device::SampleRow sample{};  // read where output is kSample
};

struct ItemLimits {
  int32_t max_rows = 0;
  int32_t max_segments = 0;
  int64_t max_blocks = 0;       // block table entries of all segments together
  int32_t max_outputs = 0;      // segments with Output::kSample
  int32_t max_kept_logits = 0;  // rows of segments with Output::kAllLogits
};

// Base of the executor's own state of a work item.
class WorkItem {
 public:
  virtual ~WorkItem() = default;

  const ItemLimits& limits() const { return limits_; }
  // Between Begin and Finish or Abandon.
  bool running() const { return running_; }
  // All visits made; Finish may be called.
  bool done() const { return running_ && visits_done_ == visits_total_; }
  int32_t visits_done() const { return visits_done_; }
  int32_t visits_total() const { return visits_total_; }

 protected:
  explicit WorkItem(const ItemLimits& limits) : limits_(limits) {}

  ItemLimits limits_;
  bool running_ = false;
  int32_t visits_done_ = 0;
  int32_t visits_total_ = 0;
};

struct StepResult {
  // One entry per segment with Output::kSample, in order; valid until the item's next Begin.
  absl::Span<const device::SampleResult> samples;
  StepStats stats;
};

class Executor {
 public:
  virtual ~Executor() = default;

  // Allocates everything the item will ever need. At start only.
  virtual absl::StatusOr<std::unique_ptr<WorkItem>> CreateWorkItem(const ItemLimits& limits) = 0;

  // Rows a visit computes at most; longer items take several visits a layer.
  virtual int32_t chunk_rows() const = 0;
  virtual int32_t n_layers() const = 0;
  virtual int32_t vocab_size() const = 0;

  // Whether cached tokens reach attention in several ways, so that a plan matters. Without: every token is
  // read in place and AllResidentPlan will do.
  virtual bool splits() const { return false; }
  // Device memory for cached tokens, resident ones and those being written; and what of it is left for
  // resident ones beside all that the items may be writing. 0 where every token is read in place.
  virtual int64_t cache_bytes() const { return 0; }
  virtual int64_t residency_bytes() const { return 0; }
  // Device memory that carried tokens pass through, and that streamed layers take turns in.
  virtual int64_t staging_bytes() const { return 0; }
  virtual int64_t weight_slots_bytes() const { return 0; }
  // Weights that a pass through all layers loads to the device. 0: they are there.
  virtual int64_t weight_pass_bytes() const { return 0; }
  // What a plan for these segments is solved for: their distinct cached tokens by residency and stored form
  // as they are now. REQUIRES: splits(), and what Begin requires of segments.
  virtual BatchShape ShapeOf(Phase phase, absl::Span<const Segment> segments);

  // Items of plans for the column schedule are visited in turn: of those that run always one with the fewest
  // layers done, in the order in which they began. (Others are possible, at the price of loading weights
  // again.) Items of row plans may be visited at any time.
  // Obeys `plan` as far as blocks allow (a block is carried whole, in a form in which it is stored).
  // REQUIRES: !item.running(), at least one segment, within item.limits(), ids within the vocabulary, blocks
  // cover the rows. Blocks that rows are written to belong to one segment alone.
  virtual void Begin(WorkItem& item, Phase phase, absl::Span<const Segment> segments,
                     const SplitPlan& plan) = 0;
  // REQUIRES: item.running() && !item.done(). An error is the device's, sticky: the engine is lost.
  virtual absl::Status Visit(WorkItem& item) = 0;
  // REQUIRES: item.done().
  virtual absl::StatusOr<StepResult> Finish(WorkItem& item) = 0;
  // Gives a running item up between two visits. On return its blocks may be freed.
  virtual void Abandon(WorkItem& item) = 0;

  // Logits of `row` of a segment with Output::kAllLogits, f32 [vocab_size], until the item's next Begin.
  virtual absl::Span<const float> LogitsOf(const WorkItem& item, int32_t segment, int32_t row) const = 0;
};

}  // namespace spillway::exec

#endif  // SPILLWAY_ENGINE_EXEC_EXECUTOR_H_
