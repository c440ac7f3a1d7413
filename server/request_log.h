// One log line for every finished request: label, how it ended, token counts, times; and for calls that were
// refused, a few a second. Never prompts or answers. Lines are written by a thread of their own, so that a
// full pipe behind stderr cannot hold up a step; what does not fit the bounded queue is dropped, counted and
// said. Thread-safe.
#ifndef SPILLWAY_SERVER_REQUEST_LOG_H_
#define SPILLWAY_SERVER_REQUEST_LOG_H_

#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/mutex.h"
#include "base/reason.h"
#include "scheduler/scheduler.h"

namespace spillway::server {

// A call that was turned away before anything was computed for it.
struct Refusal {
  Reason reason = Reason::kNone;
  std::string message;
  std::string request_id;  // empty where it was not known yet
  std::string method;
  std::string peer;
  std::string tenant = {};    // empty where it is not known
  std::string trace_id = {};  // empty: none
};

class RequestLog {
 public:
  using Write = std::function<void(const scheduler::RequestRecord&)>;
  // Whoever floods a daemon with calls that it refuses does not flood its log: others are counted, and said.
  static constexpr int kRefusalsPerSecond = 20;

  RequestLog();
  // For tests: `write` instead of Log(), and a bound.
  RequestLog(Write write, size_t max_waiting);
  // Writes what waits, then joins.
  ~RequestLog();
  RequestLog(const RequestLog&) = delete;
  RequestLog& operator=(const RequestLog&) = delete;

  void Add(const scheduler::RequestRecord& record);
  void Add(Refusal refusal);

 private:
  void Work();

  const Write write_;
  const size_t max_waiting_;
  Mutex mutex_;
  CondVar changed_;
  std::vector<scheduler::RequestRecord> waiting_ ABSL_GUARDED_BY(mutex_);
  int64_t dropped_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<Refusal> refusals_ ABSL_GUARDED_BY(mutex_);
  int64_t unsaid_refusals_ ABSL_GUARDED_BY(mutex_) = 0;
  MonotonicNs second_begin_ns_ ABSL_GUARDED_BY(mutex_) = 0;
  int refusals_in_second_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_REQUEST_LOG_H_
