// Work on the threads of one OpenMP team. oneDNN runs on the same team: libgomp keeps one per calling thread
// as long as every region asks for the same number of threads, and starts threads anew when it changes. Work
// is therefore done by all threads or, where entering a region (some microseconds) would cost more than it
// saves, by the caller alone.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_PARALLEL_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_PARALLEL_H_

#include <omp.h>

#include <atomic>
#include <cstdint>

namespace spillway::device {

// body(begin, end, thread) over [0, n) cut into one range a thread.
template <typename Body>
void ParallelRanges(int32_t threads, int64_t n, const Body& body) {
  if (threads <= 1 || n <= 1) {
    if (n > 0) body(int64_t{0}, n, 0);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    const int64_t team = omp_get_num_threads();
    const int64_t thread = omp_get_thread_num();
    const int64_t begin = n * thread / team;
    const int64_t end = n * (thread + 1) / team;
    if (begin < end) body(begin, end, static_cast<int32_t>(thread));
  }
}

// body(take, thread) once a thread; take() gives each index of [0, n) to one caller, in rising order to each
// thread, and n or more when there are none left.
template <typename Body>
void ParallelTasks(int32_t threads, int64_t n, const Body& body) {
  std::atomic<int64_t> next{0};
  const auto take = [&next] { return next.fetch_add(1, std::memory_order_relaxed); };
  if (threads <= 1 || n <= 1) {
    if (n > 0) body(take, 0);
    return;
  }
#pragma omp parallel num_threads(threads)
  body(take, static_cast<int32_t>(omp_get_thread_num()));
}

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_PARALLEL_H_
