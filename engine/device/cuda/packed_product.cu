// Packed weights: expanded into scratch for products of many rows, or decoded inside the product for a decode
// step's few, which reads them once and nothing else twice.
#include <algorithm>

#include "engine/device/cuda/block_reduce.h"
#include "engine/device/cuda/kernels.h"
#include "engine/device/cuda/launch.h"
#include "engine/device/cuda/packed_decode.h"
#include "engine/device/cuda/packed_result.h"
#include "engine/device/cuda/vector_access.h"

namespace spillway::device::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpThreads;
constexpr int kFeatures = 4;  // of a warp at a time: they share each reading of the inputs
constexpr int kRun = packed::kRunElements;

// A thread expands one run.
template <typename T>
__global__ void ExpandKernel(const __grid_constant__ PackedRows rows, T* out) {
  WaitForEarlierKernels();
  LetLaterKernelsBegin();
  // Of scratch, so 32 bits are enough, whose divisions are short.
  const uint32_t runs = static_cast<uint32_t>(rows.k / kRun);
  const uint32_t index = blockIdx.x * static_cast<uint32_t>(kThreads) + threadIdx.x;
  if (index >= rows.n * runs) return;
  float values[2][kVectorElements];
  DecodeRun(rows, index / runs, static_cast<int>(index % runs), values[0]);
  T* to = out + int64_t{index} * kRun;
  StoreEight(to, values[0]);
  StoreEight(to + kVectorElements, values[1]);
}

// The product's elements, whose type is an argument: of each type, decoders would be compiled once more,
// which are most of the kernel, to spare a branch that all threads take alike.
__device__ inline void LoadInput(const PackedProductArgs& args, int64_t at, float (&to)[kVectorElements]) {
  switch (args.type) {
    case DType::kF32:
      return LoadEight(static_cast<const float*>(args.in) + at, kVectorElements, args.aligned, to);
    case DType::kF16:
      return LoadEight(static_cast<const __half*>(args.in) + at, kVectorElements, args.aligned, to);
    case DType::kBF16:
      return LoadEight(static_cast<const __nv_bfloat16*>(args.in) + at, kVectorElements, args.aligned, to);
  }
}

// A warp multiplies kFeatures rows of the matrix by kRows rows of the input; lanes take runs of k in turn.
template <int kRows>
__global__ void PackedProductKernel(const __grid_constant__ PackedProductArgs args) {
  WaitForEarlierKernels();
  LetLaterKernelsBegin();
  const int warp = static_cast<int>(threadIdx.x) / kWarpThreads;
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  const int64_t first = (int64_t{blockIdx.x} * kWarps + warp) * kFeatures;
  float sums[kFeatures][kRows] = {};
  for (int run = lane; run < static_cast<int>(args.weight.k / kRun); run += kWarpThreads) {
    float weights[kFeatures][kRun];
#pragma unroll
    for (int f = 0; f < kFeatures; ++f) {
      // Beyond the last feature the last one again, for nobody.
      const int64_t feature = first + f < args.weight.n ? first + f : args.weight.n - 1;
      DecodeRun(args.weight, feature, run, weights[f]);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= args.rows) break;
      const int64_t at = r * args.weight.k + int64_t{run} * kRun;
      float x[2][kVectorElements];
      LoadInput(args, at, x[0]);
      LoadInput(args, at + kVectorElements, x[1]);
#pragma unroll
      for (int f = 0; f < kFeatures; ++f) {
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
          sums[f][r] = fmaf(weights[f][i], x[i / kVectorElements][i % kVectorElements], sums[f][r]);
        }
      }
    }
  }
#pragma unroll
  for (int f = 0; f < kFeatures; ++f) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float value = WarpReduce(sums[f][r], Sum());
      if (lane != (f * kRows + r) % kWarpThreads || r >= args.rows || first + f >= args.weight.n) continue;
      StoreOutput(args, r, first + f, value);
    }
  }
}

template <int kRows>
cudaError_t LaunchRows(const PackedProductArgs& args, KernelStream stream) {
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(CeilDivide(args.weight.n, kWarps * kFeatures)));
  shape.block = dim3(kThreads);
  return Launch(PackedProductKernel<kRows>, shape, stream, args);
}

}  // namespace

cudaError_t LaunchExpand(DType type, const PackedRows& rows, void* out, KernelStream stream) {
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(CeilDivide(rows.n * (rows.k / kRun), kThreads)));
  shape.block = dim3(kThreads);
  return WithElement(type, [&](auto tag) {
    using T = typename decltype(tag)::Type;
    return Launch(ExpandKernel<T>, shape, stream, rows, static_cast<T*>(out));
  });
}

cudaError_t LaunchPackedProduct(DType type, const PackedProductArgs& args, KernelStream stream) {
  PackedProductArgs in = args;
  in.aligned = AllAligned(reinterpret_cast<uint64_t>(args.in));
  in.type = type;
  if (in.rows == 1) return LaunchRows<1>(in, stream);
  if (in.rows <= 4) return LaunchRows<4>(in, stream);
  return LaunchRows<kPackedProductRowsMax>(in, stream);
}

}  // namespace spillway::device::cuda
