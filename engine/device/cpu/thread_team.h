// ThreadTeam: the caller and a fixed number of workers that do one job together, over and over. Jobs of a
// decode step take microseconds and follow each other at once, so workers wait spinning for a while before
// they sleep; and while they wait, they fetch the weights that the next job reads first into their caches.
//
// Owned by the CPU device. Thread-compatible: one caller at a time. Nothing is allocated by a job.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_THREAD_TEAM_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_THREAD_TEAM_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace spillway::device {

// Panels of one matrix, side by side in memory, of which thread t of n takes those from panels * t / n on
// first.
struct PanelRun {
  const uint8_t* data = nullptr;  // null: nothing to fetch
  int64_t panels = 0;
  int64_t panel_bytes = 0;
};

class ThreadTeam {
 public:
  // With `openmp` jobs run on OpenMP's threads, which products of oneDNN use too: two teams would take turns
  // spinning.
  ThreadTeam(int32_t threads, bool openmp);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int32_t threads() const { return threads_; }

  // body(thread) once for each thread, the caller being thread 0; returns when all are done. Bodies do not
  // wait for each other: OpenMP may run several of them on one thread. Workers then fetch their share of
  // `ahead`, which must stay in place.
  template <typename Body>
  void Run(const Body& body, const PanelRun& ahead = {}) {
    RunJob([](const void* context, int32_t thread) { (*static_cast<const Body*>(context))(thread); }, &body,
           ahead);
  }

  // body(begin, end, thread) over [0, n) cut into one range a thread; by the caller alone unless `parallel`.
  template <typename Body>
  void Ranges(bool parallel, int64_t n, const Body& body) {
    if (!parallel || threads_ == 1 || n <= 1) {
      if (n > 0) body(int64_t{0}, n, 0);
      return;
    }
    Run([&](int32_t thread) {
      const int64_t begin = n * thread / threads_;
      const int64_t end = n * (thread + 1) / threads_;
      if (begin < end) body(begin, end, thread);
    });
  }

  // body(take, thread) once a thread; take() gives each index of [0, n) to one caller, in rising order to
  // each thread, and n or more when there are none left.
  template <typename Body>
  void Tasks(bool parallel, int64_t n, const Body& body) {
    std::atomic<int64_t> next{0};
    const auto take = [&next] { return next.fetch_add(1, std::memory_order_relaxed); };
    if (!parallel || threads_ == 1 || n <= 1) {
      if (n > 0) body(take, 0);
      return;
    }
    Run([&](int32_t thread) { body(take, thread); });
  }

 private:
  using Job = void (*)(const void* context, int32_t thread);

  void RunJob(Job job, const void* context, const PanelRun& ahead);
  void Work(int32_t thread);
  // Until `value` is not `old`: spinning, then asleep.
  void WaitWhile(const std::atomic<uint32_t>& value, uint32_t old) const;
  // Until the next job comes, or all is fetched.
  void Fetch(const PanelRun& ahead, int32_t thread, uint32_t generation) const;

  const int32_t threads_;
  const bool openmp_;
  const int32_t spins_;
  // Written by the caller before `generation_` announces a job.
  Job job_ = nullptr;
  const void* context_ = nullptr;
  PanelRun ahead_;
  bool stopping_ = false;
  alignas(64) std::atomic<uint32_t> generation_{0};  // jobs, ever
  alignas(64) std::atomic<uint32_t> pending_{0};     // workers that have not finished the last one
  std::vector<std::thread> workers_;
};

// The strips of one product, cut into a run for each thread. A thread takes of its own run from the front, a
// panel at a time and less near the end, then from the back of what others have left: one that is held up
// holds up nobody. Thread-safe but for Reset.
class StripQueue {
 public:
  struct Strips {
    int64_t begin;
    int64_t end;  // begin == end: none are left
  };

  explicit StripQueue(int32_t threads) : runs_(static_cast<size_t>(threads)) {}

  // REQUIRES: strips < 2^32.
  void Reset(int64_t strips);
  Strips Take(int32_t thread);

 private:
  struct alignas(64) Run {
    std::atomic<uint64_t> range{0};  // begin << 32 | end
  };

  std::vector<Run> runs_;
};

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_THREAD_TEAM_H_
