// Buckets of batch shapes: plans are memoised by bucket. Pure functions.
#ifndef SPILLWAY_SCHEDULER_SHAPE_BUCKETS_H_
#define SPILLWAY_SCHEDULER_SHAPE_BUCKETS_H_

#include <bit>
#include <cstdint>

#include "engine/exec/split_plan.h"

namespace spillway::scheduler {

// Within 1.6 % in every count. Split as its bucket is, a shape takes a fraction of a percent longer than at
// its own optimum (a test measures it), and decoding stays in a bucket for the dozens of steps in which its
// context grows by 3 %.
constexpr int kShapeBits = 5;

// The middle of the bucket that holds `count`: geometric, 2^kShapeBits to an octave, so that it is off by
// less than 1/2^(kShapeBits+1); counts below 2^(kShapeBits+1) are buckets of their own. Negative counts are
// taken as 0.
constexpr int64_t BucketOf(int64_t count) {
  if (count < int64_t{2} << kShapeBits) return count < 0 ? 0 : count;
  const int dropped = static_cast<int>(std::bit_width(static_cast<uint64_t>(count))) - 1 - kShapeBits;
  return (count >> dropped << dropped) + (int64_t{1} << dropped) / 2;
}

constexpr exec::BatchShape BucketOf(const exec::BatchShape& shape) {
  exec::BatchShape bucket;
  bucket.phase = shape.phase;
  bucket.sequences = static_cast<int32_t>(BucketOf(shape.sequences));
  bucket.new_tokens = static_cast<int32_t>(BucketOf(shape.new_tokens));
  bucket.head_rows = static_cast<int32_t>(BucketOf(shape.head_rows));
  bucket.reads_tokens = BucketOf(shape.reads_tokens);
  bucket.resident_kv_tokens = BucketOf(shape.resident_kv_tokens);
  bucket.resident_x_tokens = BucketOf(shape.resident_x_tokens);
  bucket.host_kv_tokens = BucketOf(shape.host_kv_tokens);
  bucket.host_x_tokens = BucketOf(shape.host_x_tokens);
  bucket.host_both_tokens = BucketOf(shape.host_both_tokens);
  bucket.weight_load_bytes = BucketOf(shape.weight_load_bytes);
  return bucket;
}

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_SHAPE_BUCKETS_H_
