#include "bench/latency_histogram.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/clock.h"

namespace spillway::bench {
namespace {

constexpr double kGrowth = 1.01;
constexpr double kLeastNs = 1e3;  // everything below a microsecond is one bucket
constexpr double kMostNs = 1e14;  // about a day; longer ones share the last bucket

size_t BucketOf(int64_t duration_ns) {
  static const double scale = 1 / std::log(kGrowth);
  const double ratio = std::clamp(static_cast<double>(duration_ns), kLeastNs, kMostNs) / kLeastNs;
  return static_cast<size_t>(std::log(ratio) * scale);
}

// The geometric middle, half a per cent from either edge.
double MiddleNs(size_t bucket) { return kLeastNs * std::pow(kGrowth, static_cast<double>(bucket) + 0.5); }

}  // namespace

LatencyHistogram::LatencyHistogram() : buckets_(BucketOf(static_cast<int64_t>(kMostNs)) + 1, 0) {}

void LatencyHistogram::Add(int64_t duration_ns) {
  duration_ns = std::max<int64_t>(duration_ns, 0);
  ++buckets_[BucketOf(duration_ns)];
  min_ns_ = count_ == 0 ? duration_ns : std::min(min_ns_, duration_ns);
  max_ns_ = std::max(max_ns_, duration_ns);
  sum_ns_ += static_cast<double>(duration_ns);
  ++count_;
}

void LatencyHistogram::Merge(const LatencyHistogram& other) {
  if (other.count_ == 0) return;
  for (size_t i = 0; i < buckets_.size(); ++i) buckets_[i] += other.buckets_[i];
  min_ns_ = count_ == 0 ? other.min_ns_ : std::min(min_ns_, other.min_ns_);
  max_ns_ = std::max(max_ns_, other.max_ns_);
  sum_ns_ += other.sum_ns_;
  count_ += other.count_;
}

double LatencyHistogram::mean_ms() const {
  return count_ == 0 ? 0 : sum_ns_ / static_cast<double>(count_) / 1e6;
}

double LatencyHistogram::max_ms() const { return ToMs(max_ns_); }

double LatencyHistogram::PercentileMs(double percent) const {
  SPILLWAY_CHECK(percent > 0 && percent <= 100);
  if (count_ == 0) return 0;
  const auto rank = static_cast<int64_t>(std::ceil(percent / 100 * static_cast<double>(count_)));
  if (rank >= count_) return ToMs(max_ns_);
  int64_t seen = 0;
  size_t bucket = 0;
  while ((seen += buckets_[bucket]) < rank) ++bucket;
  return std::clamp(MiddleNs(bucket), static_cast<double>(min_ns_), static_cast<double>(max_ns_)) / 1e6;
}

nlohmann::json LatencyHistogram::ToJson() const {
  return {{"count", count_},
          {"mean_ms", mean_ms()},
          {"p50_ms", PercentileMs(50)},
          {"p90_ms", PercentileMs(90)},
          {"p95_ms", PercentileMs(95)},
          {"p99_ms", PercentileMs(99)},
          {"max_ms", max_ms()}};
}

}  // namespace spillway::bench
