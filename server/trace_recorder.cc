#include "server/trace_recorder.h"

#include <utility>

#include "base/reason.h"

namespace spillway::server {

TraceRecorder::TraceRecorder() : thread_([this] { Work(); }) {}

TraceRecorder::~TraceRecorder() { Stop(); }

absl::StatusOr<uint64_t> TraceRecorder::Record(exec::Timeline& timeline, std::chrono::milliseconds duration,
                                               Done done) {
  MutexLock lock(mutex_);
  if (stopping_) return MakeError(Reason::kDraining, "the daemon stops; nothing is recorded any more");
  if (job_.has_value() || !timeline.Start(kSpansMax)) {
    return MakeError(Reason::kTraceRunning, "a trace is being recorded already");
  }
  const MonotonicNs until_ns = Clock::Real().NowNs() + std::chrono::nanoseconds(duration).count();
  job_ = Job{++last_number_, &timeline, until_ns, std::move(done)};
  changed_.NotifyAll();
  return last_number_;
}

void TraceRecorder::End(uint64_t number) {
  MutexLock lock(mutex_);
  if (!job_.has_value() || job_->number != number) return;
  job_->until_ns = 0;
  changed_.NotifyAll();
}

void TraceRecorder::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

void TraceRecorder::Work() {
  while (true) {
    exec::Recording recording;
    Done done;
    {
      MutexLock lock(mutex_);
      while (!job_.has_value()) {
        if (stopping_) return;
        changed_.Wait(mutex_);
      }
      int64_t left_ns = 0;
      while (!stopping_ && (left_ns = job_->until_ns - Clock::Real().NowNs()) > 0) {
        changed_.WaitFor(mutex_, std::chrono::nanoseconds(left_ns));
      }
      recording = job_->timeline->Stop();
      done = std::move(job_->done);
      job_.reset();
    }
    done(recording);
  }
}

}  // namespace spillway::server
