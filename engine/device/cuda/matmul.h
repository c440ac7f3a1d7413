// cuBLASLt's matrix product: out = in * weight^T (+ bias, ReLU), or added to out, with f32 accumulation. What
// the library is asked for each shape (descriptors, the best algorithm) is kept, by shapes whose rows are
// rounded up to a bucket; algorithms share one workspace, so products run on one stream at a time.
//
// Thread-compatible.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_MATMUL_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_MATMUL_H_

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <tuple>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/device/types.h"

namespace spillway::device::cuda {

struct MatmulArgs {
  int64_t rows = 0;
  int64_t n = 0;
  int64_t k = 0;
  const void* in = nullptr;      // T [rows, k]
  const void* weight = nullptr;  // T [n, k]
  void* out = nullptr;           // out_type [rows, out_stride], of which n columns
  int64_t out_stride = 0;
  DType out_type = DType::kF32;
  const float* bias = nullptr;  // f32 [n] or null
  bool relu = false;
  bool accumulate = false;
};

class Matmul {
 public:
  static absl::StatusOr<std::unique_ptr<Matmul>> Create(DType type, int64_t workspace_bytes);
  ~Matmul();
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;

  // Enqueues the product; false where the library has none with this epilogue, or for a bias that lies so.
  absl::StatusOr<bool> Enqueue(const MatmulArgs& args, cudaStream_t stream);
  // Asks for the product's algorithm beforehand. The pointers are looked at for their alignment only.
  absl::Status Prepare(const MatmulArgs& args);

  int64_t plans() const { return static_cast<int64_t>(plans_.size()); }

 private:
  struct Key {
    int64_t rows, n, k;
    DType out_type;
    bool bias, relu, accumulate;
    // The largest powers of two, up to 16, that divide addresses and strides: what an algorithm may rely on.
    int32_t in_alignment, weight_alignment, out_alignment;

    friend bool operator==(const Key& a, const Key& b) { return a.Fields() == b.Fields(); }
    template <typename H>
    friend H AbslHashValue(H h, const Key& key) {
      return H::combine(std::move(h), key.Fields());
    }
    std::tuple<int64_t, int64_t, int64_t, DType, bool, bool, bool, int32_t, int32_t, int32_t> Fields() const {
      return {rows, n, k, out_type, bias, relu, accumulate, in_alignment, weight_alignment, out_alignment};
    }
  };
  class Plan;

  Matmul(DType type, int64_t workspace_bytes);
  Key KeyOf(const MatmulArgs& args, int64_t rows) const;
  absl::StatusOr<Plan*> PlanFor(const MatmulArgs& args, int64_t rows);

  const DType type_;
  const int64_t workspace_bytes_;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  absl::flat_hash_map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_MATMUL_H_
