// PrefillQueue: admitted sequences with rows to compute, and the work items in which pieces of them run,
// suspended between any two visits.
//
// A piece is one stretch of a long prompt, or several short prompts that waited together. Before a piece
// begins, its sequences take over what others have published meanwhile; a sequence whose next block is being
// computed by a piece that will be done sooner waits for that.
//
// Step thread only; nothing allocates after Create.
#ifndef SPILLWAY_SCHEDULER_PREFILL_QUEUE_H_
#define SPILLWAY_SCHEDULER_PREFILL_QUEUE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/exec/executor.h"
#include "scheduler/batch.h"
#include "scheduler/distinct_blocks.h"
#include "scheduler/pacer.h"
#include "scheduler/prefill_policy.h"
#include "scheduler/sequence.h"

namespace spillway::scheduler {

class PrefillQueue {
 public:
  static constexpr int32_t kItems = 4;
  static_assert(kItems >= PrefillPolicy::kLeastItems);
  static constexpr int32_t kMostPacked = 16;  // short prompts in one piece

  struct Limits {
    exec::ItemLimits item;  // of each of kItems
    int32_t max_sequences = 0;
    int64_t max_blocks = 0;  // of the store
    int32_t block_tokens = 0;
  };
  // What should be visited next: a running batch, or a sequence of which a piece should begin.
  struct Pick {
    Batch* batch = nullptr;
    Sequence* sequence = nullptr;
    PrefillPolicy::Choice choice;

    bool any() const { return batch != nullptr || sequence != nullptr; }
  };

  // `pacer` and `planner`, which may be null, must outlive the queue.
  static absl::StatusOr<std::unique_ptr<PrefillQueue>> Create(exec::Executor& executor, const Limits& limits,
                                                              Pacer& pacer, Planner* planner);
  // Rows of one item, of an executor that computes `chunk_rows` at a time and may have `rows` in all items.
  static int32_t PieceRows(int32_t chunk_rows, int32_t rows);

  // REQUIRES: not in a batch.
  void Add(Sequence& sequence);
  // From those that wait for an item; false when it was not among them.
  bool Remove(Sequence& sequence);

  Pick PickNext() { return PickNext(/*only_latency=*/false); }
  // Of prompts that ask for latency, and of no batch that is a part of a column.
  Pick PickLatency() { return PickNext(/*only_latency=*/true); }
  // The pick's batch, begun as a part of `pass` if it has none yet.
  Batch& Start(const Pick& pick, bool streams_wait, const ScheduleChoice& pass);
  void OnVisited(const Pick& pick);
  absl::Span<const std::unique_ptr<Batch>> batches() const { return batches_; }
  // Prompt tokens of waiting sequences that others computed before it came to them, ever.
  int64_t adopted_prompt_tokens() const { return adopted_prompt_tokens_; }
  // The same of all tokens, those that a preemption took among them. Each adoption gives blocks back.
  int64_t adopted_tokens() const { return adopted_tokens_; }

  // Cached tokens of all members, those of shared blocks once.
  int64_t CountDistinctTokens(const Batch& batch);

 private:
  PrefillQueue(const Limits& limits, Pacer& pacer);

  Pick PickNext(bool only_latency);

  // The running piece from which the block that the sequence would compute next will be ready sooner, or
  // null.
  const Batch* TwinOf(const Sequence& sequence) const;
  // The cost of a visit of so many rows, the first of which are the sequence's.
  double VisitNs(const Sequence& sequence, int32_t rows) const;
  PrefillCandidate CandidateOf(const Batch& batch) const;
  PrefillCandidate CandidateOf(const Sequence& sequence) const;
  void Fill(Batch& batch, Sequence& first, bool streams_wait);
  // The shortest waiting sequence that may join `batch`, or null.
  Sequence* NextToPack(const Batch& batch, int32_t priority, int32_t rows_free) const;
  void Take(Batch& batch, Sequence& sequence, int32_t rows);

  const Limits limits_;
  Pacer& pacer_;
  int32_t chunk_rows_ = 0;
  PrefillPolicy policy_;
  std::vector<std::unique_ptr<Batch>> batches_;
  std::vector<Sequence*> waiting_;            // [max_sequences], for an item
  std::vector<PrefillCandidate> candidates_;  // of the last pick: running batches, then waiting sequences
  std::vector<Pick> picks_;                   // what each candidate stands for
  DistinctBlocks distinct_;                   // empty between two counts
  int64_t adopted_prompt_tokens_ = 0;
  int64_t adopted_tokens_ = 0;
};

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_PREFILL_QUEUE_H_
