#include "engine/device/cpu/stream_engine.h"

#include <sys/prctl.h>
#include <time.h>

#include <algorithm>

#include "base/check.h"
#include "base/clock.h"

namespace spillway::device {
namespace {

// What the end of a copy costs the CPU itself: the bytes are moved just before the link's time is over.
constexpr double kHostCopyBytesPerNs = 4;

void SleepUntil(MonotonicNs time_ns) {
  timespec deadline;
  deadline.tv_sec = time_ns / kNsPerSecond;
  deadline.tv_nsec = time_ns % kNsPerSecond;
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &deadline, nullptr) != 0) {
  }
}

MonotonicNs Now() { return Clock::Real().NowNs(); }

}  // namespace

StreamEngine::StreamEngine(const StreamEngineOptions& options)
    : options_(options), overhead_ns_(static_cast<int64_t>(options.copy_overhead_us * 1e3)) {
  SPILLWAY_CHECK(options.link_bytes_per_s > 0);
  {
    MutexLock lock(mutex_);
    streams_.reserve(kStreamsMax);
    events_.reserve(kEventsMax);
  }
  for (int i = 0; i < kStreamWorkers; ++i) {
    workers_[static_cast<size_t>(i)] = std::thread([this, i] { Run(static_cast<StreamWorker>(i)); });
  }
}

StreamEngine::~StreamEngine() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  for (std::thread& worker : workers_) worker.join();
}

StreamId StreamEngine::CreateStream() {
  MutexLock lock(mutex_);
  SPILLWAY_CHECK(streams_.size() < kStreamsMax);
  streams_.emplace_back().ring.resize(kQueueOps);
  return static_cast<StreamId>(streams_.size() - 1);
}

EventId StreamEngine::CreateEvent() {
  MutexLock lock(mutex_);
  SPILLWAY_CHECK(events_.size() < kEventsMax);
  events_.emplace_back();
  return static_cast<EventId>(events_.size() - 1);
}

void StreamEngine::EnqueueWork(StreamId stream, StreamWorker worker, const Work& work, int64_t size_bytes,
                               int64_t overhead_ns) {
  Op op;
  op.kind = OpKind::kWork;
  op.worker = worker;
  op.size_bytes = size_bytes;
  op.overhead_ns = overhead_ns;
  op.work = work;
  MutexLock lock(mutex_);
  Push(stream, op);
}

void StreamEngine::Record(EventId event, StreamId stream) {
  MutexLock lock(mutex_);
  Op op;
  op.kind = OpKind::kRecord;
  op.event = static_cast<int32_t>(event);
  op.generation = ++events_[static_cast<size_t>(event)].enqueued;
  Push(stream, op);
}

void StreamEngine::Wait(StreamId stream, EventId event) {
  MutexLock lock(mutex_);
  Op op;
  op.kind = OpKind::kWait;
  op.event = static_cast<int32_t>(event);
  op.generation = events_[static_cast<size_t>(event)].enqueued;
  SPILLWAY_CHECK_MSG(op.generation > 0, "waiting for an event that was never recorded");
  Push(stream, op);
}

void StreamEngine::Push(StreamId id, Op op) {
  Stream& stream = streams_[static_cast<size_t>(id)];
  while (stream.size == kQueueOps) changed_.Wait(mutex_);
  op.sequence = next_sequence_++;
  stream.ring[static_cast<size_t>((stream.head + stream.size) % kQueueOps)] = op;
  ++stream.size;
  if (stream.size == 1) {
    stream.link_done_ns = 0;
    Settle();
    changed_.NotifyAll();
  }
}

void StreamEngine::Pop(Stream& stream) {
  stream.head = (stream.head + 1) % kQueueOps;
  --stream.size;
}

void StreamEngine::Settle() {
  bool moved = true;
  while (moved) {
    moved = false;
    for (Stream& stream : streams_) {
      while (stream.size > 0 && !stream.running) {
        Op& op = stream.front();
        if (op.kind == OpKind::kWork) {
          if (op.ready_ns == 0) op.ready_ns = stream.link_done_ns > 0 ? stream.link_done_ns : Now();
          break;
        }
        Event& event = events_[static_cast<size_t>(op.event)];
        if (op.kind == OpKind::kWait && event.completed < op.generation) {
          stream.link_done_ns = 0;
          break;
        }
        // An earlier record on a slower stream says nothing new.
        if (op.kind == OpKind::kRecord && op.generation > event.completed) {
          event.completed = op.generation;
          event.time_ns = Now();
        }
        Pop(stream);
        moved = true;
      }
    }
  }
}

StreamEngine::Stream* StreamEngine::NextFor(StreamWorker worker) {
  Stream* next = nullptr;
  for (Stream& stream : streams_) {
    if (stream.size == 0 || stream.running) continue;
    const Op& op = stream.front();
    if (op.kind != OpKind::kWork || op.worker != worker) continue;
    if (next == nullptr || op.sequence < next->front().sequence) next = &stream;
  }
  return next;
}

void StreamEngine::Run(StreamWorker worker) {
  // The default slack of 50 us is what a small copy takes.
  prctl(PR_SET_TIMERSLACK, 1000);
  std::mt19937_64 jitter(options_.jitter_seed + static_cast<uint64_t>(worker));
  std::uniform_real_distribution<double> delay_us(0, options_.jitter_us);
  int64_t link_free_ns = 0;
  MutexLock lock(mutex_);
  while (!stopping_) {
    Stream* stream = NextFor(worker);
    if (stream == nullptr) {
      changed_.Wait(mutex_);
      continue;
    }
    stream->running = true;
    const Op op = stream->front();
    mutex_.Unlock();
    if (options_.jitter_us > 0) SleepUntil(Now() + static_cast<int64_t>(delay_us(jitter) * 1e3));
    if (op.size_bytes > 0) {
      RunOnLink(op, link_free_ns);
    } else {
      op.work();
    }
    mutex_.Lock();
    stream->running = false;
    stream->link_done_ns = op.size_bytes > 0 ? link_free_ns : 0;
    Pop(*stream);
    Settle();
    changed_.NotifyAll();
  }
}

void StreamEngine::RunOnLink(const Op& op, int64_t& link_free_ns) const {
  const auto size = static_cast<double>(op.size_bytes);
  const int64_t start_ns = std::max(op.ready_ns, link_free_ns);
  link_free_ns = start_ns + op.overhead_ns + static_cast<int64_t>(size / options_.link_bytes_per_s * 1e9);
  op.work(/*begin=*/true);
  SleepUntil(link_free_ns - static_cast<int64_t>(size / kHostCopyBytesPerNs));
  op.work(/*begin=*/false);
  SleepUntil(link_free_ns);
}

bool StreamEngine::IsComplete(EventId event) const {
  MutexLock lock(mutex_);
  const Event& e = events_[static_cast<size_t>(event)];
  return e.enqueued > 0 && e.completed == e.enqueued;
}

void StreamEngine::Synchronize(EventId event) {
  MutexLock lock(mutex_);
  const Event& e = events_[static_cast<size_t>(event)];
  SPILLWAY_CHECK_MSG(e.enqueued > 0, "waiting for an event that was never recorded");
  const uint64_t generation = e.enqueued;
  while (e.completed < generation) changed_.Wait(mutex_);
}

int64_t StreamEngine::ElapsedNs(EventId begin, EventId end) const {
  MutexLock lock(mutex_);
  return events_[static_cast<size_t>(end)].time_ns - events_[static_cast<size_t>(begin)].time_ns;
}

}  // namespace spillway::device
