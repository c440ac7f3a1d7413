// Where kernels are launched: a stream, and whether they may overlap in it.
#ifndef SPILLWAY_ENGINE_DEVICE_CUDA_KERNEL_STREAM_H_
#define SPILLWAY_ENGINE_DEVICE_CUDA_KERNEL_STREAM_H_

#include <cuda_runtime.h>

namespace spillway::device::cuda {

// A value. With `overlaps` a kernel may begin while the one before it in the stream still runs, up to where
// it waits for that one (WaitForEarlierKernels): its launch is then over when its turn comes. What is not a
// kernel, and kernels of libraries, begin when all before them has ended.
struct KernelStream {
  // NOLINTNEXTLINE(google-explicit-constructor): a stream alone is one whose kernels do not overlap.
  KernelStream(cudaStream_t stream, bool overlapping = false) : handle(stream), overlaps(overlapping) {}

  cudaStream_t handle;
  // REQUIRES: the device's compute capability is 9.0 or later, and the kernels were compiled for one that is:
  // code for earlier ones runs on later devices too, but has no wait.
  bool overlaps;
};
constexpr int kOverlapCapabilityMin = 90;  // 10 major + minor

}  // namespace spillway::device::cuda

#endif  // SPILLWAY_ENGINE_DEVICE_CUDA_KERNEL_STREAM_H_
