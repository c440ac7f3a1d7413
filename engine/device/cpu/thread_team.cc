#include "engine/device/cpu/thread_team.h"

#include <omp.h>

#include "base/check.h"
#include "engine/device/cpu/kernels.h"
#include "engine/device/cpu/processor.h"

namespace spillway::device {
namespace {

// Some hundred microseconds: longer than what lies between the jobs of a step and between steps. A team that
// is larger than the machine must not keep its own members from running.
constexpr int32_t kSpins = 10000;
constexpr int32_t kSpinsCrowded = 10;
// What a worker fetches ahead at most: a part of its second-level cache.
constexpr int64_t kAheadBytes = 384 * 1024;
constexpr int64_t kPanelStrips = kPanelColumns / kStripColumns;

}  // namespace

ThreadTeam::ThreadTeam(int32_t threads, bool openmp)
    : threads_(threads), openmp_(openmp), spins_(threads <= UsableThreads() ? kSpins : kSpinsCrowded) {
  SPILLWAY_CHECK(threads >= 1);
  if (openmp) return;
  for (int32_t thread = 1; thread < threads; ++thread)
    workers_.emplace_back([this, thread] { Work(thread); });
}

ThreadTeam::~ThreadTeam() {
  stopping_ = true;
  generation_.fetch_add(1);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadTeam::RunJob(Job job, const void* context, const PanelRun& ahead) {
  if (openmp_) {
    // OpenMP may give fewer threads than are asked for (OMP_THREAD_LIMIT, OMP_DYNAMIC): those do the others'
    // part.
#pragma omp parallel num_threads(threads_)
    for (int32_t thread = omp_get_thread_num(); thread < threads_; thread += omp_get_num_threads()) {
      job(context, thread);
    }
    return;
  }
  if (threads_ > 1) {
    job_ = job;
    context_ = context;
    ahead_ = ahead;
    pending_.store(static_cast<uint32_t>(threads_ - 1), std::memory_order_relaxed);
    generation_.fetch_add(1);
    generation_.notify_all();
  }
  job(context, 0);
  for (uint32_t left = pending_.load(std::memory_order_acquire); left != 0;
       left = pending_.load(std::memory_order_acquire)) {
    WaitWhile(pending_, left);
  }
}

void ThreadTeam::Work(int32_t thread) {
  for (uint32_t generation = 0;; ++generation) {
    WaitWhile(generation_, generation);
    if (stopping_) return;
    const PanelRun ahead = ahead_;
    job_(context_, thread);
    if (pending_.fetch_sub(1) == 1) pending_.notify_one();
    Fetch(ahead, thread, generation + 1);
  }
}

void ThreadTeam::WaitWhile(const std::atomic<uint32_t>& value, uint32_t old) const {
  for (int32_t spin = 0; spin < spins_; ++spin) {
    if (value.load(std::memory_order_acquire) != old) return;
    __builtin_ia32_pause();
  }
  value.wait(old, std::memory_order_acquire);
}

void ThreadTeam::Fetch(const PanelRun& ahead, int32_t thread, uint32_t generation) const {
  if (ahead.data == nullptr) return;
  const int64_t first = ahead.panels * thread / threads_;
  const int64_t panels = ahead.panels * (thread + 1) / threads_ - first;
  const uint8_t* data = ahead.data + first * ahead.panel_bytes;
  const int64_t size_bytes = std::min(kAheadBytes, panels * ahead.panel_bytes);
  constexpr int64_t kLineBytes = 64;
  for (int64_t at = 0; at < size_bytes; at += 8 * kLineBytes) {
    if (generation_.load(std::memory_order_relaxed) != generation) return;
    for (int64_t line = 0; line < 8; ++line) __builtin_prefetch(data + at + line * kLineBytes, 0, 2);
  }
}

void StripQueue::Reset(int64_t strips) {
  SPILLWAY_DCHECK(strips < (int64_t{1} << 32));
  const auto threads = static_cast<int64_t>(runs_.size());
  const int64_t panels = (strips + kPanelStrips - 1) / kPanelStrips;
  const auto begin_of = [&](int64_t thread) {
    return static_cast<uint64_t>(std::min(strips, panels * thread / threads * kPanelStrips));
  };
  for (int64_t thread = 0; thread < threads; ++thread) {
    runs_[static_cast<size_t>(thread)].range.store(begin_of(thread) << 32 | begin_of(thread + 1),
                                                   std::memory_order_relaxed);
  }
}

StripQueue::Strips StripQueue::Take(int32_t thread) {
  const size_t n_runs = runs_.size();
  for (size_t i = 0; i < n_runs; ++i) {
    std::atomic<uint64_t>& run = runs_[(static_cast<size_t>(thread) + i) % n_runs].range;
    uint64_t range = run.load(std::memory_order_relaxed);
    for (;;) {
      const auto begin = static_cast<int64_t>(range >> 32);
      const auto end = static_cast<int64_t>(range & 0xffffffffU);
      const int64_t left = end - begin;
      if (left == 0) break;
      // Others may help with the last panel.
      const int64_t most = left > kPanelStrips ? kPanelStrips : n_runs == 1 ? left : (left + 1) / 2;
      const bool own = i == 0;
      const int64_t taken = own ? std::min(most, kPanelStrips - begin % kPanelStrips)
                                : std::min(most, (end - 1) % kPanelStrips + 1);
      const int64_t from = own ? begin : end - taken;
      const uint64_t rest = own ? static_cast<uint64_t>(begin + taken) << 32 | static_cast<uint64_t>(end)
                                : static_cast<uint64_t>(begin) << 32 | static_cast<uint64_t>(from);
      if (run.compare_exchange_weak(range, rest, std::memory_order_relaxed)) return {from, from + taken};
    }
  }
  return {0, 0};
}

}  // namespace spillway::device
