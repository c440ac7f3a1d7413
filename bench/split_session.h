// SplitSession: steps on a SplitMachine, with a pool, an executor and plans as the daemon has them.
#ifndef SPILLWAY_BENCH_SPLIT_SESSION_H_
#define SPILLWAY_BENCH_SPLIT_SESSION_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "bench/split_batch.h"
#include "bench/split_machine.h"
#include "engine/exec/link_executor.h"
#include "engine/kv/block_store.h"
#include "engine/kv/host_pool.h"
#include "scheduler/plan_solver.h"
#include "scheduler/planner.h"

namespace spillway::bench {

// Plans of one mode. Thread-compatible; has a thread of its own that solves.
class ModePlanner {
 public:
  // `mode` as --split takes it. `feedback`: rates are corrected by what steps took. Of the residency budget
  // the placement targets are made; by default all is to be resident as K and V, as far as there is room.
  static absl::StatusOr<std::unique_ptr<ModePlanner>> Create(const SplitMachine& machine,
                                                             const std::string& mode, bool feedback,
                                                             double residency_bytes = 1e15);
  scheduler::Planner& planner() { return *planner_; }

 private:
  explicit ModePlanner(const profiler::MachineProfile& profile) : solver_(profile) {}

  scheduler::PlanSolver solver_;
  std::unique_ptr<scheduler::Planner> planner_;
};

struct SplitSessionOptions {
  int32_t max_sequences = 8;
  int64_t max_cached_tokens = 8192;  // of all sequences, distinct
  int64_t resident_tokens = 0;       // at most so many stay on the device
  // Set: blocks are stored as the daemon does in a pool that is full, with this share of them as X. Else in
  // every form that is of use.
  std::optional<double> x_share;
  bool prefills = true;  // false: every batch decodes, which takes less device memory
};

struct SplitStep {
  exec::SplitPlan plan;
  exec::StepStats stats;
};

// Thread-compatible. Borrows the machine. The pool holds random values where no step wrote: no operation's
// time depends on them.
class SplitSession {
 public:
  static absl::StatusOr<std::unique_ptr<SplitSession>> Create(const SplitMachine& machine,
                                                              const SplitSessionOptions& options);

  // Makes `batch` the one that steps are of: the last, unfinished block of every sequence is put on the
  // device.
  absl::Status SetBatch(const SplitBatch& batch);
  // Makes about `n_tokens` of the batch's cached tokens resident, by computing them again; the rest is
  // carried.
  absl::Status MakeResident(int64_t n_tokens);
  // One step of the batch.
  absl::StatusOr<SplitStep> Step(scheduler::Planner& planner);

  // --- For those who lay out blocks themselves, of 0..n_blocks().
  absl::StatusOr<exec::StepResult> Run(exec::Phase phase, absl::Span<const exec::Segment> segments,
                                       const exec::SplitPlan& plan);
  exec::SplitPlan PlanFor(exec::Phase phase, absl::Span<const exec::Segment> segments,
                          scheduler::Planner& planner);
  void WaitForStores() { executor_->WaitForStores(); }
  // Forgets what the blocks hold: the next batch may write to them.
  void DropBlocks();
  int64_t n_blocks() const { return n_blocks_; }
  // The pool when it was full; only n_blocks() of these are in use.
  const kv::BlockCounts& filled() const { return filled_; }

  int64_t ring_bytes() const { return executor_->ring_bytes(); }
  int64_t device_bytes() const { return machine_.device().allocated_bytes(); }

 private:
  explicit SplitSession(const SplitMachine& machine) : machine_(machine) {}

  void FillPool();
  // Takes n_blocks() blocks of the form; of a share of X all for which there is room, of which those beyond
  // are given back.
  void TakeBlocks(kv::Form form);
  // Steps may write to so many areas of so many blocks, in turn.
  int32_t areas() const {
    return options_.prefills ? 6 : 1;
  }  // as many as may be on their way to the host, and one
  int64_t area_blocks() const;
  // Blocks that the step's rows are written to, which are others than those of the last few steps: these may
  // be on their way to the host still.
  void LayOutRows();
  void Forget(kv::BlockId block) { executor_->block_listener().OnBlockLost(block); }

  const SplitMachine& machine_;
  SplitSessionOptions options_;
  int64_t n_blocks_ = 0;
  kv::BlockCounts filled_;
  std::unique_ptr<kv::HostPool> pool_;
  std::unique_ptr<kv::BlockStore> blocks_;
  std::unique_ptr<exec::LinkExecutor> executor_;
  std::unique_ptr<exec::WorkItem> item_;

  SplitBatch batch_;
  std::vector<std::vector<kv::BlockId>> tables_;  // of each sequence, its new rows' blocks included
  std::vector<exec::Segment> segments_;
  std::vector<int32_t> tokens_;  // of any segment
  int32_t next_area_ = 0;
};

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_SPLIT_SESSION_H_
