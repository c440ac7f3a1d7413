// LoadStream: one request of a load run, from sending to its end. Driven by the run's completion queue: every
// operation's tag is the stream, and one operation is under way at a time.
#ifndef SPILLWAY_BENCH_LOAD_STREAM_H_
#define SPILLWAY_BENCH_LOAD_STREAM_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "base/clock.h"
#include "bench/ledger.h"
#include "bench/load_run.h"
#include "bench/workload.h"
#include "client/stream_checker.h"
#include "grpcpp/client_context.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/support/async_stream.h"
#include "spillway/v1/inference.grpc.pb.h"

namespace spillway::bench {

// Why a stream is cancelled that did not end although nothing more was sent: a failure of the daemon's.
constexpr char kNeverEnded[] = "because it did not end";

class LoadStream {
 public:
  // What to do after an event.
  enum class Next { kWait, kPause, kEnded };

  LoadStream(int64_t request, PlannedRequest planned, MonotonicNs due_ns)
      : request_(request), planned_(std::move(planned)), due_ns_(due_ns) {}

  int64_t request() const { return request_; }
  const PlannedRequest& planned() const { return planned_; }

  // `timeout_ms`: its deadline; 0: none.
  void Start(v1::InferenceService::Stub& stub, grpc::CompletionQueue& queue, int64_t timeout_ms = 0);
  // An operation has completed. Records tokens and, at the end, the outcome in `stats`. Returns kPause where
  // the next read is the caller's to start, with Read(), later.
  Next OnCompletion(bool ok, MonotonicNs now_ns, const LoadOptions& options, LoadStats* stats);
  void Read();
  // Of a stream that ended refused: how long the daemon asked to be left alone; else 0.
  int64_t retry_after_ms() const { return retry_after_ms_; }
  // `cause` goes to the ledger. Does nothing once cancelled.
  void Cancel(std::string cause);

 private:
  enum class State { kStarting, kReading, kFinishing };

  void OnDelta(const v1::Delta& delta, MonotonicNs now_ns, LoadStats* stats);
  void OnFinish(MonotonicNs now_ns, const LoadOptions& options, LoadStats* stats);
  void RecordSuccess(MonotonicNs now_ns, const LoadOptions& options, LoadStats* stats);
  Outcome OutcomeOfError(std::string* cause);
  void Finish();

  const int64_t request_;
  PlannedRequest planned_;
  const MonotonicNs due_ns_;

  State state_ = State::kStarting;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientAsyncReader<v1::StreamEvent>> reader_;
  v1::StreamEvent event_;
  grpc::Status status_;

  client::StreamChecker checker_;
  absl::Status contract_;
  v1::Usage usage_;
  std::string cancel_cause_;  // set once we cancelled
  MonotonicNs first_token_ns_ = 0;
  MonotonicNs last_token_ns_ = 0;
  int64_t longest_gap_ns_ = 0;  // between two deltas
  int64_t retry_after_ms_ = 0;
};

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_LOAD_STREAM_H_
