// Scheduler: the step loop. One thread owns the engine (executor, pool, blocks) and decides before every
// visit what runs next: continuous batching, chunked prefill with decode in between, priorities, prefix
// reuse, preemption.
//
// Submit, Drain, Snapshot and the constructor's caller may be any thread; everything else happens on the step
// thread.
#ifndef SPILLWAY_SCHEDULER_SCHEDULER_H_
#define SPILLWAY_SCHEDULER_SCHEDULER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/reason.h"
#include "engine/exec/executor.h"
#include "engine/kv/block_store.h"
#include "engine/text/tokenizer.h"
#include "scheduler/planner.h"
#include "scheduler/request.h"
#include "scheduler/token_stream.h"

namespace spillway::scheduler {

struct SchedulerOptions {
  int32_t context_tokens = 0;   // prompt + generated of one sequence, at most
  int32_t max_sequences = 64;   // running at once, decode and prefill
  int32_t batch_sequences = 0;  // of these in one decode batch; 0: all. Raised to max_sequences / kMostItems
  int32_t max_queue = 512;      // requests waiting
  int32_t prefill_rows = 1024;  // rows of suspended prefills' hidden states, all together
  double max_gap_ms = 100;      // between two decode passes while prefill goes on, where one pass allows it
  int32_t reserve_output_tokens = 64;  // blocks kept for output when a request is admitted from the queue
  int64_t slow_reader_timeout_ms = 30'000;
  // None: columns where weights are streamed and one batch does not take all, or prompts wait; else rows.
  std::optional<exec::Schedule> schedule;
  double throughput_share = 0.25;  // of the time, beside row passes of those that ask for latency; below 1
  bool prefix_cache = true;        // requests find what others computed of the same prefix and salt
  std::vector<uint8_t> model_fingerprint;
};

// One finished request, however it ended; for logs and metrics.
struct RequestRecord {
  std::string label;
  std::string method;
  std::string peer;
  std::string tenant;
  std::string trace_id;
  std::string parent_span_id;
  Reason reason = Reason::kNone;  // kNone: ended well
  std::vector<FinishReason> finishes;
  UsageEvent usage;
  exec::TokenClasses attended;  // by all its steps, per layer: of each step's, its share by cached tokens
  int32_t choices = 0;          // asked for, ended or not
  int32_t longest_choice_tokens = 0;  // generated
  int32_t priority = 0;
};

// A snapshot for metrics, health and status; no older than a step.
struct SchedulerSnapshot {
  int32_t running_sequences = 0;  // hold a place, prefilling and paused ones included
  int32_t prefilling_sequences = 0;
  int32_t paused_sequences = 0;  // slow readers
  int32_t running_requests = 0;  // scheduled and not ended, though all their sequences may wait again
  int32_t waiting_requests = 0;  // not yet scheduled
  int64_t waiting_tokens = 0;    // prompt tokens of these
  int32_t returned_sequences =
      0;                        // of running requests, waiting for a place: further choices, preempted ones
  int64_t returned_tokens = 0;  // which these have to compute before others come in
  int64_t visits = 0;           // ever; the watchdog sees whether it moves
  MonotonicNs last_visit_ns = 0;
  bool has_work = false;
  double prompt_tokens_per_s = 0;     // prefill, recent
  double generated_tokens_per_s = 0;  // drawn, recent
  kv::BlockCounts blocks;
  int64_t kv_block_bytes = 0;  // of one block's K and V on the host, and of its X
  int64_t x_block_bytes = 0;
  int64_t prefix_queried_tokens = 0;  // prompts of requests that were scheduled, once each
  int64_t prefix_hit_tokens = 0;  // of these, found in the cache, then or before their turn to be computed
  int64_t preemptions = 0;
  bool failed = false;
  std::optional<PlannerSnapshot> planner;  // where one plans
};

// Hears of everything that is counted. Called on the step thread (OnRejected: on the submitting one); must be
// quick and must not call back. Implementations outlive the scheduler.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void OnStep(const exec::StepStats& stats) = 0;
  virtual void OnFirstToken(double seconds_since_arrival) = 0;
  virtual void OnScheduled(double queue_seconds) = 0;  // first time a request leaves the queue
  virtual void OnPrefilled(double prefill_seconds, int32_t prompt_tokens, int32_t cached_tokens) = 0;
  virtual void OnTokens(int32_t tokens, double gap_seconds) = 0;  // of one choice, after its first token
  virtual void OnPreempted() = 0;
  virtual void OnFinished(const RequestRecord& record) = 0;
  virtual void OnRejected(Reason reason) = 0;
};

class Scheduler {
 public:
  // The borrowed parts outlive the scheduler.
  struct Parts {
    exec::Executor& executor;
    kv::BlockStore& blocks;
    const kv::Geometry geometry;
    const text::Tokenizer& tokenizer;
    const Clock& clock;
    Observer& observer;
    // Of an executor that splits; null: what is not resident is carried as keys and values. The scheduler's
    // step thread alone uses it.
    Planner* planner = nullptr;
  };

  // Creates every work item. Starts no thread.
  static absl::StatusOr<std::unique_ptr<Scheduler>> Create(const Parts& parts,
                                                           const SchedulerOptions& options);
  ~Scheduler();  // Stop()
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // --- Any thread.
  // Refuses with kQueueFull, kRequestTooLarge, kPromptTooLong, kDeadlineUnreachable, kDraining or
  // kEngineFailed; otherwise the stream will end exactly once.
  absl::Status Submit(Request request, std::shared_ptr<TokenStream> stream);
  // The longest prompt + output that one sequence can hold: the context, clamped to the pool.
  int32_t max_sequence_tokens() const;
  // When a refused client should try again; differs from call to call.
  int64_t retry_after_ms() const;
  SchedulerSnapshot Snapshot() const;

  void Start();  // the step thread
  // No new requests from now on; returns when all have ended or `timeout_ms` passed (the rest end kDraining).
  // How many these were.
  int64_t Drain(int64_t timeout_ms);
  void Stop();

  // --- Tests drive the loop by hand instead of Start(): one decision and its visit. False when there is no
  // work.
  bool RunOnce();

 private:
  struct Impl;
  explicit Scheduler(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_SCHEDULER_H_
