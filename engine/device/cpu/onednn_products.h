// oneDNN's matrix products over our packed weights, for what our own kernels do not have (AMX). A table of
// primitives made beforehand: making one takes some 0.3 ms, so nothing is made while a step runs. oneDNN sums
// long rows in another order than our kernels: a row's last bits depend on which of the two multiplied it.
//
// Thread-compatible, but failed() and status() are thread-safe: one thread multiplies while another asks.
// Execution uses the OpenMP team of parallel.h.
#ifndef SPILLWAY_ENGINE_DEVICE_CPU_ONEDNN_PRODUCTS_H_
#define SPILLWAY_ENGINE_DEVICE_CPU_ONEDNN_PRODUCTS_H_

#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "base/mutex.h"
#include "engine/device/cpu/kernels.h"
#include "engine/device/types.h"

namespace spillway::device {

class OneDnnProducts {
 public:
  // For products of `type` (f32 or bf16) on `threads` threads.
  OneDnnProducts(DType type, int32_t threads);
  ~OneDnnProducts();

  // Heights for which primitives are made: fewer rows are left to our own kernels.
  static constexpr int64_t kHeights[] = {256, 128, 64};

  // Makes the primitives of [n, k] weights for products of up to `rows` rows with every epilogue. Shapes
  // whose panels hold padding, and processors for which oneDNN would not read panels as they are, get none.
  absl::Status Prepare(int64_t n, int64_t k, int64_t rows);

  // Multiplies as many of the first rows of `args` as there is a primitive for and returns how many: 0, or
  // one of kHeights.
  int64_t Multiply(const ProductArgs& args);

  // Whether an execution failed.
  bool failed() const { return failed_.load(std::memory_order_acquire); }
  // The first failed execution, or OK.
  absl::Status status() const;

 private:
  struct Table;

  void Fail(absl::Status status);

  const DType type_;
  const int32_t threads_;
  std::unique_ptr<Table> table_;
  std::atomic<bool> failed_{false};
  mutable Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace spillway::device

#endif  // SPILLWAY_ENGINE_DEVICE_CPU_ONEDNN_PRODUCTS_H_
