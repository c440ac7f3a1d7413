#include "engine/device/cuda/kernels.h"
#include "engine/device/cuda/launch.h"
#include "engine/device/cuda/softmax_merge.h"
#include "engine/device/cuda/vector_access.h"

namespace spillway::device::cuda {
namespace {

constexpr int kThreads = 128;

// A warp takes one head of one row.
template <typename T>
__global__ void MergeAttentionKernel(MergeAttentionArgs args, bool aligned) {
  WaitForEarlierKernels();
  LetLaterKernelsBegin();
  const int64_t item = int64_t{blockIdx.x} * (kThreads / kWarpThreads) + threadIdx.x / kWarpThreads;
  if (item >= int64_t{args.rows} * args.n_heads) return;
  const int64_t part_stride = args.part_stride_rows * args.n_heads;
  const float* max = At<const float>(args.max) + item;
  const float* sum = At<const float>(args.sum) + item;
  const float* acc = At<const float>(args.acc) + item * args.d_head;
  float top = -INFINITY;
  for (int part = 0; part < args.n_parts; ++part) top = fmaxf(top, max[part * part_stride]);
  float total = 0;
  for (int part = 0; part < args.n_parts; ++part) {
    total += sum[part * part_stride] * WeightOf(max[part * part_stride], top);
  }
  // A row that read no key has sum = 0.
  const float inverse = total == 0 ? 0.0F : 1.0F / total;
  T* out = At<T>(args.out) + item * args.d_head;
  const int lane = static_cast<int>(threadIdx.x) % kWarpThreads;
  for (int64_t from = int64_t{lane} * kVectorElements; from < args.d_head;
       from += int64_t{kWarpThreads} * kVectorElements) {
    float merged[kVectorElements] = {};
    for (int part = 0; part < args.n_parts; ++part) {
      const float weight = WeightOf(max[part * part_stride], top);
      if (weight == 0) continue;
      float x[kVectorElements];
      LoadEight(acc + part * part_stride * args.d_head + from, args.d_head - from, aligned, x);
#pragma unroll
      for (int i = 0; i < kVectorElements; ++i) merged[i] = fmaf(x[i], weight, merged[i]);
    }
#pragma unroll
    for (int i = 0; i < kVectorElements; ++i) merged[i] *= inverse;
    StoreEight(out + from, args.d_head - from, aligned, merged);
  }
}

}  // namespace

cudaError_t LaunchMergeAttention(DType type, const MergeAttentionArgs& args, KernelStream stream) {
  const bool aligned =
      AllAligned(args.acc.address, args.out.address, args.d_head * SizeOf(type), args.d_head * int64_t{4});
  LaunchShape shape;
  shape.grid =
      dim3(static_cast<unsigned>(CeilDivide(int64_t{args.rows} * args.n_heads, kThreads / kWarpThreads)));
  shape.block = dim3(kThreads);
  return WithElement(type, [&](auto tag) {
    return Launch(MergeAttentionKernel<typename decltype(tag)::Type>, shape, stream, args, aligned);
  });
}

}  // namespace spillway::device::cuda
