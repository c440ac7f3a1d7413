#include "scheduler/pacer.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace spillway::scheduler {
namespace {

// Prefill's time as a part of a decode pass's, where the gap cannot be kept.
constexpr double kPrefillPerPass = 0.25;
// A visit may cost so many times what one of a first chunk costs.
constexpr double kVisitGrowth = 2;
// Smaller pieces would spend their time on loading weights.
constexpr int32_t kLeastPieceRows = 16;

}  // namespace

Pacer::Pacer(double max_gap_ms, int32_t chunk_rows, int32_t piece_rows, int32_t n_layers)
    : max_gap_ns_(max_gap_ms * 1e6), chunk_rows_(chunk_rows), piece_rows_(piece_rows), n_layers_(n_layers) {}

bool Pacer::DecodeIsDue(MonotonicNs now, MonotonicNs waiting_since, double visit_ns) const {
  if (visits_since_pass_ == 0) return false;
  const double pass_ns = pass_ns_.value();
  if (pass_ns + visit_ns > max_gap_ns_) return prefill_ns_since_pass_ >= kPrefillPerPass * pass_ns;
  return static_cast<double>(now - waiting_since) + visit_ns + pass_ns > max_gap_ns_;
}

int Pacer::BucketOf(int32_t rows) {
  return std::min(static_cast<int>(std::bit_width(static_cast<uint32_t>(rows))), kBuckets - 1);
}

double Pacer::VisitNs(int32_t rows) const {
  rows = std::min(rows, chunk_rows_);
  const int bucket = BucketOf(rows);
  // A larger visit's cost is an upper bound; from a smaller one the cost grows with the rows at most.
  for (int b = bucket; b < kBuckets; ++b) {
    const RecentMean& mean = visit_ns_[static_cast<size_t>(b)];
    if (mean.samples() > 0) return std::max(1.0, mean.value());
  }
  for (int b = bucket - 1; b >= 0; --b) {
    const RecentMean& mean = visit_ns_[static_cast<size_t>(b)];
    if (mean.samples() > 0) return std::max(1.0, mean.value() * static_cast<double>(1 << (bucket - b)));
  }
  return 1;
}

double Pacer::PromptNs(int64_t rows) const {
  const auto chunk_rows = static_cast<int32_t>(std::min<int64_t>(rows, chunk_rows_));
  return VisitNs(chunk_rows) * n_layers_ * std::max(1.0, static_cast<double>(rows) / chunk_rows_);
}

int32_t Pacer::PieceRows(double row_ns, bool streams_wait) const {
  double limit_ns = std::numeric_limits<double>::infinity();
  if (first_chunk_ns_.samples() > 0) limit_ns = kVisitGrowth * first_chunk_ns_.value();
  if (streams_wait) {
    limit_ns = std::min(limit_ns, std::max(max_gap_ns_ - pass_ns_.value(), max_gap_ns_ / 4) / 2);
  }
  if (row_ns <= 0) row_ns = VisitNs(chunk_rows_) / chunk_rows_;
  const double rows = limit_ns / row_ns;
  if (rows >= chunk_rows_) return piece_rows_;
  const int32_t least = std::min(std::max(kLeastPieceRows, chunk_rows_ / 8), piece_rows_);
  return std::clamp(static_cast<int32_t>(rows), least, piece_rows_);
}

double Pacer::RowNs(const exec::StepStats& stats) const {
  const int64_t busy_ns = stats.lanes[static_cast<size_t>(exec::Lane::kCompute)].busy_ns;
  const int64_t cost_ns = (busy_ns > 0 ? busy_ns : stats.active_ns) - stats.head_ns;
  return static_cast<double>(std::max<int64_t>(cost_ns, 0)) /
         (static_cast<double>(std::max(stats.rows, 1)) * n_layers_);
}

void Pacer::OnDecodePass(int64_t wall_ns) {
  pass_ns_.Add(static_cast<double>(wall_ns));
  visits_since_pass_ = 0;
  prefill_ns_since_pass_ = 0;
}

void Pacer::OnPrefillVisit(double visit_ns) {
  ++visits_since_pass_;
  prefill_ns_since_pass_ += visit_ns;
}

void Pacer::OnPrefillFinished(const exec::StepStats& stats, int32_t first_position) {
  // Rows spread over as many visits a layer as needed.
  const int32_t visit_rows = std::min(stats.rows, chunk_rows_);
  const double visit_ns = RowNs(stats) * visit_rows;
  visit_ns_[static_cast<size_t>(BucketOf(visit_rows))].Add(visit_ns);
  const int32_t full_rows = std::min(chunk_rows_, piece_rows_);
  if (visit_rows == full_rows && first_position < full_rows) first_chunk_ns_.Add(visit_ns);
}

}  // namespace spillway::scheduler
