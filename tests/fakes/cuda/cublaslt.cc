// The functions of the fake cuBLASLt: descriptors, the heuristic and the checks; product.cc multiplies.
#include <cublasLt.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <memory>
#include <string>

#include "tests/fakes/cuda/machine_state.h"
#include "tests/fakes/cuda/product.h"

namespace fake = spillway::fakes::cuda;
using fake::Machine;
using fake::MatrixShape;

struct cublasLtContext {};
struct cublasLtMatmulDescOpaque_t {
  int32_t transpose_a = CUBLAS_OP_N;
  int32_t transpose_b = CUBLAS_OP_N;
  uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  int32_t bias_type = -1;  // D's
};
struct cublasLtMatrixLayoutOpaque_t {
  MatrixShape shape;
};
struct cublasLtMatmulPreferenceOpaque_t {
  uint64_t workspace_bytes = 0;
  uint32_t alignments[4] = {256, 256, 256, 256};  // of A, B, C, D
  uint32_t reduction_schemes = CUBLASLT_REDUCTION_SCHEME_MASK;
};

namespace {

constexpr uint64_t kMagic = 0x5350494c4c574159;

// What an algorithm of the fake needs, kept in cublasLtMatmulAlgo_t.
struct Algorithm {
  uint64_t magic;
  uint32_t alignments[4];  // of A, B, C, D
  uint64_t workspace_bytes;
  uint64_t columns;  // of D, that it was chosen for
  int32_t d_type;
  uint32_t epilogue;
  uint32_t rounds_parts;  // whether it splits k, and adds the parts in D's type
};
static_assert(sizeof(Algorithm) <= sizeof(cublasLtMatmulAlgo_t));

// An algorithm uses no wider accesses than this.
constexpr uint32_t kWidestAccessBytes = 16;
constexpr uint64_t kWorkspaceBytes = 4096;

cublasStatus_t StatusOf(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return CUBLAS_STATUS_SUCCESS;
    case cudaErrorMemoryAllocation:
      return CUBLAS_STATUS_ALLOC_FAILED;
    case cudaErrorInsufficientDriver:
    case cudaErrorNoDevice:
      return CUBLAS_STATUS_NOT_INITIALIZED;
    case cudaErrorNotSupported:
      return CUBLAS_STATUS_NOT_SUPPORTED;
    default:
      return CUBLAS_STATUS_EXECUTION_FAILED;
  }
}

// Locks the machine, and fails where a call to the runtime would.
template <typename Body>
cublasStatus_t Call(const char* name, Body body) {
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  cudaError_t error = Machine::Call(name, [&](Machine& machine) {
    status = body(machine);
    return cudaSuccess;
  });
  return error != cudaSuccess ? StatusOf(error) : status;
}

cublasStatus_t Refuse(Machine& machine, cublasStatus_t status, const std::string& what) {
  machine.Refuse(cudaErrorInvalidValue, std::string(cublasLtGetStatusName(status)) + ", a product " + what);
  return status;
}

template <typename T>
cublasStatus_t Assign(T& field, const void* value, size_t size_bytes) {
  if (value == nullptr || size_bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&field, value, sizeof(T));
  return CUBLAS_STATUS_SUCCESS;
}

bool IsColumnMajor(const MatrixShape& shape) { return shape.order == CUBLASLT_ORDER_COL; }

// What the library does not do, or "". Types as in the table of cublasLtMatmul()'s documentation: A and B of
// one type, D of that or f32, C and the bias of D's.
std::string NotSupported(const cublasLtMatmulDescOpaque_t& desc, const MatrixShape& a, const MatrixShape& b,
                         const MatrixShape& c, const MatrixShape& d) {
  if (a.type != b.type) return "of matrices of two types";
  if (d.type != a.type && d.type != CUDA_R_32F) return "whose result has neither its matrices' type nor f32";
  if (c.type != d.type) return "whose C has another type than D";
  if ((desc.epilogue & CUBLASLT_EPILOGUE_BIAS) != 0 && desc.bias_type != -1 && desc.bias_type != d.type) {
    return "whose bias has another type than D";
  }
  if (!IsColumnMajor(d) && desc.epilogue != CUBLASLT_EPILOGUE_DEFAULT) {
    return "with an epilogue on a row-major D";
  }
  return "";
}

// What makes no sense, or "".
std::string Invalid(const cublasLtMatmulDescOpaque_t& desc, const MatrixShape& a, const MatrixShape& b,
                    const MatrixShape& c, const MatrixShape& d) {
  for (const MatrixShape* shape : {&a, &b, &c, &d}) {
    if (shape->rows == 0 || shape->columns == 0) return "with an empty matrix";
    const uint64_t least = IsColumnMajor(*shape) ? shape->rows : shape->columns;
    if (shape->leading < static_cast<int64_t>(least)) return "with a leading dimension below its matrix's";
    if (shape->batch_count != d.batch_count) return "of unequal batches";
  }
  const bool ta = desc.transpose_a == CUBLAS_OP_T;
  const bool tb = desc.transpose_b == CUBLAS_OP_T;
  const uint64_t k = ta ? a.rows : a.columns;
  if ((ta ? a.columns : a.rows) != d.rows || (tb ? b.rows : b.columns) != d.columns ||
      (tb ? b.columns : b.rows) != k || c.rows != d.rows || c.columns != d.columns) {
    return "whose shapes do not fit";
  }
  return "";
}

bool IsAligned(uint64_t address, const MatrixShape& shape, uint32_t alignment) {
  const auto leading = static_cast<uint64_t>(shape.leading * fake::ElementBytes(shape.type));
  const auto batch = static_cast<uint64_t>(shape.batch_offset * fake::ElementBytes(shape.type));
  return address % alignment == 0 && leading % alignment == 0 && batch % alignment == 0;
}

constexpr struct {
  cublasStatus_t status;
  const char* name;
} kStatuses[] = {
    {CUBLAS_STATUS_SUCCESS, "CUBLAS_STATUS_SUCCESS"},
    {CUBLAS_STATUS_NOT_INITIALIZED, "CUBLAS_STATUS_NOT_INITIALIZED"},
    {CUBLAS_STATUS_ALLOC_FAILED, "CUBLAS_STATUS_ALLOC_FAILED"},
    {CUBLAS_STATUS_INVALID_VALUE, "CUBLAS_STATUS_INVALID_VALUE"},
    {CUBLAS_STATUS_ARCH_MISMATCH, "CUBLAS_STATUS_ARCH_MISMATCH"},
    {CUBLAS_STATUS_MAPPING_ERROR, "CUBLAS_STATUS_MAPPING_ERROR"},
    {CUBLAS_STATUS_EXECUTION_FAILED, "CUBLAS_STATUS_EXECUTION_FAILED"},
    {CUBLAS_STATUS_INTERNAL_ERROR, "CUBLAS_STATUS_INTERNAL_ERROR"},
    {CUBLAS_STATUS_NOT_SUPPORTED, "CUBLAS_STATUS_NOT_SUPPORTED"},
};

}  // namespace

const char* cublasLtGetStatusName(cublasStatus_t status) {
  for (const auto& known : kStatuses) {
    if (known.status == status) return known.name;
  }
  return "CUBLAS_STATUS_UNKNOWN";
}

const char* cublasLtGetStatusString(cublasStatus_t status) { return cublasLtGetStatusName(status); }

size_t cublasLtGetVersion() { return 130000; }

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  return Call("cublasLtCreate", [&](Machine& /*machine*/) {
    *handle = new cublasLtContext;
    return CUBLAS_STATUS_SUCCESS;
  });
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* desc, cublasComputeType_t /*compute*/,
                                        cudaDataType_t scale) {
  if (scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  *desc = new cublasLtMatmulDescOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
  delete desc;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute, const void* value,
                                              size_t size_bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return Assign(desc->transpose_a, value, size_bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return Assign(desc->transpose_b, value, size_bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return Assign(desc->epilogue, value, size_bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return Assign(desc->bias, value, size_bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      return Assign(desc->bias_type, value, size_bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type, uint64_t rows,
                                          uint64_t columns, int64_t leading) {
  *layout = new cublasLtMatrixLayoutOpaque_t;
  (*layout)->shape.type = type;
  (*layout)->shape.rows = rows;
  (*layout)->shape.columns = columns;
  (*layout)->shape.leading = leading;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void* value,
                                                size_t size_bytes) {
  MatrixShape& shape = layout->shape;
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
      return Assign(shape.type, value, size_bytes);
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
      return Assign(shape.order, value, size_bytes);
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
      return Assign(shape.rows, value, size_bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
      return Assign(shape.columns, value, size_bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD:
      return Assign(shape.leading, value, size_bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
      return Assign(shape.batch_count, value, size_bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
      return Assign(shape.batch_offset, value, size_bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void* value, size_t size_bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return Assign(preference->workspace_bytes, value, size_bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return Assign(preference->reduction_schemes, value, size_bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      return Assign(preference->alignments[0], value, size_bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      return Assign(preference->alignments[1], value, size_bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      return Assign(preference->alignments[2], value, size_bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return Assign(preference->alignments[3], value, size_bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t /*handle*/, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t* results, int* returned) {
  return Call("cublasLtMatmulAlgoGetHeuristic", [&](Machine& machine) {
    *returned = 0;
    if (requested < 1) return CUBLAS_STATUS_INVALID_VALUE;
    if (std::string what = Invalid(*desc, a->shape, b->shape, c->shape, d->shape); !what.empty()) {
      return Refuse(machine, CUBLAS_STATUS_INVALID_VALUE, what);
    }
    if (!NotSupported(*desc, a->shape, b->shape, c->shape, d->shape).empty()) {
      return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    ++machine.counts.heuristics;
    Algorithm algorithm{};
    algorithm.magic = kMagic;
    for (int i = 0; i < 4; ++i) {
      algorithm.alignments[i] = std::min(preference->alignments[i], kWidestAccessBytes);
    }
    algorithm.workspace_bytes = std::min(preference->workspace_bytes, kWorkspaceBytes);
    algorithm.columns = d->shape.columns;
    algorithm.d_type = d->shape.type;
    algorithm.epilogue = desc->epilogue;
    // The least exact of what is allowed.
    constexpr uint32_t kInOutputType =
        CUBLASLT_REDUCTION_SCHEME_INPLACE | CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE;
    algorithm.rounds_parts = (preference->reduction_schemes & kInOutputType) != 0 ? 1 : 0;
    results[0] = {};
    std::memcpy(results[0].algo.data, &algorithm, sizeof algorithm);
    results[0].workspaceSize = algorithm.workspace_bytes;
    results[0].state = CUBLAS_STATUS_SUCCESS;
    *returned = 1;
    return CUBLAS_STATUS_SUCCESS;
  });
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t /*handle*/, cublasLtMatmulDesc_t desc, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
  return Call("cublasLtMatmul", [&](Machine& machine) {
    fake::ProductArgs args;
    args.a_shape = a_layout->shape;
    args.b_shape = b_layout->shape;
    args.c_shape = c_layout->shape;
    args.d_shape = d_layout->shape;
    if (std::string what = Invalid(*desc, args.a_shape, args.b_shape, args.c_shape, args.d_shape);
        !what.empty()) {
      return Refuse(machine, CUBLAS_STATUS_INVALID_VALUE, what);
    }
    if (std::string what = NotSupported(*desc, args.a_shape, args.b_shape, args.c_shape, args.d_shape);
        !what.empty()) {
      return Refuse(machine, CUBLAS_STATUS_NOT_SUPPORTED, what);
    }
    Algorithm chosen{};
    if (algorithm != nullptr) {
      std::memcpy(&chosen, algorithm->data, sizeof chosen);
      if (chosen.magic != kMagic) return Refuse(machine, CUBLAS_STATUS_INVALID_VALUE, "by no algorithm");
      if (chosen.d_type != args.d_shape.type || chosen.epilogue != desc->epilogue) {
        return Refuse(machine, CUBLAS_STATUS_NOT_SUPPORTED, "by an algorithm for another type or epilogue");
      }
      if (machine.options.products_refuse_other_shapes && chosen.columns != args.d_shape.columns) {
        // Either is said of an algorithm that does not fit.
        return machine.random.Below(2) == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_INVALID_VALUE;
      }
    } else {
      std::fill(std::begin(chosen.alignments), std::end(chosen.alignments), 1);
    }
    const MatrixShape* shapes[] = {&args.a_shape, &args.b_shape, &args.c_shape, &args.d_shape};
    const void* pointers[] = {a, b, c, d};
    for (int i = 0; i < 4; ++i) {
      if (!IsAligned(reinterpret_cast<uint64_t>(pointers[i]), *shapes[i], chosen.alignments[i])) {
        return Refuse(machine, CUBLAS_STATUS_NOT_SUPPORTED,
                      std::string("whose matrix ") + "ABCD"[i] + " is not aligned to " +
                          std::to_string(chosen.alignments[i]) + " bytes, as its algorithm needs");
      }
    }
    if (workspace_bytes < chosen.workspace_bytes) {
      return Refuse(machine, CUBLAS_STATUS_INVALID_VALUE, "with too little workspace");
    }
    if (chosen.workspace_bytes > 0 && reinterpret_cast<uint64_t>(workspace) % 16 != 0) {
      return Refuse(machine, CUBLAS_STATUS_INVALID_VALUE, "with a workspace that is not aligned to 16 bytes");
    }
    if (c == d && !(args.c_shape == args.d_shape)) {
      return Refuse(machine, CUBLAS_STATUS_INVALID_VALUE, "in place with two layouts");
    }
    if ((desc->epilogue & CUBLASLT_EPILOGUE_BIAS) != 0) {
      if (desc->bias == nullptr) return Refuse(machine, CUBLAS_STATUS_INVALID_VALUE, "without its bias");
      args.bias = desc->bias;
    }
    CUstream_st* found = machine.Find(stream);
    if (found == nullptr) return Refuse(machine, CUBLAS_STATUS_INVALID_VALUE, "on no stream");
    args.alpha = *static_cast<const float*>(alpha);
    args.beta = *static_cast<const float*>(beta);
    args.transpose_a = desc->transpose_a == CUBLAS_OP_T;
    args.transpose_b = desc->transpose_b == CUBLAS_OP_T;
    args.epilogue = static_cast<int>(desc->epilogue);
    args.rounds_parts = chosen.rounds_parts != 0;
    args.a = a;
    args.b = b;
    args.c = c;
    args.d = d;
    args.workspace = workspace;
    args.workspace_bytes = chosen.workspace_bytes;
    machine.Enqueue(*found, fake::NewProduct(args));
    return machine.sticky == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
  });
}
