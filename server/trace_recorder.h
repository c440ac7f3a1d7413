// TraceRecorder: runs an engine's timeline for a time and hands what was recorded to whoever asked. One
// recording at a time.
//
// Thread-safe.
#ifndef SPILLWAY_SERVER_TRACE_RECORDER_H_
#define SPILLWAY_SERVER_TRACE_RECORDER_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <thread>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "engine/exec/timeline.h"

namespace spillway::server {

class TraceRecorder {
 public:
  using Done = std::function<void(const exec::Recording&)>;

  // A response of so many spans is about 4 MB.
  static constexpr size_t kSpansMax = 100'000;

  TraceRecorder();
  ~TraceRecorder();  // Stop()
  TraceRecorder(const TraceRecorder&) = delete;
  TraceRecorder& operator=(const TraceRecorder&) = delete;

  // Calls `done` on the recorder's thread when `duration` is over, or earlier by End or Stop. The recording's
  // number, never 0; kTraceRunning while another is under way, kDraining after Stop: then `done` is not
  // called. `timeline` lives until `done` was called.
  absl::StatusOr<uint64_t> Record(exec::Timeline& timeline, std::chrono::milliseconds duration, Done done);
  // Ends the recording of this number where it is under way.
  void End(uint64_t number);
  // Ends what is under way and refuses the rest. Returns when `done` was called.
  void Stop();

 private:
  struct Job {
    uint64_t number;
    exec::Timeline* timeline;
    MonotonicNs until_ns;
    Done done;
  };

  void Work();

  Mutex mutex_;
  CondVar changed_;
  std::optional<Job> job_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_number_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_TRACE_RECORDER_H_
