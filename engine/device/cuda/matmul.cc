#include "engine/device/cuda/matmul.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "engine/device/cuda/cuda_error.h"

namespace spillway::device::cuda {
namespace {

constexpr int64_t kAlignmentMax = 16;

cudaDataType_t DataTypeOf(DType type) {
  return type == DType::kF32 ? CUDA_R_32F : type == DType::kF16 ? CUDA_R_16F : CUDA_R_16BF;
}

int32_t AlignmentOf(const void* address, int64_t stride_bytes) {
  const uint64_t bits = reinterpret_cast<uint64_t>(address) | static_cast<uint64_t>(stride_bytes);
  return static_cast<int32_t>(
      std::min<int64_t>(int64_t{1} << std::min(std::countr_zero(bits), 62), kAlignmentMax));
}

// Few rows have an algorithm each power of two, many one each 64 or more.
int64_t BucketOf(int64_t rows) {
  if (rows <= 64) return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows)));
  if (rows <= 512) return (rows + 63) / 64 * 64;
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows)));
}

template <typename Descriptor, typename Attribute, typename Value>
cublasStatus_t Set(cublasStatus_t (*set)(Descriptor, Attribute, const void*, size_t), Descriptor descriptor,
                   Attribute attribute, const Value& value) {
  return set(descriptor, attribute, &value, sizeof(value));
}

}  // namespace

// Descriptors and algorithm of one shape. Column-major views of row-major matrices: out^T [n, rows] =
// (weight^T [k, n])^T * in^T [k, rows].
class Matmul::Plan {
 public:
  Plan() = default;
  ~Plan() {
    if (product_ != nullptr) (void)cublasLtMatmulDescDestroy(product_);
    for (cublasLtMatrixLayout_t layout : {weight_, in_, out_}) {
      if (layout != nullptr) (void)cublasLtMatrixLayoutDestroy(layout);
    }
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // Whether the library has an algorithm for it.
  bool exists() const { return exists_; }

  absl::Status Make(const Key& key, DType type, int64_t out_stride, const float* bias,
                    cublasLtHandle_t handle, int64_t workspace_bytes) {
    const cudaDataType_t element = DataTypeOf(type);
    cublasStatus_t status = cublasLtMatmulDescCreate(&product_, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    const auto then = [&status](auto&& call) {
      if (status == CUBLAS_STATUS_SUCCESS) status = call();
    };
    const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
      then([&] { return Set(&cublasLtMatmulDescSetAttribute, product_, attribute, value); });
    };
    set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    set(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    if (key.bias) epilogue = key.relu ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_BIAS;
    if (!key.bias && key.relu) epilogue = CUBLASLT_EPILOGUE_RELU;
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    if (key.bias) {
      set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, CUDA_R_32F);
      set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);  // each product sets its own
    }
    const auto layout = [&](cublasLtMatrixLayout_t* made, cudaDataType_t of, int64_t rows, int64_t columns,
                            int64_t stride) {
      then([&] {
        return cublasLtMatrixLayoutCreate(made, of, static_cast<uint64_t>(rows),
                                          static_cast<uint64_t>(columns), stride);
      });
    };
    layout(&weight_, element, key.k, key.n, key.k);
    layout(&in_, element, key.k, key.rows, key.k);
    layout(&out_, DataTypeOf(key.out_type), key.n, key.rows, out_stride);
    SPILLWAY_RETURN_IF_ERROR(CublasStatus(status, "describing a product"));
    return Choose(key, handle, workspace_bytes);
  }

  cublasStatus_t Run(const MatmulArgs& args, cublasLtHandle_t handle, void* workspace,
                     int64_t workspace_bytes, cudaStream_t stream) {
    cublasStatus_t status = Set(&cublasLtMatrixLayoutSetAttribute, in_, CUBLASLT_MATRIX_LAYOUT_COLS,
                                static_cast<uint64_t>(args.rows));
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    status = Set(&cublasLtMatrixLayoutSetAttribute, out_, CUBLASLT_MATRIX_LAYOUT_COLS,
                 static_cast<uint64_t>(args.rows));
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    status = Set(&cublasLtMatrixLayoutSetAttribute, out_, CUBLASLT_MATRIX_LAYOUT_LD, args.out_stride);
    if (status != CUBLAS_STATUS_SUCCESS) return status;
    if (args.bias != nullptr) {
      status = Set(&cublasLtMatmulDescSetAttribute, product_, CUBLASLT_MATMUL_DESC_BIAS_POINTER, args.bias);
      if (status != CUBLAS_STATUS_SUCCESS) return status;
    }
    const float one = 1;
    const float add = args.accumulate ? 1 : 0;
    return cublasLtMatmul(handle, product_, &one, args.weight, weight_, args.in, in_, &add, args.out, out_,
                          args.out, out_, &algorithm_, workspace, static_cast<size_t>(workspace_bytes),
                          stream);
  }

 private:
  absl::Status Choose(const Key& key, cublasLtHandle_t handle, int64_t workspace_bytes) {
    cublasLtMatmulPreference_t preference = nullptr;
    cublasStatus_t status = cublasLtMatmulPreferenceCreate(&preference);
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      if (status == CUBLAS_STATUS_SUCCESS)
        status = Set(&cublasLtMatmulPreferenceSetAttribute, preference, attribute, value);
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(workspace_bytes));
    // Where k is split, parts may else be kept and added in D's type: each would be rounded, not the sum
    // once.
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        static_cast<uint32_t>(key.out_type == DType::kF32 ? CUBLASLT_REDUCTION_SCHEME_MASK
                                                          : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(key.weight_alignment));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(key.in_alignment));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(key.out_alignment));
    set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(key.out_alignment));
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatmulAlgoGetHeuristic(handle, product_, weight_, in_, out_, out_, preference, 1,
                                              &result, &found);
    }
    if (preference != nullptr) (void)cublasLtMatmulPreferenceDestroy(preference);
    // Either is said of combinations that the library does not have.
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE)
      return absl::OkStatus();
    SPILLWAY_RETURN_IF_ERROR(CublasStatus(
        status, absl::StrCat("choosing an algorithm for ", key.rows, " rows by [", key.n, ", ", key.k, "]")));
    exists_ = found > 0 && result.state == CUBLAS_STATUS_SUCCESS;
    algorithm_ = result.algo;
    return absl::OkStatus();
  }

  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatrixLayout_t weight_ = nullptr;
  cublasLtMatrixLayout_t in_ = nullptr;
  cublasLtMatrixLayout_t out_ = nullptr;
  cublasLtMatmulAlgo_t algorithm_{};
  bool exists_ = false;
};

Matmul::Matmul(DType type, int64_t workspace_bytes) : type_(type), workspace_bytes_(workspace_bytes) {}

absl::StatusOr<std::unique_ptr<Matmul>> Matmul::Create(DType type, int64_t workspace_bytes) {
  std::unique_ptr<Matmul> matmul(new Matmul(type, workspace_bytes));
  SPILLWAY_RETURN_IF_ERROR(CublasStatus(cublasLtCreate(&matmul->handle_), "starting"));
  SPILLWAY_RETURN_IF_ERROR(CudaStatus(cudaMalloc(&matmul->workspace_, static_cast<size_t>(workspace_bytes)),
                                      "allocating the workspace of products"));
  return matmul;
}

Matmul::~Matmul() {
  plans_.clear();
  if (workspace_ != nullptr) (void)cudaFree(workspace_);
  if (handle_ != nullptr) (void)cublasLtDestroy(handle_);
}

Matmul::Key Matmul::KeyOf(const MatmulArgs& args, int64_t rows) const {
  Key key{};
  key.rows = rows;
  key.n = args.n;
  key.k = args.k;
  key.out_type = args.out_type;
  key.bias = args.bias != nullptr;
  key.relu = args.relu;
  key.accumulate = args.accumulate;
  const int64_t k_bytes = args.k * SizeOf(type_);
  key.in_alignment = AlignmentOf(args.in, k_bytes);
  key.weight_alignment = AlignmentOf(args.weight, k_bytes);
  key.out_alignment = AlignmentOf(args.out, args.out_stride * SizeOf(args.out_type));
  return key;
}

absl::StatusOr<Matmul::Plan*> Matmul::PlanFor(const MatmulArgs& args, int64_t rows) {
  const Key key = KeyOf(args, rows);
  std::unique_ptr<Plan>& plan = plans_[key];
  if (plan == nullptr) {
    auto made = std::make_unique<Plan>();
    SPILLWAY_RETURN_IF_ERROR(made->Make(key, type_, args.out_stride, args.bias, handle_, workspace_bytes_));
    plan = std::move(made);
  }
  return plan.get();
}

absl::StatusOr<bool> Matmul::Enqueue(const MatmulArgs& args, cudaStream_t stream) {
  SPILLWAY_CHECK(args.rows > 0 && args.n > 0 && args.k > 0 && args.out_stride >= args.n);
  // Epilogues load a bias by 16 bytes, of which no preference tells the library.
  if (reinterpret_cast<uint64_t>(args.bias) % kAlignmentMax != 0) return false;
  const int64_t bucket = BucketOf(args.rows);
  SPILLWAY_ASSIGN_OR_RETURN(Plan * plan, PlanFor(args, bucket));
  if (!plan->exists()) return false;
  cublasStatus_t status = plan->Run(args, handle_, workspace_, workspace_bytes_, stream);
  const bool refused = status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE;
  if (refused && bucket != args.rows) {
    // The bucket's algorithm does not do this height: it has one of its own.
    SPILLWAY_ASSIGN_OR_RETURN(plan, PlanFor(args, args.rows));
    if (!plan->exists()) return false;
    status = plan->Run(args, handle_, workspace_, workspace_bytes_, stream);
  }
  SPILLWAY_RETURN_IF_ERROR(
      CublasStatus(status, absl::StrCat("multiplying ", args.rows, " rows by [", args.n, ", ", args.k, "]")));
  return true;
}

absl::Status Matmul::Prepare(const MatmulArgs& args) { return PlanFor(args, BucketOf(args.rows)).status(); }

}  // namespace spillway::device::cuda
