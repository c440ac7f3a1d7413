// RetryAdvice: when a refused client should come again. The worse the pressure, the later: by the work that
// is ahead of it, and by how many were refused in a row. No two are told the same time, so that they do not
// all come back at once.
//
// Thread-safe.
#ifndef SPILLWAY_SCHEDULER_RETRY_ADVICE_H_
#define SPILLWAY_SCHEDULER_RETRY_ADVICE_H_

#include <atomic>
#include <cstdint>

namespace spillway::scheduler {

class RetryAdvice {
 public:
  static constexpr int64_t kLeastMs = 100;
  static constexpr int64_t kMostMs = 60'000;
  // The least advice grows by kLeastMs with each refusal in a row, up to this.
  static constexpr int64_t kMostFloorMs = 10'000;
  // Advice is spread evenly over so much of itself, up and down.
  static constexpr double kSpread = 0.2;

  void OnRefused();
  // An acceptance forgives half of the refusals: where places become free one by one, one of them is no
  // relief for those who were turned away.
  void OnAccepted();

  // At least kLeastMs, at most kMostMs, give or take the spread. `tokens_ahead` have to be computed before
  // the queue is empty; `tokens_per_s` is the recent speed, 0: unknown.
  int64_t AfterMs(int64_t tokens_ahead, double tokens_per_s) const;

 private:
  std::atomic<int64_t> refusals_{0};
  mutable std::atomic<uint64_t> draws_{0};
};

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_RETRY_ADVICE_H_
