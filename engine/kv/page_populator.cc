#include "engine/kv/page_populator.h"

#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"

namespace spillway::kv {
namespace {

constexpr int64_t kSlabBytes = 128 * kMiB;
// A call holds the memory map's lock, for which everybody waits who maps memory: a huge page at a time.
constexpr int64_t kBackgroundSlabBytes = 2 * kMiB;

#ifndef MADV_POPULATE_WRITE
constexpr int MADV_POPULATE_WRITE = 23;  // since Linux 5.14; glibc of Debian 12 knows it, older ones do not
#endif

int64_t UsableCores() {
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof(cores), &cores) != 0) return 1;
  return std::max(1, CPU_COUNT(&cores));
}

}  // namespace

void PopulateInParallel(uint8_t* begin, int64_t size_bytes) {
  const int64_t page_bytes = sysconf(_SC_PAGESIZE);
  std::atomic<int64_t> next{0};
  const auto touch = [&] {
    for (;;) {
      const int64_t offset = next.fetch_add(kSlabBytes, std::memory_order_relaxed);
      if (offset >= size_bytes) return;
      const int64_t end = std::min(size_bytes, offset + kSlabBytes);
      for (int64_t i = offset; i < end; i += page_bytes) static_cast<volatile uint8_t*>(begin)[i] = 0;
    }
  };
  std::vector<std::thread> threads;
  try {
    for (int64_t i = 1; i < std::min(UsableCores(), 1 + size_bytes / kSlabBytes); ++i) {
      threads.emplace_back(touch);
    }
  } catch (const std::system_error&) {
    // No more threads to be had: those that started and this one do the work.
  }
  touch();
  for (std::thread& thread : threads) thread.join();
}

PagePopulator::PagePopulator(uint8_t* begin, int64_t size_bytes) {
  try {
    thread_ = std::thread([this, begin, size_bytes] { Populate(begin, size_bytes); });
  } catch (const std::system_error&) {
    done_ = true;  // pages come when they are first used
  }
}

PagePopulator::~PagePopulator() {
  stopping_ = true;
  if (thread_.joinable()) thread_.join();
}

void PagePopulator::Populate(uint8_t* begin, int64_t size_bytes) {
  // It rests for as long as it works, so that requests come first. (A low priority would do the opposite: on
  // a busy machine the thread would hold the map's lock, not be scheduled, and everybody would wait for it.)
  for (int64_t offset = 0; offset < size_bytes && !stopping_; offset += kBackgroundSlabBytes) {
    const auto n = static_cast<size_t>(std::min(kBackgroundSlabBytes, size_bytes - offset));
    const MonotonicNs begin_ns = Clock::Real().NowNs();
    if (madvise(begin + offset, n, MADV_POPULATE_WRITE) == 0 || errno == EINTR) {
      std::this_thread::sleep_for(std::chrono::nanoseconds(Clock::Real().NowNs() - begin_ns));
      continue;
    }
    if (errno != EINVAL) {
      Log(LogLevel::kWarning, "the KV pool could not be backed with memory beforehand",
          {{"done", FormatBytes(offset)}, {"of", FormatBytes(size_bytes)}, {"cause", std::strerror(errno)}});
    }
    break;
  }
  done_.store(true, std::memory_order_release);
}

}  // namespace spillway::kv
