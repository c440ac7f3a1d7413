// LatencyHistogram: durations in buckets that grow by 1 %, so that memory stays fixed however long a run is
// and percentiles are exact to half a per cent. Count, sum, least and most are exact.
//
// A value; thread-compatible; histograms of several threads are merged.
#ifndef SPILLWAY_BENCH_LATENCY_HISTOGRAM_H_
#define SPILLWAY_BENCH_LATENCY_HISTOGRAM_H_

#include <cstdint>
#include <vector>

#include "nlohmann/json.hpp"

namespace spillway::bench {

class LatencyHistogram {
 public:
  LatencyHistogram();

  // Negative durations count as 0.
  void Add(int64_t duration_ns);
  void Merge(const LatencyHistogram& other);

  int64_t count() const { return count_; }
  double mean_ms() const;
  double max_ms() const;
  // The nearest-rank percentile: the least duration that at least `percent` % of all are not above, to the
  // resolution of its bucket. 0 without samples. REQUIRES: 0 < percent <= 100.
  double PercentileMs(double percent) const;

  // {"count", "mean_ms", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "max_ms"}
  nlohmann::json ToJson() const;

 private:
  std::vector<int64_t> buckets_;
  int64_t count_ = 0;
  double sum_ns_ = 0;
  int64_t min_ns_ = 0;
  int64_t max_ns_ = 0;
};

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_LATENCY_HISTOGRAM_H_
