#include "profiler/host_memory_meter.h"

#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "profiler/robust_median.h"

namespace spillway::profiler {
namespace {

constexpr int kPasses = 7;

// Reads every byte; the sum keeps the compiler from leaving it out.
uint64_t Sum(const uint64_t* words, size_t n) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 8 <= n; i += 8) {
    for (size_t j = 0; j < 8; ++j) sums[j] += words[i + j];
  }
  uint64_t sum = 0;
  for (const uint64_t part : sums) sum += part;
  return sum;
}

// Runs `work(i)` for i < n, the last one in the calling thread; a machine out of threads does it with fewer.
template <typename Work>
void InParallel(int n, const Work& work) {
  std::vector<std::thread> others;
  for (int i = 1; i < n; ++i) {
    try {
      others.emplace_back(work, i);
    } catch (const std::system_error&) {
      work(i);
    }
  }
  work(0);
  for (std::thread& other : others) other.join();
}

}  // namespace

int HostThreads() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof(cores), &cores) != 0) return 1;
  return std::clamp(CPU_COUNT(&cores), 1, 64);
}

absl::StatusOr<double> MeasureHostMemory(int64_t size_bytes, int threads) {
  void* const memory = mmap(nullptr, static_cast<size_t>(size_bytes), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no ", FormatBytes(size_bytes), " of host memory to measure its rate with"));
  }
  const size_t words = static_cast<size_t>(size_bytes) / sizeof(uint64_t) / static_cast<size_t>(threads);
  auto* const begin = static_cast<uint64_t*>(memory);
  // First touch by the threads that will read.
  InParallel(threads, [&](int i) { std::memset(begin + static_cast<size_t>(i) * words, 1, words * 8); });
  std::atomic<uint64_t> sink{0};
  std::vector<double> seconds;
  for (int pass = 0; pass < kPasses; ++pass) {
    const MonotonicNs begin_ns = Clock::Real().NowNs();
    InParallel(threads, [&](int i) { sink += Sum(begin + static_cast<size_t>(i) * words, words); });
    seconds.push_back(ToSeconds(std::max<MonotonicNs>(1, Clock::Real().NowNs() - begin_ns)));
  }
  munmap(memory, static_cast<size_t>(size_bytes));
  if (sink == 0) return absl::InternalError("host memory reads as zero");
  return static_cast<double>(words * sizeof(uint64_t)) * threads / RobustMedian(seconds);
}

}  // namespace spillway::profiler
