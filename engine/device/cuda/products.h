// Gemm of ops.h over matrices as this device holds them: chooses between what cuBLASLt fuses and an epilogue
// of our own over f32 sums. Epilogues are computed in f32 and rounded once, as on every device. Packed
// weights are decoded inside a product of our own, on the tensor cores where they can be, or, for more rows,
// expanded into scratch before the library's product, as many output features at a time as fit.
//
// Thread-compatible; products run on one stream at a time.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_PRODUCTS_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_PRODUCTS_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/device/cuda/kernel_stream.h"
#include "engine/device/cuda/matmul.h"
#include "engine/device/device.h"

namespace spillway::device::cuda {

class Products {
 public:
  // `scratch` is device memory that other operations use between products; it must outlive this.
  // `processors`: the device's multiprocessors.
  static absl::StatusOr<std::unique_ptr<Products>> Create(DType type, int64_t workspace_bytes, void* scratch,
                                                          int64_t scratch_bytes, int32_t processors);

  absl::Status Multiply(const PackedMatrix& weight, const GemmArgs& args, KernelStream stream);
  // Has algorithms chosen for `rows` rows of this weight.
  absl::Status Prepare(const PackedMatrix& weight, int32_t rows);

 private:
  Products(DType type, void* scratch, int64_t scratch_bytes, int32_t processors)
      : type_(type),
        scratch_(static_cast<uint8_t*>(scratch)),
        scratch_bytes_(scratch_bytes),
        processors_(processors) {}
  // Of scratch, where the rest holds sums.
  int64_t ExpandedBytesBesideSums() const {
    return scratch_bytes_ / 2 / kScratchAlignment * kScratchAlignment;
  }
  absl::Status MultiplyPacked(const PackedMatrix& weight, const GemmArgs& args, KernelStream stream);
  // Through `expanded_bytes` of scratch; false where that is all of it and the product needs sums.
  absl::StatusOr<bool> MultiplyPieces(const PackedMatrix& weight, const GemmArgs& args,
                                      int64_t expanded_bytes, KernelStream stream);
  // With room for f32 sums, where the library lacks the epilogue; false where there is none.
  absl::StatusOr<bool> Run(const MatmulArgs& product, Activation activation, absl::Span<uint8_t> sums,
                           KernelStream stream);
  absl::Status RunThenFinish(const MatmulArgs& product, Activation activation, absl::Span<uint8_t> sums,
                             KernelStream stream);
  // With every output and with a bias and without.
  absl::Status PrepareProduct(MatmulArgs product);

  static constexpr int64_t kScratchAlignment = 16;
  const DType type_;
  uint8_t* const scratch_;
  const int64_t scratch_bytes_;
  const int32_t processors_;
  std::unique_ptr<Matmul> matmul_;
};

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_PRODUCTS_H_
