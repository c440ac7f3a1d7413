#include "server/call_timeouts.h"

#include <algorithm>
#include <vector>

namespace spillway::server {
namespace {

// Calls are looked at so often in a timeout: none waits for more than an eighth beyond it, and nobody is
// woken for calls that end at once, as nearly all do.
constexpr int kLooks = 8;

}  // namespace

CallTimeouts::CallTimeouts(std::chrono::milliseconds timeout)
    : timeout_(timeout), thread_([this] { Work(); }) {}

CallTimeouts::~CallTimeouts() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyOne();
  thread_.join();
  MutexLock lock(mutex_);
  for (const auto& [ticket, waiting] : waiting_) grpc_call_unref(waiting.call);
}

CallTimeouts::Ticket CallTimeouts::Begin(grpc_call* call) {
  grpc_call_ref(call);
  const MonotonicNs until_ns = Clock::Real().NowNs() + timeout_.count();
  MutexLock lock(mutex_);
  waiting_.emplace_hint(waiting_.end(), ++last_ticket_, Waiting{call, until_ns});
  return last_ticket_;
}

void CallTimeouts::End(Ticket ticket) {
  grpc_call* call = nullptr;
  {
    MutexLock lock(mutex_);
    const auto found = waiting_.find(ticket);
    if (found == waiting_.end()) return;
    call = found->second.call;
    waiting_.erase(found);
  }
  grpc_call_unref(call);
}

int64_t CallTimeouts::cancelled() {
  MutexLock lock(mutex_);
  return cancelled_;
}

void CallTimeouts::CancelDue() {
  std::vector<grpc_call*> due;
  {
    MutexLock lock(mutex_);
    const MonotonicNs now_ns = Clock::Real().NowNs();
    while (!waiting_.empty() && waiting_.begin()->second.until_ns <= now_ns) {
      due.push_back(waiting_.begin()->second.call);
      waiting_.erase(waiting_.begin());
    }
    cancelled_ += static_cast<int64_t>(due.size());
  }
  // Outside the lock: a cancelled call may end on this thread, and come back with End.
  for (grpc_call* call : due) {
    grpc_call_cancel(call, nullptr);
    grpc_call_unref(call);
  }
}

void CallTimeouts::Work() {
  const auto period = std::clamp<std::chrono::nanoseconds>(timeout_ / kLooks, std::chrono::milliseconds(1),
                                                           std::chrono::seconds(1));
  while (true) {
    {
      MutexLock lock(mutex_);
      if (!stopping_) changed_.WaitFor(mutex_, period);
      if (stopping_) return;
    }
    CancelDue();
  }
}

}  // namespace spillway::server
