// What this machine can do at most, measured by plain means that share no code with the engine: how fast its
// cores read memory, and how fast oneDNN multiplies.
#ifndef SPILLWAY_BENCH_MACHINE_BOUNDS_H_
#define SPILLWAY_BENCH_MACHINE_BOUNDS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/device/types.h"

namespace spillway::bench {

// How fast `threads` threads read memory together. The buffer lies in huge pages, as weights do, and each
// thread reads a part of its own from end to end.
class ReadMeter {
 public:
  // A buffer well beyond the caches measures memory.
  ReadMeter(int32_t threads, int64_t buffer_bytes);
  ~ReadMeter();
  ReadMeter(const ReadMeter&) = delete;
  ReadMeter& operator=(const ReadMeter&) = delete;

  // Bytes a second: the best of `passes` over each of several ways to read (one or two runs of memory at a
  // time, fetched ahead by the processor alone or by instructions too).
  double Measure(int passes);

 private:
  const int32_t threads_;
  const int64_t words_each_;
  uint64_t* buffer_;
  int64_t buffer_bytes_;
};

struct GemmShape {
  int64_t n = 0;  // output features
  int64_t k = 0;  // input features
  int64_t count = 1;
};

// FLOP a second of oneDNN's matmul over `rows` rows through all `shapes`, as often each as its count says,
// with weights in the layout that oneDNN chooses for itself. Every product reads weights of its own, up to
// `max_weight_bytes` in all, so that caches help no more than in a model. f32 accumulation.
class GemmMeter {
 public:
  // Unimplemented where oneDNN has no product of `dtype` on this processor.
  static absl::StatusOr<std::unique_ptr<GemmMeter>> Create(int32_t threads, device::DType dtype, int64_t rows,
                                                           const std::vector<GemmShape>& shapes,
                                                           int64_t max_weight_bytes);
  ~GemmMeter();

  // The best of `passes`, after one that warms up.
  absl::StatusOr<double> Measure(int passes);

 private:
  struct Products;
  GemmMeter();

  int32_t threads_ = 1;
  std::unique_ptr<Products> products_;
};

}  // namespace spillway::bench

#endif  // SPILLWAY_BENCH_MACHINE_BOUNDS_H_
