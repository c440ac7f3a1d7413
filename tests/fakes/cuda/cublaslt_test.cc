// The fake cuBLASLt against a product by hand, and what it refuses.
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "tests/fakes/cuda/launch_for_test.h"

namespace spillway::fakes::cuda {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

constexpr int kM = 5;
constexpr int kN = 7;
constexpr int kK = 11;

struct Case {
  cudaDataType_t in = CUDA_R_32F;
  cudaDataType_t out = CUDA_R_32F;
  bool transpose_a = false;
  bool transpose_b = false;
  bool row_major = false;  // all three
  int epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  float beta = 0;
  int extra_leading = 0;
};

float Value(int seed, int i, int j) { return static_cast<float>((seed * 31 + i * 7 + j * 13) % 17 - 8) / 8; }

size_t Bytes(cudaDataType_t type) { return type == CUDA_R_32F ? 4 : 2; }

void Put(std::vector<char>& memory, cudaDataType_t type, size_t index, float value) {
  if (type == CUDA_R_32F) reinterpret_cast<float*>(memory.data())[index] = value;
  if (type == CUDA_R_16F) reinterpret_cast<__half*>(memory.data())[index] = __float2half_rn(value);
  if (type == CUDA_R_16BF)
    reinterpret_cast<__nv_bfloat16*>(memory.data())[index] = __float2bfloat16_rn(value);
}

float Take(const std::vector<char>& memory, cudaDataType_t type, size_t index) {
  if (type == CUDA_R_32F) return reinterpret_cast<const float*>(memory.data())[index];
  if (type == CUDA_R_16F) return __half2float(reinterpret_cast<const __half*>(memory.data())[index]);
  return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(memory.data())[index]);
}

// A stored matrix of `rows` by `columns` with its layout, in device memory.
struct Matrix {
  Matrix(cudaDataType_t of, int n_rows, int n_columns, bool by_rows, int extra, int seed)
      : type(of), rows(n_rows), columns(n_columns), row_major(by_rows) {
    leading = (row_major ? columns : rows) + extra;
    bytes.resize(static_cast<size_t>(leading * (row_major ? rows : columns)) * Bytes(type), '\xff');
    for (int i = 0; i < rows; ++i) {
      for (int j = 0; j < columns; ++j) Put(bytes, type, Index(i, j), Value(seed, i, j));
    }
    EXPECT_EQ(cudaMalloc(&device, bytes.size()), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(device, bytes.data(), bytes.size(), cudaMemcpyHostToDevice), cudaSuccess);
    EXPECT_EQ(cublasLtMatrixLayoutCreate(&layout, type, static_cast<uint64_t>(rows),
                                         static_cast<uint64_t>(columns), leading),
              CUBLAS_STATUS_SUCCESS);
    const cublasLtOrder_t order = row_major ? CUBLASLT_ORDER_ROW : CUBLASLT_ORDER_COL;
    EXPECT_EQ(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_ORDER, &order, sizeof order),
              CUBLAS_STATUS_SUCCESS);
  }
  ~Matrix() { cublasLtMatrixLayoutDestroy(layout); }
  Matrix(const Matrix&) = delete;
  Matrix& operator=(const Matrix&) = delete;

  size_t Index(int i, int j) const {
    return static_cast<size_t>(row_major ? i * leading + j : j * leading + i);
  }
  float At(int i, int j) const { return Take(bytes, type, Index(i, j)); }

  cudaDataType_t type;
  int rows, columns;
  bool row_major;
  int leading;
  std::vector<char> bytes;
  char* device = nullptr;
  cublasLtMatrixLayout_t layout = nullptr;
};

class FakeCublasLt : public testing::Test {
 protected:
  void SetUp() override {
    UseSeed(1);
    ASSERT_EQ(cublasLtCreate(&handle_), CUBLAS_STATUS_SUCCESS);
    ASSERT_EQ(cublasLtMatmulPreferenceCreate(&preference_), CUBLAS_STATUS_SUCCESS);
    ASSERT_EQ(cublasLtMatmulDescCreate(&desc_, CUBLAS_COMPUTE_32F, CUDA_R_32F), CUBLAS_STATUS_SUCCESS);
    ASSERT_EQ(cudaMalloc(&workspace_, kWorkspaceBytes), cudaSuccess);
  }
  void TearDown() override {
    cublasLtMatmulDescDestroy(desc_);
    cublasLtMatmulPreferenceDestroy(preference_);
    cublasLtDestroy(handle_);
  }

  template <typename T>
  void Describe(cublasLtMatmulDescAttributes_t attribute, T value) {
    ASSERT_EQ(cublasLtMatmulDescSetAttribute(desc_, attribute, &value, sizeof value), CUBLAS_STATUS_SUCCESS);
  }
  void Prefer(cublasLtMatmulPreferenceAttributes_t attribute, uint32_t value) {
    ASSERT_EQ(cublasLtMatmulPreferenceSetAttribute(preference_, attribute, &value, sizeof value),
              CUBLAS_STATUS_SUCCESS);
  }
  void PreferAlignment(uint32_t bytes) {
    for (auto attribute :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      Prefer(attribute, bytes);
    }
    const uint64_t workspace_bytes = kWorkspaceBytes;
    ASSERT_EQ(cublasLtMatmulPreferenceSetAttribute(preference_, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                   &workspace_bytes, sizeof workspace_bytes),
              CUBLAS_STATUS_SUCCESS);
  }

  cublasStatus_t Choose(const Matrix& a, const Matrix& b, const Matrix& d) {
    int found = 0;
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(handle_, desc_, a.layout, b.layout, d.layout,
                                                           d.layout, preference_, 1, &result_, &found);
    return status == CUBLAS_STATUS_SUCCESS && found != 1 ? CUBLAS_STATUS_INTERNAL_ERROR : status;
  }
  cublasStatus_t Multiply(const Matrix& a, const Matrix& b, Matrix& d, float beta,
                          cudaStream_t stream = nullptr) {
    const float alpha = 0.5F;
    return cublasLtMatmul(handle_, desc_, &alpha, a.device, a.layout, b.device, b.layout, &beta, d.device,
                          d.layout, d.device, d.layout, &result_.algo, workspace_, kWorkspaceBytes, stream);
  }

  void Check(const Case& c) {
    Describe(CUBLASLT_MATMUL_DESC_TRANSA, c.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    Describe(CUBLASLT_MATMUL_DESC_TRANSB, c.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    Describe(CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(c.epilogue));
    Matrix a(c.in, c.transpose_a ? kK : kM, c.transpose_a ? kM : kK, c.row_major, c.extra_leading, 1);
    Matrix b(c.in, c.transpose_b ? kN : kK, c.transpose_b ? kK : kN, c.row_major, c.extra_leading, 2);
    Matrix d(c.out, kM, kN, c.row_major, c.extra_leading, 3);
    Matrix bias(c.out, kM, 1, false, 0, 4);
    Describe(CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(bias.device));
    PreferAlignment(2);
    ASSERT_EQ(Choose(a, b, d), CUBLAS_STATUS_SUCCESS);
    ASSERT_EQ(Multiply(a, b, d, c.beta), CUBLAS_STATUS_SUCCESS);
    ASSERT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
    const auto got = FromDevice(d.device, d.bytes.size());
    EXPECT_EQ(FromDevice(workspace_, 1)[0], '\xff') << "nothing is left there for others";
    for (int i = 0; i < kM; ++i) {
      for (int j = 0; j < kN; ++j) {
        double sum = 0;
        for (int k = 0; k < kK; ++k) {
          sum += double{c.transpose_a ? a.At(k, i) : a.At(i, k)} * (c.transpose_b ? b.At(j, k) : b.At(k, j));
        }
        double value = 0.5 * sum + c.beta * d.At(i, j);
        if ((c.epilogue & CUBLASLT_EPILOGUE_BIAS) != 0) value += bias.At(i, 0);
        if ((c.epilogue & CUBLASLT_EPILOGUE_RELU) != 0) value = std::max(value, 0.0);
        if ((c.epilogue & CUBLASLT_EPILOGUE_GELU) != 0) {
          value =
              0.5 * value * (1 + std::tanh(std::sqrt(2 / M_PI) * (value + 0.044715 * value * value * value)));
        }
        const double tolerance = c.out == CUDA_R_32F ? 1e-5 : c.out == CUDA_R_16F ? 2e-3 : 1.6e-2;
        EXPECT_NEAR(Take(got, c.out, d.Index(i, j)), value, tolerance * std::max(1.0, std::abs(value)));
      }
    }
    // Nothing between the columns was touched.
    for (int i = 0; i < c.extra_leading; ++i) {
      const size_t gap = static_cast<size_t>((c.row_major ? kN : kM) + i);
      EXPECT_TRUE(std::isnan(Take(got, c.out, gap)));
    }
  }

  static constexpr size_t kWorkspaceBytes = 8192;
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
  cublasLtMatmulDesc_t desc_ = nullptr;
  char* workspace_ = nullptr;
  cublasLtMatmulHeuristicResult_t result_{};
};

TEST_F(FakeCublasLt, MultipliesEveryLayoutTypeAndEpilogue) {
  for (bool transpose_a : {false, true}) {
    for (bool transpose_b : {false, true}) {
      for (bool row_major : {false, true}) {
        for (int extra : {0, 3})
          Check({CUDA_R_32F, CUDA_R_32F, transpose_a, transpose_b, row_major, CUBLASLT_EPILOGUE_DEFAULT, 0,
                 extra});
      }
    }
  }
  for (cudaDataType_t in : {CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF}) {
    for (cudaDataType_t out : {in, CUDA_R_32F}) {
      for (int epilogue :
           {CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_RELU,
            CUBLASLT_EPILOGUE_RELU_BIAS, CUBLASLT_EPILOGUE_GELU, CUBLASLT_EPILOGUE_GELU_BIAS}) {
        Check({in, out, true, false, false, epilogue, 0, 1});
      }
      Check({in, out, true, false, false, CUBLASLT_EPILOGUE_BIAS, 1, 0});
    }
  }
}

TEST_F(FakeCublasLt, RefusesWhatTheLibraryDoesNotPromise) {
  Matrix a(CUDA_R_16BF, 8, 8, false, 0, 1);
  Matrix b(CUDA_R_16BF, 8, 8, false, 0, 2);
  Matrix d(CUDA_R_16BF, 8, 8, false, 0, 3);
  Matrix f16(CUDA_R_16F, 8, 8, false, 0, 2);
  Matrix small(CUDA_R_16BF, 8, 4, false, 0, 2);
  EXPECT_EQ(Choose(a, f16, d), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(Choose(a, b, f16), CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(Choose(a, b, small), CUBLAS_STATUS_INVALID_VALUE);
  Describe(CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(CUBLASLT_EPILOGUE_BIAS));
  Describe(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, static_cast<int32_t>(CUDA_R_32F));
  EXPECT_EQ(Choose(a, b, d), CUBLAS_STATUS_NOT_SUPPORTED) << "an f32 bias of a bf16 result";
  Describe(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, int32_t{-1});
  ASSERT_EQ(Choose(a, b, d), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(Multiply(a, b, d, 0), CUBLAS_STATUS_INVALID_VALUE);
  EXPECT_THAT(FirstFault(), HasSubstr("whose shapes do not fit"));
  Describe(CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(CUBLASLT_EPILOGUE_DEFAULT));
  Describe(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_N);
  PreferAlignment(2);
  ASSERT_EQ(Choose(a, b, d), CUBLAS_STATUS_SUCCESS);
  ASSERT_EQ(Multiply(a, b, d, 0), CUBLAS_STATUS_SUCCESS);
  const float one = 1;
  const auto multiply = [&](Matrix& c, size_t workspace_bytes) {
    return cublasLtMatmul(handle_, desc_, &one, a.device, a.layout, b.device, b.layout, &one, d.device,
                          c.layout, d.device, d.layout, &result_.algo, workspace_, workspace_bytes, nullptr);
  };
  EXPECT_EQ(multiply(d, 100), CUBLAS_STATUS_INVALID_VALUE) << "too little workspace";
  Matrix apart(CUDA_R_16BF, 8, 8, false, 8, 3);
  EXPECT_EQ(multiply(apart, kWorkspaceBytes), CUBLAS_STATUS_INVALID_VALUE) << "in place, C of another layout";
  Describe(CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(CUBLASLT_EPILOGUE_RELU));
  EXPECT_EQ(Multiply(a, b, d, 0), CUBLAS_STATUS_NOT_SUPPORTED) << "an algorithm for another epilogue";
  const int64_t wide = 0;
  EXPECT_EQ(cublasLtMatmulDescSetAttribute(desc_, CUBLASLT_MATMUL_DESC_EPILOGUE, &wide, sizeof wide),
            CUBLAS_STATUS_INVALID_VALUE)
      << "an attribute's size";
}

TEST_F(FakeCublasLt, AnAlgorithmNeedsTheAlignmentThatItWasAskedForWith) {
  Matrix a(CUDA_R_16BF, 8, 8, false, 0, 1);
  Matrix b(CUDA_R_16BF, 8, 8, false, 0, 2);
  Matrix d(CUDA_R_16BF, 8, 8, false, 0, 3);
  for (uint32_t alignment : {16U, 256U}) {
    PreferAlignment(alignment);
    ASSERT_EQ(Choose(a, b, d), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(Multiply(a, b, d, 0), CUBLAS_STATUS_SUCCESS);
    b.device += 8;
    EXPECT_EQ(Multiply(a, b, d, 0), CUBLAS_STATUS_NOT_SUPPORTED);
    b.device -= 8;
  }
}

TEST_F(FakeCublasLt, AProductThatReachesOutOfMemoryFailsTheDevice) {
  Matrix a(CUDA_R_16BF, 8, 8, false, 0, 1);
  Matrix b(CUDA_R_16BF, 8, 8, false, 0, 2);
  Matrix d(CUDA_R_16BF, 8, 8, false, 0, 3);
  PreferAlignment(16);
  ASSERT_EQ(Choose(a, b, d), CUBLAS_STATUS_SUCCESS);
  b.device += 16;
  Multiply(a, b, d, 0);  // succeeds, or the device is quick
  EXPECT_EQ(cudaStreamSynchronize(nullptr), cudaErrorIllegalAddress);
  EXPECT_THAT(FirstFault(), HasSubstr("matrix B, 128 bytes"));
  EXPECT_EQ(Multiply(a, b, d, 0), CUBLAS_STATUS_EXECUTION_FAILED) << "sticky";
}

TEST_F(FakeCublasLt, TwoStreamsThatShareAWorkspaceAreSeen) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "a race on purpose";
#endif
  int seen = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    UseSeed(seed);
    ASSERT_EQ(cudaMalloc(&workspace_, kWorkspaceBytes), cudaSuccess);
    Matrix a(CUDA_R_32F, 32, 32, false, 0, 1);
    Matrix b(CUDA_R_32F, 32, 32, false, 0, 2);
    Matrix d(CUDA_R_32F, 32, 32, false, 0, 3);
    Matrix e(CUDA_R_32F, 32, 32, false, 0, 3);
    PreferAlignment(16);
    ASSERT_EQ(Choose(a, b, d), CUBLAS_STATUS_SUCCESS);
    cudaStream_t streams[2];
    for (cudaStream_t& stream : streams) {
      ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    }
    for (int i = 0; i < 8; ++i) {
      Multiply(a, b, d, 0, streams[0]);
      Multiply(a, b, e, 0, streams[1]);
    }
    seen += cudaDeviceSynchronize() != cudaSuccess ? 1 : 0;
  }
  EXPECT_GE(seen, 10);
}

TEST_F(FakeCublasLt, AlgorithmsMayBeForOneShapeOnly) {
  MachineOptions options;
  options.products_refuse_other_shapes = true;
  ResetMachine(options);
  ASSERT_EQ(cudaMalloc(&workspace_, kWorkspaceBytes), cudaSuccess);
  Matrix a(CUDA_R_32F, 8, 8, false, 0, 1);
  Matrix b(CUDA_R_32F, 8, 8, false, 0, 2);
  Matrix d(CUDA_R_32F, 8, 8, false, 0, 3);
  Matrix narrow_b(CUDA_R_32F, 8, 4, false, 0, 2);
  Matrix narrow_d(CUDA_R_32F, 8, 4, false, 0, 3);
  PreferAlignment(4);
  ASSERT_EQ(Choose(a, b, d), CUBLAS_STATUS_SUCCESS);
  EXPECT_EQ(Multiply(a, b, d, 0), CUBLAS_STATUS_SUCCESS);
  for (int i = 0; i < 8; ++i) {
    EXPECT_THAT(Multiply(a, narrow_b, narrow_d, 0),
                AnyOf(CUBLAS_STATUS_NOT_SUPPORTED, CUBLAS_STATUS_INVALID_VALUE));
  }
  EXPECT_EQ(Counts().heuristics, 1);
}

// As the library may, unless its preference forbids it.
TEST_F(FakeCublasLt, PartsOfASumAreRoundedWhereThatIsAllowed) {
  Matrix a(CUDA_R_16BF, 32, 200, false, 0, 1);
  Matrix b(CUDA_R_16BF, 200, 32, false, 0, 2);
  PreferAlignment(2);
  const auto worst = [&](cudaDataType_t type, uint32_t schemes) {
    Prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, schemes);
    Matrix d(type, 32, 32, false, 0, 3);
    EXPECT_EQ(Choose(a, b, d), CUBLAS_STATUS_SUCCESS);
    EXPECT_EQ(Multiply(a, b, d, 0), CUBLAS_STATUS_SUCCESS);
    const auto got = FromDevice(d.device, d.bytes.size());
    double most = 0;
    for (int i = 0; i < 32; ++i) {
      for (int j = 0; j < 32; ++j) {
        double sum = 0;
        for (int k = 0; k < 200; ++k) sum += 0.5 * double{a.At(i, k)} * b.At(k, j);
        const double off = std::abs(Take(got, type, d.Index(i, j)) - sum);
        if (off > 0) most = std::max(most, off / std::max(std::abs(sum), 1e-3));
      }
    }
    return most;
  };
  EXPECT_LE(worst(CUDA_R_16BF, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE), 0x1p-8);
  EXPECT_LE(worst(CUDA_R_32F, CUBLASLT_REDUCTION_SCHEME_MASK), 0x1p-20);
  EXPECT_GT(worst(CUDA_R_16BF, CUBLASLT_REDUCTION_SCHEME_MASK), 1.2 * 0x1p-8);
  EXPECT_GT(worst(CUDA_R_16BF, CUBLASLT_REDUCTION_SCHEME_INPLACE), 1.2 * 0x1p-8);
}

TEST_F(FakeCublasLt, ABiasIsAlignedToSixteenBytes) {
  Describe(CUBLASLT_MATMUL_DESC_EPILOGUE, static_cast<uint32_t>(CUBLASLT_EPILOGUE_BIAS));
  Matrix a(CUDA_R_32F, 8, 8, false, 0, 1);
  Matrix b(CUDA_R_32F, 8, 8, false, 0, 2);
  Matrix d(CUDA_R_32F, 8, 8, false, 0, 3);
  Matrix bias(CUDA_R_32F, 16, 1, false, 0, 4);
  PreferAlignment(16);
  for (const int offset : {0, 16, 4}) {
    Describe(CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(bias.device + offset));
    ASSERT_EQ(Choose(a, b, d), CUBLAS_STATUS_SUCCESS);
    Multiply(a, b, d, 0);
    EXPECT_EQ(cudaStreamSynchronize(nullptr), offset == 4 ? cudaErrorMisalignedAddress : cudaSuccess);
  }
}

TEST_F(FakeCublasLt, FailsAsTold) {
  FailCall("cublasLtCreate", 1, cudaErrorMemoryAllocation);
  cublasLtHandle_t handle = nullptr;
  EXPECT_EQ(cublasLtCreate(&handle), CUBLAS_STATUS_ALLOC_FAILED);
  MachineOptions options;
  options.driver_version = 0;
  ResetMachine(options);
  EXPECT_EQ(cublasLtCreate(&handle), CUBLAS_STATUS_NOT_INITIALIZED);
}

}  // namespace
}  // namespace spillway::fakes::cuda
