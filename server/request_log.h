// One log line for every finished request: label, how it ended, token counts, times. Never prompts or
// answers. Lines are written by a thread of their own, so that a full pipe behind stderr cannot hold up a
// step; what does not fit the bounded queue is dropped, counted and said. Thread-safe.
#ifndef SPILLWAY_SERVER_REQUEST_LOG_H_
#define SPILLWAY_SERVER_REQUEST_LOG_H_

#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "scheduler/scheduler.h"

namespace spillway::server {

class RequestLog {
 public:
  using Write = std::function<void(const scheduler::RequestRecord&)>;

  RequestLog();
  // For tests: `write` instead of Log(), and a bound.
  RequestLog(Write write, size_t max_waiting);
  // Writes what waits, then joins.
  ~RequestLog();
  RequestLog(const RequestLog&) = delete;
  RequestLog& operator=(const RequestLog&) = delete;

  void Add(const scheduler::RequestRecord& record);

 private:
  void Work();

  const Write write_;
  const size_t max_waiting_;
  Mutex mutex_;
  CondVar changed_;
  std::vector<scheduler::RequestRecord> waiting_ ABSL_GUARDED_BY(mutex_);
  int64_t dropped_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_REQUEST_LOG_H_
