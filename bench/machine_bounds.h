// What this machine can do at most, measured by plain means that share no code with the engine: how fast its
// cores read memory, and how fast oneDNN multiplies.
#ifndef SPILLWAY_BENCH_MACHINE_BOUNDS_H_
#define SPILLWAY_BENCH_MACHINE_BOUNDS_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/device/types.h"

namespace spillway::bench {

// Bytes a second that `threads` threads read together from `buffer_bytes` of memory, each its own part from
// end to end; the best of `passes`. A buffer well beyond the caches measures memory.
double MeasureReadBandwidth(int32_t threads, int64_t buffer_bytes, int passes);

struct GemmShape {
  int64_t n = 0;  // output features
  int64_t k = 0;  // input features
  int64_t count = 1;
};

// FLOP a second of oneDNN's matmul over `rows` rows through all `shapes`, as often each as its count says,
// with weights in the layout that oneDNN chooses for itself. Every product reads weights of its own, up to
// `max_weight_bytes` in all, so that caches help no more than in a model. f32 accumulation; the best of
// `passes`. Unimplemented where oneDNN has no product of `dtype` on this processor.
absl::StatusOr<double> MeasureGemmRate(int32_t threads, device::DType dtype, int64_t rows,
                                       const std::vector<GemmShape>& shapes, int64_t max_weight_bytes,
                                       int passes);

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_MACHINE_BOUNDS_H_
