// A product as a stream's operation: the arithmetic of the fake cuBLASLt.
#ifndef SPILLWAY_TESTS_FAKES_CUDA_PRODUCT_H_
#define SPILLWAY_TESTS_FAKES_CUDA_PRODUCT_H_

#include <cublasLt.h>

#include <cstdint>
#include <memory>

#include "tests/fakes/cuda/machine_state.h"

namespace spillway::fakes::cuda {

struct MatrixShape {
  cudaDataType_t type = CUDA_R_32F;
  cublasLtOrder_t order = CUBLASLT_ORDER_COL;
  uint64_t rows = 0;
  uint64_t columns = 0;
  int64_t leading = 0;
  int32_t batch_count = 1;
  int64_t batch_offset = 0;  // elements

  friend bool operator==(const MatrixShape&, const MatrixShape&) = default;
};

inline int64_t ElementBytes(cudaDataType_t type) { return type == CUDA_R_32F ? 4 : 2; }
// From the first element to the end of the last.
int64_t ExtentBytes(const MatrixShape& shape);

struct ProductArgs {
  float alpha = 1;
  float beta = 0;
  bool transpose_a = false;
  bool transpose_b = false;
  int epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;  // of D's type; [rows of D]
  bool rounds_parts = false;   // sums of k in two parts, each rounded to D's type
  const void* a = nullptr;
  const void* b = nullptr;
  const void* c = nullptr;
  void* d = nullptr;
  MatrixShape a_shape, b_shape, c_shape, d_shape;
  void* workspace = nullptr;
  size_t workspace_bytes = 0;  // that the algorithm uses
};

std::unique_ptr<Operation> NewProduct(const ProductArgs& args);

}  // namespace spillway::fakes::cuda

#endif  // SPILLWAY_TESTS_FAKES_CUDA_PRODUCT_H_
