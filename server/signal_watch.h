// SIGTERM and SIGINT as something to wait for; SIGHUP, which hooks of certificates send, as something to go
// on after. A thread takes them; the second one ends the process at once, so that a drain can always be cut
// short.
#ifndef SPILLWAY_SERVER_SIGNAL_WATCH_H_
#define SPILLWAY_SERVER_SIGNAL_WATCH_H_

#include <chrono>
#include <functional>
#include <thread>

#include "absl/strings/string_view.h"
#include "base/mutex.h"

namespace spillway::server {

// One per process. Thread-safe.
class SignalWatch {
 public:
  // `before_exit` is called, on the watch's thread, before a signal ends the process: for what must not stay
  // behind. It must be quick. REQUIRES: the signals are blocked in every thread (BlockSignals).
  explicit SignalWatch(std::function<void()> before_exit);
  ~SignalWatch();
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

  // From here on the first signal is waited for. Until then, while there is nothing to drain, it ends the
  // process with exit code 0.
  void Arm();
  // As if a signal had come, but for the next one: that is the first. `why`: for the log.
  void Stop(absl::string_view why);
  // True when the first signal has come, or Stop.
  bool WaitFor(std::chrono::milliseconds timeout);

 private:
  void Work();

  const std::function<void()> before_exit_;
  Mutex mutex_;
  CondVar changed_;
  bool armed_ ABSL_GUARDED_BY(mutex_) = false;
  bool signalled_ ABSL_GUARDED_BY(mutex_) = false;
  bool told_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

// Keeps SIGTERM, SIGINT and SIGHUP from every thread made later, and ignores SIGPIPE. First thing in main.
void BlockSignals();

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_SIGNAL_WATCH_H_
