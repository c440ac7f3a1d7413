// Loops over OpenMP's threads, for work outside of a step (ThreadTeam does what is inside).
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_PARALLEL_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_PARALLEL_H_

#include <omp.h>

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

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_PARALLEL_H_
