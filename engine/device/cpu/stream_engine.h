// StreamEngine: streams, events and the workers that run them, for a device that is emulated on the CPU. Work
// on one stream runs in order; work on different streams runs concurrently, ordered by events alone, as on a
// GPU.
//
// Three workers: one computes, one is the link in, one the link out. Each takes, among the streams whose next
// work is its own, the one enqueued first, so all lanes of a direction share one first-in first-out link. A
// link worker is paced by deadline credit: a copy starts when it is ready or when the link is free, whichever
// is later, and ends after bytes / rate. What follows a copy on its stream is ready when that copy's time was
// over, not when its worker woke up, so that a late wake-up costs the next copy nothing.
//
// One thread enqueues; any thread may wait. Nothing is allocated after construction.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_STREAM_ENGINE_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_STREAM_ENGINE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <new>
#include <random>
#include <thread>
#include <type_traits>
#include <vector>

#include "base/mutex.h"
#include "engine/device/types.h"

namespace spillway::device {

enum class StreamWorker : uint8_t { kCompute, kLinkIn, kLinkOut };
constexpr int kStreamWorkers = 3;

struct StreamEngineOptions {
  double link_bytes_per_s = 100e6;  // each direction
  double copy_overhead_us = 0;      // charged once a copy, or once a batch
  // Delays every piece of work by up to jitter_us, by a generator of this seed, so that a missing wait shows.
  double jitter_us = 0;
  uint64_t jitter_seed = 0;
};

class StreamEngine {
 public:
  // Several executors, one after another, each of which takes three streams and some 2,100 events.
  static constexpr int kStreamsMax = 64;
  static constexpr int kEventsMax = 32'768;
  static constexpr int kQueueOps = 4096;  // a stream's; Enqueue waits while it is full

  explicit StreamEngine(const StreamEngineOptions& options);
  ~StreamEngine();  // what has not started is dropped
  StreamEngine(const StreamEngine&) = delete;
  StreamEngine& operator=(const StreamEngine&) = delete;

  StreamId CreateStream();
  EventId CreateEvent();

  // `work()` runs on `worker`. Trivially copyable, at most kWorkBytes.
  template <typename Callable>
  void Enqueue(StreamId stream, StreamWorker worker, const Callable& work) {
    EnqueueWork(stream, worker, Work(work), 0, 0);
  }
  // A copy over the link: `work(true)` runs when it starts, `work(false)` moves the bytes just before its
  // time on the link is over. REQUIRES: size_bytes > 0.
  template <typename Callable>
  void EnqueueCopy(StreamId stream, StreamWorker worker, int64_t size_bytes, bool charge_overhead,
                   const Callable& work) {
    EnqueueWork(stream, worker, Work(work), size_bytes, charge_overhead ? overhead_ns_ : 0);
  }

  void Record(EventId event, StreamId stream);
  void Wait(StreamId stream, EventId event);
  bool IsComplete(EventId event) const;
  void Synchronize(EventId event);
  int64_t ElapsedNs(EventId begin, EventId end) const;

 private:
  static constexpr size_t kWorkBytes = 256;

  // A trivially copyable callable, held in place.
  class Work {
   public:
    Work() = default;
    template <typename Callable>
    explicit Work(const Callable& callable) {
      static_assert(std::is_trivially_copyable_v<Callable> && sizeof(Callable) <= kWorkBytes);
      new (storage_) Callable(callable);
      invoke_ = [](const std::byte* storage, [[maybe_unused]] bool begin) {
        const auto& stored = *std::launder(reinterpret_cast<const Callable*>(storage));
        if constexpr (std::is_invocable_v<Callable, bool>) {
          stored(begin);
        } else {
          stored();
        }
      };
    }
    void operator()(bool begin = false) const { invoke_(storage_, begin); }

   private:
    alignas(16) std::byte storage_[kWorkBytes];
    void (*invoke_)(const std::byte*, bool) = nullptr;
  };

  enum class OpKind : uint8_t { kWork, kRecord, kWait };
  struct Op {
    OpKind kind = OpKind::kWork;
    StreamWorker worker = StreamWorker::kCompute;
    uint64_t sequence = 0;  // global order of enqueueing
    int32_t event = -1;
    uint64_t generation = 0;
    int64_t size_bytes = 0;
    int64_t overhead_ns = 0;
    int64_t ready_ns = 0;  // when it came to its stream's head; 0: not yet
    Work work;
  };
  struct Stream {
    std::vector<Op> ring;  // [kQueueOps]
    int32_t head = 0;
    int32_t size = 0;
    bool running = false;  // a worker runs the head
    // When the link was done with what was at the head before; 0: it was no copy, or the head waited since.
    int64_t link_done_ns = 0;
    Op& front() { return ring[static_cast<size_t>(head)]; }
  };
  struct Event {
    uint64_t enqueued = 0;  // records enqueued, ever
    uint64_t completed = 0;
    int64_t time_ns = 0;  // of the last completed one
  };

  void EnqueueWork(StreamId stream, StreamWorker worker, const Work& work, int64_t size_bytes,
                   int64_t overhead_ns);
  void Push(StreamId stream, Op op) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void Pop(Stream& stream);
  // Passes records and satisfied waits at every stream's head.
  void Settle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Stream* NextFor(StreamWorker worker) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Run(StreamWorker worker);
  void RunOnLink(const Op& op, int64_t& link_free_ns) const;

  const StreamEngineOptions options_;
  const int64_t overhead_ns_;
  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<Stream> streams_ ABSL_GUARDED_BY(mutex_);
  std::vector<Event> events_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_sequence_ ABSL_GUARDED_BY(mutex_) = 1;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::array<std::thread, kStreamWorkers> workers_;
};

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_STREAM_ENGINE_H_
