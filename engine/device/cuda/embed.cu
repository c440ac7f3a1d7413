#include "engine/device/cuda/kernels.h"
#include "engine/device/cuda/launch.h"
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

}  // namespace spillway::device::cuda
