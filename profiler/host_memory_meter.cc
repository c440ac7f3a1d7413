#include "profiler/host_memory_meter.h"

#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cstring>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "engine/kv/memory_budget.h"
#include "profiler/robust_median.h"

namespace spillway::profiler {
namespace {

constexpr size_t kPasses = 7;
constexpr size_t kPassesMin = 3;
constexpr double kLongEnoughS = 0.5;

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

// Threads that read their shares of a buffer together, pass after pass; the calling thread is one of them.
class Readers {
 public:
  // A machine out of threads does it with fewer.
  Readers(uint64_t* words, size_t n_words, int threads) : words_(words) {
    for (int i = 1; i < threads; ++i) {
      try {
        others_.emplace_back([this, i] { Follow(static_cast<size_t>(i)); });
      } catch (const std::system_error&) {
        break;
      }
    }
    share_words_ = n_words / (others_.size() + 1);
    together_.emplace(static_cast<ptrdiff_t>(others_.size() + 1));
    started_ = true;
    started_.notify_all();
    Touch(0);
    together_->arrive_and_wait();
  }
  ~Readers() {
    more_ = false;
    together_->arrive_and_wait();
    for (std::thread& other : others_) other.join();
  }
  Readers(const Readers&) = delete;
  Readers& operator=(const Readers&) = delete;

  // Reads all once; seconds.
  double Pass() {
    const MonotonicNs begin_ns = Clock::Real().NowNs();
    together_->arrive_and_wait();
    Read(0);
    together_->arrive_and_wait();
    return ToSeconds(std::max<MonotonicNs>(1, Clock::Real().NowNs() - begin_ns));
  }
  double pass_bytes() const {
    return static_cast<double>(share_words_ * sizeof(uint64_t) * (others_.size() + 1));
  }
  uint64_t sum() const { return sum_; }

 private:
  void Follow(size_t i) {
    started_.wait(false);
    Touch(i);
    together_->arrive_and_wait();
    for (together_->arrive_and_wait(); more_; together_->arrive_and_wait()) {
      Read(i);
      together_->arrive_and_wait();
    }
  }
  // By the thread that will read it.
  void Touch(size_t i) { std::memset(words_ + i * share_words_, 1, share_words_ * sizeof(uint64_t)); }
  void Read(size_t i) { sum_ += Sum(words_ + i * share_words_, share_words_); }

  uint64_t* const words_;
  size_t share_words_ = 0;
  std::vector<std::thread> others_;
  std::atomic<bool> started_{false};        // then all above and below is known
  std::optional<std::barrier<>> together_;  // before and after each pass
  bool more_ = true;                        // written between passes
  std::atomic<uint64_t> sum_{0};
};

}  // namespace

int HostThreads() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (sched_getaffinity(0, sizeof(cores), &cores) != 0) return 1;
  return std::clamp(CPU_COUNT(&cores), 1, 64);
}

int64_t HostMeterBytes(int64_t cache_bytes, int64_t available_bytes) {
  const int64_t beyond_cache = std::clamp(4 * cache_bytes, int64_t{128} << 20, int64_t{2} << 30);
  return std::clamp(available_bytes / 8, int64_t{8} << 20, beyond_cache);
}

int64_t HostMeterBytes() {
  const kv::MemoryBudget memory = kv::ReadMemoryBudget("/");
  const int64_t available_bytes = memory.known() ? memory.available_bytes : int64_t{1} << 30;
  return HostMeterBytes(std::max<int64_t>(0, sysconf(_SC_LEVEL3_CACHE_SIZE)), available_bytes);
}

absl::StatusOr<double> MeasureHostMemory(int64_t size_bytes, int threads) {
  void* const memory = mmap(nullptr, static_cast<size_t>(size_bytes), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no ", FormatBytes(size_bytes), " of host memory to measure its rate with"));
  }
  // As the host pool asks for them: fewer faults, and the pool's own rate.
  (void)madvise(memory, static_cast<size_t>(size_bytes), MADV_HUGEPAGE);
  std::vector<double> seconds;
  double pass_bytes = 0, total_s = 0;
  uint64_t sum = 0;
  {
    Readers readers(static_cast<uint64_t*>(memory), static_cast<size_t>(size_bytes) / sizeof(uint64_t),
                    threads);
    while (seconds.size() < kPasses && (seconds.size() < kPassesMin || total_s < kLongEnoughS)) {
      seconds.push_back(readers.Pass());
      total_s += seconds.back();
    }
    pass_bytes = readers.pass_bytes();
    sum = readers.sum();
  }
  munmap(memory, static_cast<size_t>(size_bytes));
  if (sum == 0) return absl::InternalError("host memory reads as zero");
  return pass_bytes / RobustMedian(seconds);
}

}  // namespace spillway::profiler
