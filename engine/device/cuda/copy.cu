#include <algorithm>

#include "engine/device/cuda/kernels.h"
#include "engine/device/cuda/launch.h"
#include "engine/device/cuda/vector_access.h"

namespace spillway::device::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kBlocksMax = 64;

template <typename Unit>
__global__ void CopyKernel(Unit* destination, const Unit* source, int64_t n) {
  WaitForEarlierKernels();
  LetLaterKernelsBegin();
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < n; i += step) destination[i] = source[i];
}

template <typename Unit>
cudaError_t CopyAs(void* destination, const void* source, int64_t size_bytes, KernelStream stream) {
  const int64_t n = size_bytes / static_cast<int64_t>(sizeof(Unit));
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(std::min(CeilDivide(n, kThreads), kBlocksMax)));
  shape.block = dim3(kThreads);
  return Launch(CopyKernel<Unit>, shape, stream, static_cast<Unit*>(destination),
                static_cast<const Unit*>(source), n);
}

}  // namespace

cudaError_t ProbeKernels(int* capability) {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, CopyKernel<uint8_t>);
  // Of the code that the compiler saw, which the driver may have translated for a later device.
  if (error == cudaSuccess) *capability = attributes.ptxVersion;
  return error;
}

cudaError_t LaunchCopy(void* destination, const void* source, int64_t size_bytes, KernelStream stream) {
  const uint64_t together = reinterpret_cast<uint64_t>(destination) | reinterpret_cast<uint64_t>(source) |
                            static_cast<uint64_t>(size_bytes);
  if (together % sizeof(SixteenBytes<uint32_t>) == 0) {
    return CopyAs<SixteenBytes<uint32_t>>(destination, source, size_bytes, stream);
  }
  if (together % sizeof(uint32_t) == 0) return CopyAs<uint32_t>(destination, source, size_bytes, stream);
  return CopyAs<uint8_t>(destination, source, size_bytes, stream);
}

}  // namespace spillway::device::cuda
