// CallTimeouts: calls that wait for their client - to read an answer, to send the rest of a message - and are
// cancelled when they have waited for too long, so that nobody can leave memory behind for as long as they
// like.
//
// Thread-safe.
#ifndef SPILLWAY_SERVER_CALL_TIMEOUTS_H_
#define SPILLWAY_SERVER_CALL_TIMEOUTS_H_

#include <chrono>
#include <cstdint>
#include <map>
#include <thread>

#include "base/clock.h"
#include "base/mutex.h"
#include "grpc/grpc.h"

namespace spillway::server {

class CallTimeouts {
 public:
  using Ticket = uint64_t;  // 0: none

  explicit CallTimeouts(std::chrono::milliseconds timeout);
  // Whatever still waits is left alone.
  ~CallTimeouts();
  CallTimeouts(const CallTimeouts&) = delete;
  CallTimeouts& operator=(const CallTimeouts&) = delete;

  // The call waits from now on. It is kept alive until End, or until it is cancelled.
  Ticket Begin(grpc_call* call);
  // It waits no more. Tickets that were cancelled meanwhile, and 0, are good too.
  void End(Ticket ticket);

  // Calls that were cancelled so far.
  int64_t cancelled();

 private:
  struct Waiting {
    grpc_call* call;
    MonotonicNs until_ns;
  };

  void Work();
  // Cancels what is due.
  void CancelDue();

  const std::chrono::nanoseconds timeout_;
  Mutex mutex_;
  CondVar changed_;
  // By ticket, and so by time.
  std::map<Ticket, Waiting> waiting_ ABSL_GUARDED_BY(mutex_);
  Ticket last_ticket_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t cancelled_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace spillway::server

#endif  // SPILLWAY_SERVER_CALL_TIMEOUTS_H_
