#include "server/signal_watch.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <utility>

#include "base/log.h"

namespace spillway::server {
namespace {

sigset_t StopSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGHUP);
  return set;
}

}  // namespace

void BlockSignals() {
  const sigset_t set = StopSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  // A client that goes away shows in a write's result.
  signal(SIGPIPE, SIG_IGN);
}

SignalWatch::SignalWatch(std::function<void()> before_exit)
    : before_exit_(std::move(before_exit)), thread_([this] { Work(); }) {}

SignalWatch::~SignalWatch() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  pthread_kill(thread_.native_handle(), SIGTERM);
  thread_.join();
}

void SignalWatch::Arm() {
  MutexLock lock(mutex_);
  armed_ = true;
}

bool SignalWatch::WaitFor(std::chrono::milliseconds timeout) {
  MutexLock lock(mutex_);
  if (!signalled_ && !told_) changed_.WaitFor(mutex_, timeout);
  return signalled_ || told_;
}

void SignalWatch::Stop(absl::string_view why) {
  MutexLock lock(mutex_);
  if (told_) return;
  Log(LogLevel::kInfo, "stopping", {{"why", why}});
  told_ = true;
  changed_.NotifyAll();
}

void SignalWatch::Work() {
  const sigset_t set = StopSignals();
  while (true) {
    int signal_number = 0;
    if (sigwait(&set, &signal_number) != 0) continue;
    MutexLock lock(mutex_);
    if (stopping_) return;
    if (signal_number == SIGHUP) {
      Log(LogLevel::kInfo, "files are looked at by themselves; SIGTERM stops", {{"signal", "SIGHUP"}});
      continue;
    }
    const char* const name = signal_number == SIGTERM ? "SIGTERM" : "SIGINT";
    if (!armed_) {
      Log(LogLevel::kInfo, "stopped before serving", {{"signal", name}});
      before_exit_();
      _exit(0);
    }
    if (signalled_) {
      Log(LogLevel::kWarning, "second signal: exiting at once", {{"signal", name}});
      before_exit_();
      _exit(1);
    }
    Log(LogLevel::kInfo, "stopping", {{"signal", name}});
    signalled_ = true;
    changed_.NotifyAll();
  }
}

}  // namespace spillway::server
