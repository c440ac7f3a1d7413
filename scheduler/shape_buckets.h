// Buckets of batch shapes: plans are memoised by bucket. Pure functions.
#ifndef SPILLWAY_SCHEDULER_SHAPE_BUCKETS_H_
#define SPILLWAY_SCHEDULER_SHAPE_BUCKETS_H_

#include <bit>
#include <cstdint>

#include "engine/exec/split_plan.h"

namespace spillway::scheduler {

// The middle of the bucket that holds `count`: geometric, 2^kBits to an octave, so that it is off by less
// than 1/2^(kBits+1); counts below 2^(kBits+1) are buckets of their own. Negative counts are taken as 0.
template <int kBits>
constexpr int64_t BucketOf(int64_t count) {
  if (count < int64_t{2} << kBits) return count < 0 ? 0 : count;
  const int dropped = static_cast<int>(std::bit_width(static_cast<uint64_t>(count))) - 1 - kBits;
  return (count >> dropped << dropped) + (int64_t{1} << dropped) / 2;
}

// Within 1.6 % in every count. Split as its bucket is, a shape takes a fraction of a percent longer than at
// its own optimum (a test measures it), and decoding stays in a bucket for the dozens of steps in which its
// context grows by 3 %.
constexpr int kShapeBits = 5;
constexpr exec::BatchShape BucketOf(const exec::BatchShape& shape) {
  exec::BatchShape bucket;
  bucket.phase = shape.phase;
  bucket.sequences = static_cast<int32_t>(BucketOf<kShapeBits>(shape.sequences));
  bucket.new_tokens = static_cast<int32_t>(BucketOf<kShapeBits>(shape.new_tokens));
  bucket.reads_tokens = BucketOf<kShapeBits>(shape.reads_tokens);
  bucket.resident_kv_tokens = BucketOf<kShapeBits>(shape.resident_kv_tokens);
  bucket.resident_x_tokens = BucketOf<kShapeBits>(shape.resident_x_tokens);
  bucket.host_kv_tokens = BucketOf<kShapeBits>(shape.host_kv_tokens);
  bucket.host_x_tokens = BucketOf<kShapeBits>(shape.host_x_tokens);
  bucket.host_both_tokens = BucketOf<kShapeBits>(shape.host_both_tokens);
  bucket.weight_load_bytes = BucketOf<kShapeBits>(shape.weight_load_bytes);
  return bucket;
}

}  // namespace spillway::scheduler

#endif  // SPILLWAY_SCHEDULER_SHAPE_BUCKETS_H_
