#include "engine/device/cuda/kernels.h"
#include "engine/device/cuda/launch.h"
#include "engine/device/cuda/packed_decode.h"
#include "engine/device/cuda/vector_access.h"

namespace spillway::device::cuda {
namespace {

constexpr int kThreads = 128;

// A block takes kThreads * 8 columns of one row.
template <typename T>
__global__ void EmbedKernel(EmbedArgs args, bool aligned) {
  WaitForEarlierKernels();
  LetLaterKernelsBegin();
  const int64_t row = blockIdx.x;
  const int64_t column = (int64_t{blockIdx.y} * kThreads + threadIdx.x) * kVectorElements;
  const int64_t left = args.d - column;
  if (left <= 0) return;
  float values[kVectorElements];
  LoadEight(At<const T>(args.table) + At<const int32_t>(args.ids)[row] * int64_t{args.d} + column, left,
            aligned, values);
  float positions[kVectorElements] = {};
  if (args.positions.address != 0) {
    const int64_t position = At<const AppendRow>(args.append)[row].position;
    LoadEight(At<const T>(args.positions) + position * args.d + column, left, aligned, positions);
  }
#pragma unroll
  for (int i = 0; i < kVectorElements; ++i) values[i] = fmaf(values[i], args.scale, positions[i]);
  StoreEight(At<float>(args.hidden) + row * args.d + column, left, aligned, values);
}

// What eight elements are as T. The type is an argument: decoders, which are most of the kernel, would be
// compiled once more for each.
__device__ inline void RoundEight(DType type, float* values) {
  if (type == DType::kF32) return;
#pragma unroll
  for (int i = 0; i < kVectorElements; ++i) {
    values[i] = type == DType::kF16 ? ToFloat(FromFloat<__half>(values[i]))
                                    : ToFloat(FromFloat<__nv_bfloat16>(values[i]));
  }
}
__device__ inline void LoadPositions(DType type, const EmbedArgs& args, int64_t at, bool aligned,
                                     float (&to)[kVectorElements]) {
  switch (type) {
    case DType::kF32:
      return LoadEight(At<const float>(args.positions) + at, kVectorElements, aligned, to);
    case DType::kF16:
      return LoadEight(At<const __half>(args.positions) + at, kVectorElements, aligned, to);
    case DType::kBF16:
      return LoadEight(At<const __nv_bfloat16>(args.positions) + at, kVectorElements, aligned, to);
  }
}

// A block takes kThreads runs of one row, a thread one of them. Rows are whole runs.
__global__ void EmbedPackedKernel(const __grid_constant__ PackedRows table,
                                  const __grid_constant__ EmbedArgs args, DType type, bool aligned) {
  WaitForEarlierKernels();
  LetLaterKernelsBegin();
  constexpr int kRun = packed::kRunElements;
  const int64_t row = blockIdx.x;
  const int run = static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x);
  if (run >= table.k / kRun) return;
  float values[kRun / kVectorElements][kVectorElements];
  DecodeRun(table, At<const int32_t>(args.ids)[row], run, values[0]);
#pragma unroll
  for (int half = 0; half < kRun / kVectorElements; ++half) {
    const int64_t column = int64_t{run} * kRun + half * kVectorElements;
    float positions[kVectorElements] = {};
    if (args.positions.address != 0) {
      const int64_t position = At<const AppendRow>(args.append)[row].position;
      LoadPositions(type, args, position * args.d + column, aligned, positions);
    }
    RoundEight(type, values[half]);
#pragma unroll
    for (int i = 0; i < kVectorElements; ++i) {
      values[half][i] = fmaf(values[half][i], args.scale, positions[i]);
    }
    StoreEight(At<float>(args.hidden) + row * args.d + column, kVectorElements, aligned, values[half]);
  }
}

}  // namespace

cudaError_t LaunchEmbed(DType type, const EmbedArgs& args, KernelStream stream) {
  const bool aligned = AllAligned(args.table.address, args.positions.address, args.hidden.address,
                                  args.d * SizeOf(type), args.d * int64_t{4});
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(args.rows),
                    static_cast<unsigned>(CeilDivide(args.d, kThreads * kVectorElements)));
  shape.block = dim3(kThreads);
  return WithElement(type, [&](auto tag) {
    return Launch(EmbedKernel<typename decltype(tag)::Type>, shape, stream, args, aligned);
  });
}

cudaError_t LaunchEmbedPacked(DType type, const PackedRows& table, const EmbedArgs& args,
                              KernelStream stream) {
  const bool aligned = AllAligned(args.positions.address, args.hidden.address, args.d * SizeOf(type));
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(args.rows),
                    static_cast<unsigned>(CeilDivide(table.k / packed::kRunElements, kThreads)));
  shape.block = dim3(kThreads);
  return Launch(EmbedPackedKernel, shape, stream, table, args, type, aligned);
}

}  // namespace spillway::device::cuda
