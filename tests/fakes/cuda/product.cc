#include "tests/fakes/cuda/product.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace spillway::fakes::cuda {
namespace {

constexpr int64_t kProductNs = 4000;
constexpr int64_t kOperationsPerNs = 100000;

int64_t IndexOf(const MatrixShape& shape, int64_t batch, int64_t row, int64_t column) {
  const int64_t within =
      shape.order == CUBLASLT_ORDER_COL ? column * shape.leading + row : row * shape.leading + column;
  return batch * shape.batch_offset + within;
}

float Load(const void* base, cudaDataType_t type, int64_t index) {
  switch (type) {
    case CUDA_R_16F:
      return __half2float(static_cast<const __half*>(base)[index]);
    case CUDA_R_16BF:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(base)[index]);
    default:
      return static_cast<const float*>(base)[index];
  }
}

void Store(void* base, cudaDataType_t type, int64_t index, float value) {
  switch (type) {
    case CUDA_R_16F:
      static_cast<__half*>(base)[index] = __float2half_rn(value);
      break;
    case CUDA_R_16BF:
      static_cast<__nv_bfloat16*>(base)[index] = __float2bfloat16_rn(value);
      break;
    default:
      static_cast<float*>(base)[index] = value;
  }
}

// The tanh form, as the library's.
float Gelu(float x) { return 0.5F * x * (1 + std::tanh(0.7978845608F * (x + 0.044715F * x * x * x))); }

// A float's sums in eight parts, as a device's threads would hold them.
float Dot(const float* x, const float* y, int64_t n) {
  float parts[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int j = 0; j < 8; ++j) parts[j] += x[i + j] * y[i + j];
  }
  for (; i < n; ++i) parts[0] += x[i] * y[i];
  return ((parts[0] + parts[4]) + (parts[1] + parts[5])) + ((parts[2] + parts[6]) + (parts[3] + parts[7]));
}

class Product : public Operation {
 public:
  explicit Product(const ProductArgs& args)
      : args_(args),
        m_(static_cast<int64_t>(args.d_shape.rows)),
        n_(static_cast<int64_t>(args.d_shape.columns)),
        k_(static_cast<int64_t>(args.transpose_a ? args.a_shape.rows : args.a_shape.columns)) {
    engine = Engine::kCompute;
    cost_ns = kProductNs + 2 * m_ * n_ * k_ * args.d_shape.batch_count / kOperationsPerNs;
  }

  bool IsKernel() const override { return true; }
  bool Step(Machine& machine) override {
    if (batch_ == 0 && column_ == 0) {
      if (machine.FailsNow("kernel")) return false;
      if (!InDeviceMemory(machine)) return false;
      // The library's epilogues load it by 16 bytes, as it is not said that they do not.
      if (reinterpret_cast<uint64_t>(args_.bias) % 16 != 0) {
        machine.Fail(cudaErrorMisalignedAddress, "a product's bias is not aligned to 16 bytes");
        return false;
      }
      ++machine.counts.products;
      stamp_ = machine.random.Next();
      FillWorkspace();
    }
    TsanContext::Read(args_.a, static_cast<size_t>(ExtentBytes(args_.a_shape)));
    TsanContext::Read(args_.b, static_cast<size_t>(ExtentBytes(args_.b_shape)));
    if (args_.bias != nullptr) {
      TsanContext::Read(args_.bias, static_cast<size_t>(m_ * ElementBytes(args_.d_shape.type)));
    }
    LoadA();
    // Some of the columns, so that what other streams do comes between.
    int64_t part = n_ - column_;
    if (part > 1 && machine.random.Below(4) == 0) {
      part = 1 + static_cast<int64_t>(machine.random.Below(static_cast<uint32_t>(part)));
    }
    for (; part > 0; --part, ++column_) Column();
    if (!WorkspaceIsOurs()) {
      machine.Fail(cudaErrorLaunchFailure, "two products use one workspace at a time");
      return false;
    }
    if (column_ < n_) return false;
    column_ = 0;
    if (++batch_ < args_.d_shape.batch_count) return false;
    if (args_.workspace_bytes > 0) std::memset(args_.workspace, 0xff, args_.workspace_bytes);
    return true;
  }

 private:
  bool InDeviceMemory(Machine& machine) const {
    const auto check = [&](const char* what, const void* pointer, int64_t bytes) {
      if (machine.IsDevice(pointer, static_cast<size_t>(bytes))) return true;
      machine.Fail(cudaErrorIllegalAddress, std::string("a product's ") + what + ", " +
                                                std::to_string(bytes) +
                                                " bytes, reaches out of device memory");
      return false;
    };
    return check("matrix A", args_.a, ExtentBytes(args_.a_shape)) &&
           check("matrix B", args_.b, ExtentBytes(args_.b_shape)) &&
           (args_.beta == 0 || check("matrix C", args_.c, ExtentBytes(args_.c_shape))) &&
           check("matrix D", args_.d, ExtentBytes(args_.d_shape)) &&
           (args_.bias == nullptr || check("bias", args_.bias, m_ * ElementBytes(args_.d_shape.type))) &&
           (args_.workspace_bytes == 0 ||
            check("workspace", args_.workspace, static_cast<int64_t>(args_.workspace_bytes)));
  }

  void FillWorkspace() {
    for (size_t i = 0; i + sizeof stamp_ <= args_.workspace_bytes; i += sizeof stamp_) {
      std::memcpy(static_cast<char*>(args_.workspace) + i, &stamp_, sizeof stamp_);
    }
  }
  bool WorkspaceIsOurs() const {
    for (size_t i = 0; i + sizeof stamp_ <= args_.workspace_bytes; i += sizeof stamp_) {
      if (std::memcmp(static_cast<const char*>(args_.workspace) + i, &stamp_, sizeof stamp_) != 0)
        return false;
    }
    return true;
  }

  // op(A) as rows of floats; read again in every part, because others may write to it.
  void LoadA() {
    a_.resize(static_cast<size_t>(m_ * k_));
    for (int64_t i = 0; i < m_; ++i) {
      for (int64_t j = 0; j < k_; ++j) {
        const int64_t index =
            args_.transpose_a ? IndexOf(args_.a_shape, batch_, j, i) : IndexOf(args_.a_shape, batch_, i, j);
        a_[static_cast<size_t>(i * k_ + j)] = Load(args_.a, args_.a_shape.type, index);
      }
    }
    column_of_b_.resize(static_cast<size_t>(k_));
  }

  // Of a row of A by the column of B.
  float Sum(const float* a) const {
    if (!args_.rounds_parts) return Dot(a, column_of_b_.data(), k_);
    const int64_t half = k_ / 2;
    const float parts[2] = {Dot(a, column_of_b_.data(), half),
                            Dot(a + half, column_of_b_.data() + half, k_ - half)};
    float sum = 0;
    for (const float part : parts) {
      float rounded = 0;
      Store(&rounded, args_.d_shape.type, 0, part);
      sum += Load(&rounded, args_.d_shape.type, 0);
    }
    return sum;
  }

  void Column() {
    for (int64_t j = 0; j < k_; ++j) {
      const int64_t index = args_.transpose_b ? IndexOf(args_.b_shape, batch_, column_, j)
                                              : IndexOf(args_.b_shape, batch_, j, column_);
      column_of_b_[static_cast<size_t>(j)] = Load(args_.b, args_.b_shape.type, index);
    }
    for (int64_t i = 0; i < m_; ++i) {
      float value = args_.alpha * Sum(a_.data() + i * k_);
      if (args_.beta != 0) {
        value += args_.beta * Load(args_.c, args_.c_shape.type, IndexOf(args_.c_shape, batch_, i, column_));
      }
      if (args_.bias != nullptr) value += Load(args_.bias, args_.d_shape.type, i);
      if ((args_.epilogue & CUBLASLT_EPILOGUE_RELU) != 0) value = value > 0 ? value : 0;
      if ((args_.epilogue & CUBLASLT_EPILOGUE_GELU) != 0) value = Gelu(value);
      const int64_t index = IndexOf(args_.d_shape, batch_, i, column_);
      const int64_t bytes = ElementBytes(args_.d_shape.type);
      TsanContext::Write(static_cast<char*>(args_.d) + index * bytes, static_cast<size_t>(bytes));
      Store(args_.d, args_.d_shape.type, index, value);
    }
  }

  const ProductArgs args_;
  const int64_t m_;
  const int64_t n_;
  const int64_t k_;
  int64_t batch_ = 0;
  int64_t column_ = 0;
  uint64_t stamp_ = 0;
  std::vector<float> a_;  // [m][k]
  std::vector<float> column_of_b_;
};

}  // namespace

int64_t ExtentBytes(const MatrixShape& shape) {
  const auto rows = static_cast<int64_t>(shape.rows);
  const auto columns = static_cast<int64_t>(shape.columns);
  if (rows == 0 || columns == 0) return 0;
  return (IndexOf(shape, shape.batch_count - 1, rows - 1, columns - 1) + 1) * ElementBytes(shape.type);
}

std::unique_ptr<Operation> NewProduct(const ProductArgs& args) { return std::make_unique<Product>(args); }

}  // namespace spillway::fakes::cuda
