#include <algorithm>

#include "engine/device/cuda/block_reduce.h"
#include "engine/device/cuda/kernels.h"
#include "engine/device/cuda/launch.h"
#include "engine/device/cuda/vector_access.h"

namespace spillway::device::cuda {
namespace {

struct NormShared {
  float scratch[kWarpsMax];
};

// One block a row. A thread reads back only what it wrote itself, so the row needs no shared memory: its
// second and third reading come from the caches.
template <typename T>
__global__ void AddNormKernel(AddNormArgs args, bool aligned) {
  WaitForEarlierKernels();
  LetLaterKernelsBegin();
  NormShared& shared = SharedAs<NormShared>();
  const int64_t row = blockIdx.x;
  const int64_t source = args.row_index.address == 0 ? row : At<const int32_t>(args.row_index)[row];
  float* hidden = At<float>(args.hidden) + source * args.d;
  const T* addend = args.addend.address == 0 ? nullptr : At<const T>(args.addend) + row * args.d;
  const float* gain = At<const float>(args.gain);
  const float* bias = At<const float>(args.bias);
  const int64_t first = int64_t{threadIdx.x} * kVectorElements;
  const int64_t step = int64_t{blockDim.x} * kVectorElements;
  const float inverse_d = 1.0F / static_cast<float>(args.d);

  float sum = 0;
  float squares = 0;
  for (int64_t i = first; i < args.d; i += step) {
    float x[kVectorElements];
    LoadEight(hidden + i, args.d - i, aligned, x);
    if (addend != nullptr) {
      float y[kVectorElements];
      LoadEight(addend + i, args.d - i, aligned, y);
#pragma unroll
      for (int j = 0; j < kVectorElements; ++j) x[j] += y[j];
      StoreEight(hidden + i, args.d - i, aligned, x);
    }
#pragma unroll
    for (int j = 0; j < kVectorElements; ++j) {
      sum += x[j];
      squares = fmaf(x[j], x[j], squares);
    }
  }
  float mean = 0;
  if (args.kind == NormKind::kLayer) {
    // Squares of what is centred: the difference of two large sums would lose them.
    mean = BlockReduce(sum, 0.0F, shared.scratch, Sum()) * inverse_d;
    squares = 0;
    for (int64_t i = first; i < args.d; i += step) {
      float x[kVectorElements];
      LoadEight(hidden + i, args.d - i, aligned, x);
#pragma unroll
      for (int j = 0; j < kVectorElements; ++j) {
        const float centred = i + j < args.d ? x[j] - mean : 0.0F;
        squares = fmaf(centred, centred, squares);
      }
    }
  }
  squares = BlockReduce(squares, 0.0F, shared.scratch, Sum());
  const float scale = 1.0F / sqrtf(squares * inverse_d + args.epsilon);

  T* out = At<T>(args.out) + row * args.d;
  for (int64_t i = first; i < args.d; i += step) {
    const int64_t left = args.d - i;
    float x[kVectorElements];
    float g[kVectorElements];
    float b[kVectorElements] = {};
    LoadEight(hidden + i, left, aligned, x);
    LoadEight(gain + i, left, aligned, g);
    if (bias != nullptr) LoadEight(bias + i, left, aligned, b);
#pragma unroll
    for (int j = 0; j < kVectorElements; ++j) x[j] = (x[j] - mean) * scale * g[j] + b[j];
    StoreEight(out + i, left, aligned, x);
  }
}

}  // namespace

cudaError_t LaunchAddNorm(DType type, const AddNormArgs& args, KernelStream stream) {
  const bool aligned =
      AllAligned(args.hidden.address, args.addend.address, args.gain.address, args.bias.address,
                 args.out.address, args.d * SizeOf(type), args.d * int64_t{4});
  const int64_t warps = std::clamp<int64_t>(CeilDivide(args.d, kVectorElements * kWarpThreads), 1, 16);
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(args.rows));
  shape.block = dim3(static_cast<unsigned>(warps * kWarpThreads));
  shape.shared_bytes = sizeof(NormShared);
  return WithElement(type, [&](auto tag) {
    return Launch(AddNormKernel<typename decltype(tag)::Type>, shape, stream, args, aligned);
  });
}

}  // namespace spillway::device::cuda
