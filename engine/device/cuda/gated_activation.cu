#include "engine/device/cuda/activation.h"
#include "engine/device/cuda/kernels.h"
#include "engine/device/cuda/launch.h"
#include "engine/device/cuda/vector_access.h"

namespace spillway::device::cuda {
namespace {

constexpr int kThreads = 128;

// A block takes kThreads * 8 columns of one row.
template <typename T>
__global__ void GatedActivationKernel(GatedActivationArgs args, bool aligned) {
  WaitForEarlierKernels();
  LetLaterKernelsBegin();
  const int64_t row = blockIdx.x;
  const int64_t column = (int64_t{blockIdx.y} * kThreads + threadIdx.x) * kVectorElements;
  const int64_t left = args.d_ff - column;
  if (left <= 0) return;
  const T* gate = At<const T>(args.gate_up) + row * 2 * args.d_ff + column;
  float values[kVectorElements];
  float up[kVectorElements];
  LoadEight(gate, left, aligned, values);
  LoadEight(gate + args.d_ff, left, aligned, up);
#pragma unroll
  for (int i = 0; i < kVectorElements; ++i) values[i] = Activate(args.activation, values[i]) * up[i];
  StoreEight(At<T>(args.out) + row * args.d_ff + column, left, aligned, values);
}

// out = activation(sums + bias), from f32 sums to T: what a product whose library has no such epilogue ends
// in.
template <typename T>
__global__ void EpilogueKernel(EpilogueArgs args, bool aligned) {
  WaitForEarlierKernels();
  LetLaterKernelsBegin();
  const int64_t row = blockIdx.x;
  const int64_t column = (int64_t{blockIdx.y} * kThreads + threadIdx.x) * kVectorElements;
  const int64_t left = args.n - column;
  if (left <= 0) return;
  float values[kVectorElements];
  float bias[kVectorElements] = {};
  LoadEight(args.sums + row * args.sums_stride + column, left, aligned, values);
  if (args.bias != nullptr) LoadEight(args.bias + column, left, aligned, bias);
#pragma unroll
  for (int i = 0; i < kVectorElements; ++i) values[i] = Activate(args.activation, values[i] + bias[i]);
  StoreEight(static_cast<T*>(args.out) + row * args.out_stride + column, left, aligned, values);
}

LaunchShape ShapeOf(int64_t rows, int64_t columns) {
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(rows),
                    static_cast<unsigned>(CeilDivide(columns, kThreads * kVectorElements)));
  shape.block = dim3(kThreads);
  return shape;
}

}  // namespace

cudaError_t LaunchGatedActivation(DType type, const GatedActivationArgs& args, KernelStream stream) {
  const bool aligned = AllAligned(args.gate_up.address, args.out.address, args.d_ff * SizeOf(type));
  return WithElement(type, [&](auto tag) {
    return Launch(GatedActivationKernel<typename decltype(tag)::Type>, ShapeOf(args.rows, args.d_ff), stream,
                  args, aligned);
  });
}

cudaError_t LaunchEpilogue(DType out_type, const EpilogueArgs& args, KernelStream stream) {
  const bool aligned = AllAligned(reinterpret_cast<uint64_t>(args.sums),
                                  reinterpret_cast<uint64_t>(args.bias), reinterpret_cast<uint64_t>(args.out),
                                  args.sums_stride * int64_t{4}, args.out_stride * SizeOf(out_type));
  return WithElement(out_type, [&](auto tag) {
    return Launch(EpilogueKernel<typename decltype(tag)::Type>, ShapeOf(args.rows, args.n), stream, args,
                  aligned);
  });
}

}  // namespace spillway::device::cuda
