// Pacer: when the next decode pass is due while prefill goes on, and how large a piece of a prompt may be,
// from what visits and passes were measured to cost.
//
// Step thread only.
#ifndef SPILLWAY_SCHEDULER_PACER_H_
#define SPILLWAY_SCHEDULER_PACER_H_

#include <array>
#include <cstdint>

#include "base/clock.h"
#include "engine/exec/step_stats.h"

namespace spillway::scheduler {

// An exponentially weighted mean; 0 until the first sample.
class RecentMean {
 public:
  explicit RecentMean(double weight = 0.25) : weight_(weight) {}
  void Add(double sample) {
    value_ = samples_ == 0 ? sample : value_ + weight_ * (sample - value_);
    ++samples_;
  }
  double value() const { return value_; }
  int64_t samples() const { return samples_; }

 private:
  double weight_;
  double value_ = 0;
  int64_t samples_ = 0;
};

class Pacer {
 public:
  // `piece_rows`: rows of a work item for prefill; a visit computes `chunk_rows` of them at most.
  Pacer(double max_gap_ms, int32_t chunk_rows, int32_t piece_rows, int32_t n_layers);

  // Streams wait, the longest since `waiting_since`, and the best prefill's next visit costs `visit_ns`.
  // Prefill has at least one visit between two passes and the rest of the gap. Where a pass and a visit do
  // not fit into the gap, it cannot be kept and prefill has a fifth of the time.
  bool DecodeIsDue(MonotonicNs now, MonotonicNs waiting_since, double visit_ns) const;

  // What a visit of so many rows costs; 1 where nothing was measured yet.
  double VisitNs(int32_t rows) const;
  // What so many rows of a prompt take in all layers when nothing else is computed; of equal rows the same.
  double PromptNs(int64_t rows) const;
  // Rows of the next piece of a prompt whose last piece cost `row_ns` a row and visit (0: unknown). Attention
  // makes rows dearer as a prompt grows; pieces shrink with it, so that a visit stays near twice what one of
  // a prompt's first chunk costs, and lets a waiting decode pass keep its gap.
  int32_t PieceRows(double row_ns, bool streams_wait) const;

  // What a row of a finished batch cost in one visit, from the device's own times where it keeps them.
  double RowNs(const exec::StepStats& stats) const;
  void OnDecodePass(int64_t wall_ns);
  void OnPrefillVisit(double visit_ns);
  // `first_position`: tokens cached before the first member's rows.
  void OnPrefillFinished(const exec::StepStats& stats, int32_t first_position);

 private:
  // By the logarithm of the rows of a visit.
  static constexpr int kBuckets = 20;
  static int BucketOf(int32_t rows);

  const double max_gap_ns_;
  const int32_t chunk_rows_;
  const int32_t piece_rows_;
  const int32_t n_layers_;
  RecentMean pass_ns_;
  RecentMean first_chunk_ns_;  // a visit of a full chunk at a prompt's beginning
  std::array<RecentMean, kBuckets> visit_ns_;
  int64_t visits_since_pass_ = 0;
  double prefill_ns_since_pass_ = 0;
};

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_PACER_H_
