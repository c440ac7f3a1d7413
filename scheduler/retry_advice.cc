#include "scheduler/retry_advice.h"

#include <algorithm>

namespace spillway::scheduler {
namespace {

// So much for a client who comes when nothing was measured yet.
constexpr int64_t kUnknownMs = 1000;

// Steele et al. 2014, "Fast splittable pseudorandom number generators": evenly spread, in [0, 1).
double SplitMix(uint64_t n) {
  uint64_t z = (n + 1) * 0x9e3779b97f4a7c15U;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

}  // namespace

void RetryAdvice::OnRefused() {
  // Beyond that the floor grows no more, and an acceptance should be felt soon.
  if (refusals_.load(std::memory_order_relaxed) < kMostFloorMs / kLeastMs) {
    refusals_.fetch_add(1, std::memory_order_relaxed);
  }
}

void RetryAdvice::OnAccepted() {
  // A refusal counted in between may be lost: it is advice.
  const int64_t refusals = refusals_.load(std::memory_order_relaxed);
  if (refusals > 0) refusals_.store(refusals / 2, std::memory_order_relaxed);
}

int64_t RetryAdvice::AfterMs(int64_t tokens_ahead, double tokens_per_s) const {
  const int64_t refusals = refusals_.load(std::memory_order_relaxed);
  const double floor_ms = static_cast<double>(std::min(kLeastMs * (1 + refusals), kMostFloorMs));
  // Until an eighth of the queue has been computed: places become free, and not all callers come for one.
  const double queue_ms = tokens_per_s > 0 ? static_cast<double>(tokens_ahead) / 8 / tokens_per_s * 1000
                                           : static_cast<double>(kUnknownMs);
  const double advice_ms = std::clamp(queue_ms, floor_ms, static_cast<double>(kMostMs));
  const double draw = SplitMix(draws_.fetch_add(1, std::memory_order_relaxed));
  return static_cast<int64_t>(advice_ms * (1 + kSpread * (2 * draw - 1)));
}

}  // namespace spillway::scheduler
